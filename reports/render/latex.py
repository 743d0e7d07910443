"""A table as LaTeX with booktabs, ready for \\input; its first line names the packages it needs."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from reports.analysis.cells import Cell, Column, Table
from reports.render.footnotes import notes
from reports.render.text import (
    delta_text,
    heading,
    interval_text,
    letters,
    measured_number,
    one_line,
    published_number,
    published_text,
    ratio_text,
    text_headers,
)
from reports.render.text_grid import grid_rows

P_VALUE = re.compile(r"p ([=<]) ([\d.]+)")
AT_ONCE = 5
"""Maximum number of columns, each published and measured, beside each other on a page."""

SPECIAL = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "→": r"$\to$",
    "×": r"$\times$",
    "✓": r"\checkmark{}",
    "κ": r"$\kappa$",
}
_SPECIAL = re.compile("|".join(re.escape(character) for character in SPECIAL))


def to_latex(table: Table, files: Mapping[str, str]) -> str:
    """A table as LaTeX, one float for each dataset if there are several; its runs are in comments.

    A row has a line each for values, intervals, differences to the baseline row, and p.

    Args:
        table: to be shown.
        files: by table, the sweep file that measures it.
    """
    blocks = _blocks(table)
    floats = [line for block in blocks for line in _float(table, block, files, last=block is blocks[-1])]
    return "\n".join([r"% needs \usepackage{booktabs,graphicx,amssymb}", *_runs(table), *floats, ""])


@dataclass(frozen=True, slots=True)
class _Block:
    """Neighbouring columns that are shown together."""

    columns: tuple[Column, ...]
    places: tuple[int, ...]
    dataset: str
    """Empty if it is the only one."""


def _blocks(table: Table) -> list[_Block]:
    """All columns, or those of each dataset if there are too many for a page."""
    if len(table.columns) <= AT_ONCE:
        return [_Block(table.columns, tuple(range(len(table.columns))), "")]
    found = []
    for task in dict.fromkeys(column.task for column in table.columns):
        places = tuple(place for place, column in enumerate(table.columns) if column.task == task)
        columns = tuple(table.columns[place] for place in places)
        found.append(_Block(columns, places, columns[0].published_dataset or columns[0].measured_dataset))
    return found


def _float(table: Table, block: _Block, files: Mapping[str, str], *, last: bool) -> list[str]:
    extra = text_headers(table)
    labels = 1 + len(extra)
    under = [r"\par\smallskip\begin{minipage}{\linewidth}\scriptsize", _notes(table, files), r"\end{minipage}"]
    caption = escape(heading(table)) + (f": {escape(block.dataset)}" if block.dataset else "")
    label = _label(table) + (f"-{_plain(block.dataset)}" if block.dataset else "")
    heads = (rf"\multicolumn{{2}}{{c}}{{{escape(column.header)}}}" for column in block.columns)
    return [
        r"\begin{table}[tbp]",
        r"\centering\footnotesize\setlength{\tabcolsep}{3pt}",
        rf"\caption{{{caption}.}}",
        rf"\label{{tab:smaug-{label}}}",
        r"\smallskip",
        r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
        rf"\begin{{tabular}}{{{'l' * labels}{'rr' * len(block.columns)}}}",
        r"\toprule",
        _line([*[""] * labels, *heads]),
        _rules(labels, len(block.columns)),
        _line([escape(table.row_label), *map(escape, extra), *["paper", "here"] * len(block.columns)]),
        r"\midrule",
        *_rows(table, block),
        r"\bottomrule",
        r"\end{tabular}}",
        *(under if last else []),
        r"\end{table}",
    ]


def escape(text: str) -> str:
    """Escape text so that LaTeX prints it unchanged, in one line."""
    return _SPECIAL.sub(lambda found: SPECIAL[found[0]], one_line(text))


def _rows(table: Table, block: _Block) -> Iterable[str]:
    marks = letters(table)
    for row in grid_rows(table):
        cells, labels = (row.cells[place] for place in block.places), row.labels
        found = [(_published(column, cell), _measured(column, cell, marks)) for column, cell in cells]
        lines = [text for text in zip(*(stack for pair in found for stack in pair), strict=True)]
        yield _line([*map(_cell, labels), *map(_cell, lines[0])])
        for line in lines[1:]:
            if any(line):
                small = (rf"{{\scriptsize {_cell(text)}}}" if text else "" for text in line)
                yield _line([*[""] * len(labels), *small])
        if any(lines[1]):
            yield r"\addlinespace"


def _published(column: Column, cell: Cell) -> tuple[str, str, str, str]:
    ratio = "" if cell.published_ratio is None else f"{cell.published_ratio:.2f}×"
    return published_number(cell) or published_text(column, cell), ratio, "", ""


def _measured(column: Column, cell: Cell, marks: Mapping[str, str]) -> tuple[str, str, str, str]:
    """Value with marks; interval, or ratio of hours; difference; p."""
    value = measured_number(column, cell) or ("?" if cell.faults else "")
    unit = f" {cell.unit}" if value and column.is_hours and not column.measured_unit else ""
    found = ",".join(marks[what] for what in (*cell.marks, *cell.faults))
    ratio = ratio_text(cell, "×") if column.is_hours else ""
    second = " ".join(part for part in (interval_text(column, cell.interval), ratio) if part)
    delta, _, p = ("" if column.is_hours else delta_text(cell)).partition(", ")
    return f"{value}{unit}{f' ({found})' if found else ''}", second, delta, p


def _cell(text: str) -> str:
    """Format the text of a cell: minus signs are minus signs, and p is a variable."""
    if found := P_VALUE.fullmatch(text):
        return f"$p{found[1]}{found[2]}$"
    return re.sub(r"(?<![\w.])([-+])(?=\d)", r"$\1$", escape(text))


def _notes(table: Table, files: Mapping[str, str]) -> str:
    return " ".join(escape(note.replace("`", "")) for note in notes(table, files))


def _runs(table: Table) -> Iterable[str]:
    for row, cells in table.rows.items():
        if runs := dict.fromkeys(run.run_id for cell in cells for run in cell.runs):
            yield f"% runs of {one_line(row)}: {' '.join(map(one_line, runs))}"


def _line(texts: Iterable[str]) -> str:
    return " & ".join(texts) + r" \\"


def _rules(labels: int, columns: int) -> str:
    starts = [labels + 1 + 2 * place for place in range(columns)]
    return " ".join(rf"\cmidrule(lr){{{start}-{start + 1}}}" for start in starts)


def _label(table: Table) -> str:
    return _plain(f"{table.name}-{table.scale}".strip("-"))


def _plain(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9-]+", "-", text)
