"""A run whose MLflow is stopped, killed or locked on the way: it ends, says so, and nothing is missing after `sync`."""

import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from experiments.tracking.client import TrackingError
from experiments.tracking.reader import MlflowReader, read_trials
from experiments.tracking.run_content import STAGES
from experiments.tracking.sync import sync
from experiments.tracking.writer import MlflowWriter
from tests.experiments.made_trials import ranks_of
from tests.mirrored_run import made
from tests.mlflow_servers import Server, server

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]


class Run:
    """The driver, watched from outside."""

    def __init__(self, home: Path, *variants: str, patience_s: float = 60.0, uri: str = "") -> None:
        self.home, self._variants = home, variants
        kept = {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW_")}
        self._errors = (home / "stderr.txt").open("w+")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.mirrored_run", str(home), str(patience_s), *variants],
            cwd=ROOT,
            env=kept | {"PYTHONPATH": str(ROOT), "MLFLOW_TRACKING_URI": uri},
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )
        self.said: list[str] = []

    def wait_for(self, line: str) -> None:
        for told in self.process.stdout:
            self.said.append(told.strip())
            if told.strip() == line:
                return
        pytest.fail(f"{line!r} was never said, but {self.said}; {(self.home / 'stderr.txt').read_text()}")

    def go(self, *variants: str) -> None:
        """Let the pre-trainings go on; all of them if none is named."""
        for variant in variants or self._variants:
            stage = made(variant).stages[0]
            (self.home / "store" / stage.kind / stage.fingerprint[:12] / "go").touch()

    def end(self) -> str:
        """Wait for its end; gives what was missing."""
        self.said += [line.strip() for line in self.process.communicate(timeout=240)[0].splitlines()]
        errors = (self.home / "stderr.txt").read_text()
        assert self.process.returncode == 0 and "Traceback" not in errors, errors
        assert f"ran {3 * len(self._variants)}" in self.said
        return self.said[-1].removeprefix("fault ")


def until(true: Callable[[], object]) -> None:
    give_up = time.monotonic() + 120
    while not true():
        assert time.monotonic() < give_up
        time.sleep(0.1)


def stages_in(uri: str) -> list:
    client = MlflowClient(tracking_uri=uri)
    found = client.get_experiment_by_name(STAGES)
    return [] if found is None else list(client.search_runs([found.experiment_id]))


def assert_complete(home: Path, uri: str, trials: int) -> None:
    """Every stage and trial is there once, and its files."""
    stages = stages_in(uri)
    assert sorted(run.info.status for run in stages) == ["FINISHED"] * 3 * trials
    assert len({run.data.tags["smaug.fingerprint"] for run in stages}) == 3 * trials
    curves = [run for run in stages if run.data.tags["smaug.kind"] == "pretrain"]
    client = MlflowClient(tracking_uri=uri)
    for run in curves:
        assert [m.step for m in client.get_metric_history(run.info.run_id, "loss")] == [1, 2, 3]
    rows = read_trials(home)
    assert [row.status for row in rows] == ["FINISHED"] * trials
    for row in rows:
        assert MlflowReader(home).ranks(row, "msrvtt") == ranks_of(25.0)


@pytest.fixture
def mlflow(tmp_path: Path, monkeypatch) -> Iterator[Server]:
    with server(tmp_path / "server") as running:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", running.uri)
        yield running


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


def test_a_server_that_is_killed_and_comes_back_has_everything_at_the_end(home, mlflow):
    run = Run(home, "10%", "50%", uri=mlflow.uri)
    run.wait_for("started pretrain")
    until(lambda: stages_in(mlflow.uri))
    mlflow.kill()
    run.go("10%")
    run.wait_for("done evaluate.msrvtt")
    mlflow.start()
    run.go("50%")
    assert run.end() == "None"
    assert_complete(home, mlflow.uri, 2)


@pytest.mark.nightly
def test_a_server_that_answers_no_more_is_left_after_a_while_and_sync_catches_up(home, mlflow, monkeypatch):
    run = Run(home, "10%", "50%", patience_s=1.0, uri=mlflow.uri)
    run.wait_for("started pretrain")
    until(lambda: stages_in(mlflow.uri))
    mlflow.signal(signal.SIGSTOP)
    run.go()
    run.wait_for("ran 6")
    since = time.monotonic()
    fault = run.end()
    assert time.monotonic() - since < 15
    assert "of 6 stages: MLflow " in fault and "`smaug sync` records them later" in fault
    assert int(fault.split()[0]) >= 4  # neither fine-tuning nor evaluation can have arrived
    with monkeypatch.context() as patch, pytest.raises(TrackingError, match="MLflow at http"):
        patch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
        patch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        sync(home)
    mlflow.signal(signal.SIGCONT)
    for _ in range(2):
        assert sync(home) == (6, 2)
        assert_complete(home, mlflow.uri, 2)


def test_a_server_that_hangs_for_a_while_costs_nothing(home, mlflow):
    run = Run(home, "50%", uri=mlflow.uri)
    run.wait_for("started pretrain")
    until(lambda: stages_in(mlflow.uri))
    mlflow.signal(signal.SIGSTOP)
    run.go()
    run.wait_for("ran 3")
    mlflow.signal(signal.SIGCONT)
    assert run.end() == "None"
    assert_complete(home, mlflow.uri, 1)


def test_a_slow_server_is_waited_for_longer_than_one_that_does_not_answer(home, mlflow):
    run = Run(home, "50%", patience_s=2.0, uri=mlflow.uri)
    run.wait_for("started pretrain")
    until(lambda: stages_in(mlflow.uri))
    slowed, over = [], threading.Event()

    def slow_down():  # at work one part of the time in eight
        while not over.wait(0.05):
            mlflow.signal(signal.SIGSTOP)
            over.wait(0.35)
            mlflow.signal(signal.SIGCONT)
            slowed.append(1)

    slowing = threading.Thread(target=slow_down)
    slowing.start()
    try:
        run.go()
        run.wait_for("ran 3")
        since = time.monotonic()
        assert run.end() == "None"
        assert time.monotonic() - since > 2.0 and slowed
    finally:
        over.set()
        slowing.join()
    assert_complete(home, mlflow.uri, 1)


@pytest.fixture
def database(home, monkeypatch) -> str:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert MlflowWriter(home).client is not None
    return f"sqlite:///{home / 'mlflow.db'}"


def test_a_database_that_is_locked_to_the_end_is_left_and_sync_catches_up(home, database):
    other = sqlite3.connect(home / "mlflow.db", isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    run = Run(home, "50%", patience_s=1.0)
    run.wait_for("started pretrain")
    run.go()
    run.wait_for("ran 3")
    since = time.monotonic()
    assert run.end().startswith("3 of 3 stages: MLflow did not answer for 1 s; results stay in the store")
    assert time.monotonic() - since < 10
    other.execute("ROLLBACK")
    for _ in range(2):
        assert sync(home) == (3, 1)
        assert_complete(home, database, 1)


def test_a_database_that_is_locked_for_a_while_has_everything_at_the_end(home, database):
    other = sqlite3.connect(home / "mlflow.db", isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    run = Run(home, "50%")
    run.wait_for("started pretrain")
    run.go()
    run.wait_for("ran 3")
    time.sleep(1.0)  # not waited for: that nothing happens
    other.execute("ROLLBACK")
    assert run.end() == "None"
    assert_complete(home, database, 1)
