"""Device hours of a stage, by its attempts or by Slurm's accounting, and sums over stages.

Hours of two units have no sum, and a stage counts once however many trials need it.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Protocol

from experiments.store.attempt import Attempt

JOULES_PER_KWH = 3.6e6
PARTS = ("useful", "lost", "overhead", "billed")


@dataclass(frozen=True, kw_only=True, slots=True)
class Hours:
    """Cost of a stage, in hours of its device."""

    billed: float
    """Devices held x time, over all attempts."""
    useful: float
    """Steps that are in the final weights, or in the state saved so far."""
    lost: float
    """Steps done again or thrown away."""
    overhead: float
    """The rest: start-up, evaluation, what happens between."""
    estimated: bool
    """An attempt was killed and its end is unknown: its time counts up to its last heartbeat."""


def stage_hours(attempts: Sequence[Attempt], useful_s: float | None) -> Hours:
    """Add up a stage's attempts; `useful_s` comes from its result, none before there is one."""
    useful = max((a.last.useful_s for a in attempts), default=0.0) if useful_s is None else useful_s
    # A killed attempt may have saved work after its last heartbeat: saved work was paid for.
    billed = max(sum(billed_s(attempts)), useful)
    lost = max(0.0, sum(a.last.train_s for a in attempts) - useful)
    return Hours(
        billed=billed / 3600,
        useful=useful / 3600,
        lost=lost / 3600,
        overhead=max(0.0, billed - useful - lost) / 3600,
        estimated=any(a.state == "dead" and not is_corrected(a) for a in attempts),
    )


def billed_s(attempts: Sequence[Attempt]) -> list[float]:
    """Device seconds of each attempt at a stage, given all of them, oldest first."""
    return [_billed_s(attempt, following) for attempt, following in zip_longest(attempts, attempts[1:])]


def _billed_s(attempt: Attempt, following: Attempt | None) -> float:
    """Device seconds of an attempt: its own account, or what Slurm says of its job, where that is more.

    GPUs are held from the start of the job's run to its end, so what goes before the worker and after it counts.
    Processor time is the attempt's own, save where it died: then Slurm may have seen more of it.

    Args:
        attempt: to be billed.
        following: the next one at the stage; the bill ends at its start at the latest.
    """
    recorded, slurm = float(attempt.last.spent_s), attempt.accounting
    if slurm is None or not is_corrected(attempt):
        return recorded
    if not attempt.owner.gpus:
        return max(recorded, float(slurm.cpu_s or 0.0))
    began, ended = float(attempt.owner.started), float(slurm.end)
    if following is not None:
        ended = min(ended, float(following.owner.started))
    held_s = max(ended, float(attempt.last.time)) - min(began, float(slurm.start))
    return max(recorded, held_s * attempt.owner.gpus)


def is_corrected(attempt: Attempt) -> bool:
    """Return whether an attempt's bill is what Slurm's accounting says.

    For an attempt without GPUs that is processor time, which not every cluster gathers, and never in full: it is
    taken of one that died, where it is more than in its last heartbeat.
    """
    slurm = attempt.accounting
    if slurm is None or attempt.owner.gpus:
        return slurm is not None
    return attempt.state == "dead" and (slurm.cpu_s or 0.0) > attempt.last.cpu_s


def energy_kwh(attempts: Sequence[Attempt]) -> float | None:
    """Return the energy of a stage's GPUs over all attempts; None unless each attempt counted it."""
    counts = [attempt.last.joules for attempt in attempts]
    known = [joules for joules in counts if joules is not None]
    return sum(known) / JOULES_PER_KWH if known and len(known) == len(counts) else None


def peak_memory_bytes(attempts: Sequence[Attempt]) -> int | None:
    """The most memory that the processes of an attempt at a stage held; None where it was not measured."""
    peaks = [attempt.last.peak_memory_bytes for attempt in attempts]
    return max((peak for peak in peaks if peak is not None), default=None)


class Paid(Protocol):
    """Hours of a stage as MLflow has them; `experiments.tracking.run_schema.StageRow` is one."""

    @property
    def run_id(self) -> str:
        """Its run."""

    @property
    def unit(self) -> str:
        """Unit of its hours."""

    @property
    def hours(self) -> Mapping[str, float]:
        """Hours by part."""

    @property
    def estimated(self) -> bool:
        """An attempt died, so when it ended is estimated."""

    @property
    def kwh(self) -> float | None:
        """Energy of its GPUs; none where that is not known."""

    @property
    def no_energy(self) -> str:
        """Reason for which the energy is unknown."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Total:
    """Hours of distinct stages that are counted in one unit."""

    unit: str
    """E.g. `CPU h`."""
    num_stages: int
    num_estimated: int
    """Stages of which an attempt died, so that when it ended is estimated."""
    useful: float
    lost: float
    overhead: float
    billed: float
    """Of every attempt: the three parts together."""
    kwh: float | None
    """What the GPUs used; none unless it was counted in every attempt at every one of the stages."""
    no_energy: tuple[str, ...]
    """Why it was not; empty if it was."""


def total_of(unit: str, stages: Iterable[Paid]) -> Total:
    """Add up distinct stages of one unit, which have all their hours."""
    held = list(stages)
    known = [stage.kwh for stage in held if stage.kwh is not None]
    return Total(
        unit=unit,
        num_stages=len(held),
        num_estimated=sum(stage.estimated for stage in held),
        useful=sum(stage.hours["useful"] for stage in held),
        lost=sum(stage.hours["lost"] for stage in held),
        overhead=sum(stage.hours["overhead"] for stage in held),
        billed=sum(stage.hours["billed"] for stage in held),
        kwh=sum(known) if known and len(known) == len(held) else None,
        no_energy=tuple(sorted({stage.no_energy for stage in held if stage.kwh is None})),
    )


def totals_of(stages: Iterable[Paid]) -> list[Total]:
    """Return the hours of some stages, one total for each unit; a stage that is given twice counts once."""
    held = list({stage.run_id: stage for stage in stages}.values())
    units = sorted({stage.unit for stage in held})
    return [total_of(unit, (stage for stage in held if stage.unit == unit)) for unit in units]


def has_hours(stage: Paid) -> bool:
    """Return whether all parts of its hours are there."""
    return all(part in stage.hours for part in PARTS)
