"""Contradictions and agreements within the paper, read from `reports/paper/contradictions.yaml`."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import FiniteFloat

from experiments.config.yaml_source import Form, nearest
from reports.paper.tables import (
    PAPER,
    PublishedSettings,
    PublishedTable,
    ReportError,
    load_published,
    load_settings,
    read_form,
    require_cell,
    require_row,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """One statement of the paper."""

    where: str
    """E.g. `Section 3.5`, or `Table 6, row 4, R@1`."""
    says: str
    cell: tuple[str, str, str] | None = None
    """Table, row and column if it is a cell: `says` is its value."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Contradiction:
    """One matter on which statements of the paper differ."""

    id: str
    what: str
    places: tuple[Place, ...]
    reading: str
    """The statement that is used here, and the reason."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Agreement:
    """A number of the text that follows from two cells of a table."""

    id: str
    where: str
    table: str
    column: str
    row: str
    against: str
    difference: float
    """The value of `row` minus that of `against`, as the text gives it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SharedRows:
    """Rows of several tables that show one training."""

    what: str
    rows: tuple[tuple[str, str], ...]
    """Table and row."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Consistency:
    """All known contradictions and agreements within the paper."""

    contradictions: tuple[Contradiction, ...]
    agreements: tuple[Agreement, ...]
    shared_rows: tuple[SharedRows, ...]


class _PlaceForm(Form):
    says: str
    where: str | None = None
    table: str | None = None
    row: str | None = None
    column: str | None = None


class _ContradictionForm(Form):
    id: str
    what: str
    places: list[_PlaceForm]
    reading: str


class _PairForm(Form):
    table: str
    column: str
    row: str
    against: str


class _AgreementForm(Form):
    id: str
    where: str
    cells: _PairForm
    difference: FiniteFloat


class _SharedForm(Form):
    what: str
    rows: list[list[str]]


class _FileForm(Form):
    contradictions: list[_ContradictionForm]
    agreements: list[_AgreementForm]
    shared_rows: list[_SharedForm]


def load_contradictions(folder: Path = PAPER) -> Consistency:
    """Load `contradictions.yaml`; each of its cells equals the one in the tables of the same folder.

    Raises:
        ReportError: the file is not of its form, an id occurs twice, or a cell that it names is not there or has
            another value.
    """
    path = folder / "contradictions.yaml"
    form, _ = read_form(path, _FileForm)
    published, settings = load_published(folder), load_settings(folder)
    unique_ids(path.name, [*(c.id for c in form.contradictions), *(a.id for a in form.agreements)])
    return Consistency(
        contradictions=tuple(_contradiction(path.name, entry, published, settings) for entry in form.contradictions),
        agreements=tuple(_agreement(path.name, entry, published) for entry in form.agreements),
        shared_rows=tuple(_shared(path.name, entry, published) for entry in form.shared_rows),
    )


def unique_ids(file: str, ids: Sequence[str]) -> None:
    """Raise a ReportError if an id occurs twice."""
    for place, name in enumerate(ids):
        if name in ids[:place]:
            raise ReportError(f"{file}: id {name!r} occurs twice; expected an id of its own for each")


def table_of(where: str, number: str, published: Mapping[str, PublishedTable]) -> PublishedTable:
    """Return a table of results; raise a ReportError that starts with `where` if there is none."""
    if number not in published:
        raise ReportError(f"{where}: table {number!r} is unknown; {nearest(number, published)}")
    return published[number]


def _contradiction(
    file: str,
    entry: _ContradictionForm,
    published: Mapping[str, PublishedTable],
    settings: Mapping[str, PublishedSettings],
) -> Contradiction:
    where = f"{file}: {entry.id}"
    if len(entry.places) < 2:
        raise ReportError(f"{where}: expected two places or more, got {len(entry.places)}")
    places = tuple(
        _place(f"{where}, place {number}", place, published, settings)
        for number, place in enumerate(entry.places, start=1)
    )
    return Contradiction(id=entry.id, what=entry.what, places=places, reading=entry.reading)


def _place(
    where: str, entry: _PlaceForm, published: Mapping[str, PublishedTable], settings: Mapping[str, PublishedSettings]
) -> Place:
    if entry.where is not None:
        if (entry.table, entry.row, entry.column) != (None, None, None):
            raise ReportError(f"{where}: has `where` and a cell; a place is one of them")
        return Place(where=entry.where, says=entry.says)
    if entry.table is None or entry.row is None or entry.column is None:
        raise ReportError(f"{where}: needs `where`, or `table`, `row` and `column`")
    if entry.table in settings:
        header, value = _setting(where, entry.row, entry.column, settings[entry.table])
        same = value == entry.says
    else:
        table = table_of(where, entry.table, published)
        number = require_cell(where, entry.row, entry.column, table)
        header, value = table.columns[entry.column]["header"], f"{number:g}"
        same = _number(entry.says) == number
    if not same:
        raise ReportError(f"{where}: says {entry.says!r}; Table {entry.table}, row {entry.row}, {header} is {value}")
    cell = (entry.table, entry.row, entry.column)
    return Place(where=f"Table {entry.table}, row {entry.row}, {header}", says=entry.says, cell=cell)


def _setting(where: str, row: str, column: str, table: PublishedSettings) -> tuple[str, str | None]:
    for what, name, known in (("row", row, table.rows), ("column", column, table.columns)):
        if name not in known:
            raise ReportError(f"{where}: {what} {name!r} is not in Table {table.table}; {nearest(name, known)}")
    return table.columns[column], table.rows[row][column]


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _agreement(file: str, entry: _AgreementForm, published: Mapping[str, PublishedTable]) -> Agreement:
    where = f"{file}: {entry.id}"
    pair = entry.cells
    table = table_of(where, pair.table, published)
    row, against = (require_cell(where, name, pair.column, table) for name in (pair.row, pair.against))
    if round(row - against, 1) != entry.difference:  # tables and text have one decimal
        raise ReportError(f"{where}: difference is {entry.difference}; {row} - {against} is {row - against:.1f}")
    return Agreement(id=entry.id, where=entry.where, difference=entry.difference, **pair.model_dump())


def _shared(file: str, entry: _SharedForm, published: Mapping[str, PublishedTable]) -> SharedRows:
    where = f"{file}: {entry.what}"
    rows = [_table_and_row(where, pair) for pair in entry.rows]
    values: dict[str, float | None] = {}
    for number, row in rows:
        table = table_of(where, number, published)
        require_row(where, row, table)
        _require_equal(f"{where}: Table {number}, row {row}", table.rows[row].items(), values)
        values |= table.rows[row]
    return SharedRows(what=entry.what, rows=tuple(rows))


def _table_and_row(where: str, pair: Sequence[str]) -> tuple[str, str]:
    if len(pair) != 2:
        raise ReportError(f"{where}: expected a pair of a table and its row, got {list(pair)}")
    return pair[0], pair[1]


def _require_equal(where: str, cells: Iterable[tuple[str, float | None]], known: Mapping[str, float | None]) -> None:
    for column, value in cells:
        if column in known and known[column] != value:
            raise ReportError(f"{where}: {column} is {value}; the rows before have {known[column]}")
