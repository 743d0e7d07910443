"""The walk over a table's rows that every format shares: names, then cells with their columns."""

from collections.abc import Iterator
from dataclasses import dataclass

from reports.analysis.cells import Cell, Column, Table
from reports.render.text import headers, text_headers


@dataclass(frozen=True, slots=True)
class GridRow:
    """One row."""

    labels: list[str]
    """Its name, then what the paper prints of it beside numbers."""
    cells: list[tuple[Column, Cell]]


def header_texts(table: Table) -> list[str]:
    """Headers of the labels, then of the published and the measured half of each column."""
    return [table.row_label, *text_headers(table), *(text for column in table.columns for text in headers(column))]


def grid_rows(table: Table) -> Iterator[GridRow]:
    """Yield the rows of a table in their order."""
    extra = text_headers(table)
    for row, cells in table.rows.items():
        texts = table.texts.get(row, {})
        yield GridRow([row, *(texts.get(header, "") for header in extra)], list(zip(table.columns, cells, strict=True)))
