"""Every class of failures on every engine that can meet it, made for real: what is written down, done, and told."""

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from experiments.stages.stage import Stage
from experiments.store.attempt import read_attempts
from experiments.store.drivers import request_cancel
from experiments.store.store import Store
from experiments.worker.device import oom_kills
from tests.conformance.drivers import Driver, Site, Told, trail, wait_until
from tests.conformance.test_engines import every_engine, every_engine_elsewhere
from tests.conformance.test_slurm import begin, let_go
from tests.experiments.store.test_failures import narrow  # noqa: F401
from tests.quick_driver import make_stages
from tests.quick_stage import quick_stage
from tests.slurm_cluster import OneMachine

AGAIN, NO_MORE = "tried again", "not tried again"


@dataclass(frozen=True, kw_only=True)
class Case:
    """A stage that misbehaves, and what is to become of it."""

    own: dict[str, Any]
    written: list[tuple[str, str, str] | None]
    """Class, what was seen and what was done, of each attempt; none of one that did its work."""
    retries: list[str] = field(default_factory=list)
    """What the driver told of each further try."""
    failed: str | None = None
    """What it told at last; none: the stage is done."""


HERE = {
    "error": Case(
        own={"fail_at": 2},
        written=[("user_error", "RuntimeError: told to fail at step 2", NO_MORE)],
        failed="RuntimeError: told to fail at step 2",
    ),
    "refusal": Case(
        own={"refuse_at": 2},
        written=[("user_error", "clip 000007.mp4: told to refuse at step 2", NO_MORE)],
        failed="clip 000007.mp4: told to refuse at step 2",
    ),
    "diverged": Case(
        own={"diverge_at": 2},
        written=[("diverged", "step 2: the loss is not finite", NO_MORE)],
        failed="step 2: the loss is not finite",
    ),
    "host memory, by Python's word": Case(
        own={"no_host_memory_at": 2, "times": 1},
        written=[("host_memory", "MemoryError: told to want too much", AGAIN), None],
        retries=["host out of memory: MemoryError: told to want too much"],
    ),
    "GPU memory": Case(
        own={"no_gpu_memory_at": 2, "until_recomputed": True},
        written=[
            (
                "gpu_memory",
                "OutOfMemoryError: CUDA out of memory. Tried to allocate 1.00 GiB",
                "tried again with layers computed again in the backward pass",
            ),
            None,
        ],
        retries=[
            "GPU out of memory: OutOfMemoryError: CUDA out of memory. Tried to allocate 1.00 GiB;"
            " tried again with layers computed again in the backward pass"
        ],
    ),
}
ELSEWHERE = {
    "killed": Case(
        own={"steps": 5, "checkpoint_every": 2, "kill_at": 3, "kills": 9},
        written=[("killed", "killed by SIGKILL", AGAIN), ("killed", "killed by SIGKILL", NO_MORE)],
        retries=["killed by SIGKILL"],
        failed="stopped 2 times, no further than step 2: killed by SIGKILL",
    ),
}


def check(store: Store, engine: Driver, case: Case, act: Callable[[Told], None] = repr) -> Stage:  # type: ignore[assignment]
    """Run a case's stage, and look at what its attempts say and the driver told."""
    stage = quick_stage(**case.own)
    told: list[Told] = []

    def note(event: Told) -> None:
        told.append(event)
        act(event)

    ran = engine.run(store, stage, on_event=note)
    assert written(store, stage) == case.written
    assert [event.message for event in told if event.kind == "retry"] == case.retries
    assert ran.failed == ([] if case.failed is None else [(stage, case.failed)])
    return stage


def written(store: Store, stage: Stage) -> list[tuple[str, str, str] | None]:
    failures = [attempt.failure for attempt in read_attempts(store.directory(stage))]
    return [None if told is None else (told.kind, told.seen, told.done) for told in failures]


@every_engine
@pytest.mark.parametrize("name", HERE)
def test_a_stage_that_says_what_is_wrong(store: Store, engine: Driver, name: str) -> None:
    check(store, engine, HERE[name])


@every_engine_elsewhere
@pytest.mark.parametrize("name", ELSEWHERE)
def test_a_worker_that_says_nothing(store: Store, engine: Driver, name: str) -> None:
    check(store, engine, ELSEWHERE[name])


@every_engine_elsewhere
def test_preempted(store: Store, engine: Driver) -> None:
    """SIGTERM that nobody here asked for."""
    stage = quick_stage(steps=3, hold_at=2)

    def terminate(told: Told) -> None:
        if told.attempt == 1 and told.step == 1:
            wait_until(lambda: trail(store, stage) == [1, 2])
            os.kill(told.worker, signal.SIGTERM)

    written = [("preempted", "stopped after step 2 of 3", AGAIN), None]
    case = Case(own={"steps": 3, "hold_at": 2}, written=written, retries=["preempted: stopped after step 2 of 3"])
    check(store, engine, case, terminate)
    assert trail(store, stage) == [1, 2, 3]


@every_engine
def test_cancelled(store: Store, engine: Driver) -> None:
    stage = quick_stage(steps=4, hold_at=2)

    def ask(told: Told) -> None:
        if told.kind == "queued":
            wait_until(lambda: trail(store, stage) == [1, 2])
            request_cancel(store.home, [stage.fingerprint])

    done = "cancelled, as asked; the same command continues"
    case = Case(own={"steps": 4, "hold_at": 2}, written=[("cancelled", "stopped after step 2 of 4", done)])
    check(store, engine, case, ask)


@every_engine_elsewhere
def test_killed_by_the_kernel_for_want_of_memory(
    store: Store,
    engine: Driver,
    narrow: Path,  # noqa: F811
) -> None:
    """Each attempt is put into a control group of 512 MiB while it holds, and then wants 4 GiB."""
    if not oom_kills():
        pytest.skip("the kernel tells no count of processes that it killed for want of memory here")
    own = {"steps": 3, "hold_at": 1, "eat_at": 2}
    stage = quick_stage(**own)

    def starve(told: Told) -> None:
        if told.kind == "started":
            (narrow / "cgroup.procs").write_text(str(told.worker))
            (store.directory(stage) / "go").touch()

    seen = "killed by SIGKILL; the kernel killed 1 for want of memory meanwhile"
    case = Case(
        own=own,
        written=[("host_memory", seen, AGAIN), ("host_memory", seen, NO_MORE)],
        retries=[f"host out of memory: {seen}"],
        failed=f"stopped 2 times, no further than step 0: host out of memory: {seen}",
    )
    check(store, engine, case, starve)


# What only Slurm does; a node of Ray that is lost is in test_ray_cluster.py.

Start = Callable[[Site, list[Any]], Driver]


@pytest.mark.slow
@pytest.mark.slurm
def test_out_of_time_without_getting_on(whole: OneMachine, drive: Start, store: Store) -> None:
    """Resumed by its job while it gets on, by the driver while there is a new checkpoint, and then no more."""
    chains = [[("pretrain", {"steps": 4, "checkpoint_every": 1, "stuck_at": 3})]]
    (stage,) = make_stages(chains)
    driver, jobs = drive(whole.site, chains), []
    for number in (1, 2, 3):
        driver.wait_until(lambda number=number: is_stuck(store, stage, number))
        jobs.append(read_attempts(store.directory(stage))[-1].owner.slurm.job)
        whole.ask("scancel", "--signal=USR2", jobs[-1])
    ended = driver.finish()
    first, seen = f"the time limit of job {jobs[0]} came near", "stopped after step 2 of 4"
    assert jobs[0] == jobs[1] != jobs[2]
    assert written(store, stage) == [
        ("timeout", first, "queued again, to be resumed by the same job"),
        ("timeout", seen, AGAIN),
        ("timeout", seen, NO_MORE),
    ]
    assert ended["failed"] == [
        [stage.fingerprint, f"stopped 2 times, no further than step 2: out of time: {seen}"],
    ]


def is_stuck(store: Store, stage: Stage, number: int) -> bool:
    attempts = read_attempts(store.directory(stage))
    return len(attempts) == number and (store.directory(stage) / f"stuck-{number}").exists()


@pytest.mark.slow
@pytest.mark.slurm
def test_a_node_that_is_lost_under_a_job(whole: OneMachine, drive: Start, store: Store) -> None:
    """Slurm ends the job there and queues it again, with no word to the driver."""
    driver, stage, _ = begin(whole, drive, store)
    job = whole.job_of(store, stage)
    node = whole.ask("squeue", "--noheader", f"--jobs={job}", "--format=%N").strip()
    whole.ask("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=test")
    wait_until(lambda: len(read_attempts(store.directory(stage))) == 2)
    let_go(store, stage)
    assert driver.finish()["done"] == [stage.fingerprint]
    told, last = written(store, stage)
    assert told is not None and last is None
    assert told[0] in ("preempted", "node_lost") and told[2] == "resumed by the same job"
    assert told[1].endswith(f"Slurm queued job {job} again")
