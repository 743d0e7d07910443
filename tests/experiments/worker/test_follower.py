"""A stage on two machines, which are processes of this one: the worker's, and one that follows it."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest

from experiments.store.attempt import read_attempts
from experiments.store.store import Store
from experiments.worker.device import SLURM_JOB, SLURM_RESTART
from experiments.worker.launcher import NodesClock, rendezvous
from experiments.worker.outcome import DONE, FAILED, INTERRUPTED
from tests.conformance.drivers import states, trail, wait_until
from tests.quick_stage import quick_stage

ROOT = Path(__file__).parents[3]
FOLLOW = """
import sys
from pathlib import Path
from experiments.worker.follower import Follower
job = {"slurm": {"job": "7", "restart": int(sys.argv[2])}}
Follower(Path(sys.argv[1]), 1, job, Path(sys.argv[3]).exists).run()
"""


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


class Machines:
    """Starts what two machines run for a stage."""

    def __init__(self, tmp_path: Path) -> None:
        self.over = tmp_path / "over"
        self.processes: list[subprocess.Popen[str]] = []

    def start(self, *command: str, **env: str) -> "subprocess.Popen[str]":
        environment = os.environ | {SLURM_JOB: "7", SLURM_RESTART: "0"} | env
        self.processes.append(
            subprocess.Popen([sys.executable, *command], env=environment, cwd=ROOT, text=True, stderr=subprocess.PIPE)
        )
        return self.processes[-1]

    def first(self, directory: Path, **env: str) -> "subprocess.Popen[str]":
        options = ("--processes", "4", "--nodes", "2")
        return self.start("-m", "experiments.worker", str(directory), *options, **env)

    def other(self, directory: Path, restart: int = 0) -> "subprocess.Popen[str]":
        return self.start("-c", FOLLOW, str(directory), str(restart), str(self.over))


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[Machines]:
    made = Machines(tmp_path)
    yield made
    for process in made.processes:
        process.kill()
        process.communicate()


def ranks(directory: Path) -> list[str]:
    path = directory / "ranks.txt"
    return sorted(path.read_text().splitlines()) if path.exists() else []


def test_two_machines_share_one_stage(store: Store, machines: Machines) -> None:
    stage = quick_stage(cpus=4)
    directory = store.prepare(stage)
    other, first = machines.other(directory), machines.first(directory)
    assert first.wait(180) == DONE, (read_attempts(directory)[-1].directory / "log.txt").read_text()
    assert other.wait(60) == 0
    assert ranks(directory) == ["1 of 4", "2 of 4", "3 of 4"]
    result = store.result(stage)
    assert result is not None and (result.processes, result.nodes, result.threads) == (4, 2, 1)
    (attempt,) = read_attempts(directory)
    told = json.loads((attempt.directory / "nodes" / "1.json").read_text())
    assert told["ended"] == 0
    # Either machine starts three interpreters, two of which load torch.
    assert attempt.last.spent_s > told["cpu_s"] + 0.4 > 0.8


def test_a_stop_reaches_both_machines(store: Store, machines: Machines) -> None:
    stage = quick_stage(steps=4, hold_at=2, cpus=4)
    directory = store.prepare(stage)
    first, other = machines.first(directory), machines.other(directory)
    wait_until(lambda: trail(store, stage) == [1, 2] and len(ranks(directory)) == 3)
    first.send_signal(signal.SIGUSR2)
    assert (first.wait(60), other.wait(60), states(store, stage)) == (INTERRUPTED, 0, ["interrupted"])
    (directory / "go").touch()
    first, other = machines.first(directory, **{SLURM_RESTART: "1"}), machines.other(directory, restart=1)
    assert (first.wait(180), other.wait(60)) == (DONE, 0)
    assert (trail(store, stage), states(store, stage)) == ([1, 2, 3, 4], ["interrupted", "done"])


SLOW_VICTIMS = [pytest.param(name, marks=pytest.mark.slow) for name in ("torchrun", "follower")]


@pytest.mark.parametrize("victim", ["rank", *SLOW_VICTIMS])
def test_a_kill_on_the_other_machine_ends_the_attempt(
    store: Store, machines: Machines, victim: str, tmp_path: Path
) -> None:
    stage = quick_stage(steps=4, hold_at=2, checkpoint_every=1, cpus=4)
    directory = store.prepare(stage)
    first, other = machines.first(directory), machines.other(directory)
    wait_until(lambda: trail(store, stage) == [1, 2] and len(ranks(directory)) == 3)
    note = read_attempts(directory)[-1].directory / "ranks" / "3.json"
    rank = psutil.Process(json.loads(note.read_text())["pid"])
    torchrun = rank.parent()
    assert torchrun is not None and torchrun.parent() == psutil.Process(other.pid)
    family = [rank, torchrun, *psutil.Process(first.pid).children(recursive=True)]
    {"rank": rank, "torchrun": torchrun, "follower": psutil.Process(other.pid)}[victim].kill()
    if victim == "follower":  # Slurm ends the first machine's part with it
        wait_until(lambda: not torchrun.is_running())
        first.terminate()
    assert first.wait(120) == INTERRUPTED
    assert psutil.wait_procs(family, timeout=10)[1] == []
    assert states(store, stage) == ["interrupted"]


@pytest.mark.slow
def test_a_mistake_on_the_other_machine_is_the_stages_end(store: Store, machines: Machines) -> None:
    stage = quick_stage(fail_at=2, hold_at=2, rank=3, cpus=4)
    directory = store.prepare(stage)
    first, other = machines.first(directory), machines.other(directory)
    assert (first.wait(180), other.wait(60)) == (FAILED, 0)
    end = read_attempts(directory)[-1].end
    assert end is not None and end.message == "RuntimeError: told to fail at step 2"


def test_a_follower_takes_no_other_jobs_attempt_and_leaves_when_the_first_part_has_ended(
    store: Store, machines: Machines
) -> None:
    stage = quick_stage(hold_at=1)
    directory = store.prepare(stage)
    machines.start("-m", "experiments.worker", str(directory))
    other = machines.other(directory, restart=1)
    wait_until(lambda: trail(store, stage) == [1])
    machines.over.touch()
    assert other.wait(60) == 0
    assert not list(directory.glob("attempts/*/node1.txt"))


@pytest.mark.parametrize(
    ("told", "joules"),
    [({"cpu_s": 7.0, "peak_memory_bytes": 30, "joules": 30.0}, 42.0), ({"cpu_s": 7.0, "peak_memory_bytes": 30}, None)],
)
def test_memory_of_all_machines_is_told_and_energy_is_told_only_where_all_machines_know_theirs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: dict[str, float], joules: float | None
) -> None:
    from experiments.worker.device import DeviceClock, Start
    from experiments.worker.launcher import LaunchConfig

    own = {"spent_s": 1.0, "wall_s": 1.0, "cpu_s": 2.0, "peak_memory_bytes": 12, "joules": 12.0}
    monkeypatch.setattr(DeviceClock, "account", lambda _: dict(own))
    (tmp_path / "nodes").mkdir()
    (tmp_path / "nodes" / "1.json").write_text(json.dumps(told))
    start = Start(pid=os.getpid(), wall_from=0.0, cpu_from=0.0)
    of_two = {"processes": 2, "gpus": 2, "nodes": 2, "threads": 1, "device": "cuda", "data_root": ""}
    clock = NodesClock(LaunchConfig(host="a", port=1, start=start, **of_two), tmp_path)
    assert clock.account().get("joules") == joules
    assert clock.account()["peak_memory_bytes"] == 42


def test_ranks_of_one_machine_meet_where_no_other_machine_can_reach_them() -> None:
    with rendezvous(1) as (host, _):
        assert host == "127.0.0.1"


@pytest.mark.parametrize("nodes", [1, 2])
def test_a_port_is_given_to_one_job_and_its_torchrun_can_listen_there(nodes: int) -> None:
    with rendezvous(nodes) as (_, port), ExitStack() as others:
        assert port not in {others.enter_context(rendezvous(nodes))[1] for _ in range(500)}
        with socket.create_server(("", port)) as server:  # with SO_REUSEADDR, as torch's store
            socket.create_connection(("127.0.0.1", port), timeout=5).close()
            server.accept()[0].close()
