"""All cells as JSON, for programs: what cells.csv says, with intervals and runs in full."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from reports.analysis.cells import Cell, CellFault, Column, Table
from reports.render.markdown import run_link

FORMAT = "smaug report 1"


def export(tables: Sequence[Table], faults: Sequence[CellFault], *, ui: str, origin: str) -> dict[str, Any]:
    """Every table with its columns, rows, cells, notes on faults, and links to the runs.

    Args:
        tables: with measured cells.
        faults: of the whole report.
        ui: address of the MLflow pages that links go to.
        origin: where the measurements come from.
    """
    return {
        "format": FORMAT,
        "measurements": origin,
        "tables": [_table(table, ui) for table in tables],
        "faults": [asdict(fault) for fault in faults],
    }


def _table(table: Table, ui: str) -> dict[str, Any]:
    return {
        "table": table.name,
        "title": table.title,
        "scale": table.scale,
        "baseline": table.baseline,
        "source": table.source,
        "cannot_tell": list(table.cannot_tell),
        "columns": [asdict(column) for column in table.columns],
        "rows": [
            {
                "row": row,
                "cited": row in table.cited,
                "texts": dict(table.texts.get(row, {})),
                "cells": [_cell(column, cell, ui) for column, cell in zip(table.columns, cells, strict=True)],
            }
            for row, cells in table.rows.items()
        ],
    }


def _cell(column: Column, cell: Cell, ui: str) -> dict[str, Any]:
    runs = [{"run_id": run.run_id, "page": run_link(ui, run)} for run in cell.runs]
    return {"column": column.slot} | asdict(cell) | {"difference": cell.difference, "runs": runs}
