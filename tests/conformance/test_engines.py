"""One contract, every engine: order, failures, kills, stops, and drivers that share a store."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from experiments.attempt import read_attempts
from experiments.engines import Engine, local_cpus
from experiments.engines.inline import InlineEngine
from experiments.engines.ray_tune import RayEngine
from experiments.events import Event, Summary
from experiments.scheduler import Scheduler
from experiments.stage import Stage
from experiments.store import Store, read_curve
from smaug_core.errors import SmaugError
from tests.quick_driver import make_stages
from tests.quick_stage import quick_stage

ROOT = Path(__file__).parents[2]
PATIENCE_S = 120.0
ENGINES = ("inline", "ray")

needs_two_cpus = pytest.mark.skipif(local_cpus() < 2, reason="two stages at once need two CPUs")


@pytest.fixture(scope="module")
def ray_engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayEngine]:
    with RayEngine(tmp_path_factory.mktemp("ray_home")) as engine:
        yield engine


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> Engine:
    return InlineEngine() if request.param == "inline" else request.getfixturevalue("ray_engine")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def schedule(store: Store, engine: Engine, *stages: Stage, on_event: Callable[[Event], Any] = repr) -> Summary:
    return Scheduler(stages, store, engine, data_root=store.home / "data", on_event=on_event).run()


def wait_until(holds: Callable[[], Any]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.02)


def trail(store: Store, stage: Stage) -> list[int]:
    path = store.directory(stage) / "trail.txt"
    return [int(line) for line in path.read_text().split()] if path.exists() else []


def assert_every_attempt_is_billed_once(store: Store, stage: Stage) -> None:
    record = store.record(stage)
    spent = sum(attempt.last["spent_s"] for attempt in record.attempts)
    assert record.hours.billed * 3600 == pytest.approx(max(spent, record.hours.useful * 3600))
    parts = record.hours.useful + record.hours.lost + record.hours.overhead
    assert record.hours.billed == pytest.approx(parts)


# In this process, one engine for all.


def test_a_chain_runs_in_order(store: Store, engine: Engine) -> None:
    first = quick_stage()
    second = quick_stage("finetune", task="msrvtt", parents=(first,))
    third = quick_stage("evaluate", task="msrvtt", parents=(second,), seed=None)
    finished = []
    summary = schedule(
        store,
        engine,
        first,
        second,
        third,
        on_event=lambda event: event.kind == "done" and finished.append(event.stage.name),
    )
    assert (len(summary.done), summary.failed, summary.blocked, summary.interrupted) == (3, [], [], False)
    assert finished == ["pretrain", "finetune.msrvtt", "evaluate.msrvtt"]
    for parent, child in ((first, second), (second, third)):
        seed, parents = json.loads((store.directory(child) / "weights.json").read_text())
        assert (seed, parents) == (child.seed, [str(store.directory(parent))])


def test_what_is_done_is_not_run_again(store: Store, engine: Engine) -> None:
    stages = quick_stage(seed=1), quick_stage(seed=2)
    schedule(store, engine, *stages)
    summary = schedule(store, engine, *stages)
    assert (len(summary.cached), summary.done) == (2, [])
    assert [trail(store, stage) for stage in stages] == [[1, 2, 3]] * 2


def test_a_failed_stage_blocks_its_children_and_others_go_on(store: Store, engine: Engine) -> None:
    broken = quick_stage(fail_at=2)
    child = quick_stage("finetune", parents=(broken,))
    other = quick_stage(seed=1)
    summary = schedule(store, engine, broken, child, other)
    assert summary.failed == [(broken, "RuntimeError: told to fail at step 2")]
    assert summary.blocked == [(child, "pretrain")]
    assert summary.done == [other]


def test_a_stage_that_asks_for_more_than_there_is_is_named_and_nothing_starts(store: Store, engine: Engine) -> None:
    there = local_cpus()
    greedy = quick_stage("finetune", cpus=there + 1)
    with pytest.raises(
        SmaugError, match=rf"finetune\.cpus: {there + 1} is more .* at most {there}; nothing was started"
    ):
        schedule(store, engine, quick_stage(), greedy)
    assert not store.root.exists()


@needs_two_cpus
def test_ray_runs_independent_stages_at_once(store: Store, ray_engine: RayEngine) -> None:
    """Each holds until both have begun, or for so long that they plainly do not run at once."""
    pair = [quick_stage(seed=seed, hold_at=1) for seed in (1, 2)]
    deadline = time.monotonic() + PATIENCE_S

    def release_together(event: Event) -> None:
        if all(trail(store, stage) == [1] for stage in pair) or time.monotonic() > deadline:
            for stage in pair:
                store.directory(stage).mkdir(parents=True, exist_ok=True)
                (store.directory(stage) / "go").touch()

    scheduler = Scheduler(pair, store, ray_engine, data_root=store.home, on_event=release_together)
    assert len(scheduler.run().done) == 2
    attempts = [read_attempts(store.directory(stage))[0] for stage in pair]
    assert max(attempt.owner["started"] for attempt in attempts) < min(attempt.last["time"] for attempt in attempts)


def test_ray_tries_a_killed_worker_again_from_its_checkpoint(store: Store, ray_engine: RayEngine) -> None:
    stage = quick_stage(steps=5, checkpoint_every=2, kill_at=4)
    summary = schedule(store, ray_engine, stage)
    assert summary.done == [stage]
    assert trail(store, stage) == [1, 2, 3, 3, 4, 5]
    assert [point["step"] for point in read_curve(store.directory(stage))] == [1, 2, 3, 4, 5]
    assert [attempt.state for attempt in read_attempts(store.directory(stage))] == ["dead", "done"]
    assert_every_attempt_is_billed_once(store, stage)


def test_ray_lets_a_worker_save_whose_supervisor_was_killed(store: Store, ray_engine: RayEngine) -> None:
    stage = quick_stage(steps=4, hold_at=2)

    def kill_supervisor(event: Event) -> None:
        if event.attempt and event.attempt.number == 1 and event.attempt.progress["step"]:
            worker = psutil.Process(event.attempt.owner["pid"])
            wait_until(lambda: trail(store, stage) == [1, 2])
            supervisor = worker.parent()
            assert supervisor is not None
            supervisor.kill()

    summary = schedule(store, ray_engine, stage, on_event=kill_supervisor)
    assert summary.done == [stage]
    assert trail(store, stage) == [1, 2, 3, 4]
    assert [attempt.state for attempt in read_attempts(store.directory(stage))] == ["interrupted", "done"]


def test_ray_never_starts_what_still_waited_when_a_stop_was_asked_for(store: Store, ray_engine: RayEngine) -> None:
    all_cpus = local_cpus()
    stages = [quick_stage(seed=seed, steps=3, hold_at=2, cpus=all_cpus) for seed in (1, 2)]
    schedulers: list[Scheduler] = []

    def stop_once_at_work(event: Event) -> None:
        if event.attempt and event.attempt.progress["step"]:
            schedulers[0].stop()

    schedulers.append(Scheduler(stages, store, ray_engine, data_root=store.home, on_event=stop_once_at_work))
    summary = schedulers[0].run()
    assert (summary.interrupted, summary.done, summary.failed) == (True, [], [])
    assert sorted(len(read_attempts(store.directory(stage))) for stage in stages) == [0, 1]
    for stage in stages:
        (store.directory(stage) / "go").touch()
    assert len(schedule(store, ray_engine, *stages).done) == 2
    assert [trail(store, stage) for stage in stages] == [[1, 2, 3]] * 2


# Drivers in processes of their own, which can be stopped and killed.


class Driver:
    """A running `tests.quick_driver`, in a process group of its own like a command in a terminal."""

    def __init__(self, home: Path, engine: str, chains: list[Any]) -> None:
        command = [sys.executable, "-m", "tests.quick_driver", str(home), engine, json.dumps(chains)]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT, start_new_session=True
        )

    def ctrl_c(self) -> None:
        """As a terminal does: to the driver and all that it started in its group."""
        os.killpg(self.process.pid, signal.SIGINT)

    def wait_until(self, holds: Callable[[], Any]) -> None:
        """Wait while the driver lives."""
        wait_until(lambda: holds() or self.process.poll() is not None)
        if self.process.poll() is not None:
            raise AssertionError(f"the driver ended early: {self.process.communicate()}")

    def finish(self) -> dict[str, Any]:
        """Wait for its end; gives its summary, with every stage it ran to the end."""
        told, complaints = self.process.communicate(timeout=PATIENCE_S)
        assert self.process.returncode == 0, complaints
        *events, summary = map(json.loads, told.splitlines())
        return summary | {"ran": [stage for kind, stage, _ in events if kind == "done"]}


@pytest.fixture
def drive(tmp_path: Path) -> Iterator[Callable[[str, list[Any]], Driver]]:
    drivers = []

    def start(engine: str, chains: list[Any]) -> Driver:
        drivers.append(Driver(tmp_path, engine, chains))
        return drivers[-1]

    yield start
    for driver in drivers:
        driver.process.kill()
        driver.process.communicate()


@pytest.mark.parametrize("engine_name", ENGINES)
def test_a_stopped_driver_and_a_killed_one_are_continued(store: Store, drive: Any, engine_name: str) -> None:
    """Stopped: all is saved. Killed: inline it was the worker itself; elsewhere workers notice, save and end."""
    tuning = {"steps": 5, "checkpoint_every": 2, "hold_at": 3}
    chains = [[("pretrain", {"steps": 4, "hold_at": 2}), ("finetune", tuning)]]
    first, second = make_stages(chains)

    driver = drive(engine_name, chains)
    driver.wait_until(lambda: trail(store, first) == [1, 2])
    driver.ctrl_c()
    assert driver.finish().items() >= {"done": 0, "failed": [], "interrupted": True}.items()
    assert store.record(first).state == "resume"
    assert [attempt.state for attempt in read_attempts(store.directory(first))] == ["interrupted"]
    assert not store.directory(second).exists()

    (store.directory(first) / "go").touch()
    driver = drive(engine_name, chains)
    driver.wait_until(lambda: trail(store, second) == [1, 2, 3])
    assert trail(store, first) == [1, 2, 3, 4]
    worker = read_attempts(store.directory(second))[0].owner["pid"]
    driver.process.kill()
    driver.process.wait()
    wait_until(lambda: not psutil.pid_exists(worker))
    assert store.record(second).state == "resume"

    (store.directory(second) / "go").touch()
    assert drive("inline", chains).finish().items() >= {"done": 1, "cached": 1, "interrupted": False}.items()
    done_again = [] if engine_name == "ray" else [3]
    assert trail(store, second) == [1, 2, 3, *done_again, 4, 5]
    for stage, steps in ((first, 4), (second, 5)):
        assert [point["step"] for point in read_curve(store.directory(stage))] == list(range(1, steps + 1))
        assert_every_attempt_is_billed_once(store, stage)


def test_sigterm_saves_inline_too(store: Store, drive: Any) -> None:
    chains = [[("pretrain", {"steps": 4, "hold_at": 2})]]
    (stage,) = make_stages(chains)
    driver = drive("inline", chains)
    driver.wait_until(lambda: trail(store, stage) == [1, 2])
    driver.process.terminate()
    assert driver.finish().items() >= {"done": 0, "failed": [], "interrupted": True}.items()
    assert store.record(stage).state == "resume"


def test_a_worker_killed_inline_is_continued_by_the_next_driver(store: Store, drive: Any) -> None:
    chains = [[("pretrain", {"steps": 5, "checkpoint_every": 2, "kill_at": 4})]]
    (stage,) = make_stages(chains)
    assert drive("inline", chains).process.wait(PATIENCE_S) == -signal.SIGKILL
    assert drive("inline", chains).finish()["done"] == 1
    assert trail(store, stage) == [1, 2, 3, 3, 4, 5]
    assert_every_attempt_is_billed_once(store, stage)


def run_two_drivers(store: Store, drive: Any, one: str, other: str) -> None:
    chains = [[("pretrain", {"seed": seed}), ("finetune", {}), ("evaluate", {"seed": None})] for seed in range(4)]
    drivers = [drive(one, chains), drive(other, chains[::-1])]
    summaries = [driver.finish() for driver in drivers]
    stages = make_stages(chains)
    for summary in summaries:
        assert summary["done"] + summary["cached"] == len(stages)
        assert (summary["failed"], summary["interrupted"]) == ([], False)
    for stage in stages:
        assert trail(store, stage) == [1, 2, 3], "each stage ran once"
        assert [a.state for a in read_attempts(store.directory(stage)) if a.state != "cancelled"] == ["done"]


def test_two_drivers_at_once_run_each_stage_once(store: Store, drive: Any) -> None:
    run_two_drivers(store, drive, "inline", "process")


@pytest.mark.slow
def test_two_ray_drivers_at_once_run_each_stage_once(store: Store, drive: Any) -> None:
    run_two_drivers(store, drive, "ray", "ray")
