"""What a cluster has more than a machine: nodes of different sizes, nodes that die, an address that is wrong."""

import os
import re
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from experiments.engines.base import Job
from experiments.engines.ray.tune import nodes_to_avoid
from experiments.stages.stage import Stage
from experiments.store.attempt import read_attempts
from experiments.store.store import Store, read_curve
from tests.conformance.drivers import Driver, Site, Told, states, trail, wait_until
from tests.experiments.smoke import SCALE, SWEEP, Smoke
from tests.quick_driver import make_stages
from tests.quick_stage import quick_stage
from tests.ray_cluster import RayCluster

on_the_cluster = pytest.mark.parametrize("site", ["ray cluster"], indirect=True, scope="module")


def raylet_of(worker: int) -> int:
    """The node's process above a worker: Ray names it in the environment of what it starts."""
    return int(psutil.Process(worker).environ()["RAY_RAYLET_PID"])


def placed(store: Store, engine: Driver, *stages: Stage) -> dict[int, list[Stage]]:
    """Run stages that hold at their first step until all that can run do; gives which ran where, by raylet."""
    where: dict[int, list[Stage]] = {}

    def note(told: Told) -> None:
        if told.kind == "started":
            where.setdefault(raylet_of(told.worker), []).append(told.stage)
            (store.directory(told.stage) / "go").touch()

    assert engine.run(store, *stages, on_event=note).failed == []
    return where


@on_the_cluster
def test_a_stage_lands_on_a_node_that_has_what_it_asks_for(
    store: Store, engine: Driver, ray_cluster: RayCluster
) -> None:
    a6000, h100 = ray_cluster.nodes[1:3]
    both = quick_stage(gpus=2, hold_at=1)
    fast = [quick_stage(seed=seed, gpus=1, accelerator="H100", hold_at=1) for seed in (1, 2)]
    slow = [quick_stage(seed=seed, gpus=1, accelerator="A6000", hold_at=1) for seed in (3, 4)]
    where = placed(store, engine, both, *fast, *slow)
    assert {raylet: {stage.seed for stage in stages} for raylet, stages in where.items()} == {
        a6000: {0, 3, 4},
        h100: {1, 2},
    }
    result = store.result(both)
    assert result is not None
    assert result.raw.items() >= {"gpus": 2, "processes": 2}.items()
    assert (store.directory(both) / "ranks.txt").read_text() == "1 of 2\n"


@on_the_cluster
def test_what_fits_on_no_node_is_told_though_the_cluster_has_enough(store: Store, engine: Driver) -> None:
    told = engine.run(
        store, quick_stage(gpus=3), quick_stage("finetune", gpus=1, accelerator="B200"), quick_stage(seed=1)
    ).refused
    assert told == (
        "resources.pretrain.gpus: 3 is more than one stage can have here; at most 2;"
        " resources.finetune.accelerator: 'B200' is not here; there is A6000, H100; nothing was started"
    )


@on_the_cluster
def test_a_stage_whose_node_is_killed_goes_on_at_another(store: Store, engine: Driver, ray_cluster: RayCluster) -> None:
    twins = {ray_cluster.add(1, 1, "T4"), ray_cluster.add(1, 1, "T4")}
    before = quick_stage(gpus=1, accelerator="T4")
    stage = quick_stage("finetune", parents=(before,), gpus=1, accelerator="T4", steps=4, hold_at=2)
    raylets: list[int] = []

    def kill_the_first_node(told: Told) -> None:
        if told.kind != "started" or told.stage != stage:
            return
        raylets.append(raylet_of(told.worker))
        if len(raylets) == 1:
            wait_until(lambda: trail(store, stage) == [1, 2])
            os.kill(raylets[0], signal.SIGKILL)
        else:
            (store.directory(stage) / "go").touch()

    ran = engine.run(store, before, stage, on_event=kill_the_first_node)
    assert (ran.done, ran.failed) == ([before, stage], [])
    assert set(raylets) == twins
    assert states(store, before) == ["done"], "what was finished is not lost"
    record = store.record(stage)
    assert [attempt.state for attempt in record.attempts][1:] == ["done"]
    assert [point.step for point in read_curve(store.directory(stage))] == [1, 2, 3, 4]
    spent = sum(attempt.last.spent_s for attempt in record.attempts)
    assert record.hours.billed * 3600 == pytest.approx(max(spent, record.hours.useful * 3600))
    assert all(attempt.last.spent_s > 0 for attempt in record.attempts)


@pytest.mark.slow
@pytest.mark.skipif(os.getuid() != 0, reason="only root may give a node another host's name")
def test_a_stage_is_kept_away_from_the_machine_it_was_lost_on(
    store: Store, drive: Callable[[Site, list[Any]], Driver], ray_cluster: RayCluster
) -> None:
    """A host with two nodes and another with one: the second try is on the other, though the first has room."""
    for host in ("lost", "lost", "other"):
        ray_cluster.add(1, 1, "P4", host=host)
    site = Site(name=f"ray@{ray_cluster.address}", environment=ray_cluster.environment, cpus=2)
    chains = [
        [("pretrain", {"gpus": 1, "accelerator": "P4", "steps": 4, "hold_at": 2, "seed": seed})] for seed in (1, 2, 3)
    ]
    stages = make_stages(chains)
    driver = drive(site, chains)
    driver.wait_until(lambda: all(trail(store, stage) == [1, 2] for stage in stages))
    owners = {stage.seed: read_attempts(store.directory(stage))[0].owner for stage in stages}
    assert sorted(owner.host for owner in owners.values()) == ["lost", "lost", "other"]
    first, second, third = sorted(stages, key=lambda stage: owners[stage.seed].host)
    for stage in (second, third):  # room for it on its own host, and on the other
        (store.directory(stage) / "go").touch()
    driver.wait_until(lambda: all(store.result(stage) for stage in (second, third)))
    os.kill(raylet_of(owners[first.seed].pid), signal.SIGKILL)
    driver.wait_until(lambda: len(read_attempts(store.directory(first))) == 2)
    (store.directory(first) / "go").touch()
    ended = driver.finish()
    assert (len(ended["done"]), ended["failed"]) == (3, [])
    before, last = read_attempts(store.directory(first))
    assert (before.owner.host, last.owner.host) == ("lost", "other")
    assert before.failure is not None
    assert before.failure.done == "tried again, away from lost where the engine can"


def test_nodes_are_avoided_only_where_another_has_what_is_asked_for(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def node(number: int, host: str, alive: bool = True, **resources: float) -> dict[str, Any]:
        return {"NodeID": f"id{number}", "NodeManagerHostname": host, "Alive": alive, "Resources": resources}

    job = Job(name="f" * 64, command=(), directory=tmp_path, cpus=2, gpus=1, exclude=("a", "gone"))
    nodes = [node(1, "a", CPU=4, GPU=1), node(2, "a", CPU=4), node(3, "b", CPU=2, GPU=1), node(4, "a", alive=False)]
    assert nodes_to_avoid(job, nodes) == ["id1", "id2"]
    assert nodes_to_avoid(replace(job, exclude=()), nodes) == []
    assert not caplog.messages
    for lacking in (replace(job, gpus=2), replace(job, cpus=3), replace(job, exclude=("a", "b"))):
        assert nodes_to_avoid(lacking, nodes) == []
    assert "was lost on a, gone; no other machine has what it asks for" in caplog.messages[0]


# The command line.


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Smoke:
    return Smoke(tmp_path_factory.mktemp("smoke"))


def test_a_plan_is_checked_against_the_cluster(home: Smoke, ray_cluster: RayCluster) -> None:
    big = home.folder / "big.yaml"
    for gpus, told in ((3, "resources.pretrain.gpus: 3 is more than one stage can have here; at most 2"), (2, "")):
        asked = f"pretrain: {{cpus: 2, gpus: {gpus}, accelerator: A6000}}"
        big.write_text(SCALE.replace("  pretrain: {cpus: 1, gpus: 0}", f"  {asked}"))
        made = home("plan", SWEEP, "--scale", str(big), "--address", ray_cluster.address, **ray_cluster.environment)
        assert made.returncode == 0, made.stderr
        assert re.findall("resources.*", made.stderr) == ([told] if told else [])


def test_a_cluster_that_lets_nobody_in_is_told(home: Smoke, ray_cluster: RayCluster) -> None:
    wrong = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64}
    made = home.sweep("--address", ray_cluster.address, verb="plan", **wrong)
    assert made.returncode == 2
    assert made.stderr.startswith(f"--address {ray_cluster.address}: no Ray cluster takes us in (")
    assert "Traceback" not in made.stderr and "0000" not in made.stderr


@pytest.fixture
def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def test_an_address_that_is_none_or_where_nobody_listens_is_told_at_once(home: Smoke, free_port: int) -> None:
    for address, told in (
        (f"127.0.0.1:{free_port}", "no process answers ([Errno 111] Connection refused); expected HOST:PORT of a"),
        ("127.0.0.1", "expected HOST:PORT, e.g. 10.0.0.1:6379, or auto"),
        ("ray://127.0.0.1:10001", "expected HOST:PORT"),
        ("127.0.0.1:99999", "expected HOST:PORT"),
    ):
        started = time.monotonic()
        made = home.sweep("--address", address, verb="plan")
        assert made.returncode == 2
        assert made.stderr.startswith(f"--address {address}: {told}"), made.stderr
        assert len(made.stderr.splitlines()) == 1
        assert time.monotonic() - started < 20
    inline = home.sweep("--address", "auto")
    assert inline.returncode == 2
    assert "got --engine inline" in inline.stderr


@pytest.mark.slow
def test_somebody_who_is_no_cluster_is_given_up_soon(home: Smoke) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        address = f"127.0.0.1:{mute.getsockname()[1]}"
        started = time.monotonic()
        made = home.sweep("--address", address, verb="plan")
        assert time.monotonic() - started < 60
    assert made.returncode == 2
    assert made.stderr.startswith(f"--address {address}: no Ray cluster takes us in (Failed to connect to Ray cluster")
    assert len(made.stderr.splitlines()) == 1
