"""Source of a report's measurements: the home folder's MLflow, or a database made of portable records."""

import hashlib
import os
from dataclasses import dataclass, replace
from pathlib import Path

from experiments.tracking.client import exists
from experiments.tracking.location import tracking_uri
from experiments.tracking.sync import sync
from smaug_core.errors import SmaugError

REFERENCE = Path(__file__).resolve().parents[2] / "reports" / "measurements" / "tiny"
"""The committed measurements, which a report shows where nothing was ever recorded."""
LEDGERS = "records"
"""Folder of a home folder that holds a database for each folder of records that was reported on."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Recorded:
    """Measurements that a report reads."""

    home: Path
    """The home folder whose MLflow holds them."""
    origin: str = ""
    """Folder of records that they come from; empty if they were made here."""
    notice: str = ""
    """Message to show first."""
    problem: str = ""
    """Reason why measurements may be missing; empty if there is none."""


def recorded(home: Path, records: Path | None) -> Recorded:
    """Return the measurements that a report is to read, up to date.

    Without `records` they are the home folder's own. If nothing was ever recorded, neither in its store nor in MLflow,
    they are the committed reference, which never mixes with what is measured here.

    Args:
        home: the home folder.
        records: a folder of portable records to report on instead, if any.

    Raises:
        SmaugError: no such folder, or a record cannot be read.
    """
    if records is not None:
        return _of_records(home, records)
    if (home / "store").exists():
        try:
            sync(home)
        except SmaugError as error:
            return Recorded(home=home, problem=f"the report may lack results of the store: {error}")
        return Recorded(home=home)
    if exists(tracking_uri(home)):
        return Recorded(home=home)
    notice = f"nothing is recorded here: this shows the reference in {_shown(REFERENCE)}; --from names other records"
    return replace(_of_records(home, REFERENCE), notice=notice)


def _of_records(home: Path, records: Path) -> Recorded:
    if not (records / "trials").is_dir():
        raise SmaugError(f"--from {records}: holds no records; expected a folder that `smaug sync --to` made")
    os.environ.pop("MLFLOW_TRACKING_URI", None)  # records of others must never get into the user's own MLflow
    own = home / LEDGERS / _digest(records)
    sync(own, records=records)
    return Recorded(home=own, origin=f"the records in {_shown(records)}")


def _digest(records: Path) -> str:
    """Return a digest of all records, so that other records never meet an old database."""
    digest = hashlib.sha256()
    for path in sorted(records.rglob("*.json")):
        own = hashlib.sha256(path.read_bytes()).hexdigest()
        digest.update(f"{path.relative_to(records).as_posix()}\n{own}\n".encode())
    return digest.hexdigest()[:16]


def _shown(path: Path) -> str:
    """Return a path from the repository's root, else its name alone: reports hold no paths of a machine."""
    root = REFERENCE.parents[2]
    return path.resolve().relative_to(root).as_posix() if path.resolve().is_relative_to(root) else path.resolve().name
