"""Classes of failures, and the policy of each: a table. `scheduler/retry.py` acts on it."""

import re
import signal
from dataclasses import dataclass
from typing import Literal

FailureClass = Literal[
    "gpu_memory",
    "host_memory",
    "node_lost",
    "preempted",
    "timeout",
    "killed",
    "diverged",
    "user_error",
    "storage",
    "cancelled",
]

DIVERGED_CODE, STOPPED_CODE = 71, 75
"""Exit codes of a worker that met a loss that is no number, and of one that was asked to stop."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Policy:
    """Policy for a class of failures."""

    words: str
    """What people call it."""
    retries: int | None = 0
    """How often a stage is tried again for this reason in one run; none: as often as its checkpoint advances."""
    stalls: int | None = None
    """How many tries in a row may leave the checkpoint where it was; none: that does not matter."""
    must_save: bool = False
    """Even the first try of a run must have saved something; else that one is free."""
    ever: bool = False
    """`retries` counts over all runs: another run would meet the same."""
    recompute: bool = False
    """The next try computes layers again in the backward pass: less memory, the same numbers."""
    elsewhere: bool = False
    """The next try is kept away from the machine, by engines that can."""
    pauses: bool = False
    """The same in two stages pauses the sweep: it would be the same in all of them."""
    resumable: bool = False
    """No fault of the stage: asked for or not, it goes on from its checkpoint another time."""


POLICIES: dict[FailureClass, Policy] = {
    "gpu_memory": Policy(words="GPU out of memory", retries=1, ever=True, recompute=True),
    "host_memory": Policy(words="host out of memory", retries=1, ever=True, resumable=True),
    "node_lost": Policy(words="node lost", retries=3, elsewhere=True, resumable=True),
    "preempted": Policy(words="preempted", retries=None, stalls=2, resumable=True),
    "timeout": Policy(words="out of time", retries=None, stalls=0, must_save=True, resumable=True),
    "killed": Policy(words="killed", retries=2, stalls=0, resumable=True),
    "diverged": Policy(words="diverged"),
    "user_error": Policy(words="error", pauses=True),
    "storage": Policy(words="storage"),
    "cancelled": Policy(words="cancelled", resumable=True),
}
"""`killed`: by a signal without a known reason. `storage`: a full disk and the like; the same command tries again."""

GPU_MEMORY = re.compile(r"CUDA out of memory|CUDA error: out of memory|CU(BLAS|DNN)_STATUS_ALLOC_FAILED")
HOST_MEMORY = re.compile(
    r"DefaultCPUAllocator: (can't allocate|not enough) memory|Cannot allocate memory"
    r"|DataLoader worker \(pid.*\) is killed by signal: (Killed|Bus error)"
    r"|killed due to the node running low on memory|NODE_OUT_OF_MEMORY"  # Ray's memory monitor
)
NODE_LOST = re.compile(
    r"uncorrectable ECC error|fallen off the bus|NCCL error.*(system error|remote process exit)"
    r"|gloo/.*Connection (closed|reset) by peer",
    re.DOTALL,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """Evidence of an attempt's ending."""

    exit_code: int | None = None
    """The worker's, negative for the signal that killed it; none where the engine lost it."""
    engine: FailureClass | None = None
    """Failure class reported by the engine."""
    reported: FailureClass | None = None
    """Failure class reported by the worker."""
    exceptions: tuple[str, ...] = ()
    """Names of the class of what was raised, and of the classes it derives from."""
    message: str = ""
    """The exception's."""
    oom_kills: int = 0
    """How many processes the kernel killed for want of memory while the attempt ran, where it counts them."""


def classify(seen: Seen) -> FailureClass:
    """The class of an ending that left no result."""
    if seen.exceptions:
        return _of_exception(seen.exceptions, seen.message)
    if seen.reported not in (None, "preempted", "killed"):
        return seen.reported
    if seen.engine is not None:
        return seen.engine
    if seen.exit_code in (-signal.SIGKILL, 128 + signal.SIGKILL) and seen.oom_kills:
        return "host_memory"
    if seen.reported is not None:
        return seen.reported
    return _of_code(seen.exit_code)


def _of_exception(names: tuple[str, ...], message: str) -> FailureClass:
    if "DivergedError" in names:
        return "diverged"
    if "OutOfMemoryError" in names or GPU_MEMORY.search(message):  # torch's; its subclass for CUDA has the same name
        return "gpu_memory"
    if "MemoryError" in names or HOST_MEMORY.search(message):
        return "host_memory"
    if "LoaderDiedError" in names:
        return "killed"
    return "node_lost" if NODE_LOST.search(message) else "user_error"


def _of_code(code: int | None) -> FailureClass:
    if code is None:
        return "node_lost"
    if code == STOPPED_CODE:
        return "preempted"
    if code == DIVERGED_CODE:
        return "diverged"
    return "killed" if code < 0 or code > 128 else "user_error"


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """Reason for which a job ended without a result."""

    kind: FailureClass
    cause: str
    """What was seen, in words."""
    traceback: str = ""
    host: str = ""
    """Where it ran; empty if it never began, or ran on several machines, of which it is unknown which was lost."""
    blameless: bool = False
    """The engine failed, not the stage."""

    @property
    def words(self) -> str:
        """Class and cause; the cause alone where it says it all."""
        plain = self.kind in ("user_error", "diverged", "storage", "killed", "cancelled")
        return self.cause if plain else f"{POLICIES[self.kind].words}: {self.cause}"
