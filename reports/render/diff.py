"""Differences between the cells of two reports."""

import csv
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from reports.paper.tables import ReportError
from reports.render.csv_files import CELL_COLUMNS, TEXTS, read_text

KEY = ("table", "row", "column", "scale")
"""Columns that identify a cell; a cell without a measurement has no scale."""
COMPARED = [name for name in CELL_COLUMNS if name not in (*KEY, "runs")]
"""Columns that are compared: without the runs, whose ids differ between MLflow stores."""

Key = tuple[str, ...]
Cells = Mapping[Key, Mapping[str, str]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """One cell that is not the same in both."""

    table: str
    row: str
    column: str
    scale: str
    kind: Literal["only in A", "only in B", "differs"]
    values: dict[str, tuple[str, str]]
    """Values of A and B, by column of cells.csv."""

    @property
    def within(self) -> bool | None:
        """True if B's value lies within A's interval; None if that is unknown."""
        measured = self.values.get("measured")
        low, high = (self.values.get(end, ("", ""))[0] for end in ("ci_low", "ci_high"))
        if self.kind != "differs" or measured is None or not (low and high and measured[1]):
            return None
        return float(low) <= float(measured[1]) <= float(high)


def load_cells(path: Path) -> Cells:
    """The cells that a cells.csv holds, or the one in a folder.

    Raises:
        ReportError: it cannot be read, or is none.
    """
    file = path / "cells.csv" if path.is_dir() else path
    try:
        with file.open(newline="", encoding="utf-8") as handle:
            reader = csv.DictReader(handle)
            names = reader.fieldnames or []
            lines = list(reader) if all(name in names for name in ("measured", *KEY)) else []
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ReportError(f"{file}: cannot be read ({error}); expected a cells.csv, or a folder with one") from error
    if missing := [name for name in ("measured", *KEY) if name not in names]:
        raise ReportError(f"{file}: has no column {missing[0]!r}, so it is no cells.csv; it has {', '.join(names)}")
    for number, line in enumerate(lines, start=2):
        if None in line or None in line.values():
            raise ReportError(f"{file}: line {number} is cut, or has too many fields; write the file again")
    texts = [line | {name: read_text(line[name]) for name in TEXTS if name in line} for line in lines]
    return {tuple(line[name] for name in KEY): line for line in texts}


def differences(a: Cells, b: Cells) -> list[Change]:
    """Every cell that is not the same in both, in A's order, then those that B alone has.

    A cell that is empty in one and measured in the other is listed once, under the scale it was measured at.
    """
    measured = {key[:-1] for key in (*a, *b) if key[-1]}
    keys = [key for key in dict.fromkeys([*a, *b]) if key in a and key in b or key[-1] or key[:-1] not in measured]
    return [change for key in keys if (change := _change(key, a.get(key), b.get(key))) is not None]


def _change(key: Key, a: Mapping[str, str] | None, b: Mapping[str, str] | None) -> Change | None:
    names = [name for name in COMPARED if name in (a or b or {}) and name in (b or a or {})]
    values = {name: ((a or {}).get(name, ""), (b or {}).get(name, "")) for name in names}
    if a is not None and b is not None:
        if all(one == other for one, other in values.values()):
            return None
        kind: Literal["only in A", "only in B", "differs"] = "differs"
    else:
        kind = "only in A" if b is None else "only in B"
    name = dict(zip(KEY, key, strict=True))
    return Change(
        table=name["table"], row=name["row"], column=name["column"], scale=name["scale"], kind=kind, values=values
    )


def lines(changes: Iterable[Change]) -> Iterable[str]:
    """Text of the differences: a line for each cell."""
    for change in changes:
        scale = f" (scale {change.scale})" if change.scale else ""
        name = f"table {change.table}{scale}, row {change.row}, {change.column}"
        if change.kind != "differs":
            yield f"{name}: {change.kind}"
            continue
        texts = [f"{what} {_short(a)} -> {_short(b)}" for what, (a, b) in change.values.items() if a != b]
        within = {True: "; within A's interval", False: "; outside A's interval", None: ""}[change.within]
        yield f"{name}: {'; '.join(texts)}{within}"


def _short(value: str) -> str:
    """A number with six digits; other text unchanged, an empty text as a dash."""
    try:
        return f"{float(value):.6g}"
    except ValueError:
        return value or "-"
