"""Scheduler: submits stages whose parents are done to an engine, and follows them in the store."""

import time
from collections.abc import Callable, Collection, Iterable
from pathlib import Path

from experiments.engines.base import Engine, Job, JobState
from experiments.engines.command import worker_job
from experiments.planning.budget import Budget
from experiments.planning.plan import resource_problems
from experiments.scheduler.cancellation import Canceller
from experiments.scheduler.events import Event, Summary
from experiments.scheduler.retry import (
    count_alike,
    difference_of_retry,
    examine,
    final_message,
    has_retries_left,
    may_help,
    pause_message,
    record_cancelled,
    signature,
)
from experiments.scheduler.stage_queue import QueuedStage, StageQueue
from experiments.stages.stage import Stage
from experiments.store.attempt import Attempt, checkpoint_step, record_failure
from experiments.store.failures import POLICIES, Failure
from experiments.store.records import StageRecord
from experiments.store.store import Store
from experiments.worker.outcome import HELD
from experiments.worker.signals import StopFlag, stop_on_signals
from smaug_core.errors import SmaugError

TICK_S = 0.1
"""Time between two polls of the store and the engine."""
SLOW_TICK_S = 1.0
"""Time between two polls of the stages of other drivers."""
SUBMITTED_AT_ONCE = 512
"""Maximum number of jobs submitted at once: those that the engine can run, and some to continue with."""


class Scheduler:
    """Run stages in the order their parents allow, each once, whatever else uses the store.

    Args:
        stages: distinct stages, parents before children.
        engine: is closed by the caller.
        data_root: folder of the media.
        on_event: receives the events, in the thread of `run`.
        retry_failed: try stages again that failed in an earlier run.
        budget: is asked before a stage starts; stages that it refuses are held back.
        room_problem: returns why a stage has no room on the disk, if it has none; then it fails without a record.
        cancellations: returns the fingerprints of stages to cancel; polled in another thread.
        peak_bytes: returns the largest memory of stages like one, where that is known.
        abandoned: returns the stages among some that run elsewhere and have no other driver; a stop ends these too.
    """

    def __init__(
        self,
        stages: Iterable[Stage],
        store: Store,
        engine: Engine,
        *,
        data_root: Path,
        on_event: Callable[[Event], None],
        retry_failed: bool = False,
        budget: Budget | None = None,
        room_problem: Callable[[Stage], str | None] = lambda stage: None,
        cancellations: Callable[[], Collection[str]] = tuple,
        peak_bytes: Callable[[Stage], int | None] = lambda stage: None,
        abandoned: Callable[[Collection[str]], Collection[str]] = lambda names: (),
    ) -> None:
        self._queue = StageQueue(stages, on_event)
        self._store, self._engine, self._data_root = store, engine, data_root
        self._report, self._retry_failed = on_event, retry_failed
        self._budget, self._room_problem = budget, room_problem
        self._abandoned, self._peak_bytes = abandoned, peak_bytes
        self._stop, self._is_stopping = StopFlag(), False
        queue = self._queue
        self._canceller = Canceller(engine, cancellations, lambda n: n in queue.submitted or n in queue.elsewhere)
        self._slow_poll_at = 0.0
        self._errors: dict[str, QueuedStage] = {}
        """The first stage with each error, by the error's signature."""

    def stop(self) -> None:
        """Request a stop: running stages save their state, nothing new starts. For any thread or signal."""
        self._stop.set()

    def run(self) -> Summary:
        """Run until every stage is done, failed or blocked, or a stop was requested.

        Ctrl-C and SIGTERM request a stop; a second Ctrl-C does not wait for checkpoints.

        Raises:
            SmaugError: a stage needs more CPUs, GPUs or memory than the engine has; nothing was started.
        """
        self._queue.settle(lambda stage: self._store.result(stage) is not None)
        self._check_resources()
        with stop_on_signals(self.stop), self._canceller.watch():
            while self._step():
                time.sleep(TICK_S)
        self._queue.give_up_held()
        self._summary.interrupted = self._stop.is_set() and self._queue.is_unfinished
        return self._summary

    @property
    def _summary(self) -> Summary:
        return self._queue.summary

    def _check_resources(self) -> None:
        problems = resource_problems(self._queue.not_done(), self._engine.inventory(), self._peak_bytes)
        if problems:
            raise SmaugError("; ".join(problems) + "; nothing was started")

    def _step(self) -> bool:
        """Poll everything once; return whether to continue."""
        queue, jobs = self._queue, self._engine.poll()
        if (fault := self._engine.fault) and not self._summary.paused:
            self._summary.paused = fault
            self.stop()
        stopping = self._stop.is_set()
        if stopping and not self._is_stopping:
            self._is_stopping = True
            self._cancel_all()
            jobs = self._engine.poll()
        self._canceller.retry()
        for name, item in list(queue.submitted.items()):
            self._update_submitted(item, jobs[name])
        if time.monotonic() - self._slow_poll_at >= SLOW_TICK_S:
            self._slow_poll_at = time.monotonic()
            abandoned = self._abandoned(queue.elsewhere) if queue.elsewhere and not stopping else ()
            for name, item in list(queue.elsewhere.items()):
                self._update_elsewhere(item, abandoned=name in abandoned)
        while queue.some_ready and not self._starts_nothing and len(queue.submitted) < SUBMITTED_AT_ONCE:
            self._start(queue.pop_ready())
        if stopping or self._summary.paused:
            return bool(queue.submitted)
        return bool(queue.submitted or queue.some_ready or queue.elsewhere)  # a stop meanwhile is the next step's

    def _cancel_all(self) -> None:
        """Ask all jobs to end, except those that another active driver follows."""
        for name in self._shared():
            self._leave(self._queue.submitted[name])
        self._canceller.cancel([*self._queue.submitted, *self._abandoned(self._queue.elsewhere)])

    @property
    def _starts_nothing(self) -> bool:
        return self._stop.is_set() or bool(self._summary.paused)

    def _start(self, item: QueuedStage) -> None:
        record = self._store.record(item.stage)
        if record.state == "done":  # another driver was quicker
            self._finish(item)
        elif record.state == "running":
            self._wait_for(item, record)
        elif item.stage.fingerprint in self._canceller.requested:
            self._queue.cancel(item)
        elif record.state == "failed" and not item.tries.total and not self._may_retry(item, record):
            end = record.attempts[-1].end
            message = "" if end is None else end.message
            self._fail(item, f"failed before ({message}); --retry-failed tries again")
        else:
            self._submit(item, record)

    def _may_retry(self, item: QueuedStage, record: StageRecord) -> bool:
        return self._retry_failed or has_retries_left(item.stage, record.attempts)

    def _submit(self, item: QueuedStage, record: StageRecord) -> None:
        directory = self._store.prepare(item.stage)
        if (problem := self._room_problem(item.stage)) is not None:
            self._fail(item, problem)
            return
        if self._budget is not None and (refusal := self._budget.admit(item.stage)) is not None:
            self._queue.hold(item, refusal)
            return
        item.attempts_before, item.step_before = len(record.attempts), checkpoint_step(directory)
        self._queue.submit(item)
        self._report(Event(kind="queued", stage=item.stage))
        self._engine.submit(self._job(item, record))
        if self._store.has_attempt(item.stage, item.attempts_before + 1):  # `inline` has run it meanwhile
            self._update_submitted(item, self._engine.poll()[item.stage.fingerprint])

    def _job(self, item: QueuedStage, record: StageRecord) -> Job:
        recompute = any(attempt.failed_as == "gpu_memory" for attempt in record.attempts)
        return worker_job(
            item.stage,
            record.directory,
            self._data_root,
            recompute_layers=recompute,
            exclude=item.tries.lost_on,
            peak_bytes=self._peak_bytes(item.stage),
        )

    def _adopt(self, item: QueuedStage, record: StageRecord) -> None:
        """Follow a job whose driver is gone like our own, if the engine has it."""
        if not self._engine.adopt(self._job(item, record), record.attempts[-1]):
            return
        if self._budget is not None:
            self._budget.admit(item.stage)  # what it refuses runs all the same
        item.attempts_before, item.step_before = len(record.attempts) - 1, checkpoint_step(record.directory)
        self._queue.submit(item)

    def _shared(self) -> list[str]:
        """Jobs of an earlier driver that another active driver follows too."""
        inherited = [name for name in self._queue.submitted if self._engine.inherits(name)]
        return sorted(set(inherited) - set(self._abandoned(inherited))) if inherited else []

    def _leave(self, item: QueuedStage) -> None:
        """Leave a job to another driver."""
        if self._budget is not None:
            self._budget.withdraw(item.stage)
        self._release(item)
        self._queue.leave(item)

    def _update_submitted(self, item: QueuedStage, job: JobState) -> None:
        if not job.ended and not self._store.has_attempt(item.stage, item.attempts_before + 1):
            return
        record = self._store.record(item.stage)
        newest = record.attempts[-1] if len(record.attempts) > item.attempts_before else None
        if self._budget is not None:
            self._budget.observe(item.stage, record)
        if newest is not None:
            self._report_progress(item, newest)
        if record.result is not None and (job.ended or (newest and newest.end)):
            self._finish(item)
        elif job.ended and record.result is None:
            self._handle_end(item, job, record, newest)

    def _report_progress(self, item: QueuedStage, attempt: Attempt) -> None:
        if item.progress_reported == 0.0:
            self._report(Event(kind="started", stage=item.stage, attempt=attempt))
        elif attempt.progress.time == item.progress_reported:
            return
        else:
            self._report(Event(kind="progress", stage=item.stage, attempt=attempt))
        item.progress_reported = attempt.progress.time

    def _handle_end(self, item: QueuedStage, job: JobState, record: StageRecord, newest: Attempt | None) -> None:
        """Handle a job that ended without a result: another driver has the stage, or it failed, or was killed."""
        item.progress_reported = 0.0
        if self._budget is not None and job.exit_code == HELD:
            self._budget.withdraw(item.stage)
        self._release(item)
        if job.exit_code == HELD:
            self._wait_for(item, record)
            return
        failure = examine(job, record, newest)
        resumable, folder = POLICIES[failure.kind].resumable, record.directory if newest is None else newest.directory
        if failure.kind == "cancelled":  # with the engine's own command
            record_failure(folder, failure, "the same command continues")
            self._queue.cancel(item, failure.cause)
        elif resumable and item.stage.fingerprint in self._canceller.requested:
            record_cancelled(newest, failure, "cancelled, as asked; the same command continues")
            self._queue.cancel(item)
        elif resumable and (self._stop.is_set() or item.withdrawn):
            record_cancelled(newest, failure, "stopped with the run; the same command continues")
            self._queue.make_ready(item)
        else:
            self._handle_failure(item, record, newest, failure, folder)

    def _handle_failure(
        self, item: QueuedStage, record: StageRecord, newest: Attempt | None, failure: Failure, folder: Path
    ) -> None:
        """Apply the policy of a failure."""
        policy, saved = POLICIES[failure.kind], checkpoint_step(record.directory)
        alike = count_alike(record.attempts[:-1], failure.kind) + 1 if newest else 0
        again = item.tries.again(failure.kind, before=item.step_before, saved=saved, alike=alike)
        if (again or failure.blameless) and may_help(policy, item.stage):
            item.tries.avoid(failure)
            how = difference_of_retry(failure)
            record_failure(folder, failure, f"tried again{how}")
            message = failure.words + (f"; tried again{how}" if how else "")
            self._report(Event(kind="retry", stage=item.stage, message=message))
            self._queue.make_ready(item)
            return
        record_failure(folder, failure, "not tried again")
        self._fail(item, final_message(failure, item.stage, newest, tries=item.tries.total, saved=saved))
        if policy.pauses:
            self._note_error(item, failure)

    def _note_error(self, item: QueuedStage, failure: Failure) -> None:
        """Pause where a second stage fails with the same error."""
        key = signature(failure.cause, failure.traceback)
        first = self._errors.setdefault(key, item)
        if first is item or self._summary.paused:
            return
        self._summary.paused = pause_message(first.stage, item.stage, failure)
        self._report(Event(kind="paused", stage=item.stage, message=self._summary.paused))
        self._withdraw()

    def _withdraw(self) -> None:
        """Take back the jobs that wait in the engine's queue: they would be started, and meet the same error."""
        shared = set(self._shared())
        for name, item in self._queue.submitted.items():
            if name not in shared and not self._store.has_attempt(item.stage, item.attempts_before + 1):
                item.withdrawn = True
                self._canceller.cancel([name])

    def _update_elsewhere(self, item: QueuedStage, *, abandoned: bool) -> None:
        record = self._store.record(item.stage)
        if record.state == "done":
            self._finish(item)
        elif record.state != "running":
            self._queue.release(item)
            self._queue.make_ready(item)
        elif abandoned:
            self._adopt(item, record)

    def _wait_for(self, item: QueuedStage, record: StageRecord) -> None:
        self._queue.leave(item)
        newest = record.attempts[-1] if record.attempts else None
        if newest is not None and newest.failure is not None and item.tries.total:
            return  # the attempt that our engine lost, and that is retried, still saves its state
        who = "a process" if newest is None else f"process {newest.owner.pid} on {newest.owner.host}"
        self._report(Event(kind="waiting", stage=item.stage, message=f"{who} is working on it"))

    def _finish(self, item: QueuedStage) -> None:
        self._release(item)
        self._queue.finish(item)

    def _fail(self, item: QueuedStage, message: str) -> None:
        self._release(item)
        self._queue.fail(item, message)

    def _release(self, item: QueuedStage) -> None:
        """Record that no driver runs a stage any more; stages that were held may fit into the budget now."""
        if self._queue.release(item) and self._budget is not None:
            self._budget.settle(item.stage)
            self._queue.release_held()
