"""A home folder with a ledger, and the connection to it."""

import os
import shutil

import pytest
from mlflow.tracking import MlflowClient

from experiments.tracking import Tracker


@pytest.fixture(scope="module")
def empty_ledger(tmp_path_factory):
    """A new database, which takes seconds to make; tests take a copy."""
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    home = tmp_path_factory.mktemp("ledger")
    assert Tracker(home).client is not None
    return home / "mlflow.db"


@pytest.fixture
def home(empty_ledger, tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copy(empty_ledger, tmp_path / "mlflow.db")
    return tmp_path


@pytest.fixture
def client(home):
    return MlflowClient(tracking_uri=f"sqlite:///{home / 'mlflow.db'}")
