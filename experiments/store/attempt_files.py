"""The files in the folder of an attempt: owner, last heartbeat, end, failure, and the accounting of its Slurm job."""

from dataclasses import dataclass
from typing import Literal, get_args

from experiments.store.documents import RENAME, Shape
from experiments.store.failures import POLICIES, FailureClass
from experiments.store.process import ProcessIdentity
from smaug_core.files import ANY_NUMBER, COUNT, POSITIVE, SECONDS, TIME, Map, Maybe, StoredDocument, Words, key

AttemptEnd = Literal["done", "failed", "diverged", "interrupted", "cancelled"]


@dataclass(frozen=True, kw_only=True, slots=True)
class SlurmRun(StoredDocument):
    """A run of a Slurm job."""

    job: str = key(str)
    restart: int = key(COUNT)


@dataclass(frozen=True, kw_only=True, slots=True)
class Owner(ProcessIdentity):
    """owner.json of an attempt: who claimed it, on what device, when."""

    started: float = key(TIME)
    unit: str = key(str)
    cpus: int = key(COUNT)
    gpus: int = key(COUNT)
    device: str = key(str)
    device_name: str = key(str)
    versions: dict[str, str] = key(Map(str))
    nodes: int = key(POSITIVE, absent=1)
    recompute_layers: bool = key(bool, absent=False)
    slurm: SlurmRun | None = key(SlurmRun.form(), absent=None, document=SlurmRun)
    oom_kills: dict[str, int] | None = key(Map(COUNT), absent=None)


OWNER = Shape(
    Owner.form(),
    "restore it from a backup; or, if no process works at the stage, rename {folder} to {folder.name}.damaged:"
    " checkpoints stay, but the hours of that attempt are no longer counted",
    Owner.of,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Heartbeat(StoredDocument):
    """progress.json of an attempt: its last heartbeat, with the time spent so far and the step."""

    time: float = key(TIME)
    spent_s: float = key(SECONDS)
    wall_s: float = key(SECONDS)
    cpu_s: float = key(SECONDS)
    useful_s: float = key(SECONDS)
    train_s: float = key(SECONDS)
    step: int = key(COUNT)
    total: int = key(COUNT)
    values: dict[str, float] = key(Map(ANY_NUMBER))
    joules: float | None = key(SECONDS, absent=None)
    peak_memory_bytes: int | None = key(COUNT, absent=None)


PROGRESS = Shape(
    Heartbeat.form(),
    "the attempt's hours are estimated from its curve; its checkpoints are not touched",
    Heartbeat.of,
)
"""Replaced every second, so what a power failure leaves may be empty."""

CLASS = Words(tuple(POLICIES))
"""Class of a failure."""


@dataclass(frozen=True, kw_only=True, slots=True)
class End(Heartbeat):
    """end.json of an attempt."""

    outcome: AttemptEnd = key(Words(get_args(AttemptEnd)), name="class")
    message: str = key(str)
    traceback: str = key(str)
    failure: FailureClass | None = key(CLASS, absent=None)


END = Shape(
    End.form(),
    f"{RENAME}the attempt then counts as one that died, up to its last heartbeat; checkpoints and results stay",
    End.of,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class FailureNote(StoredDocument):
    """failure.json of an attempt or a stage: what a driver made of an ending without a result."""

    kind: FailureClass = key(CLASS, name="class")
    seen: str = key(str)
    done: str = key(str)
    time: float = key(TIME)

    @property
    def words(self) -> str:
        """The failure in a line: its class, what was seen, what was done."""
        return f"{POLICIES[self.kind].words}: {self.seen}; {self.done}"


FAILED = Shape(FailureNote.form(), f"{RENAME}it only says why an attempt ended", FailureNote.of)


@dataclass(frozen=True, kw_only=True, slots=True)
class Accounting(StoredDocument):
    """accounting.json of an attempt: the run of its job, by Slurm's accounting."""

    start: float = key(TIME)
    end: float = key(TIME)
    state: str = key(str)
    cpu_s: float | None = key(Maybe(SECONDS))


ACCOUNTED = Shape(Accounting.form(), f"{RENAME}`smaug sync` asks Slurm again", Accounting.of)
