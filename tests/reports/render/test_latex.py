"""LaTeX that a compiler accepts, whatever the rows are called."""

import re

from reports.analysis.build_tables import build_tables
from reports.paper.tables import load_published
from reports.render.latex import escape, to_latex
from tests.latex import compiled
from tests.reports.rows import made_ranks, row

PUBLISHED = load_published()
NASTY = r"a_b & 50% #1 \x {y} $z^2$ ~ <→>"


def tables(trials=()):
    return build_tables(PUBLISHED, trials, made_ranks)


def text_of(found):
    return to_latex(found, {"4": "sweeps/masking_ratio.yaml"})


def test_special_characters_are_printed_as_they_are():
    assert escape("50% & a_b #1") == r"50\% \& a\_b \#1"
    assert escape(r"\x {y}") == r"\textbackslash{}x \{y\}"


def test_a_row_has_values_intervals_differences_and_p_below_each_other():
    trials = [row("50%", hours=0.02, r1=20.0), row("10%", hours=0.0312, r1=18.5)]
    (table,) = build_tables({"4": PUBLISHED["4"]}, trials, made_ranks)
    lines = text_of(table).splitlines()
    place = next(k for k, line in enumerate(lines) if line.startswith(r"10\%"))
    values, intervals, differences, tests = lines[place : place + 4]
    assert values == r"10\% & 70.8 & 0.0312 & 40.5 & 18.5 & 66.3 & 38.5 & 76.5 & 48.5 \\"
    assert r"{\scriptsize 1.40$\times$} & {\scriptsize 1.56$\times$}" in intervals
    assert r"{\scriptsize [16.2, 20.9]}" in intervals
    assert differences.count(r"{\scriptsize $-$1.5}") == 3
    assert tests.count(r"{\scriptsize $p<0.001$}") == 3
    assert "% runs of 10%: run-10%-0" in lines


def test_a_table_of_several_datasets_is_a_float_for_each():
    (nine,) = (table for table in tables() if table.name == "9")
    text = text_of(nine)
    assert text.count(r"\begin{table}") == 3 and text.count(r"\begin{minipage}") == 1
    assert len(set(re.findall(r"\\label\{(.*?)\}", text))) == 3


def test_every_table_compiles_with_nasty_names_too(tmp_path):
    trials = [
        row("50%", hours=0.02, r1=20.0),
        row(NASTY, hours=0.02, r1=21.0, marks=("--set a_b=1",)),
        row(NASTY, hours=0.02, r1=21.0, sweep="my_own", table=None, title=NASTY, baseline=NASTY),
    ]
    body = "\n".join(text_of(table) + r"\clearpage" for table in tables(trials))
    document = (
        r"\documentclass{article}\usepackage{booktabs,graphicx,amssymb}\begin{document}" + body + r"\end{document}"
    )
    assert compiled(document, tmp_path).exists()
    assert "Overfull" not in (tmp_path / "document.log").read_text(errors="replace")
