"""One contract, every engine: order, failures, kills, stops, and drivers that share a store."""

import json
import os
import signal
import time
from typing import Any

import psutil
import pytest

from experiments.engines.base import local_cpus
from experiments.stages.stage import Stage
from experiments.store.attempt import read_attempts
from experiments.store.store import Store, read_curve
from tests.conformance.drivers import PATIENCE_S, Driver, Site, Told, states, trail, wait_until
from tests.quick_driver import make_stages
from tests.quick_stage import quick_stage

SLURM = pytest.param("slurm", marks=pytest.mark.slurm)
RAY_CLUSTER = pytest.param("ray cluster", marks=pytest.mark.nightly)
ELSEWHERE = ("ray", RAY_CLUSTER, SLURM)
"""Engines whose workers are processes of their own; an engine to come adds its name, and a fixture `site` for it."""
ENGINES = ("inline", *ELSEWHERE)

every_engine = pytest.mark.parametrize("site", ENGINES, indirect=True, scope="module")
every_engine_elsewhere = pytest.mark.parametrize("site", ELSEWHERE, indirect=True, scope="module")
needs_two_cpus = pytest.mark.skipif(local_cpus() < 2, reason="two stages at once need two CPUs")

INLINE, PROCESS, RAY = (Site(name=name, environment={}, cpus=local_cpus()) for name in ("inline", "process", "ray"))


def assert_every_attempt_is_billed_once(store: Store, stage: Stage) -> None:
    record = store.record(stage)
    spent = sum(attempt.last.spent_s for attempt in record.attempts)
    assert record.hours.billed * 3600 == pytest.approx(max(spent, record.hours.useful * 3600))
    parts = record.hours.useful + record.hours.lost + record.hours.overhead
    assert record.hours.billed == pytest.approx(parts)


# One driver for all.


@every_engine
def test_a_chain_runs_in_order(store: Store, engine: Driver) -> None:
    first = quick_stage()
    second = quick_stage("finetune", task="msrvtt", parents=(first,))
    third = quick_stage("evaluate", task="msrvtt", parents=(second,), seed=None)
    finished = []
    ran = engine.run(
        store,
        first,
        second,
        third,
        on_event=lambda told: told.kind == "done" and finished.append(told.stage.name),
    )
    assert (len(ran.done), ran.failed, ran.blocked, ran.interrupted) == (3, [], [], False)
    assert finished == ["pretrain", "finetune.msrvtt", "evaluate.msrvtt"]
    for parent, child in ((first, second), (second, third)):
        seed, parents = json.loads((store.directory(child) / "weights.json").read_text())
        assert (seed, parents) == (child.seed, [str(store.directory(parent))])


@every_engine
def test_what_is_done_is_not_run_again(store: Store, engine: Driver) -> None:
    stages = quick_stage(seed=1), quick_stage(seed=2)
    engine.run(store, *stages)
    ran = engine.run(store, *stages)
    assert (len(ran.cached), ran.done) == (2, [])
    assert [trail(store, stage) for stage in stages] == [[1, 2, 3]] * 2


@every_engine
def test_a_failed_stage_blocks_its_children_and_others_go_on(store: Store, engine: Driver) -> None:
    broken = quick_stage(fail_at=2)
    child = quick_stage("finetune", parents=(broken,))
    other = quick_stage(seed=1)
    ran = engine.run(store, broken, child, other)
    assert ran.failed == [(broken, "RuntimeError: told to fail at step 2")]
    assert ran.blocked == [(child, "pretrain")]
    assert ran.done == [other]


@every_engine
def test_a_stage_that_asks_for_more_than_one_machine_has_is_named_and_nothing_starts(
    store: Store, engine: Driver, site: Site
) -> None:
    greedy = quick_stage("finetune", cpus=site.cpus + 1)
    ran = engine.run(store, quick_stage(), greedy)
    told = f"finetune.cpus: {site.cpus + 1} is more than one stage can have here; at most {site.cpus}"
    assert ran.refused == f"resources.{told}; nothing was started"
    assert not store.root.exists()


@needs_two_cpus
@every_engine_elsewhere
def test_independent_stages_run_at_once(store: Store, engine: Driver) -> None:
    """Each holds until both have begun, or for so long that they plainly do not run at once."""
    pair = [quick_stage(seed=seed, hold_at=1) for seed in (1, 2)]
    deadline = time.monotonic() + PATIENCE_S

    def release_together(_: Told) -> None:
        if all(trail(store, stage) == [1] for stage in pair) or time.monotonic() > deadline:
            for stage in pair:
                store.directory(stage).mkdir(parents=True, exist_ok=True)
                (store.directory(stage) / "go").touch()

    assert len(engine.run(store, *pair, on_event=release_together).done) == 2
    attempts = [read_attempts(store.directory(stage))[0] for stage in pair]
    assert max(attempt.owner.started for attempt in attempts) < min(attempt.last.time for attempt in attempts)


@every_engine_elsewhere
def test_a_killed_worker_is_tried_again_from_its_checkpoint(store: Store, engine: Driver) -> None:
    stage = quick_stage(steps=5, checkpoint_every=2, kill_at=4)
    assert engine.run(store, stage).done == [stage]
    assert trail(store, stage) == [1, 2, 3, 3, 4, 5]
    assert [point.step for point in read_curve(store.directory(stage))] == [1, 2, 3, 4, 5]
    assert states(store, stage) == ["dead", "done"]
    assert_every_attempt_is_billed_once(store, stage)


@every_engine_elsewhere
def test_a_worker_whose_supervisor_was_killed_saves(store: Store, engine: Driver) -> None:
    stage = quick_stage(steps=4, hold_at=2)

    def kill_supervisor(told: Told) -> None:
        if told.attempt == 1 and told.step:
            wait_until(lambda: trail(store, stage) == [1, 2])
            supervisor = psutil.Process(told.worker).parent()
            assert supervisor is not None
            supervisor.kill()

    assert engine.run(store, stage, on_event=kill_supervisor).done == [stage]
    assert trail(store, stage) == [1, 2, 3, 4]
    assert states(store, stage) == ["interrupted", "done"]


@every_engine_elsewhere
def test_what_still_waited_when_a_stop_was_asked_for_never_starts(store: Store, engine: Driver, site: Site) -> None:
    """One stage for each machine of that size, and one more."""
    machines = 2 if "@" in site.name else 1
    stages = [quick_stage(seed=seed, steps=3, hold_at=2, cpus=site.cpus) for seed in range(machines + 1)]
    asked = False

    def stop_once_at_work(told: Told) -> None:
        nonlocal asked
        at_work = [stage for stage in stages if trail(store, stage) == [1, 2]]
        if told.step and len(at_work) == machines and not asked:
            asked = True
            os.kill(engine.process.pid, signal.SIGINT)

    ran = engine.run(store, *stages, on_event=stop_once_at_work)
    assert (ran.interrupted, ran.done, ran.failed) == (True, [], [])
    assert sorted(len(states(store, stage)) for stage in stages) == [0] + [1] * machines
    for stage in stages:
        (store.directory(stage) / "go").touch()
    assert len(engine.run(store, *stages).done) == len(stages)
    assert [trail(store, stage) for stage in stages] == [[1, 2, 3]] * len(stages)


# Drivers that are stopped and killed.


@every_engine
def test_a_stopped_driver_and_a_killed_one_are_continued(store: Store, drive: Any, site: Site) -> None:
    """Stopped: all is saved. Killed: inline it was the worker itself; elsewhere workers notice, save and end.

    The jobs of a cluster go on instead.
    """
    tuning = {"steps": 5, "checkpoint_every": 2, "hold_at": 3}
    chains = [[("pretrain", {"steps": 4, "hold_at": 2}), ("finetune", tuning)]]
    first, second = make_stages(chains)

    driver = drive(site, chains)
    driver.wait_until(lambda: trail(store, first) == [1, 2])
    driver.ctrl_c()
    assert driver.finish().items() >= {"done": [], "failed": [], "interrupted": True}.items()
    assert store.record(first).state == "resume"
    assert states(store, first) == ["interrupted"]
    assert not store.directory(second).exists()

    (store.directory(first) / "go").touch()
    driver = drive(site, chains)
    driver.wait_until(lambda: trail(store, second) == [1, 2, 3])
    assert trail(store, first) == [1, 2, 3, 4]
    worker = read_attempts(store.directory(second))[0].owner.pid
    driver.process.kill()
    driver.process.wait()
    if not site.outlives:
        wait_until(lambda: not psutil.pid_exists(worker))
        assert store.record(second).state == "resume"
    (store.directory(second) / "go").touch()
    if site.outlives:
        wait_until(lambda: store.record(second).state == "done" and not psutil.pid_exists(worker))
    ended = drive(INLINE, chains).finish()
    assert (ended["failed"], ended["interrupted"]) == ([], False)
    both = [first.fingerprint, second.fingerprint]
    assert (ended["cached"] + ended["done"], len(ended["done"])) == (both, 0 if site.outlives else 1)
    done_again = [3] if site == INLINE else []
    assert trail(store, second) == [1, 2, 3, *done_again, 4, 5]
    for stage, steps in ((first, 4), (second, 5)):
        assert [point.step for point in read_curve(store.directory(stage))] == list(range(1, steps + 1))
        assert_every_attempt_is_billed_once(store, stage)


def test_sigterm_saves_inline_too(store: Store, drive: Any) -> None:
    chains = [[("pretrain", {"steps": 4, "hold_at": 2})]]
    (stage,) = make_stages(chains)
    driver = drive(INLINE, chains)
    driver.wait_until(lambda: trail(store, stage) == [1, 2])
    driver.process.terminate()
    assert driver.finish().items() >= {"done": [], "failed": [], "interrupted": True}.items()
    assert store.record(stage).state == "resume"


def test_ctrl_c_before_ray_has_started_anything_is_no_error(store: Store, drive: Any) -> None:
    driver = drive(RAY, [[("pretrain", {"steps": 4, "hold_at": 2})]])
    driver.read_until('"queued"')
    driver.ctrl_c()
    assert driver.finish().items() >= {"done": [], "failed": [], "interrupted": True}.items()


def test_a_worker_killed_inline_is_continued_by_the_next_driver(store: Store, drive: Any) -> None:
    chains = [[("pretrain", {"steps": 5, "checkpoint_every": 2, "kill_at": 4})]]
    (stage,) = make_stages(chains)
    assert drive(INLINE, chains).process.wait(PATIENCE_S) == -signal.SIGKILL
    assert drive(INLINE, chains).finish()["done"] == [stage.fingerprint]
    assert trail(store, stage) == [1, 2, 3, 3, 4, 5]
    assert_every_attempt_is_billed_once(store, stage)


def run_two_drivers(store: Store, drive: Any, one: Site, other: Site) -> None:
    chains = [[("pretrain", {"seed": seed}), ("finetune", {}), ("evaluate", {"seed": None})] for seed in range(4)]
    drivers = [drive(one, chains), drive(other, chains[::-1])]
    summaries = [driver.finish() for driver in drivers]
    stages = make_stages(chains)
    for summary in summaries:
        assert len(summary["done"]) + len(summary["cached"]) == len(stages)
        assert (summary["failed"], summary["interrupted"]) == ([], False)
    for stage in stages:
        assert trail(store, stage) == [1, 2, 3], "each stage ran once"
        assert [state for state in states(store, stage) if state != "cancelled"] == ["done"]


def test_two_drivers_at_once_run_each_stage_once(store: Store, drive: Any) -> None:
    run_two_drivers(store, drive, INLINE, PROCESS)


@pytest.mark.nightly
def test_two_ray_drivers_at_once_run_each_stage_once(store: Store, drive: Any) -> None:
    run_two_drivers(store, drive, RAY, RAY)
