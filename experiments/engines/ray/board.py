"""The jobs between the scheduler and Ray Tune: waiting, placed, started, and their states."""

import re
import threading
import time
from collections import deque
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from experiments.engines.base import Job, JobState
from experiments.store.failures import HOST_MEMORY, FailureClass
from experiments.worker.outcome import INTERRUPTED


@dataclass(slots=True)
class Board:
    """State shared by the scheduler's thread and Tune's."""

    ours: bool = False
    """Whether Ray is our own."""
    changed: threading.Condition = field(default_factory=threading.Condition)
    waiting: deque[Job] = field(default_factory=deque)
    placed: dict[str, Job] = field(default_factory=dict)
    """Jobs that Tune has and that have not ended, by trial."""
    started: set[str] = field(default_factory=set)
    """Trials whose process has started."""
    states: dict[str, JobState] = field(default_factory=dict)
    moved: float = field(default_factory=time.monotonic)
    """Monotonic time at which a job was last submitted, started or ended."""
    beat: float | None = None
    """Monotonic time of the last round of Tune's loop; None before it runs, and while it waits for a job."""
    finished: bool = False
    """Whether a job has succeeded."""
    death: BaseException | str | None = None
    """Error with which Tune has ended unasked."""
    closed: bool = False
    stopping: bool = False

    def __getstate__(self) -> None:
        """Save nothing: Tune copies its settings and stores them as a pickle that is never read."""

    def put(self, job: Job) -> None:
        """Accept a job for Tune; its state is that it has not ended."""
        with self.changed:
            self.states[job.name] = JobState(False)
            self.waiting.append(job)
            self.moved = time.monotonic()
            self.changed.notify_all()

    def take(self, trial: str) -> Job | None:
        """Return the next job for Tune; None if there is none now, or never again."""
        with self.changed:
            if not self.placed:  # Tune has nothing else to do, and would sleep a second or two on None
                self.beat = None
                self.changed.wait_for(lambda: self.waiting or self.closed)
                self.beat = time.monotonic()
            if not self.waiting:
                return None
            self.placed[trial] = self.waiting.popleft()
            return self.placed[trial]

    def end(self, trial: str, state: JobState) -> None:
        """Record the end of a trial."""
        with self.changed:
            job = self.placed.pop(trial)
            self.started.discard(trial)
            self.moved = time.monotonic()
            self.finished |= state.exit_code == 0
            if not self.states[job.name].ended:
                self.states[job.name] = state

    def fail(self, trial: str, error: BaseException | str) -> None:
        """Record that Ray lost a trial, by its error.

        Our own Ray kills all that is started again as long as its machine lacks memory: then Tune has to pause.
        """
        state = state_of(error, "node_lost")
        if state.reason != "host_memory":
            state = LOST
        elif self.ours:
            state = replace(state, blameless=True)
            self.death = self.death or error
        self.end(trial, state)

    def unended(self) -> set[str]:
        """Names of the jobs that have not ended."""
        with self.changed:
            return {name for name, state in self.states.items() if not state.ended}

    def start(self, trial: str) -> None:
        """Record that a trial's process has started."""
        with self.changed:
            self.started.add(trial)
            self.moved = time.monotonic()

    def is_stalled(self, limit_s: float) -> bool:
        """Return whether jobs wait to be started though nothing runs, and have done so for longer than a limit."""
        with self.changed:
            waits = bool(self.placed) and not self.started
            return waits and not self.closed and time.monotonic() - self.moved > limit_s

    def unstarted(self) -> list[Job]:
        """Jobs whose process has not started; those that Tune has come first."""
        with self.changed:
            placed = [job for trial, job in self.placed.items() if trial not in self.started]
            return [job for job in [*placed, *self.waiting] if not self.states[job.name].ended]

    def drop(self, name: str) -> None:
        """Forget a job whose process has not started: its cancel file ends it should it start after all."""
        with self.changed:
            self.waiting = deque(job for job in self.waiting if job.name != name)
            running = {self.placed[trial].name for trial in self.started}
            if name not in running:
                self.states[name] = JobState(True, INTERRUPTED, "cancelled before it started")

    def is_silent(self, limit_s: float) -> bool:
        """Return whether Tune's loop has made no round for longer than a limit."""
        beat = self.beat
        return beat is not None and time.monotonic() - beat > limit_s

    def lose(self, state: JobState, names: Collection[str] | None = None) -> None:
        """Set the state of jobs that have not ended to a lost one: those of these names, or all."""
        with self.changed:
            self.states |= {
                name: state for name, s in self.states.items() if not s.ended and (names is None or name in names)
            }

    def lose_started(self, state: JobState) -> int:
        """Set the state of jobs whose process has started to a lost one; return their number."""
        with self.changed:
            names = {self.placed[trial].name for trial in self.started}
        self.lose(state, names)
        return len(names)


USED_MEMORY = re.compile(r"(\d+\.\d+GB) used / (\d+\.\d+GB) limit")
NO_MESSAGE = re.compile(r"Caught unexpected exception: *")
LONGEST_REASON = 200
"""Characters of Ray's message that are shown."""


def state_of(error: BaseException | str, otherwise: FailureClass) -> JobState:
    """State of a lost job by Ray's error: one line, without the other processes of the machine that Ray lists.

    Its failure class is `otherwise` where Ray names no reason that has one.
    """
    text = str(error)
    if HOST_MEMORY.search(text):
        used = USED_MEMORY.search(text)
        of_node = f", {used[1]} of {used[2]} in use" if used else ""
        return JobState(True, None, f"Ray's memory monitor killed its supervisor{of_node}", "host_memory")
    return JobState(True, None, first_line(error), otherwise)


LOST = JobState(True, None, "Ray lost the process that supervised it", "node_lost")


def state_of_result(result: Mapping[str, Any] | None) -> JobState:
    """State of an ended job by its trial's result."""
    return JobState(True, result["exit_code"]) if result else LOST


def first_line(error: BaseException | str) -> str:
    """Class and first line of an error."""
    lines = (NO_MESSAGE.sub("", line).strip() for line in str(error).splitlines())
    first = next((line for line in lines if line), "")[:LONGEST_REASON]
    return first if isinstance(error, str) else f"{type(error).__name__}: {first}".removesuffix(": ")
