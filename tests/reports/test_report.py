"""Files and terminal output, to the character where it matters."""

import csv
import io
import os

import pytest

from experiments.console import Console
from experiments.store.trials import write_trial
from experiments.tracking.sync import sync
from reports.analysis.build_tables import build_tables
from reports.paper.tables import ReportError, load_published
from reports.render.csv_files import CELL_COLUMNS, as_text, cells_csv, read_text, to_csv
from reports.render.markdown import LOCAL_UI, to_markdown
from reports.render.terminal import to_terminal
from reports.render.text import significant
from reports.report import Report, make_tables, read_report
from tests.experiments.made_trials import execute, trial
from tests.reports.rows import made_ranks, row

FILES = {"4": "sweeps/masking_ratio.yaml"}
TRIALS = [row("50%", hours=0.02, r1=20.0), row("10%", hours=0.0312, r1=21.5)]


def table_4(trials):
    (table,) = build_tables({"4": load_published()["4"]}, trials, made_ranks)
    return table


@pytest.fixture(autouse=True)
def no_server(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def test_clips_that_a_training_could_not_read_are_a_note():
    told = {"pretrain": {"count": 12, "files": [f"/media/{n:02}.mp4" for n in range(10)]}}
    assert not any("could not read" in line for line in to_markdown(table_4(TRIALS), FILES, LOCAL_UI).splitlines())
    text = to_markdown(table_4([TRIALS[0], row("10%", hours=0.03, r1=21.5, unreadable=told)]), FILES, LOCAL_UI)
    (note,) = [line for line in text.splitlines() if "could not read" in line]
    assert (
        "10%, seed 0: pretrain could not read 12 of its clips and pictures, and others took their place: 00.mp4" in note
    )
    assert note.endswith("09.mp4 and 2 more.")


def test_markdown_sets_published_beside_measured():
    lines = to_markdown(table_4(TRIALS), FILES, LOCAL_UI).splitlines()
    assert lines[0] == "## Table 4. Ablation study on using different masking ratios (scale tiny)"
    assert lines[2].startswith("| Masking Ratio | PT Time published (A6000 GPU h) | PT Time measured (CPU h) |")
    assert "| R@1 published (MSRVTT) | R@1 measured (moving_shapes/sentence) |" in lines[2]
    assert lines[3].startswith("| --- | ---: |")
    assert lines[4] == (
        "| 10% | 70.8 (1.40x) | 0.0312 (1.56x) | 40.5 | 21.5 [19.0, 24.1] (+1.5, p < 0.001)"
        " | 66.3 | 41.5 [38.5, 44.5] (+1.5, p < 0.001) | 76.5 | 51.5 [48.5, 54.6] (+1.5, p < 0.001) |"
    )
    assert lines[5] == "| 25% | 64.6 (1.28x) |  | 40.1 |  | 65.7 |  | 76.0 |  |"
    assert lines[6] == (
        "| 50% | 50.4 (1.00x) | 0.0200 (1.00x) | 39.3 | 20.0 [17.6, 22.5] | 65.4 | 40.0 [37.0, 43.0] | 75.6"
        " | 50.0 [47.0, 53.1] |"
    )


def test_the_notes_say_what_the_numbers_are():
    text = to_markdown(table_4(TRIALS), FILES, LOCAL_UI)
    assert "measured at scale tiny: useful hours of pre-training, CPU h on Xeon." in text
    assert "moving_shapes/sentence, in the place of MSRVTT; test split, 1000 queries, 1000 clips" in text
    assert "ranking match: the matching logit" in text
    assert "Seeds for each row: 1" in text
    assert "In square brackets: 95 % interval, bootstrap over queries, 10,000 resamples" in text
    assert "not a new training" in text and "Holm's correction over the 1 tested row of the column" in text
    assert "rows 25%, 65%): not measured; `python sweeps/run.py sweeps/masking_ratio.yaml` fills them." in text


def test_the_command_for_empty_cells_names_the_scale_it_would_fill():
    text = to_markdown(table_4([row("50%", hours=50.0, r1=39.0, scale="paper")]), FILES, LOCAL_UI)
    assert "`python sweeps/run.py sweeps/masking_ratio.yaml --scale paper` fills them" in text
    assert "no file in sweeps/ measures this table" in to_markdown(table_4([]), {}, LOCAL_UI)


@pytest.mark.parametrize("scale, option", [("mine", "path/to/mine.yaml"), ("a b;c", "'path/to/a b;c.yaml'")])
def test_the_command_for_a_scale_of_the_users_own_names_a_file(scale, option):
    text = to_markdown(table_4([row("50%", hours=50.0, r1=39.0, scale=scale)]), FILES, LOCAL_UI)
    assert f"`python sweeps/run.py sweeps/masking_ratio.yaml --scale {option}` fills them" in text


def test_marks_are_letters_that_the_notes_explain():
    other = row("10%", hours=0.001, r1=21.0, device="H200", unit="H200 GPU h")
    text = to_markdown(table_4([row("50%", hours=0.02, r1=20.0), other]), FILES, LOCAL_UI)
    assert "| 0.00100 H200 GPU h (a) |" in text and "| 0.0200 CPU h (1.00x) |" in text
    assert "- (a) other device: not on the device of the baseline row, so no ratio is given" in text


def test_processor_time_is_never_called_gpu_hours():
    for line in to_markdown(table_4(TRIALS), FILES, LOCAL_UI).splitlines():
        assert "GPU" not in line.replace("published (A6000 GPU h)", "").replace("published: A6000 GPU h", "")


def test_cells_csv_has_a_line_for_each_cell():
    lines = list(csv.DictReader(io.StringIO(cells_csv([table_4(TRIALS)]))))
    assert list(lines[0]) == list(CELL_COLUMNS)
    assert ",".join(CELL_COLUMNS) == (
        "table,row,column,dataset,unit,published,measured,ci_low,ci_high,ci_kind,n_seeds,n_queries,delta,p,scale,"
        "device,marks,runs,p_raw,delta_low,delta_high,delta_kind,ratio,difference,faults"
    )
    assert len(lines) == 16
    found = {(line["row"], line["column"]): line for line in lines}
    r1 = found["10%", "msrvtt.t2v.r1"]
    assert (r1["published"], r1["measured"], r1["delta"], r1["n_seeds"]) == ("40.5", "21.5", "1.5", "1")
    assert (r1["n_queries"], r1["scale"], r1["runs"], r1["ci_kind"]) == ("1000", "tiny", "run-10%-0", "queries")
    assert float(r1["ci_low"]) < 21.5 < float(r1["ci_high"]) and float(r1["difference"]) == 21.5 - 40.5
    assert float(r1["p"]) == float(r1["p_raw"]) < 5 / 10_001  # 15 queries, all in one direction
    hours = found["10%", "pretrain.hours"]
    assert (hours["ci_low"], hours["p"], hours["difference"]) == ("", "", "")
    assert float(hours["ratio"]) == pytest.approx(1.56)
    assert found["10%", "pretrain.hours"]["unit"] == "A6000 GPU h (published), CPU h (measured)"
    empty = found["25%", "msrvtt.t2v.r1"]
    assert (empty["measured"], empty["n_seeds"], empty["scale"], empty["device"]) == ("", "", "", "")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a|b `c` <d> [e](f) *g*", r"a\|b \`c\` \<d\> \[e\](f) \*g\*"),
        ("# no heading\nin two lines", r"\# no heading in two lines"),
        ("moving_shapes/sentence, 4→2, 50 %", "moving_shapes/sentence, 4→2, 50 %"),
        ("_emphasis_ back\\slash", "\\_emphasis\\_ back\\\\slash"),
    ],
)
def test_markdown_shows_names_as_they_are(text, shown):
    made = row(text, hours=0.02, r1=20.0, title=text, baseline=text, device=text, marks=(text,), row_label=text)
    tables = build_tables({}, [made], made_ranks)
    lines = to_markdown(tables[0], FILES, LOCAL_UI).splitlines()
    assert lines[0] == f"## {shown} (scale tiny)"
    assert lines[2].startswith(f"| {shown} | ") and lines[4].startswith(f"| {shown} | ")
    said = "\n".join(lines[5:])
    assert f"on {shown}." in said and f"relative to the row {shown};" in said and f"(a) {shown}" in said
    assert f"Runs of {shown}: [run-" in said


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "--set a=1"])
def test_no_text_of_a_csv_is_a_formula_and_numbers_stay(text):
    made = [
        row(text, hours=0.02, r1=20.0, device=text, marks=(text,), baseline="50%"),
        row("50%", hours=0.02, r1=50.0, device=text),
    ]
    tables = build_tables({}, made, made_ranks)
    text = text.replace("\r", "\n")
    found = [line for line in csv.DictReader(io.StringIO(cells_csv(tables), newline="")) if line["row"] != "50%"]
    assert {line[name] for line in found for name in ("row", "marks")} == {f"'{text}"}
    assert {line["device"] for line in found} == {f"'{text}"}
    assert {line["delta"] for line in found} >= {"-30.0"} and read_text(f"'{text}") == text
    assert as_text("-") == "-" and as_text("10%") == read_text("10%") == "10%" and read_text("'tis") == "'tis"
    assert f"'{text}" in [line[1] for line in csv.reader(io.StringIO(to_csv(tables), newline=""))]


def test_csv_has_a_line_for_each_row_with_bare_numbers():
    lines = list(csv.reader(io.StringIO(to_csv([table_4(TRIALS)]))))
    assert lines[1][:5] == ["tiny", "10%", "70.8", "0.0312", "40.5"]


def test_the_terminal_shows_every_number_in_eighty_columns():
    printed = io.StringIO()
    to_terminal(table_4(TRIALS), Console(file=printed, width=80), FILES)
    text = printed.getvalue()
    for number in ("70.8", "0.0312", "1.56x", "+1.5", "p<0.001", "21.5±2.6", "51.5", "64.6"):
        assert number in text
    assert "…" not in text


@pytest.mark.parametrize(
    ("value", "text"), [(0.01234, "0.0123"), (1.0, "1.00"), (50.44, "50.4"), (1234.5, "1234"), (0.0, "0")]
)
def test_three_significant_digits(value, text):
    assert significant(value) == text


def test_without_a_database_the_tables_are_published_numbers_and_none_is_made(tmp_path):
    paths = make_tables(read_report(tmp_path / "home"), tmp_path / "out")
    assert {path.name for path in paths} >= {"table_4.md", "table_4.csv", "table_11.md", "cells.csv"}
    assert "| 10% | 70.8 (1.40x) |  |" in (tmp_path / "out" / "table_4.md").read_text()
    assert not (tmp_path / "home").exists()


def test_an_unknown_table_is_refused_with_those_there_are(tmp_path):
    with pytest.raises(ReportError, match="table '12' is unknown; there are 1, 2, 3, 4"):
        make_tables(read_report(tmp_path / "home"), tmp_path / "out", ["12"])


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "out").write_text("a file")
    with pytest.raises(ReportError, match="out/table_4.md: cannot be written"):
        make_tables(read_report(tmp_path / "home"), tmp_path / "out", ["4"])


def test_a_sweep_recorded_in_mlflow_becomes_its_table_the_same_every_time(tmp_path):
    for variant, r1 in (("10%", 30.0), ("50%", 25.0)):
        made = trial(variant, r1=r1)
        execute(tmp_path, made)
        write_trial(tmp_path, made)
    sync(tmp_path)
    first = {path: path.read_text() for path in make_tables(read_report(tmp_path), tmp_path / "out", ["4"])}
    text = first[tmp_path / "out" / "table_4.md"]
    assert "| 30.0 [24.0, 36.5] (+5.0, p = 0.002) |" in text and "| 25.0 [19.0, 31.0] |" in text
    sync(tmp_path)
    assert {path: path.read_text() for path in make_tables(read_report(tmp_path), tmp_path / "out", ["4"])} == first
    assert sorted(os.listdir(tmp_path / "out")) == ["cells.csv", "table_4.csv", "table_4.md", "table_4.tex"]


def test_a_name_with_line_breaks_or_folders_in_it_breaks_no_file(tmp_path):
    name = "a\nb | c\n# h"
    trials = [row("50%", hours=0.02, r1=20.0), row(name, hours=0.02, r1=20.0)]
    other = row("x", hours=0.02, r1=20.0, sweep="../../up\n", table=None, title=name, baseline="x")
    made = build_tables({"4": load_published()["4"]}, [*trials, other], made_ranks)
    report = Report(tables=made, ui=LOCAL_UI, origin="here", unreadable="")
    paths = make_tables(report, tmp_path / "out")
    assert {path.parent for path in paths} == {tmp_path / "out"} and len({path.name for path in paths}) == 7
    text = (tmp_path / "out" / "table_4.md").read_text()
    assert "| a b \\| c # h |" in text and "\n# h" not in text
    assert "% runs of a b | c # h: run-a b | c # h-0\n" in (tmp_path / "out" / "table_4.tex").read_text()


def test_the_notes_say_over_how_many_rows_p_is_corrected_and_who_serves_the_runs():
    text = to_markdown(table_4([*TRIALS, row("25%", hours=0.02, r1=100.0)]), FILES, LOCAL_UI, "smaug ui --home x")
    assert "Holm's correction over the 2 tested rows of the column" in text
    assert "all its queries score alike" in text
    assert "The pages of the runs are available while `smaug ui --home x` runs." in text
