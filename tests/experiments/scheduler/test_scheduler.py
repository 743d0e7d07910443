"""What runs next, what is tried again, what is not: with real workers in processes of their own."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from experiments.engines.base import JobState
from experiments.engines.command import worker_job
from experiments.engines.inline import InlineEngine
from experiments.planning.budget import Budget
from experiments.planning.cost_model import Prices
from experiments.scheduler.events import Event, Summary
from experiments.scheduler.retry import killed_by
from experiments.scheduler.scheduler import Scheduler
from experiments.stages.stage import Stage
from experiments.store.attempt import read_attempts
from experiments.store.store import Store, read_curve
from smaug_core.errors import SmaugError
from tests.experiments.finished import finish
from tests.faults import full_disk
from tests.process_engine import ProcessEngine
from tests.quick_stage import quick_stage

ROOT = Path(__file__).parents[3]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


@pytest.fixture
def engine() -> Iterator[ProcessEngine]:
    engine = ProcessEngine()
    yield engine
    engine.close()


def schedule(
    store: Store, engine: ProcessEngine, *stages: Stage, on_event: Callable[[Event], Any] = print, **options: Any
) -> tuple[Summary, list[tuple[str, str, str]]]:
    """Run to the end; gives the summary and what was told: kind, stage, message."""
    told = []

    def note(event: Event) -> None:
        told.append((event.kind, event.stage.name, event.message))
        on_event(event)

    scheduler = Scheduler(stages, store, engine, data_root=store.home / "data", on_event=note, **options)
    return scheduler.run(), told


def start_worker(directory: Path) -> subprocess.Popen[bytes]:
    """A worker that nobody here supervises; it ends with the tests should one of them fail."""
    command = [sys.executable, "-m", "experiments.worker", str(directory), "--parent", str(os.getpid())]
    return subprocess.Popen(command, cwd=ROOT)


def start_elsewhere(store: Store) -> tuple[Stage, subprocess.Popen[bytes]]:
    """A stage that somebody else runs, until it may go on."""
    stage = quick_stage(hold_at=2)
    worker = start_worker(store.prepare(stage))
    while not store.has_attempt(stage, 1):
        time.sleep(0.01)
    return stage, worker


def at_work(event: Event) -> bool:
    """Whether a stage has done its first step."""
    return event.attempt is not None and event.attempt.progress.step == 1


def trail(store: Store, stage: Stage) -> list[int]:
    return [int(line) for line in (store.directory(stage) / "trail.txt").read_text().split()]


def kinds(told: list[tuple[str, str, str]], *without: str) -> list[tuple[str, str]]:
    return [(kind, name) for kind, name, _ in told if kind not in without]


def test_a_chain_runs_in_order_and_tells_what_happens(store: Store, engine: ProcessEngine) -> None:
    first = quick_stage()
    second = quick_stage("finetune", task="msrvtt", parents=(first,))
    third = quick_stage("evaluate", task="msrvtt", parents=(second,), seed=None)
    summary, told = schedule(store, engine, first, second, third)
    assert summary == Summary(done=[first, second, third])
    expected = [
        (kind, name)
        for name in ("pretrain", "finetune.msrvtt", "evaluate.msrvtt")
        for kind in ("queued", "started", "done")
    ]
    assert kinds(told, "progress") == expected


def test_progress_tells_step_total_and_values(store: Store, engine: ProcessEngine) -> None:
    seen: list[dict[str, Any]] = []

    def release(event: Event) -> None:
        if event.kind in ("started", "progress") and event.attempt is not None:
            seen.append(event.attempt.progress)
            if event.attempt.progress.step == 1:
                (store.directory(event.stage) / "go").touch()

    schedule(store, engine, quick_stage(steps=2, hold_at=1), on_event=release)
    assert [(p.total, p.values) for p in seen if p.step == 1] == [(2, {"loss": 1.0})]


def test_a_parent_that_is_shared_runs_once(store: Store, engine: ProcessEngine) -> None:
    shared = quick_stage()
    tunings = [quick_stage("finetune", parents=(shared,), seed=seed) for seed in (1, 2)]
    summary, _ = schedule(store, engine, shared, *tunings)
    assert len(summary.done) == 3
    assert engine.submitted[0] == shared.fingerprint
    assert sorted(engine.submitted[1:]) == sorted(t.fingerprint for t in tunings)


def test_what_is_done_is_not_run_again(store: Store, engine: ProcessEngine) -> None:
    stages = (quick_stage(), quick_stage("finetune", parents=(quick_stage(),)))
    schedule(store, engine, *stages)
    engine.submitted.clear()
    summary, told = schedule(store, engine, *stages)
    assert summary == Summary(cached=list(stages))
    assert kinds(told) == [("cached", "pretrain"), ("cached", "finetune")]
    assert engine.submitted == []


def test_a_failure_blocks_all_that_builds_on_it_and_nothing_else(store: Store, engine: ProcessEngine) -> None:
    broken = quick_stage(fail_at=2)
    child = quick_stage("finetune", parents=(broken,))
    grandchild = quick_stage("evaluate", parents=(child,), seed=None)
    other = quick_stage(seed=9)
    summary, told = schedule(store, engine, broken, child, grandchild, other)
    assert summary.done == [other]
    assert summary.failed == [(broken, "RuntimeError: told to fail at step 2")]
    assert summary.blocked == [(child, "pretrain"), (grandchild, "pretrain")]
    assert not summary.interrupted
    assert engine.submitted.count(broken.fingerprint) == 1, "trying again alone would not help"
    assert not store.directory(child).exists()


@pytest.mark.parametrize("fault", ["fail_at", "refuse_at", "diverge_at"])
def test_what_failed_before_is_tried_again_only_when_asked(store: Store, engine: ProcessEngine, fault: str) -> None:
    stage = quick_stage(**{fault: 2})
    schedule(store, engine, stage)
    summary, _ = schedule(store, engine, stage)
    assert len(engine.submitted) == 1
    ((_, message),) = summary.failed
    assert message.startswith("failed before (")
    assert message.endswith("); --retry-failed tries again")
    schedule(store, engine, stage, retry_failed=True)
    assert len(engine.submitted) == 2


def test_a_killed_worker_is_tried_again_and_continues(store: Store, engine: ProcessEngine) -> None:
    stage = quick_stage(steps=5, checkpoint_every=2, kill_at=4)
    summary, told = schedule(store, engine, stage)
    assert summary.done == [stage]
    assert ("retry", "pretrain", "killed by SIGKILL") in told
    assert trail(store, stage) == [1, 2, 3, 3, 4, 5]
    assert [point.step for point in read_curve(store.directory(stage))] == [1, 2, 3, 4, 5]
    record = store.record(stage)
    assert [attempt.state for attempt in record.attempts] == ["dead", "done"]
    assert record.hours.estimated
    assert record.hours.billed * 3600 >= sum(a.last.spent_s for a in record.attempts) - 1e-6


def test_a_worker_that_is_killed_without_getting_further_is_given_up(store: Store, engine: ProcessEngine) -> None:
    stage = quick_stage(steps=5, checkpoint_every=2, kill_at=3, kills=9)
    summary, _ = schedule(store, engine, stage)
    assert summary.failed == [(stage, "stopped 2 times, no further than step 2: killed by SIGKILL")]
    assert len(read_attempts(store.directory(stage))) == 2


def test_a_worker_that_gets_further_each_time_is_tried_three_times(store: Store, engine: ProcessEngine) -> None:
    stage = quick_stage(steps=9, checkpoint_every=2, kill_at=[3, 5, 7])
    summary, _ = schedule(store, engine, stage)
    assert summary.failed == [(stage, "stopped 3 times, no further than step 6: killed by SIGKILL")]
    summary, _ = schedule(store, engine, stage)
    assert summary.done == [stage], "a later run continues: the stage itself did not fail"
    assert trail(store, stage) == list(range(1, 10))


def test_a_worker_that_somebody_stops_is_started_again(store: Store, engine: ProcessEngine) -> None:
    stage = quick_stage(steps=4, hold_at=2)

    def stop_it_once(event: Event) -> None:
        if at_work(event) and len(engine.submitted) == 1:
            while len(trail(store, stage)) < 2:  # stopped earlier, its second attempt would hold at step 2 for ever
                time.sleep(0.01)
            engine.processes[stage.fingerprint].terminate()

    summary, told = schedule(store, engine, stage, on_event=stop_it_once)
    assert summary.done == [stage]
    assert ("retry", "pretrain", "preempted: stopped after step 2 of 4") in told
    assert trail(store, stage) == [1, 2, 3, 4]


def test_what_a_worker_said_that_could_not_start_is_told(
    store: Store, engine: ProcessEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONHOME", "/nowhere")
    summary, _ = schedule(store, engine, quick_stage())
    ((_, message),) = summary.failed
    assert "No module named 'encodings'" in message


def test_a_stop_saves_what_runs_and_starts_nothing_new(store: Store, engine: ProcessEngine) -> None:
    first = quick_stage(steps=4, hold_at=2)
    second = quick_stage("finetune", parents=(first,))
    schedulers: list[Scheduler] = []

    def stop_once_at_work(event: Event) -> None:
        if at_work(event):
            schedulers[0].stop()

    schedulers.append(
        Scheduler([first, second], store, engine, data_root=store.home / "data", on_event=stop_once_at_work)
    )
    summary = schedulers[0].run()
    assert summary == Summary(interrupted=True)
    assert store.record(first).state == "resume"
    assert not store.directory(second).exists()
    (store.directory(first) / "go").touch()
    summary, _ = schedule(store, engine, first, second)
    assert summary.done == [first, second]
    assert trail(store, first) == [1, 2, 3, 4]


def test_a_stage_that_runs_elsewhere_is_waited_for(store: Store, engine: ProcessEngine) -> None:
    stage, worker = start_elsewhere(store)

    def release(event: Event) -> None:
        if event.kind == "waiting":
            (store.directory(stage) / "go").touch()

    summary, told = schedule(store, engine, stage, on_event=release)
    assert worker.wait() == 0
    assert summary.done == [stage]
    assert engine.submitted == []
    assert kinds(told) == [("waiting", "pretrain"), ("done", "pretrain")]
    assert told[0][2].startswith(f"process {worker.pid} on ")


def test_a_stage_that_is_claimed_right_before_our_worker_is_waited_for(store: Store, engine: ProcessEngine) -> None:
    stage = quick_stage(hold_at=2)
    others: list[subprocess.Popen[bytes]] = []

    def claim_first(event: Event) -> None:
        if event.kind == "queued":
            others.append(start_worker(store.directory(stage)))
            while not store.has_attempt(stage, 1):
                time.sleep(0.01)
        elif event.kind == "waiting":
            (store.directory(stage) / "go").touch()

    summary, told = schedule(store, engine, stage, on_event=claim_first)
    assert [other.wait() for other in others] == [0]
    assert summary.done == [stage]
    assert kinds(told, "started", "progress") == [(kind, "pretrain") for kind in ("queued", "waiting", "done")]
    assert len(read_attempts(store.directory(stage))) == 1


def test_a_stage_whose_worker_elsewhere_dies_is_taken_over(store: Store, engine: ProcessEngine) -> None:
    stage, worker = start_elsewhere(store)

    def kill(event: Event) -> None:
        if event.kind == "waiting":
            worker.kill()
            (store.directory(stage) / "go").touch()

    summary, told = schedule(store, engine, stage, on_event=kill)
    worker.wait()
    assert summary.done == [stage]
    assert kinds(told, "progress") == [(k, "pretrain") for k in ("waiting", "queued", "started", "done")]
    assert [a.state for a in read_attempts(store.directory(stage))] == ["dead", "done"]


def test_a_stage_that_asks_for_too_much_is_named_and_nothing_starts(store: Store, engine: ProcessEngine) -> None:
    greedy = quick_stage("finetune", cpus=5, gpus=1)
    message = (
        "resources.finetune.cpus: 5 is more than one stage can have here; at most 4;"
        " resources.finetune.gpus: 1 is more than one stage can have here; at most 0; nothing was started"
    )
    with pytest.raises(SmaugError, match=f"^{message}$"):
        schedule(store, engine, quick_stage(), greedy)
    assert engine.submitted == []
    assert not store.root.exists()


def test_a_finished_stage_may_have_asked_for_more_than_there_is_here(store: Store) -> None:
    """Results that were made on a large machine are used on a small one."""
    large, small = ProcessEngine(cpus=8), ProcessEngine(cpus=1)
    parent = quick_stage(cpus=8)
    schedule(store, large, parent)
    summary, _ = schedule(store, small, parent, quick_stage("evaluate", parents=(parent,), seed=None))
    assert (len(summary.cached), len(summary.done)) == (1, 1)


def test_a_full_disk_under_a_worker_is_told(engine: ProcessEngine) -> None:
    with full_disk() as disk:
        store, stage = Store(disk.folder), quick_stage(steps=3, hold_at=1)

        def fill(event: Event) -> None:
            if at_work(event):
                (store.directory(stage) / "soon").touch()
                disk.fill()
                (store.directory(stage) / "soon").rename(store.directory(stage) / "go")

        summary, _ = schedule(store, engine, stage, on_event=fill)
        ((_, message),) = summary.failed
        assert "free some space" in message
        disk.free()
        summary, _ = schedule(store, engine, stage)
        assert summary.done == [stage]


def test_a_job_without_gpus_sees_none(store: Store) -> None:
    job = worker_job(quick_stage(), store.prepare(quick_stage()), store.home / "data")
    assert job.env["CUDA_VISIBLE_DEVICES"] == ""
    assert job.command[1:4] == ("-m", "experiments.worker", str(store.directory(quick_stage())))
    assert job.command[-2:] == ("--device", "cpu")
    job = worker_job(quick_stage(gpus=4), store.prepare(quick_stage()), store.home / "data")
    assert "CUDA_VISIBLE_DEVICES" not in job.env
    assert (job.gpus, job.command[-4:]) == (4, ("--device", "cuda", "--processes", "4"))
    one = worker_job(quick_stage(gpus=1, accelerator="H100"), store.prepare(quick_stage()), store.home / "data")
    assert (one.gpus, one.accelerator, one.command[-2:]) == (1, "H100", ("--device", "cuda"))


@pytest.mark.parametrize(
    ("state", "words"),
    [
        (JobState(True, -signal.SIGSEGV), "killed by SIGSEGV"),
        (JobState(True, 75), "asked to stop from outside"),
        (JobState(True, None, "Ray lost it"), "Ray lost it"),
    ],
)
def test_why_a_job_ended_is_said_in_words(state: JobState, words: str) -> None:
    assert killed_by(state) == words


def test_a_budget_holds_back_what_would_exceed_it_and_nothing_that_fits(store: Store, engine: ProcessEngine) -> None:
    finish(store, quick_stage(seed=100), 2.0)
    dear = [quick_stage(seed=seed, hold_at=1, steps=3) for seed in (1, 2)]
    finish(store, quick_stage(seed=101, hold_at=1, steps=3), 2.0)
    child = quick_stage("finetune", parents=(dear[1],))
    budget = Budget(store, Prices(store), limit=3.0)

    def release(event: Event) -> None:
        if event.kind == "held" and event.stage == dear[1]:
            for stage in dear:
                (store.directory(stage) / "go").touch()

    summary, told = schedule(store, engine, *dear, child, on_event=release, budget=budget)
    assert ("held", "pretrain") in kinds(told)
    assert dear[0] in summary.done
    assert dear[1] in summary.done, "the first took seconds, not the 2 h that were promised to it"
    assert child in summary.done
    assert summary.complete


def test_what_a_budget_never_allows_is_left_with_all_that_builds_on_it(store: Store, engine: ProcessEngine) -> None:
    finish(store, quick_stage(seed=100), 2.0)
    dear, free = quick_stage(seed=1), quick_stage(steps=1)
    child = quick_stage("finetune", parents=(dear,))
    summary, _ = schedule(store, engine, dear, child, free, budget=Budget(store, Prices(store), limit=1.0))
    assert summary.done == [free]
    ((held, why),) = summary.held
    assert held == dear and why.startswith("2 CPU h more would exceed the 1 allowed")
    assert summary.blocked == [(child, "pretrain")]
    assert not summary.complete and not summary.interrupted


def test_a_stage_without_room_fails_with_no_record_and_the_next_run_tries_it(
    store: Store, engine: ProcessEngine
) -> None:
    stage, child = quick_stage(), quick_stage("finetune", parents=(quick_stage(),))
    summary, _ = schedule(store, engine, stage, child, room_problem=lambda stage: "needs 3 GB, 1 GB is free")
    assert summary.failed == [(stage, "needs 3 GB, 1 GB is free")]
    assert summary.blocked == [(child, "pretrain")]
    assert engine.submitted == [] and store.record(stage).state == "new"
    summary, _ = schedule(store, engine, stage, child)
    assert summary.done == [stage, child]


@pytest.mark.parametrize("kind", ["process", "inline"])
def test_a_cancelled_stage_saves_its_state_and_the_same_command_continues(
    store: Store, engine: ProcessEngine, kind: str
) -> None:
    chosen = engine if kind == "process" else InlineEngine()
    first, child = quick_stage(steps=5, hold_at=2), quick_stage("finetune", parents=(quick_stage(steps=5, hold_at=2),))
    never, other = quick_stage(seed=3), quick_stage(seed=4)
    asked: set[str] = {never.fingerprint}
    told = []

    def watch(event: Event) -> None:
        told.append((event.kind, event.stage))

    def cancellations() -> set[str]:
        at_work = (store.directory(first) / "trail.txt").exists() and trail(store, first) == [1, 2]
        return asked | ({first.fingerprint} if at_work or kind == "inline" else set())

    options: dict[str, Any] = {"data_root": store.home, "on_event": watch}
    scheduler = Scheduler([first, child, never, other], store, chosen, cancellations=cancellations, **options)
    summary = scheduler.run()
    assert first in [stage for stage, _ in summary.cancelled]
    assert (child, "pretrain") in summary.blocked
    assert other in summary.done
    assert not summary.failed and not summary.interrupted and not summary.complete
    assert store.record(first).state == "resume"
    (store.directory(first) / "go").touch()
    again = Scheduler([first, child, never, other], store, chosen, **options).run()
    assert again.complete
    assert trail(store, first) == [1, 2, 3, 4, 5]


def test_no_more_jobs_are_submitted_at_once_than_an_engine_can_take(
    store: Store, engine: ProcessEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("experiments.scheduler.scheduler.SUBMITTED_AT_ONCE", 2)
    most = 0

    def count(event: Event) -> None:
        nonlocal most
        most = max(most, sum(process.poll() is None for process in engine.processes.values()))

    summary, _ = schedule(store, engine, *(quick_stage(seed=seed) for seed in range(5)), on_event=count)
    assert len(summary.done) == 5
    assert most <= 2


def test_a_stop_reaches_what_an_earlier_driver_started_however_soon_it_comes(
    store: Store, engine: ProcessEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the very step that finds that somebody is at the stage."""
    stage, worker = start_elsewhere(store)
    cancelled: list[str] = []
    monkeypatch.setattr(engine, "cancel", cancelled.append)
    options: dict[str, Any] = {"data_root": store.home, "abandoned": list}
    scheduler = Scheduler([stage], store, engine, on_event=lambda _: scheduler.stop(), **options)
    assert scheduler.run().interrupted
    worker.terminate()
    worker.wait()
    assert cancelled == [stage.fingerprint]


def test_a_cancellation_reaches_the_engine_for_what_an_earlier_driver_started(
    store: Store, engine: ProcessEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where jobs outlive drivers, the engine knows it still."""
    stage, worker = start_elsewhere(store)
    monkeypatch.setattr(engine, "cancel", lambda name: name == stage.fingerprint and worker.terminate())
    unwanted: set[str] = set()

    def ask(event: Event) -> None:
        if event.kind == "waiting":
            unwanted.add(stage.fingerprint)

    options: dict[str, Any] = {"data_root": store.home, "on_event": ask}
    summary = Scheduler([stage], store, engine, cancellations=lambda: set(unwanted), **options).run()
    worker.wait()
    assert [cancelled for cancelled, _ in summary.cancelled] == [stage]
    assert store.record(stage).state == "resume"


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), SmaugError("placed-1.json: is damaged")])
@pytest.mark.parametrize("by", ["request", "stop"])
def test_an_engine_that_cannot_cancel_a_job_now_is_asked_again_with_one_warning(
    store: Store,
    engine: ProcessEngine,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
    by: str,
) -> None:
    monkeypatch.setattr("experiments.scheduler.cancellation.POLL_S", 0.05)
    stages = [quick_stage(steps=5, hold_at=2, seed=seed) for seed in (1, 2)]
    first, attempts, cancel = stages[0].fingerprint, Counter[str](), engine.cancel
    started, requested = set[str](), set[str]()

    def refuse_at_first(name: str) -> None:
        attempts[name] += 1
        if name == first and attempts[name] < 4:
            raise error
        cancel(name)

    def end(event: Event) -> None:
        if at_work(event):
            started.add(event.stage.fingerprint)
        if len(started) == len(stages):
            requested.update(started)
            if by == "stop":
                scheduler.stop()

    monkeypatch.setattr(engine, "cancel", refuse_at_first)
    requests = (lambda: set(requested)) if by == "request" else set
    scheduler = Scheduler(stages, store, engine, data_root=store.home, on_event=end, cancellations=requests)
    summary = scheduler.run()
    assert attempts == {stages[0].fingerprint: 4, stages[1].fingerprint: 1}
    assert [store.record(stage).state for stage in stages] == ["resume", "resume"]
    assert summary.interrupted if by == "stop" else len(summary.cancelled) == 2
    (warning,) = [record.message for record in caplog.records if "cannot be cancelled" in record.message]
    assert warning == f"stage {first[:12]} cannot be cancelled now ({error}); it is tried again"


def test_requests_that_cannot_be_read_now_are_read_again_with_one_warning(
    store: Store, engine: ProcessEngine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("experiments.scheduler.cancellation.POLL_S", 0.05)
    stage, polls = quick_stage(steps=5, hold_at=2), 0

    def requests() -> set[str]:
        nonlocal polls
        polls += 1
        if polls < 4:
            raise OSError(5, "Input/output error")
        return {stage.fingerprint} if (store.directory(stage) / "trail.txt").exists() else set()

    summary, _ = schedule(store, engine, stage, cancellations=requests)
    assert [cancelled for cancelled, _ in summary.cancelled] == [stage]
    assert [record.message for record in caplog.records if "cannot be read" in record.message] == [
        "requests to cancel stages cannot be read ([Errno 5] Input/output error); they are read again"
    ]
