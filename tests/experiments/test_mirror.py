"""The mirror tells what an event concerns and no more, and says what MLflow did not take."""

import shutil
import time
from pathlib import Path

import pytest

from experiments import mirror
from experiments.connection import TrackingError
from experiments.ledger import LATER
from experiments.mirror import Mirror
from experiments.reading import read_trials
from experiments.records import trial_facts, write_trials
from experiments.scheduler import Event
from experiments.tracking import Tracker
from tests.experiments.made_trials import execute, trial


@pytest.fixture
def home(empty_ledger: Path, tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(mirror, "REST", 0.0)
    shutil.copy(empty_ledger, tmp_path / "mlflow.db")
    return tmp_path


@pytest.fixture
def looked_at(monkeypatch) -> list[str]:
    """The variant of every trial whose stages are read."""
    variants: list[str] = []

    def counted(home, document):
        variants.append(document["variant"])
        return trial_facts(home, document)

    monkeypatch.setattr(mirror, "trial_facts", counted)
    return variants


def wait_until_told(told: Mirror) -> None:
    give_up = time.monotonic() + 120
    while told._due or told._touched or told._trials.due or not told._trials.documents:
        assert time.monotonic() < give_up
        time.sleep(0.01)


def test_an_event_tells_the_trials_that_hold_its_stage_and_a_curve_tells_none(home, looked_at):
    trials = [trial(variant) for variant in ("10%", "25%", "50%", "65%")]
    write_trials(home, [(one, []) for one in trials])
    execute(home, trials[2])
    with Mirror(home, trials) as told:
        told(Event(kind="started", stage=trials[2].stages[0]))
        wait_until_told(told)
        assert sorted(looked_at) == ["10%", "25%", "50%", "65%"]
        looked_at.clear()
        told(Event(kind="done", stage=trials[2].stages[1]))
        wait_until_told(told)
        assert looked_at == ["50%"]
        looked_at.clear()
        told._seen.clear()
        told(Event(kind="progress", stage=trials[2].stages[0]))
        wait_until_told(told)
        assert looked_at == []
    assert told.fault is None
    assert {row.variant: row.status for row in read_trials(home)} == {
        **{one.variant: "KILLED" for one in trials},
        "50%": "FINISHED",
    }


def test_a_failure_is_tried_again_and_leaves_no_fault(home, monkeypatch):
    monkeypatch.setattr(mirror, "RETRY_S", 0.05)
    made, real, fails = trial(), Tracker.record_stage, [TrackingError("MLflow at x: gone")] * 3

    def record_stage(self, facts):
        if fails:
            raise fails.pop()
        return real(self, facts)

    monkeypatch.setattr(Tracker, "record_stage", record_stage)
    write_trials(home, [(made, [])])
    execute(home, made)
    with Mirror(home, [made]) as told:
        for stage in made.stages:
            told(Event(kind="done", stage=stage))
        wait_until_told(told)
    assert told.fault is None and not fails
    assert [row.status for row in read_trials(home)] == ["FINISHED"]


def test_what_is_missing_at_the_end_is_counted(home, monkeypatch):
    made, real = trial(), Tracker.record_stage

    def record_stage(self, facts):
        if facts.document["kind"] == "evaluate":
            raise TrackingError(f"MLflow at x: gone; {LATER}")
        return real(self, facts)

    monkeypatch.setattr(Tracker, "record_stage", record_stage)
    write_trials(home, [(made, [])])
    execute(home, made)
    with Mirror(home, [made]) as told:
        for stage in made.stages:
            told(Event(kind="done", stage=stage))
    assert str(told.fault) == f"1 of 3 stages: MLflow at x: gone; {LATER}"
