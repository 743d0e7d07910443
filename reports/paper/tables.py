"""Published tables of the paper, read strictly from the files in `reports/paper/`."""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TypeVar

from pydantic import FiniteFloat
from ruamel.yaml import YAML

from experiments.config.yaml_source import Document, Fault, Form, SweepError, form_faults, nearest, read_document
from smaug_core.errors import SmaugError

PAPER = Path(__file__).resolve().parent
HOURS = "pretrain.hours"
"""Slot of the column PT Time."""
BY_ROW = ("row_texts", "same_runs")
"""Sections with a key for each row."""
SWEEPS = Path(__file__).resolve().parents[2] / "sweeps"

F = TypeVar("F", bound=Form)
Texts = dict[str, str | None]
"""Texts as they are printed, by column; None if the paper prints a dash."""


class ReportError(SmaugError):
    """A table cannot be made from what is recorded."""


class PublishedColumn(Form):
    """Header and unit of a column of numbers."""

    header: str
    unit: str


class SameRuns(Form):
    """Rows that the paper prints a second time, from the runs of another table."""

    table: str
    rows: dict[str, str]
    """Rows of the other table, by the row here."""


class PublishedTable(Form):
    """One table of results."""

    table: str
    title: str
    source: str
    row: str
    """Header of the rows' names."""
    columns: dict[str, PublishedColumn]
    """Columns by slot, in the paper's order."""
    rows: dict[str, dict[str, FiniteFloat | None]]
    """Rows by name, in the paper's order: value by slot; None if the paper prints a dash."""
    default: str | None = None
    """The row of the paper's default settings, where the table has one."""
    datasets: dict[str, str] = {}
    """The dataset that each task's columns are on."""
    texts: dict[str, str] = {}
    """Headers of the columns that hold text, e.g. `PT Datasets`, by key."""
    row_texts: dict[str, Texts] = {}
    """Texts of each row under the keys of `texts`. Empty without `texts`."""
    groups: dict[str, tuple[str, ...]] = {}
    """Headings between the rows, with the rows below each; all rows, in order, or none."""
    cited: tuple[str, ...] = ()
    """Rows that quote other work; no sweep trains them."""
    cannot_tell: tuple[str, ...] = ()
    """Facts that the paper shows by colour alone, which its text lacks."""
    same_runs: SameRuns | None = None
    """Rows that are printed again in another table, whose sweep measures them."""

    def printed(self, slot: str) -> dict[str, float]:
        """The values that a column has, by row."""
        values = {name: row.get(slot) for name, row in self.rows.items()}
        return {name: value for name, value in values.items() if value is not None}


class PublishedSettings(Form):
    """One table of settings, as they are printed."""

    table: str
    title: str
    source: str
    row: str
    """Header of the settings' names."""
    columns: dict[str, str]
    """Headers by key, in the paper's order."""
    rows: dict[str, str | Texts]
    """Settings by name: the text in each column, or a single one that holds for every column."""
    cannot_tell: tuple[str, ...] = ()

    def texts(self, row: str) -> Texts:
        """The text of a setting in each column."""
        values = self.rows[row]
        return dict.fromkeys(self.columns, values) if isinstance(values, str) else values


def load_published(folder: Path = PAPER) -> dict[str, PublishedTable]:
    """Load every table of results, by its number, in order.

    Raises:
        ReportError: every fault of a file: an unknown key or one that occurs twice, a row that lacks a column or has
            another one, a row that is named but is none.
    """
    found = {}
    for path in folder.glob("table_*.yaml"):
        table, document = read_form(path, PublishedTable)
        refuse([*_name_faults(document, path, "table", table.table), *_row_faults(table, document)])
        found[table.table] = table
    for table in found.values():
        if same := table.same_runs:
            where = f"table_{table.table}.yaml: same_runs"
            for row in same.rows.values():
                require_row(f"{where}.rows", row, table_of(where, same.table, found))
    return _by_number(found)


def load_settings(folder: Path = PAPER) -> dict[str, PublishedSettings]:
    """Load every table of settings, by its number, in order; raise as `load_published` does."""
    found = {}
    for path in folder.glob("settings_*.yaml"):
        table, document = read_form(path, PublishedSettings)
        rows = {row: table.texts(row) for row in table.rows}
        named = _name_faults(document, path, "settings", table.table)
        refuse([*named, *_keys_faults(document, "rows", rows, table.columns, "columns")])
        found[table.table] = table
    return _by_number(found)


def read_form(path: Path, form: type[F]) -> tuple[F, Document]:
    """Load a file as a checked form, and its document with the places of its values.

    Raises:
        ReportError: it is no YAML, or not of the form.
    """
    try:
        document = read_document(path, path.name)
    except SweepError as error:
        raise ReportError(str(error)) from error
    refuse(form_faults(document, form))
    return form.model_validate_json(json.dumps(document.value)), document


def refuse(faults: Iterable[Fault]) -> None:
    """Raise a ReportError with a line for each fault, if there is one."""
    if lines := [str(fault) for fault in sorted(set(faults))]:
        raise ReportError("\n".join(lines))


def table_of(where: str, number: str, published: Mapping[str, PublishedTable]) -> PublishedTable:
    """Return a table of results; raise a ReportError that starts with `where` if there is none."""
    if number not in published:
        raise ReportError(f"{where}: table {number!r} is unknown; {nearest(number, published)}")
    return published[number]


def require_row(where: str, row: str, table: PublishedTable) -> None:
    """Raise a ReportError that starts with `where` unless the table has the row."""
    if row not in table.rows:
        raise ReportError(f"{where}: row {row!r} is not in Table {table.table}; {nearest(row, table.rows)}")


def require_cell(where: str, row: str, column: str, table: PublishedTable) -> float:
    """Return the value of a cell; raise a ReportError that starts with `where` if the table has none there."""
    require_row(where, row, table)
    if column not in table.columns:
        raise ReportError(f"{where}: column {column!r} is not in Table {table.table}; {nearest(column, table.columns)}")
    value = table.rows[row][column]
    if value is None:
        rows = ", ".join(table.printed(column))
        raise ReportError(f"{where}: Table {table.table} prints a dash for {row}, {column}; it has values for {rows}")
    return value


def sweep_files(folder: Path = SWEEPS) -> dict[str, str]:
    """Sweep file that measures a table, by the table's number (or the sweep's name if it rebuilds none)."""
    read = YAML(typ="safe", pure=True)
    found = {}
    for path in sorted(folder.glob("*.yaml")):
        held = read.load(path.read_text(encoding="utf-8"))
        if isinstance(held, dict) and "sweep" in held:
            found[str(held.get("table") or held["sweep"])] = f"sweeps/{path.name}"
    return found


def _by_number(tables: dict[str, F]) -> dict[str, F]:
    return dict(sorted(tables.items(), key=lambda item: (len(item[0]), item[0])))


def _name_faults(document: Document, path: Path, kind: str, table: str) -> Iterator[Fault]:
    if path.name != f"{kind}_{table}.yaml":
        yield document.fault(("table",), f"table {table!r} belongs in {kind}_{table}.yaml")


def _row_faults(table: PublishedTable, document: Document) -> Iterator[Fault]:
    """Check that every name of a row, a column or a task exists."""
    yield from _keys_faults(document, "rows", table.rows, table.columns, "columns")
    yield from _keys_faults(document, "row_texts", table.row_texts, table.texts, "texts")
    if table.texts or table.row_texts:
        for row in table.rows.keys() - table.row_texts.keys():
            yield document.fault(("row_texts",), f"row {row!r} has no texts; expected {', '.join(table.texts)}")
    for keys, row in _named_rows(table):
        if row not in table.rows:
            yield document.fault(keys, f"row {row!r} is none; {nearest(row, table.rows)}", at_key=keys[0] in BY_ROW)
    grouped = [row for rows in table.groups.values() for row in rows]
    if grouped and set(grouped) == set(table.rows) and grouped != list(table.rows):
        yield document.fault(("groups",), f"expected rows {', '.join(table.rows)}, got {', '.join(grouped)}")
    if grouped:
        for row in table.rows.keys() - set(grouped):
            yield document.fault(("groups",), f"row {row!r} has no heading; put it under one of them")
    for task in table.datasets.keys() - {slot.split(".")[0] for slot in table.columns}:
        where = ("datasets", task)
        yield document.fault(where, f"no column is of {task!r}; there are {', '.join(table.columns)}", at_key=True)


def _named_rows(table: PublishedTable) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Find every row that is named outside `rows`, and its place."""
    if table.default is not None:
        yield ("default",), table.default
    yield from ((("cited", place), row) for place, row in enumerate(table.cited))
    yield from ((("row_texts", row), row) for row in table.row_texts)
    yield from ((("same_runs", "rows", row), row) for row in (table.same_runs.rows if table.same_runs else ()))
    for heading, rows in table.groups.items():
        yield from ((("groups", heading, place), row) for place, row in enumerate(rows))


def _keys_faults(
    document: Document, section: str, rows: Mapping[str, Mapping[str, object]], wanted: Iterable[str], what: str
) -> Iterator[Fault]:
    """Find rows whose keys are not the expected ones."""
    for name, values in rows.items():
        if values.keys() != set(wanted):
            has = f"row {name!r} has {', '.join(values) or 'nothing'}; the {what} are {', '.join(wanted) or 'none'}"
            yield document.fault((section, name), has)
