"""What stages took together, by unit: hours of two units have no sum, and a stage counts once however many need it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

PARTS = ("useful", "lost", "overhead", "billed")


class Paid(Protocol):
    """A stage as the ledger tells it; `experiments.tracking.rows.StageRow` is one."""

    @property
    def run_id(self) -> str:
        """Its run."""

    @property
    def unit(self) -> str:
        """Of its hours."""

    @property
    def hours(self) -> Mapping[str, float]:
        """By part."""

    @property
    def estimated(self) -> bool:
        """An attempt died, so when it ended is estimated."""

    @property
    def kwh(self) -> float | None:
        """Energy of its GPUs; none where that is not known."""

    @property
    def no_energy(self) -> str:
        """Why not."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Total:
    """What distinct stages took that are counted in one unit."""

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
    """What some stages took, one total for each unit; a stage that is given twice counts once."""
    held = list({stage.run_id: stage for stage in stages}.values())
    units = sorted({stage.unit for stage in held})
    return [total_of(unit, (stage for stage in held if stage.unit == unit)) for unit in units]


def has_hours(stage: Paid) -> bool:
    """Whether all parts of its hours are there."""
    return all(part in stage.hours for part in PARTS)
