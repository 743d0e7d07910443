"""Decides what runs next: hands stages whose parents are done to an engine, and watches them in the store."""

import heapq
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Literal

from experiments.attempt import Attempt
from experiments.budget import Budget
from experiments.engines import Engine, Job, JobState
from experiments.events import Event, Summary
from experiments.plan import resource_problems
from experiments.stage import Stage
from experiments.stop import StopFlag
from experiments.store import StageRecord, Store
from experiments.worker import HELD, INTERRUPTED
from smaug_core.errors import SmaugError

TICK_S = 0.1
"""Time between two looks at the store and the engine."""
SLOW_TICK_S = 1.0
"""Time between two looks at what other drivers run, and at what people want cancelled."""
MORE_TRIES = 2
"""How often a killed stage is tried again in one run."""
SUBMITTED_AT_ONCE = 512
"""So many jobs at most are in the hands of the engine: what it can run, and some to go on with."""

ROOM_FOR_WORDS = 2**16
"""On a disk with fewer bytes left a worker may have been unable to say what is wrong."""

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
    tries: int = 0
    """Submissions of this run that were killed."""
    seen: int = 0
    """Number of the newest attempt before the submission."""
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
    ) -> None:
        self._tasks = {stage.fingerprint: _Task(stage, place) for place, stage in enumerate(stages)}
        for task in self._tasks.values():
            for parent in task.stage.parents:
                self._tasks[parent.fingerprint].children.append(task)
            task.missing = len(task.stage.parents)
        self._store, self._engine, self._data_root = store, engine, data_root
        self._tell, self._retry_failed = on_event, retry_failed
        self._budget, self._room_problem, self._cancellations = budget, room_problem, cancellations
        self._stop = StopFlag()
        self._told_engine_to_stop = False
        self._ready: list[tuple[int, _Task]] = []
        self._held: list[_Task] = []
        self._submitted: dict[str, _Task] = {}
        self._elsewhere: dict[str, _Task] = {}
        self._unwanted: frozenset[str] = frozenset()
        self._slow_look = 0.0
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
        with _signals_call(self.stop), self._ears():
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
                    if name in self._submitted and name not in passed_on:
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
            for name in self._submitted:
                self._engine.cancel(name)
        jobs = self._engine.poll()
        for name, task in list(self._submitted.items()):
            self._look_at_submitted(task, jobs[name])
        if time.monotonic() - self._slow_look >= SLOW_TICK_S:
            self._slow_look = time.monotonic()
            for task in list(self._elsewhere.values()):
                self._look_at_elsewhere(task)
        while self._ready and not self._stop.is_set() and len(self._submitted) < SUBMITTED_AT_ONCE:
            self._start(heapq.heappop(self._ready)[1])
        return bool(self._submitted) or (not stopping and bool(self._ready or self._elsewhere))

    def _start(self, task: _Task) -> None:
        record = self._store.record(task.stage)
        if record.state == "done":  # another driver was quicker
            self._finish(task)
        elif record.state == "running":
            self._wait_for(task, record)
        elif task.stage.fingerprint in self._unwanted:
            self._cancel(task)
        elif record.state == "failed" and task.tries == 0 and not self._retry_failed:
            message = record.attempts[-1].last["message"]
            self._fail(task, f"failed before ({message}); --retry-failed tries again")
        else:
            self._submit(task, record)

    def _submit(self, task: _Task, record: StageRecord) -> None:
        directory = self._store.prepare(task.stage)
        if (problem := self._room_problem(task.stage)) is not None:
            self._fail(task, problem)
            return
        if self._budget is not None and (refusal := self._budget.admit(task.stage)) is not None:
            self._hold(task, refusal)
            return
        task.phase, task.seen = "submitted", len(record.attempts)
        self._submitted[task.stage.fingerprint] = task
        self._tell(Event(kind="queued", stage=task.stage))
        self._engine.submit(worker_job(task.stage, directory, self._data_root))

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
        ended = None if newest is None or newest.end is None else newest.end
        if job.exit_code == HELD:
            self._wait_for(task, record)
        elif ended and ended["class"] in ("failed", "diverged", "cancelled"):
            self._fail(task, ended["message"])
        elif task.stage.fingerprint in self._unwanted:
            self._cancel(task)
        elif ended or job.exit_code in (None, INTERRUPTED) or job.exit_code < 0:
            self._try_again(task, record, ended["message"] if ended else killed_by(job))
        else:
            self._fail(task, _last_words(record.directory, job))

    def _try_again(self, task: _Task, record: StageRecord, cause: str) -> None:
        if self._stop.is_set():
            self._make_ready(task)
            return
        task.tries += 1
        steps = [attempt.last["step"] for attempt in record.attempts[-2:]]
        advancing = task.tries == 1 or (len(steps) == 2 and steps[1] > steps[0])
        if task.tries > MORE_TRIES or not advancing:
            self._fail(task, f"stopped {task.tries} times, no further than step {max(steps, default=0)}: {cause}")
            return
        self._tell(Event(kind="retry", stage=task.stage, message=cause))
        self._make_ready(task)

    def _look_at_elsewhere(self, task: _Task) -> None:
        record = self._store.record(task.stage)
        if record.state == "done":
            self._finish(task)
        elif record.state != "running":
            del self._elsewhere[task.stage.fingerprint]
            self._make_ready(task)

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

    def _cancel(self, task: _Task) -> None:
        task.phase, task.message = "cancelled", "as asked; the same command continues"
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


def worker_job(stage: Stage, directory: Path, data_root: Path) -> Job:
    """The command that runs a prepared stage, the same on every engine."""
    gpus = stage.resources["gpus"]
    command = (sys.executable, "-m", "experiments.worker", str(directory))
    options = ("--data-root", str(data_root), "--device", "cuda" if gpus else "cpu")
    several = ("--processes", str(gpus)) if gpus > 1 else ()
    sources = str(Path(__file__).resolve().parent.parent)
    env = {"PYTHONPATH": os.pathsep.join(filter(None, [sources, os.environ.get("PYTHONPATH")]))}
    if not gpus:
        env["CUDA_VISIBLE_DEVICES"] = ""  # Ray leaves every GPU visible to a job that asked for none
    return Job(
        name=stage.fingerprint,
        command=command + options + several,
        directory=directory,
        cpus=stage.resources["cpus"],
        gpus=gpus,
        accelerator=stage.resources.get("accelerator"),
        env=env,
    )


def killed_by(job: JobState) -> str:
    """Why a job ended without a word, as far as the engine knows."""
    if job.message:
        return job.message
    if job.exit_code is not None and job.exit_code < 0:
        return f"killed by {signal.Signals(-job.exit_code).name}"
    return "asked to stop from outside"


def _last_words(directory: Path, job: JobState) -> str:
    """What a worker said that ended before it could claim its stage."""
    try:
        said = (directory / "launch.txt").read_text(errors="replace").strip()
    except OSError:
        said = ""
    if not said and shutil.disk_usage(directory).free < ROOM_FOR_WORDS:
        said = f"{directory}: the disk is full; free some space, then give the same command again"
    return job.message or said[-2000:] or f"the worker ended with exit code {job.exit_code} and said nothing"


@contextmanager
def _signals_call(stop: Callable[[], None]) -> Iterator[None]:
    """Let SIGINT and SIGTERM request a stop; a second SIGINT interrupts at once."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals are the main thread's affair
        return
    asked = False

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if asked and number == signal.SIGINT:
            signal.default_int_handler(number, frame)
        asked = True
        stop()

    previous: dict[int, Any] = {n: signal.signal(n, handle) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
