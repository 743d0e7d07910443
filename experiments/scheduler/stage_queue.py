"""The stages of one run: their phases, their dependencies, and the summary of their ends."""

import heapq
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Literal

from experiments.scheduler.events import Event, Summary
from experiments.scheduler.retry import Tries
from experiments.stages.stage import Stage

Phase = Literal["pending", "ready", "held", "submitted", "elsewhere", "done", "failed", "cancelled", "blocked"]


@dataclass(slots=True)
class QueuedStage:
    """A stage in a run."""

    stage: Stage
    index: int
    """In the order given: of two stages that are ready, the earlier one starts first."""
    phase: Phase = "pending"
    missing: int = 0
    """Parents that are not done."""
    children: list["QueuedStage"] = field(default_factory=list)
    message: str = ""
    tries: Tries = field(default_factory=Tries)
    attempts_before: int = 0
    """Number of attempts before the submission."""
    step_before: int = 0
    """Step of the newest checkpoint before the submission."""
    withdrawn: bool = False
    """Whether it was taken back from the engine before it began, since the run has paused."""
    progress_reported: float = 0.0
    """Time of the last progress that was reported."""


class StageQueue:
    """Stages of a run with their phases; the ends of stages are reported and counted.

    Args:
        stages: distinct stages, parents before children.
        on_event: receives the ends of stages, and what they wait for.
    """

    def __init__(self, stages: Iterable[Stage], on_event: Callable[[Event], None]) -> None:
        self._all = {stage.fingerprint: QueuedStage(stage, index) for index, stage in enumerate(stages)}
        for item in self._all.values():
            for parent in item.stage.parents:
                self._all[parent.fingerprint].children.append(item)
            item.missing = len(item.stage.parents)
        self._report = on_event
        self._ready: list[tuple[int, QueuedStage]] = []
        self._held: list[QueuedStage] = []
        self.submitted: dict[str, QueuedStage] = {}
        """By fingerprint, what our engine has."""
        self.elsewhere: dict[str, QueuedStage] = {}
        """By fingerprint, what another driver runs."""
        self.summary = Summary()

    def settle(self, is_done: Callable[[Stage], bool]) -> None:
        """Count what an earlier run finished, and make ready what can start."""
        for item in self._all.values():
            if is_done(item.stage):
                self.summary.cached.append(item.stage)
                self._report(Event(kind="cached", stage=item.stage))
                self._set_done(item)
        for item in self._all.values():
            if item.phase == "pending" and item.missing == 0:
                self.make_ready(item)

    def not_done(self) -> list[Stage]:
        """Stages that are not done."""
        return [item.stage for item in self._all.values() if item.phase != "done"]

    @property
    def is_unfinished(self) -> bool:
        """True if more could be done, were the run not stopped."""
        under_way = ("pending", "ready", "submitted", "elsewhere")
        return any(item.phase in under_way for item in self._all.values())

    @property
    def some_ready(self) -> bool:
        """True if `pop_ready` can return one."""
        return bool(self._ready)

    def pop_ready(self) -> QueuedStage:
        """Take the earliest of those whose parents are done."""
        return heapq.heappop(self._ready)[1]

    def make_ready(self, item: QueuedStage) -> None:
        """Let a stage start when there is room."""
        item.phase = "ready"
        heapq.heappush(self._ready, (item.index, item))

    def submit(self, item: QueuedStage) -> None:
        """Record that our engine has it."""
        self.elsewhere.pop(item.stage.fingerprint, None)
        item.phase = "submitted"
        self.submitted[item.stage.fingerprint] = item

    def leave(self, item: QueuedStage) -> None:
        """Record that another driver runs it."""
        item.phase = "elsewhere"
        self.elsewhere[item.stage.fingerprint] = item

    def release(self, item: QueuedStage) -> bool:
        """Record that neither our engine nor another driver runs it; return whether our engine did."""
        self.elsewhere.pop(item.stage.fingerprint, None)
        return self.submitted.pop(item.stage.fingerprint, None) is not None

    def hold(self, item: QueuedStage, message: str) -> None:
        """Hold it back until another stage ends."""
        if not item.message:  # once: its numbers change whenever another stage ends
            self._report(Event(kind="held", stage=item.stage, message=message))
        item.phase, item.message = "held", message
        self._held.append(item)

    def release_held(self) -> None:
        """Make all held stages ready: they may fit now."""
        for held in self._held:
            self.make_ready(held)
        self._held.clear()

    def give_up_held(self) -> None:
        """Give up what is held at the end of a run, with all that builds on it."""
        for item in self._held:
            self.summary.held.append((item.stage, item.message))
            self._block_children(item)

    def finish(self, item: QueuedStage) -> None:
        """Record that it is done; its children may start."""
        self.summary.done.append(item.stage)
        self._report(Event(kind="done", stage=item.stage))
        self._set_done(item)
        for child in item.children:
            if child.phase == "pending" and child.missing == 0:
                self.make_ready(child)

    def fail(self, item: QueuedStage, message: str) -> None:
        """Record that it failed, and is not tried again in this run."""
        item.phase, item.message = "failed", message
        self.summary.failed.append((item.stage, message))
        self._report(Event(kind="failed", stage=item.stage, message=message))
        self._block_children(item)

    def cancel(self, item: QueuedStage, why: str = "as asked") -> None:
        """Record that it was cancelled."""
        item.phase, item.message = "cancelled", f"{why}; the same command continues"
        self.summary.cancelled.append((item.stage, item.message))
        self._report(Event(kind="cancelled", stage=item.stage, message=item.message))
        self._block_children(item)

    def _set_done(self, item: QueuedStage) -> None:
        item.phase = "done"
        for child in item.children:
            child.missing -= 1

    def _block_children(self, cause: QueuedStage) -> None:
        """Give up every stage that builds on one."""
        waiting = list(cause.children)
        for item in waiting:
            if item.phase == "pending":
                item.phase, item.message = "blocked", cause.stage.name
                self.summary.blocked.append((item.stage, item.message))
                self._report(Event(kind="blocked", stage=item.stage, message=item.message))
                waiting += item.children
