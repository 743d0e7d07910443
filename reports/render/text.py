"""Cells as text, shared by every format of a table."""

from collections.abc import Mapping
from math import floor, log10

from reports.analysis.cells import Cell, Column, Interval, Table


def letters(table: Table) -> dict[str, str]:
    """Letters for the marks and faults of a table: a, b, ... z, aa, ab, ..."""
    cells = [cell for row in table.rows.values() for cell in row]
    marks = dict.fromkeys(mark for cell in cells for mark in cell.marks)
    faults = dict.fromkeys(fault for cell in cells for fault in cell.faults)
    return {what: _letter(place) for place, what in enumerate([*marks, *faults])}


def _letter(place: int) -> str:
    first, second = divmod(place, 26)
    return ("" if first == 0 else chr(ord("a") + first - 1)) + chr(ord("a") + second)


def heading(table: Table) -> str:
    """A table's name and title, and the scale it was measured at."""
    name = f"Table {table.name}. " if table.source else ""
    scale = f" (scale {table.scale})" if table.scale else ""
    return f"{name}{table.title}{scale}"


def one_line(text: str) -> str:
    """Text without line breaks."""
    return " ".join(text.split())


def headers(column: Column) -> tuple[str, str]:
    """Headers of the published and of the measured half of a column, with unit or dataset."""
    published = column.published_unit if column.is_hours else column.published_dataset
    measured = column.measured_unit if column.is_hours else column.measured_dataset
    return (
        f"{column.header} published" + (f" ({published})" if published else ""),
        f"{column.header} measured" + (f" ({measured})" if measured else ""),
    )


def text_headers(table: Table) -> list[str]:
    """Headers of what the paper prints of its rows beside numbers."""
    return list(dict.fromkeys(header for texts in table.texts.values() for header in texts))


def published_text(column: Column, cell: Cell) -> str:
    """A published value, of hours with its ratio to the baseline row; a dash is a dash."""
    if cell.published is None:
        return "-" if cell.dash else ""
    ratio = "" if cell.published_ratio is None else f" ({cell.published_ratio:.2f}x)"
    return f"{published_number(cell)}{ratio}"


def measured_text(column: Column, cell: Cell, marks: Mapping[str, str], times: str = "x") -> str:
    """A measured value with its interval, comparison, and the letters of its marks and faults.

    A cell whose value is missing because of a fault shows `?`, so that it does not look like a cell that was not
    measured.
    """
    text = ""
    if cell.measured is not None:
        unit = f" {cell.unit}" if column.is_hours and not column.measured_unit else ""
        compared = ratio_text(cell, times) if column.is_hours else delta_text(cell)
        parts = [
            measured_number(column, cell) + unit,
            interval_text(column, cell.interval),
            compared and f"({compared})",
        ]
        text = " ".join(part for part in parts if part)
    elif cell.faults:
        text = "?"
    found = "".join(f" ({marks[what]})" for what in (*cell.marks, *cell.faults))
    return f"{text}{found}".strip()


def ratio_text(cell: Cell, times: str = "x") -> str:
    """Ratio of hours to those of the baseline row."""
    return "" if cell.ratio is None else f"{cell.ratio:.2f}{times}"


def delta_text(cell: Cell) -> str:
    """The difference to the baseline row, and p."""
    if cell.delta is None:
        return ""
    return f"{cell.delta:+.1f}" + ("" if cell.p is None else f", {p_text(cell.p)}")


def p_text(p: float) -> str:
    """P with as many digits as 10,000 flips give."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}" if p < 0.1 else f"p = {p:.2f}"


def interval_text(column: Column, interval: Interval | None) -> str:
    """Both ends of an interval, rounded like its value."""
    if interval is None:
        return ""
    low, high = (
        significant(end) if column.is_hours and end > 0 else f"{end:.1f}" for end in (interval.low, interval.high)
    )
    return f"[{low}, {high}]"


def published_number(cell: Cell) -> str:
    """A published value with the digits that the paper prints."""
    return "" if cell.published is None else f"{cell.published:.1f}"


def measured_number(column: Column, cell: Cell) -> str:
    """A measured value, rounded."""
    if cell.measured is None:
        return ""
    return significant(cell.measured) if column.is_hours else f"{cell.measured:.1f}"


def significant(value: float, digits: int = 3) -> str:
    """A positive number with three significant digits, never with an exponent."""
    if value <= 0:
        return "0"
    return f"{value:.{decimals_of(value, digits)}f}"


def decimals_of(value: float, digits: int = 3) -> int:
    """Number of decimals that give a number this many significant digits."""
    return 0 if value <= 0 else max(0, digits - 1 - floor(log10(value)))
