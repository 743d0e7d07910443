"""Published and measured numbers joined into tables; pure functions of what was read."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from experiments.tracking.reader import DamagedRun, TrialRow
from reports.analysis.cells import Cell, Column, Run, Table
from reports.analysis.difference import compare, interval_of, same_queries
from reports.analysis.marks import NOT_COMPARABLE, marks_of
from reports.analysis.samples import RankBook, RankReader, Samples, collect
from reports.analysis.statistics import holm
from reports.paper.tables import HOURS, PublishedTable

METRIC_OF_SLOT = {HOURS: "row_hours.pretrain"}
"""Metrics of slots whose names differ."""
HEADERS = {"r1": "R@1", "r5": "R@5", "r10": "R@10", "median_rank": "MdR"}


def build_tables(
    published: Mapping[str, PublishedTable],
    trials: Iterable[TrialRow],
    read: RankReader,
    *,
    damaged: Iterable[DamagedRun] = (),
    unreadable: str = "",
) -> list[Table]:
    """Build every table: the paper's in their order, then those of sweeps that rebuild none.

    Args:
        published: the paper's tables, by number.
        trials: all that are recorded.
        read: gives a trial's ranks.
        damaged: runs of trials without readable identity; the rows that they may belong to have no number.
        unreadable: the error for which the trials could not be read; empty if they could.
    """
    records = _Records(book=RankBook(read), damaged=tuple(damaged), unreadable=unreadable)
    groups: dict[tuple[str, str, str], list[TrialRow]] = {}
    for trial in trials:
        groups.setdefault((trial.table or trial.sweep, trial.sweep, trial.scale), []).append(trial)
    for name, paper in published.items():
        groups |= _same_runs(name, paper, groups)
    names = [*published, *sorted({key[0] for key in groups} - published.keys())]
    tables = []
    for name in names:
        found = [group for key, group in sorted(groups.items()) if key[0] == name]
        tables += [_table(name, published.get(name), group, records) for group in found or [[]]]
    return tables


def metric_of(slot: str) -> str:
    """Name of a column's metric in MLflow."""
    return METRIC_OF_SLOT.get(slot, slot)


def _same_runs(
    name: str, paper: PublishedTable, groups: Mapping[tuple[str, str, str], list[TrialRow]]
) -> dict[tuple[str, str, str], list[TrialRow]]:
    """Find the trials of a table whose rows are rows of another one, under the names that they have here."""
    if paper.same_runs is None:
        return {}
    names = {there: here for here, there in paper.same_runs.rows.items()}
    own: dict[tuple[str, str, str], list[TrialRow]] = {}
    for (table, sweep, scale), trials in groups.items():
        if table == paper.same_runs.table:
            own[name, sweep, scale] = [
                replace(trial, variant=names[trial.variant], baseline=names.get(trial.baseline, ""))
                for trial in trials
                if trial.variant in names
            ]
    return {key: trials for key, trials in own.items() if trials}


@dataclass(frozen=True, kw_only=True, slots=True)
class _Records:
    """Records shared by all tables, beside their trials."""

    book: RankBook
    damaged: tuple[DamagedRun, ...]
    unreadable: str


@dataclass(frozen=True, kw_only=True, slots=True)
class _Row:
    """Inputs of one row's cells."""

    name: str
    trials: Sequence[TrialRow]
    published: Mapping[str, float | None]


def _table(name: str, paper: PublishedTable | None, trials: Sequence[TrialRow], records: "_Records") -> Table:
    columns = _columns(paper, trials)
    # Of a table that is partly measured, the baseline is the sweep's; the paper's default row else.
    baseline = trials[0].baseline if trials else paper.default if paper else None
    rows = _rows(paper, trials)
    concerned = {row.name: _concerning(records.damaged, name, trials, row.name) for row in rows}
    by_column: list[list[Cell]] = []
    samples: dict[tuple[str, str], Samples] = {}
    for column in columns:
        found = {
            row.name: (None, concerned[row.name])
            if concerned[row.name]
            else collect(column.slot, metric_of(column.slot), row.trials, records.book)
            for row in rows
        }
        samples |= {(row, column.slot): measured for row, (measured, _) in found.items() if measured is not None}
        base = next((row for row in rows if row.name == baseline), None)
        join = _Join(column=column, base=base, collected=found, unreadable=records.unreadable)
        by_column.append(_column_cells(join, rows))
    return Table(
        name=name,
        title=paper.title if paper else trials[0].title,
        row_label=paper.row if paper else trials[0].row_label,
        measured_by=paper.same_runs.table if paper and paper.same_runs else name,
        baseline=baseline,
        scale=trials[0].scale if trials else "",
        columns=columns,
        rows={row.name: tuple(cells[place] for cells in by_column) for place, row in enumerate(rows)},
        texts=_texts(paper) if paper else {},
        groups=paper.groups if paper else {},
        cited=frozenset(paper.cited if paper else ()),
        source=paper.source if paper else "",
        cannot_tell=paper.cannot_tell if paper else (),
        trials=tuple(trials),
        samples=samples,
        unreadable=records.unreadable,
        troubles=_troubles(baseline, rows),
    )


def _troubles(baseline: str | None, rows: Sequence[_Row]) -> tuple[str, ...]:
    """Find faults of the whole table."""
    if baseline in {None, "", *(row.name for row in rows)}:
        return ()
    return (f"its runs name the baseline row {baseline!r}, which it has not: no difference, no test, no ratio",)


def _concerning(damaged: Sequence[DamagedRun], table: str, trials: Sequence[TrialRow], row: str) -> list[str]:
    """Find faults of damaged runs that may be of a row: the readable tags of such a run must fit."""
    known = {"table": {table, ""}, "variant": {row}}
    if trials:
        known |= {"sweep": {trials[0].sweep}, "scale": {trials[0].scale}}
    return [
        f"run {run.run_id} cannot be read: {run.what}"
        for run in damaged
        if all(run.tags.get(name, next(iter(values))) in values for name, values in known.items())
        and (trials or run.tags.get("table") == table)
    ]


def _rows(paper: PublishedTable | None, trials: Sequence[TrialRow]) -> list[_Row]:
    """The paper's rows in its order, then the sweep's others."""
    by_variant: dict[str, list[TrialRow]] = {row: [] for row in (paper.rows if paper else ())}
    for trial in sorted(trials, key=lambda t: t.position):
        by_variant.setdefault(trial.variant, []).append(trial)
    rows = paper.rows if paper else {}
    return [_Row(name=name, trials=found, published=rows.get(name, {})) for name, found in by_variant.items()]


def _columns(paper: PublishedTable | None, trials: Sequence[TrialRow]) -> tuple[Column, ...]:
    asked = [slot for trial in trials for slot in trial.columns]
    if paper is not None and paper.same_runs:
        asked = [slot for slot in asked if slot in paper.columns]
    slots = dict.fromkeys([*asked, *(paper.columns if paper else ())])
    return tuple(_column(slot, paper, trials) for slot in slots)


def _texts(paper: PublishedTable) -> dict[str, dict[str, str]]:
    """Texts by row and header; a dash stays a dash."""
    return {
        row: {header: texts[key] or "-" for key, header in paper.texts.items()}
        for row, texts in paper.row_texts.items()
    }


def _column(slot: str, paper: PublishedTable | None, trials: Sequence[TrialRow]) -> Column:
    printed = paper.columns.get(slot) if paper else None
    task, kind = slot.split(".")[0], slot.split(".")[-1]
    units = sorted({t.unit for t in trials if metric_of(slot) in t.metrics}) if slot == HOURS else [_share_unit(kind)]
    datasets = sorted({t.evaluations[task]["dataset"] for t in trials if task in t.evaluations})
    return Column(
        slot=slot,
        header=printed.header if printed else "PT Time" if slot == HOURS else HEADERS.get(kind, slot),
        published_unit=printed.unit if printed else "",
        measured_unit=units[0] if len(units) == 1 else "",
        published_dataset=paper.datasets.get(task, "") if paper and printed else "",
        measured_dataset=", ".join(datasets),
    )


def _share_unit(kind: str) -> str:
    return "" if kind == "median_rank" else "%"


def _column_cells(join: "_Join", rows: Sequence[_Row]) -> list[Cell]:
    """A column's cells, top to bottom; the tests among them are one family."""
    cells = [join.cell(row) for row in rows]
    tested = [place for place, cell in enumerate(cells) if cell.p_raw is not None]
    corrected = holm([cells[place].p_raw or 0.0 for place in tested])
    for place, p in zip(tested, corrected, strict=True):
        cells[place] = replace(cells[place], p=p)
    return cells


@dataclass(frozen=True, kw_only=True, slots=True)
class _Join:
    """One column, ready to be joined with its rows."""

    column: Column
    base: _Row | None
    collected: Mapping[str, tuple[Samples | None, list[str]]]
    """Measurements of each row, and their faults."""
    unreadable: str

    def cell(self, row: _Row) -> Cell:
        """The cell of a row."""
        column, samples = self.column, self.samples(row)
        marks = marks_of(column, row.trials, () if self.base is None else self.base.trials)
        comparable = not NOT_COMPARABLE & set(marks)
        base = None if self.base is None or not comparable else self.samples(self.base)
        compared = compare(samples, base) if samples is not None and base is not None and row is not self.base else None
        measured = None if samples is None else samples.mean()
        made_by = [] if samples is None else [trial for trial in row.trials if trial.seeds in samples.values]
        return Cell(
            published=row.published.get(column.slot),
            dash=column.slot in row.published and row.published[column.slot] is None,
            measured=measured,
            unit="" if measured is None else column.measured_unit or row.trials[0].unit,
            interval=None if samples is None else interval_of(samples),
            n_seeds=len(made_by),
            n_queries=_queries(column, row.trials),
            delta=None if compared is None else compared.delta,
            delta_interval=None if compared is None else compared.interval,
            p=None,
            p_raw=None if compared is None else compared.p,
            ratio=None if base is None or not column.is_hours else _ratio(measured, base.mean()),
            published_ratio=self.published_ratio(row) if column.is_hours else None,
            dataset=_dataset(column),
            scale=made_by[0].scale if made_by else "",
            device=", ".join(sorted({trial.device for trial in made_by})),
            marks=marks,
            faults=self.faults(row, marks),
            runs=tuple(Run(run_id=t.run_id, experiment_id=t.experiment_id) for t in row.trials),
        )

    def samples(self, row: _Row) -> Samples | None:
        """Measurements of a row; None for hours in several units, which have no mean."""
        samples, _ = self.collected[row.name]
        units = {trial.unit for trial in row.trials if samples is not None and trial.seeds in samples.values}
        return None if self.column.is_hours and len(units) > 1 else samples

    def faults(self, row: _Row, marks: Collection[str]) -> tuple[str, ...]:
        """Faults of the row's cell."""
        if self.unreadable:
            return (self.unreadable,)
        _, faults = self.collected[row.name]
        if self.column.is_hours and any("several devices" in trial.marks for trial in row.trials):
            faults = [fault for fault in faults if metric_of(HOURS) not in fault]  # never added up: the mark says so
        if "other test set" in marks:
            faults = [*faults, "evaluated on another test set than the baseline row: no difference and no test"]
        return (*faults, *self.unpaired(row, marks))

    def unpaired(self, row: _Row, marks: Collection[str]) -> Iterator[str]:
        """Yield further reasons why it does not compare with the baseline row."""
        base = None if self.base is None or row is self.base else self.samples(self.base)
        samples = self.samples(row)
        if samples is None or base is None or "other test set" in marks:
            return
        if not samples.values.keys() & base.values.keys():
            yield "has no seed in common with the baseline row: no difference and no test"
        elif samples.scores and base.scores and not same_queries(samples, base):
            yield "ranked other queries than the baseline row under one digest: no test"

    def published_ratio(self, row: _Row) -> float | None:
        """Ratio to the baseline row in the paper."""
        base = {} if self.base is None else self.base.published
        return _ratio(row.published.get(self.column.slot), base.get(self.column.slot))


def _queries(column: Column, trials: Sequence[TrialRow]) -> int | None:
    """Number of queries, if it is the same in all runs."""
    found = {notes["n_queries"] for t in trials for task, notes in t.evaluations.items() if task == column.task}
    return found.pop() if len(found) == 1 and not column.is_hours else None


def _dataset(column: Column) -> str:
    """The real dataset, with the one whose place it takes."""
    measured, paper = column.measured_dataset, column.published_dataset
    return f"{measured}, in the place of {paper}" if measured and paper and measured != paper else measured or paper


def _ratio(value: float | None, base: float | None) -> float | None:
    return None if value is None or not base else value / base
