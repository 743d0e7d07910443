"""Many drivers record at once, into sqlite, through a server, and with PostgreSQL behind it: every run once."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from experiments.store.store import Store, all_stages
from experiments.store.trials import write_trial
from experiments.tracking.reader import MlflowReader, read_trials
from experiments.tracking.run_content import STAGES
from experiments.tracking.sync import sync
from experiments.worker.main import run_stage
from experiments.worker.signals import StopFlag
from tests.experiments.made_trials import execute, ranks_of, stage, trial
from tests.mlflow_servers import postgresql, server

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
DRIVERS, EACH = 8, 5


@pytest.fixture(scope="module")
def busy_home(tmp_path_factory) -> Path:
    """Forty finished stages, three of them those of a trial."""
    home = tmp_path_factory.mktemp("busy")
    made = trial("50%")
    execute(home, made)
    write_trial(home, made)
    for number in range(DRIVERS * EACH - 3):
        directory = Store(home).prepare(stage("pretrain", number=number))
        assert run_stage(directory, data_root=home / "data", device="cpu", stop=StopFlag()) == 0
    return home


def record_at_once(folder: Path, homes: list[Path], uri: str) -> None:
    """Let all drivers begin at the same moment, each in one of the home folders."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW_")}
    env = kept | {"PYTHONPATH": str(ROOT), "MLFLOW_TRACKING_URI": uri, "MLFLOW_HTTP_REQUEST_TIMEOUT": "120"}
    drivers = [
        subprocess.Popen(
            [
                *(sys.executable, "-m", "tests.recorder", str(homes[number % len(homes)]), str(folder / "go")),
                *(str(number * EACH), str((number + 1) * EACH)),
            ],
            cwd=ROOT,
            env=env,
            stderr=subprocess.PIPE,
        )
        for number in range(DRIVERS)
    ]
    give_up = time.monotonic() + 300
    while len(list(folder.glob("ready-*"))) < DRIVERS:
        assert time.monotonic() < give_up and not any(driver.poll() for driver in drivers)
        time.sleep(0.1)
    (folder / "go").touch()
    told = [driver.communicate(timeout=400)[1] for driver in drivers]
    assert [driver.returncode for driver in drivers] == [0] * DRIVERS, told


def assert_each_once(home: Path, uri: str) -> None:
    client = MlflowClient(tracking_uri=uri)
    runs = client.search_runs([client.get_experiment_by_name(STAGES).experiment_id])
    assert sorted(run.data.tags["smaug.fingerprint"] for run in runs) == sorted(f.fingerprint for f in all_stages(home))
    assert {run.info.status for run in runs} == {"FINISHED"}
    for run in runs:
        assert {"hours.useful", "hours.billed"} <= run.data.metrics.keys()
        path = client.download_artifacts(run.info.run_id, "attempts.json")
        assert [a["state"] for a in json.loads(Path(path).read_text())["attempts"]] == ["done"]
    (row,) = read_trials(home)
    assert row.status == "FINISHED" and MlflowReader(home).ranks(row, "msrvtt") == ranks_of(25.0)
    before = {run.info.run_id: (run.data.metrics, run.data.tags) for run in runs}
    assert sync(home) == (DRIVERS * EACH, 1)
    again = client.search_runs([client.get_experiment_by_name(STAGES).experiment_id])
    assert {run.info.run_id: (run.data.metrics, run.data.tags) for run in again} == before


def copies(busy_home: Path, folder: Path) -> list[Path]:
    """Two home folders with the same stages, as on two machines with one server."""
    for name in ("one", "other"):
        shutil.copytree(busy_home, folder / name)
    return [folder / "one", folder / "other"]


def test_into_sqlite(busy_home, tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    home = tmp_path / "home"
    shutil.copytree(busy_home, home)
    record_at_once(tmp_path, [home], "")
    assert_each_once(home, f"sqlite:///{home / 'mlflow.db'}")


@pytest.mark.nightly
def test_through_a_server_from_two_home_folders(busy_home, tmp_path, monkeypatch):
    homes = copies(busy_home, tmp_path)
    with server(tmp_path / "server") as running:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", running.uri)
        record_at_once(tmp_path, homes, running.uri)
        assert_each_once(homes[0], running.uri)
        assert list((tmp_path / "server" / "kept").rglob("attempts.json"))


@pytest.mark.nightly
def test_through_a_server_over_postgresql_from_two_home_folders(busy_home, tmp_path, monkeypatch):
    homes = copies(busy_home, tmp_path)
    with postgresql() as database, server(tmp_path / "server", database) as running:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", running.uri)
        record_at_once(tmp_path, homes, running.uri)
        assert_each_once(homes[0], running.uri)
