"""Tables on the terminal."""

from collections.abc import Mapping

from experiments.console import Console
from reports.analysis.cells import Cell, Column, Table
from reports.paper.tables import sweep_files
from reports.render.footnotes import BRACKETS, notes
from reports.render.text import (
    delta_text,
    heading,
    letters,
    measured_number,
    one_line,
    published_text,
    ratio_text,
    significant,
)
from reports.render.text_grid import grid_rows

PLUS_MINUS = "After ±, half of the"


def to_terminal(table: Table, console: Console, files: Mapping[str, str] | None = None) -> None:
    """Print a table with its notes; `files`: by table, the sweep file that measures it (default: all sweep files).

    Rows that quote other work are left out.
    """
    columns = [table.row_label, *(f"{c.header}\n{what}" for c in table.columns for what in ("paper", "here"))]
    rows, marks = [], letters(table)
    for row in grid_rows(table):
        if row.labels[0] in table.cited:
            continue
        found = [one_line(row.labels[0])]
        for column, cell in row.cells:
            found += [published_text(column, cell).replace(" ", "\n"), _narrow(column, cell, marks)]
        rows.append(found)
    console.print_table(one_line(heading(table)), columns, rows)
    for note in notes(table, sweep_files() if files is None else files):
        console.print_wrapped(f"- {note.replace(BRACKETS, PLUS_MINUS)}")


def _narrow(column: Column, cell: Cell, marks: Mapping[str, str]) -> str:
    """Value and half its interval, comparison and marks, below each other."""
    value = measured_number(column, cell) or ("?" if cell.faults else "")
    if cell.interval is not None:
        half = (cell.interval.high - cell.interval.low) / 2
        value += f"±{significant(half) if column.is_hours else f'{half:.1f}'}"
    unit = cell.unit if value and column.is_hours and not column.measured_unit else ""
    compared = ratio_text(cell) if column.is_hours else delta_text(cell).replace(" ", "").replace(",", "\n")
    found = "".join(f"({marks[what]})" for what in (*cell.marks, *cell.faults))
    return "\n".join(part for part in (value, unit, compared, found) if part)
