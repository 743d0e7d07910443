"""Tables on the terminal."""

from collections.abc import Mapping

from rich import box
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from reports.cells import Cell, Column, Table
from reports.notes import BRACKETS, notes
from reports.published import sweep_files
from reports.wording import (
    delta_text,
    heading,
    letters,
    measured_number,
    published_text,
    ratio_text,
    significant,
)

PLUS_MINUS = "After ±, half of the"


def to_terminal(table: Table, console: Console, files: Mapping[str, str] | None = None) -> None:
    """Print a table with its notes; `files`: by table, the sweep file that measures it (default: those there are).

    Rows that quote other people's work are left out.
    """
    grid = RichTable(title=heading(table), box=box.SIMPLE_HEAD, title_justify="left", padding=(0, 0, 0, 1))
    grid.add_column(table.row_label, overflow="fold")
    for column in table.columns:
        for what in ("paper", "here"):
            grid.add_column(f"{column.header}\n{what}", justify="right", overflow="fold")
    marks = letters(table)
    for row, cells in table.rows.items():
        if row in table.cited:
            continue
        found = [row]
        for column, cell in zip(table.columns, cells, strict=True):
            found += [published_text(column, cell).replace(" ", "\n"), _narrow(column, cell, marks)]
        grid.add_row(*map(Text, found))
    console.print(grid, highlight=False)
    for note in notes(table, sweep_files() if files is None else files):
        console.print(f"- {note.replace(BRACKETS, PLUS_MINUS)}", markup=False, highlight=False)


def _narrow(column: Column, cell: Cell, marks: Mapping[str, str]) -> str:
    """Value and half its interval, how it compares, and marks, below each other."""
    value = measured_number(column, cell) or ("?" if cell.faults else "")
    if cell.interval is not None:
        half = (cell.interval.high - cell.interval.low) / 2
        value += f"±{significant(half) if column.is_hours else f'{half:.1f}'}"
    unit = cell.unit if value and column.is_hours and not column.measured_unit else ""
    compared = ratio_text(cell) if column.is_hours else delta_text(cell).replace(" ", "").replace(",", "\n")
    found = "".join(f"({marks[what]})" for what in (*cell.marks, *cell.faults))
    return "\n".join(part for part in (value, unit, compared, found) if part)
