"""Tables as CSV: one file for people, and cells.csv for programs."""

import csv
import io
import re
from collections.abc import Iterable
from typing import Any

from reports.analysis.cells import Cell, Column, Table
from reports.render.text import measured_number, published_number
from reports.render.text_grid import grid_rows, header_texts

CELL_COLUMNS = (
    "table,row,column,dataset,unit,published,measured,ci_low,ci_high,ci_kind,n_seeds,n_queries,delta,p,scale,device,"
    "marks,runs,p_raw,delta_low,delta_high,delta_kind,ratio,difference,faults"
).split(",")
"""Columns of cells.csv; new ones are appended only."""
TEXTS = {"table", "row", "column", "dataset", "unit", "ci_kind", "scale", "device", "marks", "runs", "delta_kind"}
TEXTS |= {"faults"}
"""Columns of text, which a spreadsheet may take for a formula if it begins like one."""
_FORMULA = re.compile(r"[=+\-@\t\r\n](?=.)", re.DOTALL)


def as_text(text: str) -> str:
    """Escape a text for spreadsheets: with an apostrophe before what begins like a formula."""
    text = re.sub("\r\n?", "\n", text)  # the csv module leaves a carriage return without quotes, and it ends a line
    return f"'{text}" if _FORMULA.match(text) else text


def read_text(cell: str) -> str:
    """Return the text that `as_text` wrote."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell, 1) else cell


def to_csv(tables: Iterable[Table]) -> str:
    """Tables of one name below each other, a line for each row; numbers as in Markdown, without brackets."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for table in tables:
        writer.writerow(["scale", *map(as_text, header_texts(table))])
        for row in grid_rows(table):
            pairs = [
                (published_number(cell), measured_number(column, cell) or ("?" if cell.faults else ""))
                for column, cell in row.cells
            ]
            values = (value for pair in pairs for value in pair)
            writer.writerow([as_text(table.scale), *map(as_text, row.labels), *values])
    return text.getvalue()


def cells_csv(tables: Iterable[Table]) -> str:
    """A line for each cell of all tables, unrounded; empty if nothing was measured."""
    text = io.StringIO()
    writer = csv.DictWriter(text, CELL_COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(map(_safe, cell_records(tables)))
    return text.getvalue()


def cell_records(tables: Iterable[Table]) -> Iterable[dict[str, Any]]:
    """Fields of each cell, by the columns of cells.csv."""
    for table in tables:
        for row, cells in table.rows.items():
            for column, cell in zip(table.columns, cells, strict=True):
                yield {"table": table.name, "row": row, "column": column.slot} | _record(column, cell)


def _safe(record: dict[str, Any]) -> dict[str, Any]:
    return {name: as_text(value) if name in TEXTS and value else value for name, value in record.items()}


def _record(column: Column, cell: Cell) -> dict[str, Any]:
    interval, delta = cell.interval, cell.delta_interval
    return {
        "dataset": cell.dataset,
        "unit": _units(column, cell),
        "published": cell.published,
        "measured": cell.measured,
        "ci_low": None if interval is None else interval.low,
        "ci_high": None if interval is None else interval.high,
        "ci_kind": None if interval is None else interval.kind,
        "n_seeds": cell.n_seeds or None,
        "n_queries": cell.n_queries,
        "delta": cell.delta,
        "p": cell.p,
        "scale": cell.scale,
        "device": cell.device,
        "marks": "; ".join(cell.marks),
        "runs": " ".join(run.run_id for run in cell.runs),
        "p_raw": cell.p_raw,
        "delta_low": None if delta is None else delta.low,
        "delta_high": None if delta is None else delta.high,
        "delta_kind": None if delta is None else delta.kind,
        "ratio": cell.ratio,
        "difference": cell.difference,
        "faults": "; ".join(cell.faults),
    }


def _units(column: Column, cell: Cell) -> str:
    """The unit; of hours, both devices' where they differ."""
    units = {what: unit for what, unit in (("published", column.published_unit), ("measured", cell.unit)) if unit}
    if len(set(units.values())) <= 1:
        return next(iter(units.values()), "")
    return ", ".join(f"{unit} ({what})" for what, unit in units.items())
