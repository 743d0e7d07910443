"""Where the paper contradicts itself, and where it agrees, as `reports/paper/contradictions.yaml` tells it."""

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
    """One thing that the paper says."""

    where: str
    """E.g. `Section 3.5`, or `Table 6, row 4, R@1`."""
    says: str
    cell: tuple[str, str, str] | None = None
    """Table, row and column, where it is a cell: `says` is its value."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Contradiction:
    """One matter of which the paper says more than one thing."""

    id: str
    what: str
    places: tuple[Place, ...]
    reading: str
    """Which of them is taken here, and why."""


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
    """All that is known of how the paper fits itself."""

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
    """What `contradictions.yaml` holds, every cell of which is the one in the tables of the same folder.

    Raises:
        ReportError: the file is not of its form, an id stands twice, or a cell that it names is not there or has
            another value.
    """
    path = folder / "contradictions.yaml"
    form, _ = read_form(path, _FileForm)
    published, settings = load_published(folder), load_settings(folder)
    unique_ids(path.name, [*(c.id for c in form.contradictions), *(a.id for a in form.agreements)])
    return Consistency(
        contradictions=tuple(_contradiction(path.name, told, published, settings) for told in form.contradictions),
        agreements=tuple(_agreement(path.name, told, published) for told in form.agreements),
        shared_rows=tuple(_shared(path.name, told, published) for told in form.shared_rows),
    )


def unique_ids(file: str, ids: Sequence[str]) -> None:
    """Raise a ReportError if an id stands twice."""
    for place, name in enumerate(ids):
        if name in ids[:place]:
            raise ReportError(f"{file}: id {name!r} stands twice; each needs its own")


def table_of(where: str, number: str, published: Mapping[str, PublishedTable]) -> PublishedTable:
    """A table of results; raises a ReportError that starts with `where` if there is none."""
    if number not in published:
        raise ReportError(f"{where}: table {number!r} is unknown; {nearest(number, published)}")
    return published[number]


def _contradiction(
    file: str,
    told: _ContradictionForm,
    published: Mapping[str, PublishedTable],
    settings: Mapping[str, PublishedSettings],
) -> Contradiction:
    where = f"{file}: {told.id}"
    if len(told.places) < 2:
        raise ReportError(f"{where}: has {len(told.places)} place; two are needed for a contradiction")
    places = tuple(
        _place(f"{where}, place {number}", place, published, settings)
        for number, place in enumerate(told.places, start=1)
    )
    return Contradiction(id=told.id, what=told.what, places=places, reading=told.reading)


def _place(
    where: str, told: _PlaceForm, published: Mapping[str, PublishedTable], settings: Mapping[str, PublishedSettings]
) -> Place:
    if told.where is not None:
        if (told.table, told.row, told.column) != (None, None, None):
            raise ReportError(f"{where}: has `where` and a cell; a place is one of them")
        return Place(where=told.where, says=told.says)
    if told.table is None or told.row is None or told.column is None:
        raise ReportError(f"{where}: needs `where`, or `table`, `row` and `column`")
    if told.table in settings:
        header, value = _setting(where, told.row, told.column, settings[told.table])
        same = value == told.says
    else:
        table = table_of(where, told.table, published)
        number = require_cell(where, told.row, told.column, table)
        header, value = table.columns[told.column]["header"], f"{number:g}"
        same = _number(told.says) == number
    if not same:
        raise ReportError(f"{where}: says {told.says!r}; Table {told.table}, row {told.row}, {header} is {value}")
    cell = (told.table, told.row, told.column)
    return Place(where=f"Table {told.table}, row {told.row}, {header}", says=told.says, cell=cell)


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


def _agreement(file: str, told: _AgreementForm, published: Mapping[str, PublishedTable]) -> Agreement:
    where = f"{file}: {told.id}"
    pair = told.cells
    table = table_of(where, pair.table, published)
    row, against = (require_cell(where, name, pair.column, table) for name in (pair.row, pair.against))
    if round(row - against, 1) != told.difference:  # tables and text have one decimal
        raise ReportError(f"{where}: difference is {told.difference}; {row} - {against} is {row - against:.1f}")
    return Agreement(id=told.id, where=told.where, difference=told.difference, **pair.model_dump())


def _shared(file: str, told: _SharedForm, published: Mapping[str, PublishedTable]) -> SharedRows:
    where = f"{file}: {told.what}"
    rows = [_table_and_row(where, pair) for pair in told.rows]
    values: dict[str, float | None] = {}
    for number, row in rows:
        table = table_of(where, number, published)
        require_row(where, row, table)
        _require_equal(f"{where}: Table {number}, row {row}", table.rows[row].items(), values)
        values |= table.rows[row]
    return SharedRows(what=told.what, rows=tuple(rows))


def _table_and_row(where: str, pair: Sequence[str]) -> tuple[str, str]:
    if len(pair) != 2:
        raise ReportError(f"{where}: {list(pair)} is no pair; right would be a table and its row")
    return pair[0], pair[1]


def _require_equal(where: str, cells: Iterable[tuple[str, float | None]], known: Mapping[str, float | None]) -> None:
    for column, value in cells:
        if column in known and known[column] != value:
            raise ReportError(f"{where}: {column} is {value}; the rows before have {known[column]}")
