"""Measurements of two rows of a table, for the claims that compare them."""

from collections.abc import Callable, Iterable, Iterator, Sequence

from experiments.tracking.reader import TrialRow
from reports.analysis.cells import Cell, Column, Table
from reports.analysis.difference import compare
from reports.analysis.marks import unlike_hours
from reports.analysis.samples import Samples
from reports.paper.claims import Check, Comparison

SPOILS = {
    "unfinished": "a stage of it is not done",
    "partial schedule": "it was trained for fewer epochs than the scale says",
    "several devices": "it was measured on different devices",
    "stale code accepted": "it holds results of other code than there was when it was asked for",
}
"""Marks that exclude a row as evidence, with their texts."""
UNLIKE = {
    "other device": "the two rows were measured on different devices",
    "waited for data": "a training of one of the two rows waited for data for more than 10 % of its hours",
    "other steps": "one of the two rows recomputed activations to save memory",
}
"""Marks for which hours do not compare."""


def measured_scales(tables: Iterable[Table]) -> list[str]:
    """The scales at which anything was measured, in order."""
    return sorted({table.scale for table in tables} - {""})


def comparer(tables: Sequence[Table]) -> Callable[[Check, str], Comparison | None]:
    """Collect the evidence of two rows at a scale; None if no run has both."""

    def compared(check: Check, scale: str) -> Comparison | None:
        for table in tables:
            if table.unreadable and table.name == check.table:
                return Comparison(pairs=(), interval=None, problems=(table.unreadable,), unit="", device="")
            rows = {trial.variant for trial in table.trials}
            if (table.name, table.scale) == (check.table, scale) and {check.row, check.against} <= rows:
                return _comparison(table, check)
        return None

    return compared


def _comparison(table: Table, check: Check) -> Comparison:
    column = next(column for column in table.columns if column.slot == check.column)
    cells = [table.cell(row, check.column) for row in (check.row, check.against)]
    samples = [table.samples.get((row, check.column)) for row in (check.row, check.against)]
    first, second = samples
    problems = tuple(dict.fromkeys(_problems(table, check, column, cells, samples)))
    devices = dict.fromkeys(cell.device for cell in cells if cell.device)
    unit = next((cell.unit for cell in cells if cell.unit), "")
    if first is None or second is None:
        return Comparison(pairs=(), interval=None, problems=problems, unit=unit, device=", ".join(devices))
    difference = compare(first, second)
    interval = None if difference is None else difference.interval
    return Comparison(
        pairs=_pairs(first, second),
        interval=(interval.low, interval.high) if interval is not None and interval.kind == "queries" else None,
        problems=problems,
        unit=unit,
        device=", ".join(devices),
    )


def _pairs(row: Samples, against: Samples) -> tuple[tuple[float, float], ...]:
    """Pair values by full seed, over the seeds that both rows have."""
    both = [seeds for seeds in row.values if seeds in against.values]
    here, there = row.only(both).means(), against.only(both).means()
    return tuple((here[seed], there[seed]) for seed in here)


def _problems(
    table: Table, check: Check, column: Column, cells: Sequence[Cell], samples: Sequence[Samples | None]
) -> Iterator[str]:
    names = (check.row, check.against)
    for name, cell in zip(names, cells, strict=True):
        yield from (f"row {name}: {fault}" for fault in cell.faults)
        yield from (f"row {name}: {SPOILS[mark]}" for mark in cell.marks if mark in SPOILS)
    row, against = (_trials(table, name) for name in names)
    if row and against and {trial.code for trial in row} != {trial.code for trial in against}:
        yield "the two rows were made by different code"
    if column.is_hours and (unlike := unlike_hours(row, against)):
        yield UNLIKE[unlike]
    if len({found.digest for found in samples if found is not None}) > 1:
        yield "the two rows were evaluated on different test sets"


def _trials(table: Table, row: str) -> list[TrialRow]:
    return [trial for trial in table.trials if trial.variant == row and trial.status == "FINISHED"]
