"""A home folder with a ledger, the connection to it, and the command line on it."""

import math
import shutil
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from experiments.cli.app import main
from experiments.engines.slurm import queue as slurm_queue
from experiments.tracking.writer import MlflowWriter


@pytest.fixture(autouse=True)
def nobody_has_asked_slurm(monkeypatch):
    """A question of an earlier test of this process makes no later one wait."""
    monkeypatch.setattr(slurm_queue.PACE, "_latest", -math.inf)


@pytest.fixture(scope="module")
def empty_ledger(tmp_path_factory):
    """A new database, which takes seconds to make; tests take a copy."""
    home = tmp_path_factory.mktemp("ledger")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        assert MlflowWriter(home).client is not None
    return home / "mlflow.db"


@pytest.fixture
def new_home(empty_ledger, tmp_path, monkeypatch):
    """Makes home folders with an empty ledger."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)

    def make(name: str) -> Path:
        home = tmp_path / name
        home.mkdir()
        shutil.copy(empty_ledger, home / "mlflow.db")
        return home

    return make


@pytest.fixture
def home(empty_ledger, tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copy(empty_ledger, tmp_path / "mlflow.db")
    return tmp_path


@pytest.fixture
def client(home):
    return MlflowClient(tracking_uri=f"sqlite:///{home / 'mlflow.db'}")


@pytest.fixture
def smaug(tmp_path: Path, capsys, monkeypatch):
    """Run a verb on the home folder `tmp_path`; gives the exit code, and what was said on both channels."""
    monkeypatch.setenv("SMAUG_HOME", str(tmp_path))

    def run(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return run
