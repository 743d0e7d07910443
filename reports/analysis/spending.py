"""Spending: hours by sweep, scale and unit, and the hours saved by shared stages."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields

from experiments.store.device_hours import PARTS, Total, total_of, totals_of
from experiments.tracking.reader import StageRow, TrialRow

TOTAL = "row_hours.total"


@dataclass(frozen=True, kw_only=True, slots=True)
class Spent(Total):
    """Stages and their hours, counted in one unit."""

    devices: tuple[str, ...]
    num_attempts: int
    num_without_result: int
    """Attempts that ended without a result; later ones may have resumed from their checkpoints."""
    num_corrected: int
    """Attempts whose hours are from Slurm's accounting."""
    alone: float | None
    """Useful hours of the trials as if each were trained alone; None if no trial has them."""
    saved: float | None
    """`alone` minus the useful hours of the distinct stages that these trials use."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RowSpending:
    """Hours of the stages of one row with one seed, including shared ones, so rows have no sum."""

    variant: str
    seed: str
    finished: bool
    spent: tuple[Total, ...]
    """One for each unit; none before a stage has begun."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SweepSpending:
    """Spending of one sweep at one scale. A stage that two sweeps use is in both."""

    sweep: str
    table: str | None
    title: str
    scale: str
    num_finished: int
    num_unfinished: int
    spent: tuple[Spent, ...]
    """One for each unit; each stage once."""
    rows: tuple[RowSpending, ...]

    @property
    def no_energy(self) -> tuple[str, ...]:
        """Reason for which energy is not known for all of it."""
        return tuple(sorted({why for spent in self.spent for why in spent.no_energy}))


@dataclass(frozen=True, kw_only=True, slots=True)
class Spending:
    """Spending of everything that the ledger holds."""

    sweeps: tuple[SweepSpending, ...]
    total: tuple[Spent, ...]
    """Every stage of a current trial once."""
    unused: tuple[Spent, ...]
    """Stages that no current trial uses, e.g. of settings that were changed since."""
    archived: tuple[Spent, ...]
    """Stages that were archived and started again since, e.g. for newer code."""
    num_uncounted: int
    """Trials that `saved` leaves out: unfinished, or on devices whose hours have no sum."""
    faults: tuple[str, ...]
    """Faults: records that are missing in the ledger."""

    @property
    def num_corrected(self) -> int:
        """Sum over all stages."""
        return sum(spent.num_corrected for spent in (*self.total, *self.unused, *self.archived))


def spend(trials: Iterable[TrialRow], stages: Iterable[StageRow], archived: Iterable[StageRow] = ()) -> Spending:
    """Add up the hours of trials and stages in the ledger.

    A stage without its hours, and one that a trial names and the ledger lacks, is reported as a fault and left out.

    Args:
        trials: those that count.
        stages: those that count, of any trial.
        archived: those that were archived and started again since.
    """
    faults: list[str] = []
    by_run = {stage.run_id: stage for stage in _with_hours(stages, faults)}
    current = in_paper_order(trials)
    used = {run for trial in current for run in trial.stage_runs.values()}
    if missing := sorted(used - by_run.keys()):
        faults.append(f"stages of current trials of which the ledger holds no hours: {', '.join(missing)}")
    groups: dict[tuple[str, str], list[TrialRow]] = {}
    for trial in current:
        groups.setdefault((trial.sweep, trial.scale), []).append(trial)
    return Spending(
        sweeps=tuple(_sweep(group, by_run) for group in groups.values()),
        total=_by_unit(_used(current, by_run), current, by_run),
        unused=_by_unit([stage for run, stage in by_run.items() if run not in used], (), by_run),
        archived=_by_unit(list(_with_hours(archived, faults)), (), by_run),
        num_uncounted=sum(not _counts(trial, by_run) for trial in current),
        faults=tuple(faults),
    )


def _with_hours(stages: Iterable[StageRow], faults: list[str]) -> Iterator[StageRow]:
    """Stages whose hours are complete; the others become faults."""
    for stage in stages:
        if lacking := [part for part in PARTS if part not in stage.hours]:
            faults.append(f"stage {stage.name}: its run {stage.run_id} lacks hours.{', hours.'.join(lacking)}")
        else:
            yield stage


def in_paper_order(trials: Iterable[TrialRow]) -> list[TrialRow]:
    """Sort trials: the paper's tables in their order, then other sweeps; rows in the order of their table."""
    return sorted(trials, key=lambda t: (_place(t), t.scale, t.position, t.variant, t.seed, t.run_id))


def _place(trial: TrialRow) -> tuple[int, int, str, str]:
    """The paper's tables in their order, then the other sweeps."""
    table = trial.table or ""
    return (0, int(table), "", trial.sweep) if table.isdecimal() else (1, 0, table, trial.sweep)


def _sweep(trials: Sequence[TrialRow], by_run: Mapping[str, StageRow]) -> SweepSpending:
    first, finished = trials[0], sum(trial.status == "FINISHED" for trial in trials)
    return SweepSpending(
        sweep=first.sweep,
        table=first.table,
        title=first.title,
        scale=first.scale,
        num_finished=finished,
        num_unfinished=len(trials) - finished,
        spent=_by_unit(_used(trials, by_run), trials, by_run),
        rows=tuple(_row(trial, by_run) for trial in trials),
    )


def _row(trial: TrialRow, by_run: Mapping[str, StageRow]) -> RowSpending:
    return RowSpending(
        variant=trial.variant,
        seed=trial.seed,
        finished=trial.status == "FINISHED",
        spent=tuple(totals_of(_used([trial], by_run))),
    )


def _used(trials: Iterable[TrialRow], by_run: Mapping[str, StageRow]) -> list[StageRow]:
    """The distinct stages of some trials that the ledger holds."""
    runs = dict.fromkeys(run for trial in trials for run in trial.stage_runs.values())
    return [by_run[run] for run in runs if run in by_run]


def _counts(trial: TrialRow, by_run: Mapping[str, StageRow]) -> bool:
    """Return whether all its stages are there, in one unit."""
    stages = [by_run.get(run) for run in trial.stage_runs.values()]
    return TOTAL in trial.metrics and all(stage is not None and stage.unit == trial.unit for stage in stages)


def _without_result(stage: StageRow) -> int:
    """Number of attempts at a stage without a result: all but the one that made it, or that still runs."""
    return max(0, stage.attempts - (stage.status in ("FINISHED", "RUNNING")))


def _by_unit(
    stages: Sequence[StageRow], trials: Sequence[TrialRow], by_run: Mapping[str, StageRow]
) -> tuple[Spent, ...]:
    units = sorted({stage.unit for stage in stages})
    return tuple(_spent(unit, [s for s in stages if s.unit == unit], trials, by_run) for unit in units)


def _spent(unit: str, stages: Sequence[StageRow], trials: Sequence[TrialRow], by_run: Mapping[str, StageRow]) -> Spent:
    counted = [trial for trial in trials if trial.unit == unit and _counts(trial, by_run)]
    alone = sum(trial.metrics[TOTAL] for trial in counted) if counted else None
    shared = sum(stage.hours["useful"] for stage in _used(counted, by_run))
    devices = Counter(stage.device for stage in stages if stage.device)
    total = total_of(unit, stages)
    return Spent(
        **{field.name: getattr(total, field.name) for field in fields(total)},
        devices=tuple(sorted(devices)),
        num_attempts=sum(stage.attempts for stage in stages),
        num_without_result=sum(map(_without_result, stages)),
        num_corrected=sum(stage.corrected for stage in stages),
        alone=alone,
        saved=None if alone is None else max(0.0, alone - shared),  # of equal sums, floats may leave a trace
    )
