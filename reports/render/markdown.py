"""A table as Markdown, with notes and links to its runs."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

from experiments.tracking.database import database_file
from experiments.tracking.reader import TrialRow
from reports.analysis.cells import Cell, Run, Table
from reports.render.footnotes import notes
from reports.render.text import heading, letters, measured_text, one_line, published_text, text_headers
from reports.render.text_grid import grid_rows, header_texts

LOCAL_UI = "http://127.0.0.1:5000"
"""Address at which `smaug ui` serves MLflow's pages."""


def to_markdown(table: Table, files: Mapping[str, str], ui: str, serve: str = "smaug ui") -> str:
    """A table as Markdown.

    Args:
        table: to be shown.
        files: by table, the sweep file that measures it.
        ui: address of MLflow's pages.
        serve: the command that serves them, if the ledger is no server.
    """
    table = _escaped(table)
    grid = _grid(table)
    lines = [f"## {one_line(heading(table))}", "", *(_row(texts) for texts in grid)]
    labels = 1 + len(text_headers(table))
    lines.insert(3, _row([*["---"] * labels, *["---:"] * (len(grid[0]) - labels)]))
    below = [*notes(table, files), *_runs(table, ui, serve)]
    return "\n".join([*lines, "", *(f"- {one_line(note)}" for note in below), ""])


def pages_of(tracking_uri: str) -> str:
    """Address of MLflow's pages for a ledger, without any password in it."""
    where = urlsplit(tracking_uri)
    if where.scheme not in ("http", "https"):
        return LOCAL_UI
    port = "" if where.port is None else f":{where.port}"
    return f"{where.scheme}://{where.hostname}{port}{where.path.rstrip('/')}"


def place_of(tracking_uri: str) -> str:
    """Name of a ledger, safe to publish: without user, password, options and folders of a machine."""
    if (file := database_file(tracking_uri)) is not None:
        return f"the SQLite file {file.name} of the home folder"
    where = urlsplit(tracking_uri)
    port = "" if where.port is None else f":{where.port}"
    return f"{where.scheme}://{where.hostname or ''}{port}{where.path}"


def run_link(ui: str, run: Run) -> str:
    """Address of a run's page."""
    return f"{ui}/#/experiments/{run.experiment_id}/runs/{run.run_id}"


def _grid(table: Table) -> list[list[str]]:
    """Header and rows, as text."""
    marks, rows = letters(table), [header_texts(table)]
    for row in grid_rows(table):
        pairs = [(published_text(column, cell), measured_text(column, cell, marks)) for column, cell in row.cells]
        rows.append([*row.labels, *(text for pair in pairs for text in pair)])
    return rows


def _runs(table: Table, ui: str, serve: str) -> Iterable[str]:
    if ui == LOCAL_UI and any(cell.runs for cells in table.rows.values() for cell in cells):
        yield f"The pages of the runs are available while `{serve}` runs."
    for row, cells in table.rows.items():
        if runs := dict.fromkeys(run for cell in cells for run in cell.runs):
            links = ", ".join(f"[{run.run_id[:8]}]({run_link(ui, run)})" for run in runs)
            yield f"Runs of {row}: {links}."


def _row(texts: Iterable[str]) -> str:
    return f"| {' | '.join(map(one_line, texts))} |"


def escape(text: str) -> str:
    """Escape text from outside, in one line that Markdown shows unchanged."""
    text = re.sub(r"[\\`|<>\[\]*]|(?<!\w)_|_(?!\w)", r"\\\g<0>", one_line(text))
    return f"\\{text}" if text.startswith("#") else text


def _escaped(table: Table) -> Table:
    """Escape a table's names, marks and faults for Markdown; texts of the paper's files stay."""

    def all_of(texts: Iterable[str]) -> tuple[str, ...]:
        return tuple(map(escape, texts))

    def cell(of: Cell) -> Cell:
        names: dict[str, Any] = {name: escape(getattr(of, name)) for name in ("unit", "dataset", "scale", "device")}
        return replace(of, marks=all_of(of.marks), faults=all_of(of.faults), **names)

    def trial(of: TrialRow) -> TrialRow:
        evaluations = {
            task: {name: escape(value) if isinstance(value, str) else value for name, value in found.items()}
            for task, found in of.evaluations.items()
        }
        return replace(of, variant=escape(of.variant), evaluations=evaluations)

    columns = [
        replace(c, **{name: escape(getattr(c, name)) for name in ("header", "measured_unit", "measured_dataset")})
        for c in table.columns
    ]
    return replace(
        table,
        title=escape(table.title),
        row_label=escape(table.row_label),
        baseline=None if table.baseline is None else escape(table.baseline),
        scale=escape(table.scale),
        columns=tuple(columns),
        rows={escape(row): tuple(map(cell, cells)) for row, cells in table.rows.items()},
        texts={escape(row): texts for row, texts in table.texts.items()},
        cited=frozenset(all_of(table.cited)),
        trials=tuple(map(trial, table.trials)),
    )
