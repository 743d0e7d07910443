"""The verbs of `smaug report`, on real ledgers and on what may be wrong with them."""

import csv
import json
import os

import pytest

from experiments.store.trials import write_trial
from experiments.tracking.source import REFERENCE
from experiments.tracking.sync import sync
from tests.experiments.made_trials import execute, trial


@pytest.fixture
def measured(home):
    """A home folder whose store holds two rows of Table 4, recorded."""
    for variant, r1 in (("50%", 25.0), ("10%", 30.0)):
        made = trial(variant, r1=r1)
        execute(home, made)
        write_trial(home, made)
    sync(home)
    return home


def cells(folder):
    with (folder / "cells.csv").open(newline="") as file:
        return {(cell["table"], cell["row"], cell["column"]): cell for cell in csv.DictReader(file)}


def run_of(client, variant):
    experiment = client.get_experiment_by_name("smaug/masking_ratio").experiment_id
    (run,) = client.search_runs([experiment], f"tags.`smaug.variant` = '{variant}'")
    return run


def test_tables_of_what_was_measured_here(smaug, measured, tmp_path):
    code, out, err = smaug("report", "tables", "4", "--out", str(tmp_path / "out"))
    assert (code, err) == (0, "") and out.count("table_4.") == 3
    cell = cells(tmp_path / "out")["4", "10%", "msrvtt.t2v.r1"]
    assert (cell["measured"], cell["delta"], cell["ci_kind"]) == ("30.0", "5.0", "queries")


def test_where_nothing_is_recorded_the_reference_is_shown_and_named(smaug, tmp_path):
    code, _, err = smaug("report", "tables", "4", "--out", str(tmp_path / "out"))
    assert code == 0
    assert err == (
        "nothing is recorded here: this shows the reference in reports/measurements/tiny; --from names other records\n"
    )
    made = {key: {**cell, "runs": ""} for key, cell in cells(tmp_path / "out").items()}
    assert made == {key: {**cell, "runs": ""} for key, cell in cells(REFERENCE).items()}
    assert sorted(os.listdir(tmp_path)) == ["out", "records"], "the home folder has no ledger and no store of its own"


def test_records_never_get_into_the_users_own_ledger(smaug, measured, client, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{measured / 'mlflow.db'}")
    before = {experiment.name for experiment in client.search_experiments()}
    records = measured / "portable"
    assert smaug("sync", "--to", str(records))[0] == 0
    assert smaug("report", "export", "--from", str(records), "--out", str(measured / "all.json"))[0] == 0
    assert {experiment.name for experiment in client.search_experiments()} == before
    told = json.loads((measured / "all.json").read_text())
    assert told["measurements"] == "the records in portable" and (measured / "records").is_dir()


def test_a_folder_that_holds_no_records_is_refused(smaug, tmp_path):
    code, out, err = smaug("report", "tables", "--from", str(tmp_path))
    assert (code, out) == (2, "") and "holds no records; expected a folder that `smaug sync --to` made" in err


def test_a_server_that_is_away_is_told_in_every_table_and_fails(smaug, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    code, _, err = smaug("report", "tables", "4", "--out", str(tmp_path / "out"))
    assert code == 1
    assert "nothing measured could be read: MLflow at http://127.0.0.1:9" in err and err.count("\n") == 1
    text = (tmp_path / "out" / "table_4.md").read_text()
    assert "| 10% | 70.8 (1.40x) | ? (a) | 40.5 | ? (a) |" in text
    assert "(a) Fault: nothing measured could be read" in text and "fills them" not in text


def test_a_missing_file_of_ranks_is_told_with_the_value(smaug, measured, client, tmp_path):
    run = run_of(client, "10%")
    (measured / "artifacts" / run.info.run_id / "artifacts" / "ranks" / "msrvtt.json").unlink()
    (measured / "store").rename(measured / "elsewhere")  # else `sync` would tell it again
    code, _, err = smaug("report", "tables", "4", "--out", str(tmp_path / "out"))
    assert code == 1 and f"run {run.info.run_id} must hold ranks/msrvtt.json" in err
    cell = cells(tmp_path / "out")["4", "10%", "msrvtt.t2v.r1"]
    assert (cell["measured"], cell["ci_low"], cell["p"]) == ("30.0", "", "") and "no interval" in cell["faults"]


def test_two_current_runs_of_one_row_give_no_number(smaug, measured, client, tmp_path):
    (measured / "store").rename(measured / "elsewhere")
    run = run_of(client, "10%")
    tags = {key: value for key, value in run.data.tags.items() if not key.startswith("mlflow.")}
    other = client.create_run(run.info.experiment_id, tags=tags)
    client.log_metric(other.info.run_id, "msrvtt.t2v.r1", 99.0)
    client.set_terminated(other.info.run_id)
    code, _, err = smaug("report", "tables", "4", "--out", str(tmp_path / "out"))
    assert code == 1 and f"{run.info.run_id}" in err and f"{other.info.run_id}" in err
    assert cells(tmp_path / "out")["4", "10%", "msrvtt.t2v.r1"]["measured"] == ""
    assert "| ? (" in (tmp_path / "out" / "table_4.md").read_text()


def test_a_damaged_result_does_not_keep_the_tables_from_being_made(smaug, measured, tmp_path):
    next((measured / "store" / "pretrain").glob("*/result.json")).write_text("{")
    code, _, err = smaug("report", "tables", "4", "--out", str(tmp_path / "out"))
    assert code == 1 and "the report may lack results of the store" in err and "result.json" in err
    assert cells(tmp_path / "out")["4", "10%", "msrvtt.t2v.r1"]["measured"] == "30.0"


def test_claims_are_judged_with_their_scale(smaug, measured):
    code, out, _ = smaug("report", "claims", "--json")
    checks = [check for check in json.loads(out)["checks"] if check["claim"] == "masking"]
    assert code == 0 and {check["scale"] for check in checks} == {"tiny"}
    loss = next(check for check in checks if check["column"] == "msrvtt.t2v.r1")
    assert (loss["value"], loss["verdict"], loss["n_seeds"]) == (-5.0, "contradicted", 1)
    assert loss["published_holds"] is True
    text = " ".join(smaug("report", "claims")[1].split())
    assert "Scale tiny: contradicted" in text and "does not hold (1.857)" in text


def test_diff_says_what_differs_by_its_exit_code_too(smaug, measured, tmp_path):
    assert smaug("report", "tables", "4", "--out", str(tmp_path / "a"))[0] == 0
    assert smaug("report", "diff", str(tmp_path / "a"), str(tmp_path / "a" / "cells.csv")) == (0, "", "")
    code, out, _ = smaug("report", "diff", str(tmp_path / "a"), str(REFERENCE))
    assert code == 1 and "table 4 (scale tiny), row 10%, msrvtt.t2v.r1: measured 30 -> 62.1094" in out
    changes = json.loads(smaug("report", "diff", str(tmp_path / "a"), str(REFERENCE), "--json")[1])
    assert {"only in B", "differs"} <= {change["kind"] for change in changes}
    assert smaug("report", "diff", str(tmp_path / "a"), str(tmp_path / "none"))[0] == 2


@pytest.mark.parametrize(
    ("tag", "value"),
    [
        *(
            (name, None)
            for name in ("columns", "title", "position", "baseline", "device", "code", "marks", "stage_runs")
        ),
        ("position", "x"),
        ("evaluations", "{broken"),
        ("columns", "7"),
    ],
)
def test_a_run_with_a_damaged_tag_is_told_and_all_else_is_shown(smaug, measured, client, tmp_path, tag, value):
    (measured / "store").rename(measured / "elsewhere")
    run = run_of(client, "10%")
    if value is None:
        client.delete_tag(run.info.run_id, f"smaug.{tag}")
    else:
        client.set_tag(run.info.run_id, f"smaug.{tag}", value)
    code, _, err = smaug("report", "tables", "--out", str(tmp_path / "out"))
    assert code == 1 and f"run {run.info.run_id} cannot be read: its tag smaug.{tag}" in err
    found = cells(tmp_path / "out")
    assert found["4", "50%", "msrvtt.t2v.r1"]["measured"] == "25.0"
    assert found["4", "10%", "msrvtt.t2v.r1"]["measured"] == ""
    assert "cannot be read" in found["4", "10%", "msrvtt.t2v.r1"]["faults"]


@pytest.mark.parametrize(
    "content", [b"{", b"null", b"[1, 2]", b"{}", b'{"q": "1"}', b'{"q": 0}', b'{"q": 1.5}', b"\xff"]
)
def test_a_damaged_file_of_ranks_is_told_with_the_value(smaug, measured, client, tmp_path, content):
    run = run_of(client, "10%")
    (measured / "artifacts" / run.info.run_id / "artifacts" / "ranks" / "msrvtt.json").write_bytes(content)
    (measured / "store").rename(measured / "elsewhere")
    code, _, err = smaug("report", "tables", "4", "--out", str(tmp_path / "out"))
    assert code == 1 and "ranks/msrvtt.json is damaged" in err
    cell = cells(tmp_path / "out")["4", "10%", "msrvtt.t2v.r1"]
    assert (cell["measured"], cell["p"]) == ("30.0", "")


def test_a_stage_with_a_damaged_tag_is_told_by_the_page(smaug, measured, client, tmp_path):
    (measured / "store").rename(measured / "elsewhere")
    experiment = client.get_experiment_by_name("smaug/stages").experiment_id
    run = client.search_runs([experiment])[0]
    client.delete_tag(run.info.run_id, "smaug.device")
    code, _, err = smaug("report", "page", "--out", str(tmp_path / "out"))
    assert code == 1 and f"run {run.info.run_id} cannot be read: its tag smaug.device is missing" in err
    assert "cannot be read" in (tmp_path / "out" / "index.html").read_text()


def test_a_cut_file_of_cells_is_refused_with_its_line(smaug, tmp_path):
    (tmp_path / "cut.csv").write_bytes((REFERENCE / "cells.csv").read_bytes()[:3000])
    code, _, err = smaug("report", "diff", str(tmp_path / "cut.csv"), str(REFERENCE))
    assert code == 2 and "cut.csv: line " in err and "is cut" in err
