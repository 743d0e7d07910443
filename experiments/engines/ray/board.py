"""The jobs between the scheduler and Ray Tune: which wait, which Tune has, how each stands."""

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
    """Where the scheduler's thread and Tune's meet."""

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
    """When a job last came, started or ended."""
    beat: float | None = None
    """When Tune's loop last came round; none before it runs, and while it waits for a job."""
    finished: bool = False
    """Whether a job has ended well."""
    death: BaseException | str | None = None
    """Why Tune has ended, though it was not asked to."""
    closed: bool = False
    stopping: bool = False

    def __getstate__(self) -> None:
        """Nothing: Tune copies its settings, and stores them as a pickle that nobody reads; the store is our memory."""

    def put(self, job: Job) -> None:
        """Take a job for Tune, and have it stand as one that has not ended."""
        with self.changed:
            self.states[job.name] = JobState(False)
            self.waiting.append(job)
            self.moved = time.monotonic()
            self.changed.notify_all()

    def take(self, trial: str) -> Job | None:
        """The next job for Tune; none: there is none now, or never again."""
        with self.changed:
            if not self.placed:  # nothing else for Tune to do, and it would sleep a second or two on a none
                self.beat = None
                self.changed.wait_for(lambda: self.waiting or self.closed)
                self.beat = time.monotonic()
            if not self.waiting:
                return None
            self.placed[trial] = self.waiting.popleft()
            return self.placed[trial]

    def end(self, trial: str, state: JobState) -> None:
        """Note how a trial ended."""
        with self.changed:
            job = self.placed.pop(trial)
            self.started.discard(trial)
            self.moved = time.monotonic()
            self.finished |= state.exit_code == 0
            if not self.states[job.name].ended:
                self.states[job.name] = state

    def fail(self, trial: str, trouble: BaseException | str) -> None:
        """Note that Ray lost a trial, by what it says.

        Our own Ray kills whatever is started again as long as its machine lacks memory: then Tune is to pause.
        """
        state = state_of(trouble, "node_lost")
        if state.reason != "host_memory":
            state = LOST
        elif self.ours:
            state = replace(state, blameless=True)
            self.death = self.death or trouble
        self.end(trial, state)

    def unended(self) -> set[str]:
        """Names of the jobs that have not ended."""
        with self.changed:
            return {name for name, state in self.states.items() if not state.ended}

    def start(self, trial: str) -> None:
        """Note that a trial's process has started."""
        with self.changed:
            self.started.add(trial)
            self.moved = time.monotonic()

    def stands_still(self, limit_s: float) -> bool:
        """Whether jobs wait to be started though nothing runs, and have done so for longer than a limit."""
        with self.changed:
            waits = bool(self.placed) and not self.started
            return waits and not self.closed and time.monotonic() - self.moved > limit_s

    def unstarted(self) -> list[Job]:
        """Jobs whose process has not started, those that Tune has first."""
        with self.changed:
            placed = [job for trial, job in self.placed.items() if trial not in self.started]
            return [job for job in [*placed, *self.waiting] if not self.states[job.name].ended]

    def drop(self, name: str) -> None:
        """Forget a job whose process has not started: it is told to end should it start after all."""
        with self.changed:
            self.waiting = deque(job for job in self.waiting if job.name != name)
            running = {self.placed[trial].name for trial in self.started}
            if name not in running:
                self.states[name] = JobState(True, INTERRUPTED, "cancelled before it started")

    def is_silent(self, limit_s: float) -> bool:
        """Whether Tune's loop has not come round for longer than a limit."""
        beat = self.beat
        return beat is not None and time.monotonic() - beat > limit_s

    def lose(self, state: JobState, names: Collection[str] | None = None) -> None:
        """Have jobs that have not ended stand as lost: those of these names, or all."""
        with self.changed:
            self.states |= {
                name: state for name, s in self.states.items() if not s.ended and (names is None or name in names)
            }

    def lose_started(self, state: JobState) -> int:
        """Have the jobs whose process has started stand as lost; gives how many."""
        with self.changed:
            names = {self.placed[trial].name for trial in self.started}
        self.lose(state, names)
        return len(names)


OF_THE_NODE = re.compile(r"(\d+\.\d+GB) used / (\d+\.\d+GB) limit")
NOTHING_SAID = re.compile(r"Caught unexpected exception: *")
LONGEST_REASON = 200
"""Letters of what Ray says that are shown."""


def state_of(trouble: BaseException | str, otherwise: FailureClass) -> JobState:
    """How a job was lost, by what Ray says: a line, without the other processes of the machine that Ray lists.

    Args:
        trouble: what was raised, or its text.
        otherwise: the class where Ray names no reason that has one.
    """
    text = str(trouble)
    if HOST_MEMORY.search(text):
        used = OF_THE_NODE.search(text)
        of_node = f", {used[1]} of {used[2]} in use" if used else ""
        return JobState(True, None, f"Ray's memory monitor killed its supervisor{of_node}", "host_memory")
    return JobState(True, None, first_words(trouble), otherwise)


LOST = JobState(True, None, "Ray lost the process that supervised it", "node_lost")


def state_of_result(result: Mapping[str, Any] | None) -> JobState:
    """How a job ended by what its trial gave."""
    return JobState(True, result["exit_code"]) if result else LOST


def first_words(trouble: BaseException | str) -> str:
    """Class and first line of an error."""
    lines = (NOTHING_SAID.sub("", line).strip() for line in str(trouble).splitlines())
    first = next((line for line in lines if line), "")[:LONGEST_REASON]
    return first if isinstance(trouble, str) else f"{type(trouble).__name__}: {first}".removesuffix(": ")
