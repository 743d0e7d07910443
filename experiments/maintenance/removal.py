"""Deletion of garbage: each item is checked again right before, and no stage is ever half deleted."""

import shutil
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from experiments.maintenance.gc import TRASH, Garbage, held_by, leads_inside, needed_stages
from experiments.store.attempt import read_attempts
from experiments.store.documents import StoreError
from experiments.store.drivers import living
from experiments.store.records import StageRecord
from experiments.store.store import read_record
from experiments.tracking.location import tracking_problem
from smaug_core.errors import SmaugError

Record = Callable[[StageRecord], object]
"""Records the hours of a stage in MLflow; raises SmaugError where it cannot."""


class HoursLedger:
    """Records stages in MLflow before they are deleted; connects at the first one, and gives up at the first error."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._error: SmaugError | None = None

    def __call__(self, record: StageRecord) -> None:
        """Record the hours of the stage in MLflow.

        Raises:
            SmaugError: MLflow cannot be reached, or could not before: its time limit is not waited for twice.
        """
        if self._error is not None:
            raise self._error
        try:
            self._record(record)
        except SmaugError as error:
            self._error = error
            raise

    @cached_property
    def _record(self) -> Record:
        if (problem := tracking_problem(self._home)) is not None:
            raise SmaugError(problem)
        from experiments.tracking.writer import MlflowWriter

        return MlflowWriter(self._home).record_stage


@dataclass(slots=True)
class Removal:
    """Result of a deletion."""

    deleted: list[Garbage] = field(default_factory=list)
    left: list[tuple[Garbage, str]] = field(default_factory=list)
    """With the reason."""


def remove(home: Path, garbage: Iterable[Garbage], record: Record) -> Removal:
    """Delete each item that is still garbage.

    Args:
        home: the home folder.
        garbage: as `find_garbage` returned it; a driver or worker may have started since.
        record: called with each stage that has taken time, before it is deleted; if it fails, the stage stays.
    """
    removal = Removal()
    for item in garbage:
        try:
            reason = _delete(home, item, record)
        except (OSError, SmaugError) as error:
            reason = str(error)
        if reason is None:
            removal.deleted.append(item)
        else:
            removal.left.append((item, reason))
    return removal


def _delete(home: Path, item: Garbage, record: Record) -> str | None:
    """Delete an item; return the reason if it stays."""
    if not _is_ours(home, item.path):
        return "is a link, or leads outside of this home's folders"
    if (reason := _in_use(home, item, item.stage)) is not None:
        return reason
    if item.kind == "mark":
        item.path.unlink(missing_ok=True)
        return None
    if item.kind == "stage" and read_attempts(item.path):
        if (stage := read_record(item.path)) is None:
            raise StoreError(f"{item.path}: its hours cannot be recorded: expected a stage.json, got none")
        record(stage)
    root = home / next((name for name in ("ray", "slurm") if item.path.is_relative_to(home / name)), "store")
    trash = root / f"{TRASH}{uuid.uuid4().hex[:8]}-{item.path.name.lstrip('.')}"
    try:
        item.path.rename(trash)
    except FileNotFoundError:
        return None  # another process was quicker
    # A driver or worker that started in between gets the item back before it needs it.
    try:
        reason = _in_use(home, item, trash if item.stage == item.path else item.stage)
    except SmaugError as error:
        reason = str(error)
    if reason is not None:
        trash.rename(item.path)
        return reason
    if trash.is_dir():
        shutil.rmtree(trash)
    else:
        trash.unlink()
    return None


def _in_use(home: Path, item: Garbage, stage: Path | None) -> str | None:
    """Reason why an item must stay now, with its stage's folder at `stage`; None if it may be deleted."""
    if drivers := living(home):
        return f"a driver has started: process {drivers[0].owner.pid} on {drivers[0].owner.host}"
    if stage is None:
        return None
    if (holder := held_by(stage)) is not None:
        return holder
    needed = item.path == item.stage and item.path.name in (needed_stages(home) or ())
    return "a valid trial needs it now" if needed else None


def _is_ours(home: Path, path: Path) -> bool:
    """Return whether a path lies in a folder that gc cleans, and neither it nor a folder above it is a link."""
    if path.is_symlink():
        return False
    for root in (home / "store", home / "ray", home / "slurm", home / "cancel"):
        if path.is_relative_to(root) and path != root:
            parent = root.resolve() / path.parent.relative_to(root)
            return leads_inside(root, home) and path.parent.resolve() == parent
    return False
