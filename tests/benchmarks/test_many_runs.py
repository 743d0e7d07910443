"""The ledger of copies that the reports are timed on is one that they can read."""

import pytest

from experiments.store.trials import write_trial
from experiments.tracking.reader import MlflowReader
from experiments.tracking.sync import sync
from experiments.tracking.writer import MlflowWriter
from reports.report import read_report
from tests.benchmarks.many_runs import multiply
from tests.experiments.made_trials import execute, trial


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    folder = tmp_path / "home"
    assert MlflowWriter(folder).client is not None
    for variant, r1 in (("50%", 25.0), ("10%", 30.0)):
        made = trial(variant, r1=r1)
        execute(folder, made)
        write_trial(folder, made)
    sync(folder)
    return folder


def test_copies_of_runs_are_rows_and_stages_of_their_own(home, tmp_path):
    copy = tmp_path / "copy"
    assert multiply(home, copy, 80) == 20, "two trials to six stages, as before"
    ledger = MlflowReader(copy)
    trials, stages = ledger.trials(), ledger.stages()
    assert (len(trials), len({stage.fingerprint for stage in stages})) == (20, 60)
    assert len({(row.variant, row.seed) for row in trials}) == 20
    report = read_report(copy)
    assert report.faults == []
    cell = next(table for table in report.tables if table.name == "4").cell("10%", "msrvtt.t2v.r1")
    assert (cell.n_seeds, cell.measured, cell.interval.kind) == (10, 30.0, "queries"), "copies do not differ"


def test_trials_alone_can_be_copied(home, tmp_path):
    assert multiply(home, tmp_path / "copy", 50, stages=False) == 44
    assert len(MlflowReader(tmp_path / "copy").stages()) == 6
