"""Details of a cell when it is opened: its value, interval, comparisons and runs."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from reports.analysis.cells import Cell, Column, Interval, Table
from reports.analysis.samples import has_ranks
from reports.render.footnotes import INTERVALS, MARKS
from reports.render.markdown import run_link
from reports.render.text import (
    interval_text,
    measured_number,
    p_text,
    published_number,
    ratio_text,
    significant,
)

MOST_LINKS = 20
"""Maximum number of links to runs for one cell: hundreds of seeds in each cell would make a page of many megabytes."""

ALIKE = "{}, so resampling them gives no interval"
"""Reason for which a bootstrap over queries has no interval."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Fact:
    """One fact about a cell."""

    name: str
    text: str
    note: str = ""
    """Explanation of the value."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Link:
    """A link to a run in MLflow."""

    text: str
    address: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Lettered:
    """A mark or a fault, and the letter that stands for it in the table."""

    letter: str
    what: str
    note: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Card:
    """All facts about a cell."""

    row: str
    header: str
    scale: str
    measured: Fact
    published: Fact | None
    facts: tuple[Fact, ...]
    marks: tuple[Lettered, ...]
    faults: tuple[Lettered, ...]
    links: tuple[Link, ...]
    num_more: int
    """Number of further runs without a link."""


def card_of(table: Table, row: str, column: Column, letters: Mapping[str, str], ui: str) -> Card | None:
    """Collect the details of a cell; None if nothing was measured and there is no fault.

    Args:
        table: that holds the cell.
        row: its row.
        column: its column.
        letters: of the table's marks and faults.
        ui: address of MLflow's pages.
    """
    cell = table.cell(row, column.slot)
    if cell.measured is None and not (cell.faults or cell.marks or cell.runs):
        return None
    shown = cell.runs[:MOST_LINKS]
    seeds = {trial.run_id: trial.seed for trial in table.trials}
    return Card(
        row=row,
        header=column.header,
        scale=table.scale,
        measured=_measured(column, cell),
        published=_published(table, column, cell),
        facts=tuple(_facts(table, column, cell)),
        marks=tuple(Lettered(letter=letters[what], what=what, note=MARKS.get(what, "")) for what in cell.marks),
        faults=tuple(Lettered(letter=letters[what], what=what) for what in cell.faults),
        links=tuple(
            Link(text=f"seed {seeds[run.run_id]}, run {run.run_id[:8]}", address=run_link(ui, run)) for run in shown
        ),
        num_more=len(cell.runs) - len(shown),
    )


def _facts(table: Table, column: Column, cell: Cell) -> Iterable[Fact]:
    if cell.interval is not None:
        yield _interval("95 % interval", interval_text(column, cell.interval), cell.interval)
    elif cell.measured is not None and has_ranks(column.slot) and not cell.faults:
        yield Fact(name="95 % interval", text="none", note=ALIKE.format("all queries score alike"))
    yield from _compared(table, column, cell)
    if cell.difference is not None:
        paper, here = column.published_dataset, column.measured_dataset
        note = f"the data are not {paper}, so it is of little meaning" if paper and paper != here else ""
        yield Fact(name="Measured minus published", text=f"{signed(column, cell.difference)} points", note=note)
    if cell.n_seeds:
        yield Fact(name="Seeds", text=str(cell.n_seeds), note="the mean over them is shown" if cell.n_seeds > 1 else "")
    if cell.dataset:
        queries = "" if cell.n_queries is None else f"{cell.n_queries} queries"
        yield Fact(name="Dataset", text=cell.dataset, note=queries)
    if cell.device:
        yield Fact(name="Device", text=cell.device)
    if table.scale:
        yield Fact(name="Scale", text=table.scale)


def _measured(column: Column, cell: Cell) -> Fact:
    text = _with_unit(measured_number(column, cell), cell.unit)
    if not text:
        return Fact(name="Measured", text="?" if cell.faults else "nothing yet")
    note = "useful hours of pre-training" if column.is_hours else f"on {column.measured_dataset}"
    return Fact(name="Measured", text=text, note=note)


def _compared(table: Table, column: Column, cell: Cell) -> Iterable[Fact]:
    base = f"the row {table.baseline}"
    if cell.ratio is not None:
        yield Fact(name="Ratio", text=ratio_text(cell), note=f"to {base}")
    if cell.delta is not None:
        unit = cell.unit if column.is_hours else "points" if cell.unit == "%" else cell.unit
        yield Fact(name="Difference", text=_with_unit(signed(column, cell.delta), unit), note=f"to {base}")
    if cell.delta_interval is not None:
        ends = ", ".join(signed(column, end) for end in (cell.delta_interval.low, cell.delta_interval.high))
        yield _interval("95 % interval of the difference", f"[{ends}]", cell.delta_interval)
    elif cell.p_raw is not None:
        why = "all queries differ alike" if cell.delta else f"no query scores otherwise than in {base}"
        yield Fact(name="95 % interval of the difference", text="none", note=ALIKE.format(why))
    if cell.p is not None and cell.p_raw is not None:
        yield Fact(name="p, corrected", text=p_text(cell.p), note="Holm's correction over the column")
        yield Fact(name="p, uncorrected", text=p_text(cell.p_raw), note=f"of the difference to {base}, over queries")


def _published(table: Table, column: Column, cell: Cell) -> Fact | None:
    if cell.published is None:
        return None
    where = [f"on {column.published_dataset}"] if column.published_dataset else []
    if cell.published_ratio is not None:
        where.append(f"{cell.published_ratio:.2f}x the row {table.baseline}")
    text = _with_unit(published_number(cell), column.published_unit)
    return Fact(name="Published", text=text, note="; ".join(where))


def signed(column: Column, value: float) -> str:
    """A difference, rounded like the column's values."""
    if not column.is_hours:
        return f"{value:+.1f}"
    return f"{'-' if value < 0 else '+'}{significant(abs(value))}"


def _interval(name: str, text: str, interval: Interval) -> Fact:
    return Fact(name=name, text=text, note=INTERVALS[interval.kind])


def _with_unit(number: str, unit: str) -> str:
    return f"{number} {unit}".strip() if number else ""
