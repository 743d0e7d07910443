"""A table as LaTeX with booktabs, ready for \\input; what must be loaded stands in its first line."""

import re
from collections.abc import Iterable, Mapping

from reports.cells import Table
from reports.notes import notes
from reports.wording import heading, letters, measured_text, published_text, text_headers

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
    "→": r"$\rightarrow$",
    "×": r"$\times$",
    "✓": r"\checkmark{}",
    "κ": r"$\kappa$",
}
_SPECIAL = re.compile("|".join(re.escape(character) for character in SPECIAL))


def to_latex(table: Table, files: Mapping[str, str]) -> str:
    """A table as LaTeX; its runs stand in comments.

    Args:
        table: to be shown.
        files: by table, the sweep file that measures it.
    """
    extra, columns = text_headers(table), table.columns
    layout = "l" * (1 + len(extra)) + "rr" * len(columns)
    return "\n".join(
        [
            r"% needs \usepackage{booktabs,graphicx,amssymb}",
            *_runs(table),
            r"\begin{table}[t]",
            r"\centering",
            rf"\caption{{{escape(heading(table))}. {_caption(table, files)}}}",
            rf"\label{{tab:smaug-{_label(table)}}}",
            r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
            rf"\begin{{tabular}}{{{layout}}}",
            r"\toprule",
            _line(["", *[""] * len(extra), *(rf"\multicolumn{{2}}{{c}}{{{escape(c.header)}}}" for c in columns)]),
            _rules(1 + len(extra), len(columns)),
            _line([escape(table.row_label), *map(escape, extra), *["published", "measured"] * len(columns)]),
            r"\midrule",
            *_rows(table, extra),
            r"\bottomrule",
            r"\end{tabular}}",
            r"\end{table}",
            "",
        ]
    )


def escape(text: str) -> str:
    """Text that LaTeX prints as it stands."""
    return _SPECIAL.sub(lambda found: SPECIAL[found[0]], text)


def _rows(table: Table, extra: list[str]) -> Iterable[str]:
    marks = letters(table)
    for row, cells in table.rows.items():
        texts = table.texts.get(row, {})
        found = [row, *(texts.get(header, "") for header in extra)]
        for column, cell in zip(table.columns, cells, strict=True):
            found += [published_text(column, cell), measured_text(column, cell, marks, times="×")]
        yield _line(map(_cell, found))


def _cell(text: str) -> str:
    """Of a cell: minus signs are minus signs."""
    return re.sub(r"(?<![\w.])-(?=\d)", "$-$", escape(text))


def _caption(table: Table, files: Mapping[str, str]) -> str:
    return " ".join(escape(note.replace("`", "")) for note in notes(table, files))


def _runs(table: Table) -> Iterable[str]:
    for row, cells in table.rows.items():
        if runs := dict.fromkeys(run.run_id for cell in cells for run in cell.runs):
            yield f"% runs of {row}: {' '.join(runs)}"


def _line(texts: Iterable[str]) -> str:
    return " & ".join(texts) + r" \\"


def _rules(labels: int, columns: int) -> str:
    starts = [labels + 1 + 2 * place for place in range(columns)]
    return " ".join(rf"\cmidrule(lr){{{start}-{start + 1}}}" for start in starts)


def _label(table: Table) -> str:
    return re.sub(r"[^A-Za-z0-9-]+", "-", f"{table.name}-{table.scale}".strip("-"))
