"""Published tables of the paper, read strictly from the files in `reports/paper/`."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
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


class ReportError(SmaugError):
    """A table cannot be made from what is recorded."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SameRuns:
    """Rows that the paper prints a second time, from the runs of another table."""

    table: str
    rows: dict[str, str]
    """Rows of the other table, by the row here."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PublishedTable:
    """One table of results."""

    table: str
    title: str
    source: str
    row: str
    """Header of the rows' names."""
    default: str | None = None
    """The row of the paper's default settings, where the table has one."""
    datasets: dict[str, str] = field(default_factory=dict)
    """The dataset that each task's columns are on."""
    columns: dict[str, dict[str, str]] = field(default_factory=dict)
    """Columns by slot: `header` and `unit`, in the paper's order."""
    rows: dict[str, dict[str, float | None]] = field(default_factory=dict)
    """Rows by name, in the paper's order: value by slot; None if the paper prints a dash."""
    texts: dict[str, str] = field(default_factory=dict)
    """Headers of the columns that hold text, e.g. `PT Datasets`, by key."""
    row_texts: dict[str, dict[str, str | None]] = field(default_factory=dict)
    """Texts of each row under the keys of `texts`; None if the paper prints a dash. Empty without `texts`."""
    groups: dict[str, tuple[str, ...]] = field(default_factory=dict)
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


@dataclass(frozen=True, kw_only=True, slots=True)
class PublishedSettings:
    """One table of settings, as they are printed."""

    table: str
    title: str
    source: str
    row: str
    """Header of the settings' names."""
    columns: dict[str, str]
    """Headers by key, in the paper's order."""
    rows: dict[str, dict[str, str | None]]
    """Settings with the text in each column; None if the paper prints a dash."""
    shared: tuple[str, ...]
    """Settings with a single value, which holds for every column."""
    cannot_tell: tuple[str, ...] = ()


class _ColumnForm(Form):
    header: str
    unit: str


class _SameRunsForm(Form):
    table: str
    rows: dict[str, str]


class _TableForm(Form):
    table: str
    title: str
    source: str
    row: str
    columns: dict[str, _ColumnForm]
    rows: dict[str, dict[str, FiniteFloat | None]]
    default: str | None = None
    datasets: dict[str, str] = {}
    texts: dict[str, str] = {}
    row_texts: dict[str, dict[str, str | None]] = {}
    groups: dict[str, list[str]] = {}
    cited: list[str] = []
    cannot_tell: list[str] = []
    same_runs: _SameRunsForm | None = None


class _SettingsForm(Form):
    table: str
    title: str
    source: str
    row: str
    columns: dict[str, str]
    rows: dict[str, str | dict[str, str | None]]
    cannot_tell: list[str] = []


def load_published(folder: Path = PAPER) -> dict[str, PublishedTable]:
    """Load every table of results, by its number, in order.

    Raises:
        ReportError: every fault of a file: an unknown key or one that occurs twice, a row that lacks a column or has
            another one, a row that is named but is none.
    """
    tables = [_published(path) for path in folder.glob("table_*.yaml")]
    found = {table.table: table for table in sorted(tables, key=_by_number)}
    for table in found.values():
        if same := table.same_runs:
            where = f"table_{table.table}.yaml: same_runs"
            if same.table not in found:
                raise ReportError(f"{where}: table {same.table!r} is unknown; {nearest(same.table, found)}")
            for row in same.rows.values():
                require_row(f"{where}.rows", row, found[same.table])
    return found


def load_settings(folder: Path = PAPER) -> dict[str, PublishedSettings]:
    """Load every table of settings, by its number, in order; raise as `load_published` does."""
    return {table.table: table for table in sorted(map(_settings, folder.glob("settings_*.yaml")), key=_by_number)}


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
    return form.model_validate(document.value), document


def refuse(faults: Iterable[Fault]) -> None:
    """Raise a ReportError with a line for each fault, if there is one."""
    if lines := [str(fault) for fault in sorted(set(faults))]:
        raise ReportError("\n".join(lines))


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


def _by_number(table: PublishedTable | PublishedSettings) -> tuple[int, str]:
    return len(table.table), table.table


def _published(path: Path) -> PublishedTable:
    form, document = read_form(path, _TableForm)
    refuse([*_name_faults(document, path, "table", form.table), *_row_faults(form, document)])
    return PublishedTable(
        table=form.table,
        title=form.title,
        source=form.source,
        row=form.row,
        default=form.default,
        datasets=form.datasets,
        columns={slot: {"header": column.header, "unit": column.unit} for slot, column in form.columns.items()},
        rows=form.rows,
        texts=form.texts,
        row_texts=form.row_texts,
        groups={heading: tuple(rows) for heading, rows in form.groups.items()},
        cited=tuple(form.cited),
        cannot_tell=tuple(form.cannot_tell),
        same_runs=SameRuns(**form.same_runs.model_dump()) if form.same_runs else None,
    )


def _settings(path: Path) -> PublishedSettings:
    form, document = read_form(path, _SettingsForm)
    rows: dict[str, dict[str, str | None]] = {}
    for name, values in form.rows.items():
        rows[name] = values if isinstance(values, dict) else dict.fromkeys(form.columns, values)
    named = _name_faults(document, path, "settings", form.table)
    refuse([*named, *_keys_faults(document, "rows", rows, form.columns, "columns")])
    return PublishedSettings(
        table=form.table,
        title=form.title,
        source=form.source,
        row=form.row,
        columns=form.columns,
        rows=rows,
        shared=tuple(name for name, values in form.rows.items() if not isinstance(values, dict)),
        cannot_tell=tuple(form.cannot_tell),
    )


def _name_faults(document: Document, path: Path, kind: str, table: str) -> Iterator[Fault]:
    if path.name != f"{kind}_{table}.yaml":
        yield document.fault(("table",), f"table {table!r} belongs in {kind}_{table}.yaml")


def _row_faults(form: _TableForm, document: Document) -> Iterator[Fault]:
    """Check that every name of a row, a column or a task exists."""
    yield from _keys_faults(document, "rows", form.rows, form.columns, "columns")
    yield from _keys_faults(document, "row_texts", form.row_texts, form.texts, "texts")
    if form.texts or form.row_texts:
        for row in form.rows.keys() - form.row_texts.keys():
            yield document.fault(("row_texts",), f"row {row!r} has no texts; expected {', '.join(form.texts)}")
    for keys, row in _named_rows(form):
        if row not in form.rows:
            yield document.fault(keys, f"row {row!r} is none; {nearest(row, form.rows)}", at_key=keys[0] in BY_ROW)
    grouped = [row for rows in form.groups.values() for row in rows]
    if grouped and set(grouped) == set(form.rows) and grouped != list(form.rows):
        yield document.fault(("groups",), f"expected rows {', '.join(form.rows)}, got {', '.join(grouped)}")
    if grouped:
        for row in form.rows.keys() - set(grouped):
            yield document.fault(("groups",), f"row {row!r} has no heading; put it under one of them")
    for task in form.datasets.keys() - {slot.split(".")[0] for slot in form.columns}:
        where = ("datasets", task)
        yield document.fault(where, f"no column is of {task!r}; there are {', '.join(form.columns)}", at_key=True)


def _named_rows(form: _TableForm) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Find every row that is named outside `rows`, and its place."""
    if form.default is not None:
        yield ("default",), form.default
    yield from ((("cited", place), row) for place, row in enumerate(form.cited))
    yield from ((("row_texts", row), row) for row in form.row_texts)
    yield from ((("same_runs", "rows", row), row) for row in (form.same_runs.rows if form.same_runs else ()))
    for heading, rows in form.groups.items():
        yield from ((("groups", heading, place), row) for place, row in enumerate(rows))


def _keys_faults(
    document: Document, section: str, rows: Mapping[str, Mapping[str, object]], wanted: Iterable[str], what: str
) -> Iterator[Fault]:
    """Find rows whose keys are not the expected ones."""
    for name, values in rows.items():
        if values.keys() != set(wanted):
            has = f"row {name!r} has {', '.join(values) or 'nothing'}; the {what} are {', '.join(wanted) or 'none'}"
            yield document.fault((section, name), has)
