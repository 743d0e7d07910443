"""What differs between two reports."""

import dataclasses

import pytest

from reports.analysis.build_tables import build_tables
from reports.paper.tables import ReportError, load_published
from reports.render.csv_files import cells_csv
from reports.render.diff import differences, lines, load_cells
from reports.render.json_export import export
from reports.report import Report
from tests.reports.rows import made_ranks, row

ONLY_4 = {"4": load_published()["4"]}


def tables(*trials):
    return build_tables(ONLY_4, trials, made_ranks)


def written(folder, *trials):
    folder.mkdir()
    (folder / "cells.csv").write_text(cells_csv(tables(*trials)))
    return load_cells(folder)


def test_equal_cells_from_other_runs_do_not_differ(tmp_path):
    a = written(tmp_path / "a", row("50%", hours=1.0, r1=40.0))
    b = written(tmp_path / "b", row("50%", hours=1.0, r1=40.0, run_id="elsewhere"))
    assert differences(a, b) == []


def test_a_change_is_told_with_both_values_and_whether_it_was_to_be_expected(tmp_path):
    a = written(tmp_path / "a", row("50%", hours=1.0, r1=40.0))
    b = written(tmp_path / "b", row("50%", hours=1.0, r1=42.0))
    told = list(lines(differences(a, b)))
    assert len(told) == 3  # R@1, R@5, R@10
    assert told[0].startswith("table 4 (scale tiny), row 50%, msrvtt.t2v.r1: measured 40 -> 42; ci_low")
    assert told[0].endswith("; within A's interval")
    c = written(tmp_path / "c", row("50%", hours=1.0, r1=52.0))
    assert next(iter(lines(differences(a, c)))).endswith("; outside A's interval")


def test_a_cell_that_was_measured_in_one_alone_is_told_once(tmp_path):
    a = written(tmp_path / "a", row("50%", hours=1.0, r1=40.0))
    b = written(tmp_path / "b", row("50%", hours=1.0, r1=40.0), row("10%", hours=1.0, r1=41.0))
    changes = differences(a, b)
    assert {(change.row, change.kind, change.scale) for change in changes} == {("10%", "only in B", "tiny")}
    assert len(changes) == 4


def test_what_is_no_cells_csv_is_refused_by_name(tmp_path):
    with pytest.raises(ReportError, match="expected a cells.csv"):
        load_cells(tmp_path / "none.csv")
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ReportError, match="other.csv: has no column 'measured'.*it has a, b"):
        load_cells(tmp_path / "other.csv")


def test_an_export_holds_what_cells_csv_holds_and_where_the_runs_are():
    made = tables(row("50%", hours=1.0, r1=40.0), row("10%", hours=1.0, r1=41.0))
    report = Report(tables=made, ui="http://127.0.0.1:5000", origin="here", unreadable="")
    told = export(report.tables, report.faults, ui=report.ui, origin=report.origin)
    (table,) = told["tables"]
    first = next(one for one in table["rows"] if one["row"] == "10%")
    cell = next(one for one in first["cells"] if one["column"] == "msrvtt.t2v.r1")
    assert (cell["measured"], cell["delta"], cell["interval"]["kind"]) == (41.0, 1.0, "queries")
    assert cell["runs"][0]["page"] == "http://127.0.0.1:5000/#/experiments/1/runs/run-10%-0"
    assert told["faults"] == [] and told["measurements"] == "here"
    fields = {field.name for field in dataclasses.fields(made[0].cell("10%", "msrvtt.t2v.r1"))}
    assert fields <= cell.keys()
