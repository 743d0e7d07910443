"""Location of MLflow's records, and whether MLflow may write there."""

import os
from pathlib import Path

from experiments.store.filesystem import FileSystem, file_system_of, read_mounts
from experiments.tracking.database import DATABASE, database_file, sqlite_uri


def tracking_uri(home: Path) -> str:
    """Address of MLflow's records: MLFLOW_TRACKING_URI, else a database in the home folder."""
    return os.environ.get("MLFLOW_TRACKING_URI") or sqlite_uri(home.resolve() / DATABASE)


def tracking_problem(home: Path, mounts: list[FileSystem] | None = None) -> str | None:
    """Reason why MLflow must not write to its location; None if it may.

    SQLite relies on locks that network file systems do not keep: a database there is damaged sooner or later.

    Args:
        home: the home folder.
        mounts: what is mounted; read from the system if not given.
    """
    file = database_file(tracking_uri(home))
    if file is None:
        return None
    under = file_system_of(file, read_mounts() if mounts is None else mounts)
    if under is None or not under.is_network:
        return None
    return (
        f"{file}: is a database on a network file system ({under.type} at {under.mount_point}), where SQLite gets"
        " damaged; expected MLFLOW_TRACKING_URI=http://... of an MLflow server, or"
        " MLFLOW_TRACKING_URI=sqlite:////... on a local disk (`smaug sync` fills either from this home)"
    )
