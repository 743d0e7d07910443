"""The jobs between the scheduler and Ray Tune: which wait, which Tune has, how each stands."""

import threading
import time
from collections import deque
from dataclasses import dataclass, field

from experiments.engines import Job, JobState
from experiments.work import INTERRUPTED


@dataclass(slots=True)
class Board:
    """Where the scheduler's thread and Tune's meet."""

    changed: threading.Condition = field(default_factory=threading.Condition)
    waiting: deque[Job] = field(default_factory=deque)
    placed: dict[str, Job] = field(default_factory=dict)
    """Jobs that Tune has and that have not ended, by trial."""
    started: set[str] = field(default_factory=set)
    """Trials whose process has started."""
    states: dict[str, JobState] = field(default_factory=dict)
    moved: float = field(default_factory=time.monotonic)
    """When a job last came, started or ended."""
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
                self.changed.wait_for(lambda: self.waiting or self.closed)
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
            if not self.states[job.name].ended:
                self.states[job.name] = state

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

    def lose_all(self, message: str) -> None:
        """Tune has ended: so has everything else."""
        with self.changed:
            self.closed = True
            lost = {name: JobState(True, None, message, "killed") for name, s in self.states.items() if not s.ended}
            self.states |= lost
