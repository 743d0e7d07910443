"""Decides what runs next: hands stages whose parents are done to an engine, and watches them in the store."""

import heapq
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from experiments.attempt import Attempt
from experiments.budget import Budget
from experiments.command import worker_job
from experiments.engines import Engine, Job, JobState
from experiments.events import Event, Summary
from experiments.failures import POLICIES, Tries, signature
from experiments.plan import resource_problems
from experiments.postmortem import (
    Failure,
    alike,
    checkpoint_step,
    examine,
    given_up,
    helps,
    is_owed_a_try,
    next_try,
    pause_of,
    write_down,
)
from experiments.stage import Stage
from experiments.stop import StopFlag, signals_call
from experiments.store import StageRecord, Store
from experiments.work import HELD
from smaug_core.errors import SmaugError

TICK_S = 0.1
"""Time between two looks at the store and the engine."""
SLOW_TICK_S = 1.0
"""Time between two looks at what other drivers run, and at what people want cancelled."""
SUBMITTED_AT_ONCE = 512
"""So many jobs at most are in the hands of the engine: what it can run, and some to go on with."""

Phase = Literal["pending", "ready", "held", "submitted", "elsewhere", "done", "failed", "cancelled", "blocked"]


@dataclass(slots=True)
class _Task:
    stage: Stage
    place: int
    """In the order given: of two stages that are ready, the earlier one starts first."""
    phase: Phase = "pending"
    missing: int = 0
    """Parents that are not done."""
    children: list["_Task"] = field(default_factory=list)
    message: str = ""
    tries: Tries = field(default_factory=Tries)
    seen: int = 0
    """Number of the newest attempt before the submission."""
    saved: int = 0
    """Step of the newest checkpoint before the submission."""
    withdrawn: bool = False
    """It was taken back from the engine before it began, for the run has paused."""
    lost_on: tuple[str, ...] = ()
    """Machines that were lost under it."""
    sign: float = 0.0
    """Time of the last progress that was told."""


class Scheduler:
    """Runs stages in the order their parents allow, each once, whatever else uses the store.

    Args:
        stages: distinct stages, parents before children.
        store: where they are kept.
        engine: where they run; the caller closes it.
        data_root: where the media are.
        on_event: is told what happens, in the thread of `run`.
        retry_failed: try stages again that failed in an earlier run.
        budget: asked before a stage starts; what it refuses is held back.
        room_problem: says why a stage has no room on the disk, if it has none; then it fails without a record.
        cancellations: fingerprints of stages that somebody wants to end; asked now and then, in another thread.
        abandoned: says which of some stages that run elsewhere no other driver looks after; a stop ends these too.
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
        abandoned: Callable[[Collection[str]], Collection[str]] = lambda names: (),
    ) -> None:
        self._tasks = {stage.fingerprint: _Task(stage, place) for place, stage in enumerate(stages)}
        for task in self._tasks.values():
            for parent in task.stage.parents:
                self._tasks[parent.fingerprint].children.append(task)
            task.missing = len(task.stage.parents)
        self._store, self._engine, self._data_root = store, engine, data_root
        self._tell, self._retry_failed = on_event, retry_failed
        self._budget, self._room_problem, self._cancellations = budget, room_problem, cancellations
        self._abandoned = abandoned
        self._stop = StopFlag()
        self._told_engine_to_stop = False
        self._ready: list[tuple[int, _Task]] = []
        self._held: list[_Task] = []
        self._submitted: dict[str, _Task] = {}
        self._elsewhere: dict[str, _Task] = {}
        self._unwanted: frozenset[str] = frozenset()
        self._slow_look = 0.0
        self._errors: dict[str, _Task] = {}
        """By what tells errors apart, the first stage that met it."""
        self._summary = Summary()

    def stop(self) -> None:
        """Ask for an end: running stages save their state, nothing new starts. For any thread or signal."""
        self._stop.set()

    def run(self) -> Summary:
        """Run until every stage is done, failed or blocked, or a stop was requested.

        Ctrl-C and SIGTERM request a stop; a second Ctrl-C does not wait for checkpoints.

        Raises:
            SmaugError: a stage needs more CPUs or GPUs than the engine has; nothing was started.
        """
        self._settle_finished()
        self._check_resources()
        with signals_call(self.stop), self._ears():
            while self._step():
                time.sleep(TICK_S)
        for task in self._held:
            self._summary.held.append((task.stage, task.message))
            self._block_children(task)
        self._summary.interrupted = self._stop.is_set() and any(
            task.phase in ("pending", "ready", "submitted", "elsewhere") for task in self._tasks.values()
        )
        return self._summary

    def _check_resources(self) -> None:
        waiting = [task.stage for task in self._tasks.values() if task.phase != "done"]
        problems = resource_problems(waiting, self._engine.inventory())
        if problems:
            raise SmaugError("; ".join(problems) + "; nothing was started")

    def _settle_finished(self) -> None:
        for task in self._tasks.values():
            if self._store.result(task.stage) is not None:
                self._summary.cached.append(task.stage)
                self._tell(Event(kind="cached", stage=task.stage))
                self._set_done(task)
        for task in self._tasks.values():
            if task.phase == "pending" and task.missing == 0:
                self._make_ready(task)

    @contextmanager
    def _ears(self) -> Iterator[None]:
        """Hear of cancellations while the engine keeps this thread, as `inline` does."""
        ended = threading.Event()
        passed_on: set[str] = set()

        def listen() -> None:
            while not ended.wait(SLOW_TICK_S):
                self._unwanted = frozenset(self._cancellations())
                for name in self._unwanted:
                    if (name in self._submitted or name in self._elsewhere) and name not in passed_on:
                        passed_on.add(name)
                        self._engine.cancel(name)

        ears = threading.Thread(target=listen, name="ears", daemon=True)
        ears.start()
        try:
            yield
        finally:
            ended.set()
            ears.join()

    def _step(self) -> bool:
        """Look once at everything; gives whether to go on."""
        stopping = self._stop.is_set()
        if stopping and not self._told_engine_to_stop:
            self._told_engine_to_stop = True
            self._tell_engine_to_stop()
        jobs = self._engine.poll()
        for name, task in list(self._submitted.items()):
            self._look_at_submitted(task, jobs[name])
        if time.monotonic() - self._slow_look >= SLOW_TICK_S:
            self._slow_look = time.monotonic()
            abandoned = self._abandoned(self._elsewhere) if self._elsewhere and not stopping else ()
            for name, task in list(self._elsewhere.items()):
                self._look_at_elsewhere(task, abandoned=name in abandoned)
        while self._ready and not self._starts_nothing and len(self._submitted) < SUBMITTED_AT_ONCE:
            self._start(heapq.heappop(self._ready)[1])
        if stopping or self._summary.paused:
            return bool(self._submitted)
        return bool(self._submitted or self._ready or self._elsewhere)  # a stop that came meanwhile is the next step's

    def _tell_engine_to_stop(self) -> None:
        """Ask all to end but what another living driver looks after."""
        for name in self._shared():
            self._leave(self._submitted[name])
        for name in [*self._submitted, *self._abandoned(self._elsewhere)]:
            self._engine.cancel(name)

    @property
    def _starts_nothing(self) -> bool:
        return self._stop.is_set() or bool(self._summary.paused)

    def _start(self, task: _Task) -> None:
        record = self._store.record(task.stage)
        if record.state == "done":  # another driver was quicker
            self._finish(task)
        elif record.state == "running":
            self._wait_for(task, record)
        elif task.stage.fingerprint in self._unwanted:
            self._cancel(task)
        elif record.state == "failed" and not task.tries.total and not self._may_retry(task, record):
            message = record.attempts[-1].last["message"]
            self._fail(task, f"failed before ({message}); --retry-failed tries again")
        else:
            self._submit(task, record)

    def _may_retry(self, task: _Task, record: StageRecord) -> bool:
        return self._retry_failed or is_owed_a_try(task.stage, record.attempts)

    def _submit(self, task: _Task, record: StageRecord) -> None:
        directory = self._store.prepare(task.stage)
        if (problem := self._room_problem(task.stage)) is not None:
            self._fail(task, problem)
            return
        if self._budget is not None and (refusal := self._budget.admit(task.stage)) is not None:
            self._hold(task, refusal)
            return
        task.phase, task.seen, task.saved = "submitted", len(record.attempts), checkpoint_step(directory)
        self._submitted[task.stage.fingerprint] = task
        self._tell(Event(kind="queued", stage=task.stage))
        self._engine.submit(self._job(task, record))
        if self._store.has_attempt(task.stage, task.seen + 1):  # `inline` has run it meanwhile
            self._look_at_submitted(task, self._engine.poll()[task.stage.fingerprint])

    def _job(self, task: _Task, record: StageRecord) -> Job:
        recompute = any(attempt.failed_as == "gpu_memory" for attempt in record.attempts)
        return worker_job(
            task.stage, record.directory, self._data_root, recompute_layers=recompute, exclude=task.lost_on
        )

    def _adopt(self, task: _Task, record: StageRecord) -> None:
        """Look after a job whose driver is gone as if it were ours, where the engine has it."""
        if not self._engine.adopt(self._job(task, record), record.attempts[-1]):
            return
        if self._budget is not None:
            self._budget.admit(task.stage)  # what it refuses runs all the same
        del self._elsewhere[task.stage.fingerprint]
        task.phase, task.seen, task.saved = "submitted", len(record.attempts) - 1, checkpoint_step(record.directory)
        self._submitted[task.stage.fingerprint] = task

    def _shared(self) -> list[str]:
        """Jobs of an earlier driver that another one looks after too."""
        inherited = [name for name in self._submitted if self._engine.inherits(name)]
        return sorted(set(inherited) - set(self._abandoned(inherited))) if inherited else []

    def _leave(self, task: _Task) -> None:
        """Let another driver have a job alone."""
        if self._budget is not None:
            self._budget.withdraw(task.stage)
        self._release(task)
        task.phase = "elsewhere"
        self._elsewhere[task.stage.fingerprint] = task

    def _look_at_submitted(self, task: _Task, job: JobState) -> None:
        if not job.ended and not self._store.has_attempt(task.stage, task.seen + 1):
            return
        record = self._store.record(task.stage)
        newest = record.attempts[-1] if len(record.attempts) > task.seen else None
        if self._budget is not None:
            self._budget.observe(task.stage, record)
        if newest is not None:
            self._tell_progress(task, newest)
        if record.result is not None and (job.ended or (newest and newest.end)):
            self._finish(task)
        elif job.ended and record.result is None:
            self._look_at_ended(task, job, record, newest)

    def _tell_progress(self, task: _Task, attempt: Attempt) -> None:
        if task.sign == 0.0:
            self._tell(Event(kind="started", stage=task.stage, attempt=attempt))
        elif attempt.progress["time"] == task.sign:
            return
        else:
            self._tell(Event(kind="progress", stage=task.stage, attempt=attempt))
        task.sign = attempt.progress["time"]

    def _look_at_ended(self, task: _Task, job: JobState, record: StageRecord, newest: Attempt | None) -> None:
        """The job ended without a result: somebody else has the stage, or it failed, or was killed."""
        task.sign = 0.0
        if self._budget is not None and job.exit_code == HELD:
            self._budget.withdraw(task.stage)
        self._release(task)
        if job.exit_code == HELD:
            self._wait_for(task, record)
            return
        failure = examine(job, record, newest)
        resumable, folder = POLICIES[failure.kind].resumable, record.directory if newest is None else newest.directory
        if failure.kind == "cancelled":  # with the engine's own command
            write_down(folder, failure, "the same command continues")
            self._cancel(task, failure.cause)
        elif resumable and task.stage.fingerprint in self._unwanted:
            self._note_end(newest, failure, "cancelled, as asked; the same command continues")
            self._cancel(task)
        elif resumable and (self._stop.is_set() or task.withdrawn):
            self._note_end(newest, failure, "stopped with the run; the same command continues")
            self._make_ready(task)
        else:
            self._treat(task, record, newest, failure, folder)

    def _note_end(self, attempt: Attempt | None, failure: Failure, done: str) -> None:
        """Write down that a stage was ended as somebody here asked, unless it had not begun."""
        if attempt is not None:
            write_down(attempt.directory, replace(failure, kind="cancelled"), done)

    def _treat(self, task: _Task, record: StageRecord, newest: Attempt | None, failure: Failure, folder: Path) -> None:
        """Do what the policy of a failure says."""
        policy, saved = POLICIES[failure.kind], checkpoint_step(record.directory)
        recorded = alike(record.attempts[:-1], failure.kind) + 1 if newest else 0
        again = task.tries.again(failure.kind, before=task.saved, saved=saved, alike=recorded)
        if again and helps(policy, task.stage):
            if policy.elsewhere and failure.host:
                task.lost_on = tuple(dict.fromkeys([*task.lost_on, failure.host]))
            how = next_try(failure)
            write_down(folder, failure, f"tried again{how}")
            message = failure.words + (f"; tried again{how}" if how else "")
            self._tell(Event(kind="retry", stage=task.stage, message=message))
            self._make_ready(task)
            return
        write_down(folder, failure, "not tried again")
        self._fail(task, given_up(failure, self._store, task.stage, newest, tries=task.tries.total, saved=saved))
        if policy.pauses:
            self._note_error(task, failure)

    def _note_error(self, task: _Task, failure: Failure) -> None:
        """Start nothing new where a second stage fails of what the first one failed of."""
        mark = signature(failure.cause, failure.traceback)
        first = self._errors.setdefault(mark, task)
        if first is task or self._summary.paused:
            return
        self._summary.paused = pause_of(first.stage, task.stage, failure)
        self._tell(Event(kind="paused", stage=task.stage, message=self._summary.paused))
        self._withdraw()

    def _withdraw(self) -> None:
        """Take back the jobs that wait in the engine's queue: they would be started, and meet the same error."""
        shared = set(self._shared())
        for name, task in self._submitted.items():
            if name not in shared and not self._store.has_attempt(task.stage, task.seen + 1):
                task.withdrawn = True
                self._engine.cancel(name)

    def _look_at_elsewhere(self, task: _Task, *, abandoned: bool) -> None:
        record = self._store.record(task.stage)
        if record.state == "done":
            self._finish(task)
        elif record.state != "running":
            del self._elsewhere[task.stage.fingerprint]
            self._make_ready(task)
        elif abandoned:
            self._adopt(task, record)

    def _wait_for(self, task: _Task, record: StageRecord) -> None:
        task.phase = "elsewhere"
        self._elsewhere[task.stage.fingerprint] = task
        owner = record.attempts[-1].owner if record.attempts else {"pid": "?", "host": "?"}
        message = f"process {owner['pid']} on {owner['host']} is working on it"
        self._tell(Event(kind="waiting", stage=task.stage, message=message))

    def _make_ready(self, task: _Task) -> None:
        task.phase = "ready"
        heapq.heappush(self._ready, (task.place, task))

    def _hold(self, task: _Task, message: str) -> None:
        if not task.message:  # once: its numbers change whenever another stage ends
            self._tell(Event(kind="held", stage=task.stage, message=message))
        task.phase, task.message = "held", message
        self._held.append(task)

    def _finish(self, task: _Task) -> None:
        self._release(task)
        self._summary.done.append(task.stage)
        self._tell(Event(kind="done", stage=task.stage))
        self._set_done(task)
        for child in task.children:
            if child.phase == "pending" and child.missing == 0:
                self._make_ready(child)

    def _set_done(self, task: _Task) -> None:
        task.phase = "done"
        for child in task.children:
            child.missing -= 1

    def _fail(self, task: _Task, message: str) -> None:
        self._release(task)
        task.phase, task.message = "failed", message
        self._summary.failed.append((task.stage, message))
        self._tell(Event(kind="failed", stage=task.stage, message=message))
        self._block_children(task)

    def _cancel(self, task: _Task, why: str = "as asked") -> None:
        task.phase, task.message = "cancelled", f"{why}; the same command continues"
        self._summary.cancelled.append((task.stage, task.message))
        self._tell(Event(kind="cancelled", stage=task.stage, message=task.message))
        self._block_children(task)

    def _block_children(self, cause: _Task) -> None:
        """Give up all that builds on a stage."""
        waiting = list(cause.children)
        for task in waiting:
            if task.phase == "pending":
                task.phase, task.message = "blocked", cause.stage.name
                self._summary.blocked.append((task.stage, task.message))
                self._tell(Event(kind="blocked", stage=task.stage, message=task.message))
                waiting += task.children

    def _release(self, task: _Task) -> None:
        """Note that neither our engine nor another driver is at a stage any more; what was held may fit now."""
        self._elsewhere.pop(task.stage.fingerprint, None)
        if self._submitted.pop(task.stage.fingerprint, None) is None:
            return
        if self._budget is not None:
            self._budget.settle(task.stage)
            for held in self._held:
                self._make_ready(held)
            self._held.clear()
