"""Published and measured numbers joined into tables; pure functions of what was read."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import fmean

from experiments.reading import TrialRow
from reports.published import Published, ReportError

HOURS = "pretrain.hours"
METRIC_OF_SLOT = {HOURS: "row_hours.pretrain"}
"""Where a slot's metric has another name than the slot."""
HEADERS = {"r1": "R@1", "r5": "R@5", "r10": "R@10", "median_rank": "MdR"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Column:
    """One quantity of a table."""

    slot: str
    """E.g. `msrvtt.t2v.r1`."""
    header: str
    """E.g. `R@1`."""
    published_unit: str
    """`%`, `A6000 GPU h`; empty where nothing was published."""
    measured_unit: str
    """`%`, `CPU h`; empty where nothing was measured, or in several units."""
    published_dataset: str
    """What the paper evaluates on; empty for hours."""
    measured_dataset: str
    """What was evaluated on here; empty for hours and where nothing was measured."""

    @property
    def is_hours(self) -> bool:
        """Whether it is time spent, which only compares on equal devices."""
        return self.slot == HOURS


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """One quantity of one row."""

    published: float | None
    measured: float | None
    """Mean over seeds."""
    unit: str
    """Of the measured value."""
    n_seeds: int
    n_queries: int | None
    delta: float | None
    """Measured minus the baseline row's, over the seeds that both have; none where they do not compare."""
    ratio: float | None
    """Measured hours by the baseline row's; none on unequal devices."""
    published_ratio: float | None
    dataset: str
    scale: str
    device: str
    marks: tuple[str, ...]
    runs: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """A table of one sweep at one scale, or of published numbers alone."""

    name: str
    """The paper's number, else the sweep's name."""
    title: str
    row_label: str
    baseline: str | None
    scale: str
    """Empty where nothing was measured."""
    columns: tuple[Column, ...]
    rows: dict[str, tuple[Cell, ...]]
    """By the row's name: a cell for each column."""
    source: str
    """Where the published numbers stand; empty if there are none."""
    trials: tuple[TrialRow, ...]


def build_tables(published: Mapping[str, Published], trials: Iterable[TrialRow]) -> list[Table]:
    """Every table: the paper's in their order, then those of sweeps that rebuild none.

    Raises:
        ReportError: a sweep asks for a column that its finished trials do not have.
    """
    groups: dict[tuple[str, str, str], list[TrialRow]] = {}
    for trial in trials:
        groups.setdefault((trial.table or trial.sweep, trial.sweep, trial.scale), []).append(trial)
    names = [*published, *sorted({key[0] for key in groups} - published.keys())]
    tables = []
    for name in names:
        found = [group for key, group in sorted(groups.items()) if key[0] == name]
        tables += [_table(name, published.get(name), group) for group in found or [[]]]
    return tables


def standard_error(percent: float, n_queries: int) -> float:
    """Binomial standard error, in points, of a share of queries that is given in percent."""
    share = percent / 100
    return 100 * sqrt(share * (1 - share) / n_queries)


def _table(name: str, paper: Published | None, trials: Sequence[TrialRow]) -> Table:
    columns = _columns(name, paper, trials)
    # Of a table that is partly measured, the baseline is the sweep's; the paper's default row else.
    baseline = trials[0].baseline if trials else paper.default if paper else None
    by_variant: dict[str, list[TrialRow]] = {row: [] for row in (paper.rows if paper else ())}
    for trial in sorted(trials, key=lambda t: t.position):
        by_variant.setdefault(trial.variant, []).append(trial)
    base = by_variant.get(baseline or "", [])
    return Table(
        name=name,
        title=paper.title if paper else trials[0].title,
        row_label=paper.row if paper else trials[0].row_label,
        baseline=baseline,
        scale=trials[0].scale if trials else "",
        columns=columns,
        rows={
            row: tuple(_cell(column, row, baseline, paper, of_row, base) for column in columns)
            for row, of_row in by_variant.items()
        },
        source=paper.source if paper else "",
        trials=tuple(trials),
    )


def _columns(name: str, paper: Published | None, trials: Sequence[TrialRow]) -> tuple[Column, ...]:
    slots = list(dict.fromkeys([*(s for t in trials for s in t.columns), *(paper.columns if paper else ())]))
    finished = [trial for trial in trials if trial.status == "FINISHED"]
    asked = {slot for trial in trials for slot in trial.columns}
    for slot in slots:
        if finished and slot in asked and not any(_metric(slot) in trial.metrics for trial in finished):
            known = sorted({HOURS, *(m for t in finished for m in t.metrics if not m.startswith("row_hours."))})
            raise ReportError(
                f"table {name}: no trial has the column {slot!r} (sweep {finished[0].sweep});"
                f" there are {', '.join(known)}"
            )
    return tuple(_column(slot, paper, trials) for slot in slots)


def _column(slot: str, paper: Published | None, trials: Sequence[TrialRow]) -> Column:
    told = paper.columns.get(slot) if paper else None
    task, kind = slot.split(".")[0], slot.split(".")[-1]
    units = sorted({t.unit for t in trials if _metric(slot) in t.metrics}) if slot == HOURS else [_share_unit(kind)]
    datasets = sorted({t.evaluations[task]["dataset"] for t in trials if task in t.evaluations})
    return Column(
        slot=slot,
        header=told["header"] if told else "PT Time" if slot == HOURS else HEADERS.get(kind, slot),
        published_unit=told["unit"] if told else "",
        measured_unit=units[0] if len(units) == 1 else "",
        published_dataset=paper.datasets.get(task, "") if paper and told else "",
        measured_dataset=", ".join(datasets),
    )


def _share_unit(kind: str) -> str:
    return "" if kind == "median_rank" else "%"


def _cell(
    column: Column,
    row: str,
    baseline: str | None,
    paper: Published | None,
    trials: Sequence[TrialRow],
    base: Sequence[TrialRow],
) -> Cell:
    values = _values(column, trials)
    measured = fmean(values.values()) if values else None
    marks = _marks(column, trials, base)
    compares = not {"other device", "other test set", "several devices"} & set(marks)
    delta = _delta(values, _values(column, base)) if compares and row != baseline else None
    base_mean = fmean(_values(column, base).values()) if _values(column, base) else None
    publisheds = paper.rows if paper else {}
    published = publisheds.get(row, {}).get(column.slot)
    published_base = publisheds.get(baseline or "", {}).get(column.slot)
    queries = {notes["n_queries"] for t in trials for task, notes in t.evaluations.items() if task == _task(column)}
    return Cell(
        published=published,
        measured=measured,
        unit="" if measured is None else column.measured_unit or trials[0].unit,
        n_seeds=len(values),
        n_queries=min(queries) if len(queries) == 1 and not column.is_hours else None,
        delta=delta,
        ratio=_ratio(measured, base_mean) if column.is_hours and compares else None,
        published_ratio=_ratio(published, published_base) if column.is_hours else None,
        dataset=_dataset(column),
        scale=trials[0].scale if values else "",
        device=", ".join(sorted({t.device for t in trials if t.seed in values})),
        marks=marks,
        runs=tuple(t.run_id for t in trials),
    )


def _values(column: Column, trials: Sequence[TrialRow]) -> dict[str, float]:
    """By seed; none of hours that are counted in several units."""
    found = {t.seed: t.metrics[_metric(column.slot)] for t in trials if _metric(column.slot) in t.metrics}
    several = column.is_hours and len({t.unit for t in trials if t.seed in found}) > 1
    return {} if several else found


def _metric(slot: str) -> str:
    return METRIC_OF_SLOT.get(slot, slot)


def _task(column: Column) -> str:
    return column.slot.split(".")[0]


def _dataset(column: Column) -> str:
    """The real dataset, with the one whose place it takes."""
    measured, paper = column.measured_dataset, column.published_dataset
    return f"{measured}, in the place of {paper}" if measured and paper and measured != paper else measured or paper


def _delta(values: Mapping[str, float], base: Mapping[str, float]) -> float | None:
    both = values.keys() & base.keys()
    return fmean(values[seed] - base[seed] for seed in sorted(both)) if both else None


def _ratio(value: float | None, base: float | None) -> float | None:
    return None if value is None or not base else value / base


def _marks(column: Column, trials: Sequence[TrialRow], base: Sequence[TrialRow]) -> tuple[str, ...]:
    """What keeps a cell from being read like its neighbours."""
    marks = sorted({mark for trial in trials for mark in trial.marks})
    finished = [trial for trial in trials if trial.status == "FINISHED"]
    if len(finished) < len(trials):
        marks.append("unfinished")
    if base and {t.code for t in finished} - {t.code for t in base if t.status == "FINISHED"} and base[0] not in trials:
        marks.append("other code")
    if column.is_hours:
        devices, base_devices = _devices(trials), _devices(base)
        if len(devices) > 1:
            marks.append("several devices")
        elif devices and base_devices and devices != base_devices:
            marks.append("other device")
    elif base and _digests(column, trials) - _digests(column, base):
        marks.append("other test set")
    return tuple(marks)


def _devices(trials: Sequence[TrialRow]) -> set[tuple[str, str]]:
    return {(t.device, t.unit) for t in trials if t.device}


def _digests(column: Column, trials: Sequence[TrialRow]) -> set[str]:
    task = _task(column)
    return {t.evaluations[task]["test_digest"] for t in trials if task in t.evaluations}
