"""A table as a page shows it: rows of cells as text, each with the number that it sorts by."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from reports.analysis.cells import Cell, Column, Table
from reports.html.cell_details import Card, card_of
from reports.render.footnotes import notes
from reports.render.text import (
    delta_text,
    headers,
    heading,
    interval_text,
    letters,
    measured_number,
    published_number,
    published_text,
    ratio_text,
    text_headers,
)
from reports.render.text_grid import grid_rows

MOST_COLUMNS = 12
"""Columns that fit beside each other on an A4 page, in type of the usual size."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Head:
    """A column's headers, without the part that both halves share."""

    header: str
    published: str
    """Dataset or unit in brackets, behind `published`."""
    measured: str
    lower_is_better: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One cell: together its texts are what every other format of the table prints."""

    key: str
    """Stable id, unique on the page."""
    published: str
    published_ratio: str
    published_value: float | None
    number: str
    unit: str
    interval: str
    compared: str
    letters: tuple[str, ...]
    measured_value: float | None
    card: Card | None


@dataclass(frozen=True, kw_only=True, slots=True)
class TableLine:
    """A row, or the heading above rows."""

    name: str
    texts: tuple[str, ...]
    entries: tuple[Entry, ...]
    """Name of the row; empty for a heading."""
    is_baseline: bool = False
    is_cited: bool = False

    @property
    def is_heading(self) -> bool:
        """True if it is a heading above rows."""
        return not self.entries


@dataclass(frozen=True, kw_only=True, slots=True)
class Grid:
    """A table, ready to be shown."""

    key: str
    heading: str
    short: str
    """Title for a table of contents."""
    row_label: str
    text_headers: tuple[str, ...]
    heads: tuple[Head, ...]
    lines: tuple[TableLine, ...]
    num_cited: int
    has_measured: bool
    faults: tuple[str, ...]
    notes: tuple[str, ...]
    """Notes, with backticks around commands."""

    @property
    def width(self) -> int:
        """Number of columns."""
        return 1 + len(self.text_headers) + len(self.heads) * (2 if self.has_measured else 1)

    @property
    def is_wide(self) -> bool:
        """True if it fits on paper in smaller type only."""
        return self.width > MOST_COLUMNS


def grids_of(tables: Iterable[Table], files: Mapping[str, str], ui: str) -> list[Grid]:
    """Tables as a page shows them.

    Args:
        tables: all of the page, since each has a key of its own.
        files: by table, the sweep file that measures it.
        ui: address of MLflow's pages.
    """
    found: list[Grid] = []
    for table in tables:
        key = slug(f"table-{table.name}-{table.scale}")
        taken = {grid.key for grid in found}
        while key in taken:
            key += "-again"
        found.append(_grid(table, key, files, ui))
    return found


def slug(text: str) -> str:
    """An id of HTML that looks like the text."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def _grid(table: Table, key: str, files: Mapping[str, str], ui: str) -> Grid:
    lines = tuple(_lines(table, key, ui))
    entries = [entry for line in lines for entry in line.entries]
    scale = f" ({table.scale})" if table.scale else ""
    return Grid(
        key=key,
        heading=heading(table),
        short=f"Table {table.name}{scale}" if table.source else f"{table.name}{scale}",
        row_label=table.row_label,
        text_headers=tuple(text_headers(table)),
        heads=tuple(_head(column) for column in table.columns),
        lines=lines,
        num_cited=sum(line.is_cited for line in lines),
        has_measured=any(entry.card is not None for entry in entries),
        faults=tuple(map(str, table.faults())),
        notes=tuple(notes(table, files)),
    )


def _head(column: Column) -> Head:
    published, measured = headers(column)
    return Head(
        header=column.header,
        published=published.removeprefix(f"{column.header} published").strip(),
        measured=measured.removeprefix(f"{column.header} measured").strip(),
        lower_is_better=column.lower_is_better,
    )


def _lines(table: Table, key: str, ui: str) -> Iterable[TableLine]:
    above = {row: group for group, rows in table.groups.items() for row in rows}
    marks, last = letters(table), None
    for number, line in enumerate(grid_rows(table), start=1):
        row, *texts = line.labels
        group = above.get(row)
        if group is not None and group != last:
            yield TableLine(name=group, texts=(), entries=())
        last = group
        entries = [
            _entry(f"{key}-{number}-{place}", column, cell, marks, card_of(table, row, column, marks, ui))
            for place, (column, cell) in enumerate(line.cells, start=1)
        ]
        yield TableLine(
            name=row,
            texts=tuple(texts),
            entries=tuple(entries),
            is_baseline=row == table.baseline,
            is_cited=row in table.cited,
        )


def _entry(key: str, column: Column, cell: Cell, marks: Mapping[str, str], card: Card | None) -> Entry:
    printed, number = published_number(cell), measured_number(column, cell)
    compared = ratio_text(cell) if column.is_hours else delta_text(cell)
    return Entry(
        key=key,
        published=printed or published_text(column, cell),
        published_ratio=published_text(column, cell).removeprefix(printed).strip() if printed else "",
        published_value=cell.published,
        number=number or ("?" if cell.faults else ""),
        unit=cell.unit if number and column.is_hours and not column.measured_unit else "",
        interval=interval_text(column, cell.interval) if number else "",
        compared=f"({compared})" if number and compared else "",
        letters=tuple(marks[what] for what in (*cell.marks, *cell.faults)),
        measured_value=cell.measured,
        card=card,
    )
