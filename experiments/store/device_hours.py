"""The hours that a stage cost: what its attempts tell, and what Slurm's accounting knows better."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest

from experiments.stages.memory import PEAK_MEMORY
from experiments.store.attempt import Attempt

JOULES_PER_KWH = 3.6e6


@dataclass(frozen=True, kw_only=True, slots=True)
class Hours:
    """What a stage cost, in hours of its device."""

    billed: float
    """Devices held x time, over all attempts."""
    useful: float
    """Steps that are in the final weights, or in the state saved so far."""
    lost: float
    """Steps done again or thrown away."""
    overhead: float
    """The rest: start-up, evaluation, what happens between."""
    estimated: bool
    """An attempt died without a word and nobody else knows its end: its time counts up to its last sign of life."""


def stage_hours(attempts: Sequence[Attempt], useful_s: float | None) -> Hours:
    """Add up a stage's attempts; `useful_s` comes from its result, none before there is one."""
    useful = max((a.last["useful_s"] for a in attempts), default=0.0) if useful_s is None else useful_s
    # A killed attempt may have saved work after its last sign of life: saved work was paid for.
    billed = max(sum(billed_s(attempts)), useful)
    lost = max(0.0, sum(a.last["train_s"] for a in attempts) - useful)
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
    told, slurm = float(attempt.last["spent_s"]), attempt.accounting
    if slurm is None or not is_corrected(attempt):
        return told
    if not attempt.owner["gpus"]:
        return max(told, float(slurm["cpu_s"]))
    began, ended = float(attempt.owner["started"]), float(slurm["end"])
    if following is not None:
        ended = min(ended, float(following.owner["started"]))
    held_s = max(ended, float(attempt.last["time"])) - min(began, float(slurm["start"]))
    return max(told, held_s * attempt.owner["gpus"])


def is_corrected(attempt: Attempt) -> bool:
    """Whether an attempt's bill is what Slurm's accounting says.

    Of an attempt without GPUs that tells processor time, which not every cluster gathers, and never in full: it is
    taken of one that died, where it is more than the attempt itself told last.
    """
    slurm = attempt.accounting
    if slurm is None or attempt.owner["gpus"]:
        return slurm is not None
    return attempt.state == "dead" and (slurm["cpu_s"] or 0.0) > attempt.last["cpu_s"]


def energy_kwh(attempts: Sequence[Attempt]) -> float | None:
    """What the GPUs of a stage used in all its attempts; none unless each attempt counted it."""
    told = [attempt.last.get("joules") for attempt in attempts]
    known = [joules for joules in told if joules is not None]
    return sum(known) / JOULES_PER_KWH if known and len(known) == len(told) else None


def peak_memory_bytes(attempts: Sequence[Attempt]) -> int | None:
    """The most memory that the processes of an attempt at a stage held; none where no attempt told."""
    return max((attempt.last[PEAK_MEMORY] for attempt in attempts if PEAK_MEMORY in attempt.last), default=None)
