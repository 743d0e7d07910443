"""The contract between a stage and the process that runs it; imports no torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

PRETRAIN, PRETRAIN_VIDEO, FINETUNE, EVALUATE = KINDS = ("pretrain", "pretrain_video", "finetune", "evaluate")
"""The kinds of stages, in the order in which they build on each other."""
PREFETCH = 2
"""Batches that each loader process works on or has ready."""


@runtime_checkable  # for the shape checks of the tests
class Watch(Protocol):
    """Progress reports of a running stage to its supervisor, and stop requests in return."""

    def report(self, step: int, total: int, values: Mapping[str, float]) -> None:
        """Step `step` of `total` has ended with these losses or measurements."""

    def useful(self, seconds: float) -> None:
        """Device seconds spent so far on work that is in the state now saved, over all attempts."""

    def spent(self) -> float:
        """Device seconds this attempt has used: wall time x GPUs, or CPU time of the process tree."""

    def stop_requested(self) -> bool:
        """Return whether to save a checkpoint and raise `Interrupted` at the next step."""


class Interrupted(Exception):
    """The stage saved its state on a stop request; running it again continues."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """Result of a finished stage."""

    metrics: dict[str, float]
    """Results by name, e.g. `t2v.r1` in percent, or the last losses of a training."""
    useful_s: float
    """Device seconds of the steps that are in the final weights; 0 for an evaluation."""
    loader_wait_s: float = 0.0
    """Part of them: waiting for a batch; on a CPU the time of the loader processes."""
    checkpoint_s: float = 0.0
    """Part of them: writing checkpoints."""
    files: list[str] = field(default_factory=list)
    """Files written, relative to the stage's folder."""
    scratch: list[str] = field(default_factory=list)
    """Folders that are not needed once the result is recorded; until then a killed stage resumes from them."""
    notes: dict[str, Any] = field(default_factory=dict)
    """Further facts worth recording, e.g. the digest of the test set, or unreadable clips."""
