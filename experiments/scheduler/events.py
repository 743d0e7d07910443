"""Events and summary of a run of stages."""

from dataclasses import dataclass, field
from typing import Literal

from experiments.stages.stage import Stage
from experiments.store.attempt import Attempt

EventKind = Literal[
    "cached",
    "queued",
    "waiting",
    "started",
    "progress",
    "retry",
    "done",
    "failed",
    "paused",
    "cancelled",
    "held",
    "blocked",
]


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """Something that happened to a stage, for display and tracking."""

    kind: EventKind
    stage: Stage
    message: str = ""
    attempt: Attempt | None = None
    """With `started` and `progress`: the attempt, whose `progress` holds step, total and values."""


@dataclass(slots=True)
class Summary:
    """End of a run."""

    done: list[Stage] = field(default_factory=list)
    """Finished now."""
    cached: list[Stage] = field(default_factory=list)
    """Finished before."""
    failed: list[tuple[Stage, str]] = field(default_factory=list)
    """With what went wrong."""
    cancelled: list[tuple[Stage, str]] = field(default_factory=list)
    """`smaug cancel` was said of them; the same command continues."""
    held: list[tuple[Stage, str]] = field(default_factory=list)
    """Not started, because the budget does not allow it; with the account."""
    blocked: list[tuple[Stage, str]] = field(default_factory=list)
    """Not started, because a stage they build on was not finished; with its name."""
    paused: str = ""
    """Reason why the run paused by itself and started nothing more; empty if it did not."""
    interrupted: bool = False
    """A stop was requested; the same command continues."""

    @property
    def complete(self) -> bool:
        """True if every stage is done."""
        return not (self.failed or self.cancelled or self.held or self.blocked or self.paused or self.interrupted)
