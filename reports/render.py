"""Tables as Markdown, CSV and on the terminal, and `make_tables`, which writes them all."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from math import floor, log10
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table as RichTable

from experiments.reading import read_trials
from reports.notes import letters, notes
from reports.published import ReportError, load_published, sweep_files
from reports.tables import Cell, Column, Table, build_tables

CELL_COLUMNS = (
    "table,row,column,dataset,unit,published,measured,ci_low,ci_high,ci_kind,n_seeds,n_queries,delta,p,scale,device,"
    "marks,runs"
).split(",")
"""Of cells.csv; only ever appended to."""


def make_tables(home: Path, out: Path, tables: Sequence[str] | None = None) -> list[Path]:
    """Write `table_N.md` and `table_N.csv` of the named tables (default: all), and cells.csv of all; give the paths.

    Raises:
        ReportError: no such table, or a column that no trial has.
        TrackingError: MLflow cannot be reached, or contradicts itself.
    """
    built = read_tables(home)
    names = list(dict.fromkeys(table.name for table in built))
    for name in tables or ():
        if name not in names:
            raise ReportError(f"table {name!r} is unknown; there are {', '.join(names)}")
    files = sweep_files()
    paths = []
    for name in names if tables is None else tables:
        same = [table for table in built if table.name == name]
        paths.append(_write(out / f"table_{name}.md", "\n".join(to_markdown(table, files) for table in same)))
        paths.append(_write(out / f"table_{name}.csv", to_csv(same)))
    return [*paths, _write(out / "cells.csv", cells_csv(built))]


def read_tables(home: Path) -> list[Table]:
    """Every table, from the ledger of a home folder; published numbers alone where nothing is recorded.

    Raises:
        ReportError: a column that no trial has.
        TrackingError: MLflow cannot be reached, or contradicts itself.
    """
    return build_tables(load_published(), read_trials(home))


def to_markdown(table: Table, files: Mapping[str, str]) -> str:
    """A table as Markdown, with its notes."""
    lines = [f"## {heading(table)}", "", *(_markdown_row(row) for row in _grid(table))]
    lines.insert(3, _markdown_row(["---", *["---:"] * (len(_header(table)) - 1)]))
    return "\n".join([*lines, "", *(f"- {note}" for note in notes(table, files)), ""])


def to_csv(tables: Iterable[Table]) -> str:
    """Tables of one name below each other, a line for each row; numbers as in Markdown, without brackets."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for table in tables:
        writer.writerow(["scale", *_header(table)])
        for row, cells in table.rows.items():
            pairs = [_plain(column, cell) for column, cell in zip(table.columns, cells, strict=True)]
            writer.writerow([table.scale, row, *(value for pair in pairs for value in pair)])
    return text.getvalue()


def cells_csv(tables: Iterable[Table]) -> str:
    """A line for each cell of all tables, unrounded; intervals and p are empty until they are computed."""
    text = io.StringIO()
    writer = csv.DictWriter(text, CELL_COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    for table in tables:
        for row, cells in table.rows.items():
            for column, cell in zip(table.columns, cells, strict=True):
                writer.writerow(
                    {
                        "table": table.name,
                        "row": row,
                        "column": column.slot,
                        "dataset": cell.dataset,
                        "unit": _units(column, cell),
                        "published": cell.published,
                        "measured": cell.measured,
                        "n_seeds": cell.n_seeds or None,
                        "n_queries": cell.n_queries,
                        "delta": cell.delta,
                        "scale": cell.scale,
                        "device": cell.device,
                        "marks": "; ".join(cell.marks),
                        "runs": " ".join(cell.runs),
                    }
                )
    return text.getvalue()


def to_terminal(table: Table, console: Console, files: Mapping[str, str] | None = None) -> None:
    """Print a table with its notes; `files`: by table, the sweep file that measures it (default: those there are)."""
    grid = RichTable(title=heading(table), box=box.SIMPLE_HEAD, title_justify="left", padding=(0, 0, 0, 1))
    grid.add_column(table.row_label, overflow="fold")
    for column in table.columns:
        for what in ("paper", "here"):
            grid.add_column(f"{column.header}\n{what}", justify="right", overflow="fold")
    for row in _grid(table)[1:]:
        grid.add_row(*(text.replace(" (", "\n(") if place else text for place, text in enumerate(row)))
    console.print(grid, highlight=False)
    for note in notes(table, sweep_files() if files is None else files):
        console.print(f"- {note}", markup=False, highlight=False)


def heading(table: Table) -> str:
    """A table's name and title, and the scale it was measured at."""
    name = f"Table {table.name}. " if table.source else ""
    scale = f" (scale {table.scale})" if table.scale else ""
    return f"{name}{table.title}{scale}"


def _grid(table: Table) -> list[list[str]]:
    """Header and rows, as text."""
    marks = letters(table)
    rows = [
        [row, *(text for c, cell in zip(table.columns, cells, strict=True) for text in _texts(c, cell, marks))]
        for row, cells in table.rows.items()
    ]
    return [_header(table), *rows]


def _header(table: Table) -> list[str]:
    names = [table.row_label]
    for column in table.columns:
        published = column.published_unit if column.is_hours else column.published_dataset
        measured = column.measured_unit if column.is_hours else column.measured_dataset
        for what, of in (("published", published), ("measured", measured)):
            names.append(f"{column.header} {what}" + (f" ({of})" if of else ""))
    return names


def _texts(column: Column, cell: Cell, marks: Mapping[str, str]) -> tuple[str, str]:
    published, measured = _plain(column, cell)
    if cell.published_ratio is not None:
        published += f" ({cell.published_ratio:.2f}x)"
    if measured and column.is_hours:
        measured += "" if column.measured_unit else f" {cell.unit}"
        measured += "" if cell.ratio is None else f" ({cell.ratio:.2f}x)"
    elif measured and cell.delta is not None:
        measured += f" ({cell.delta:+.1f})"
    found = "".join(f" ({marks[mark]})" for mark in cell.marks)
    return published, measured + found


def _plain(column: Column, cell: Cell) -> tuple[str, str]:
    """Both values as decimals, or nothing."""
    published = "" if cell.published is None else f"{cell.published:.1f}"
    if cell.measured is None:
        return published, ""
    return published, significant(cell.measured) if column.is_hours else f"{cell.measured:.1f}"


def significant(value: float, digits: int = 3) -> str:
    """A positive number with three significant digits, never with an exponent."""
    if value <= 0:
        return "0"
    return f"{value:.{max(0, digits - 1 - floor(log10(value)))}f}"


def _units(column: Column, cell: Cell) -> str:
    """The unit; of hours, both devices' where they differ."""
    units = {what: unit for what, unit in (("published", column.published_unit), ("measured", cell.unit)) if unit}
    if len(set(units.values())) <= 1:
        return next(iter(units.values()), "")
    return ", ".join(f"{unit} ({what})" for what, unit in units.items())


def _markdown_row(texts: Iterable[str]) -> str:
    return f"| {' | '.join(text.replace('|', chr(92) + '|') for text in texts)} |"


def _write(path: Path, text: str) -> Path:
    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(text)
        partial.rename(path)
    except OSError as error:
        raise ReportError(f"{path}: cannot be written ({error.strerror}); choose another folder") from error
    return path
