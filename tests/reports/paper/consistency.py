"""Checks of `contradictions.yaml` against the transcribed tables of the same folder."""

from collections.abc import Iterator
from pathlib import Path

from experiments.config.yaml_source import nearest
from reports.paper.contradictions import Agreement, Contradiction, Place, SharedRows, load_contradictions
from reports.paper.tables import ReportError, load_published, load_settings, require_cell, require_row, table_of


def faults_of(folder: Path) -> list[str]:
    """Every statement that is not of its form, or whose cells are not those of the tables."""
    try:
        known = load_contradictions(folder)
    except ReportError as error:
        return [str(error)]
    published, settings = load_published(folder), load_settings(folder)
    ids = [one.id for one in (*known.contradictions, *known.agreements)]
    checks = [
        *(_places(one, published, settings) for one in known.contradictions),
        *(_difference(one, published) for one in known.agreements),
        *(_shared(one, published) for one in known.shared_rows),
    ]
    faults = [f"id {name!r} occurs twice" for name in dict.fromkeys(ids) if ids.count(name) > 1]
    for check in checks:
        try:
            faults += check
        except ReportError as error:
            faults.append(str(error))
    return faults


def _places(one: Contradiction, published: dict, settings: dict) -> Iterator[str]:
    if len(one.places) < 2:
        yield f"{one.id}: expected two places or more, got {len(one.places)}"
    for number, place in enumerate(one.places, start=1):
        yield from _place(f"{one.id}, place {number}", place, published, settings)


def _place(where: str, place: Place, published: dict, settings: dict) -> Iterator[str]:
    cell = (place.table, place.row, place.column)
    if cell == (None, None, None) and place.where:
        return
    if place.where and not place.where.startswith("Table "):
        yield f"{where}: has `where` and a cell; a place is one of them"
    elif None in cell:
        yield f"{where}: needs `where`, or `table`, `row` and `column`"
    elif place.table in settings:
        table = settings[place.table]
        for what, name, names in (("row", place.row, table.rows), ("column", place.column, table.columns)):
            if name not in names:
                yield f"{where}: {what} {name!r} is not in Table {place.table}; {nearest(name, names)}"
                return
        if (value := table.texts(place.row)[place.column]) != place.says:
            yield f"{where}: says {place.says!r}; {place.where} is {value}"
    else:
        table = table_of(where, place.table, published)
        number = require_cell(where, place.row, place.column, table)
        if place.says not in (f"{number:.1f}", f"{number:g}"):
            yield f"{where}: says {place.says!r}; {place.where} is {number:g}"


def _difference(one: Agreement, published: dict) -> Iterator[str]:
    table = table_of(one.id, one.cells.table, published)
    row, against = (require_cell(one.id, name, one.cells.column, table) for name in (one.cells.row, one.cells.against))
    if round(row - against, 1) != one.difference:  # tables and text have one decimal
        yield f"{one.id}: difference is {one.difference}; {row} - {against} is {row - against:.1f}"


def _shared(one: SharedRows, published: dict) -> Iterator[str]:
    values: dict[str, float | None] = {}
    for number, row in one.rows:
        table = table_of(one.what, number, published)
        require_row(one.what, row, table)
        for column, value in table.rows[row].items():
            if values.setdefault(column, value) != value:
                yield f"Table {number}, row {row}: {column} is {value}; the rows before have {values[column]}"
