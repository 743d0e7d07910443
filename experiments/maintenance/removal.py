"""Deleting what `garbage` found: asked again right before, and never half a stage at a time."""

import shutil
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from experiments.engines.slurm.submissions import Submissions
from experiments.maintenance.gc import TRASH, Garbage, held_by, leads_inside, needs
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
    """Records stages in MLflow before they go; loads it with the first one, and gives up at its first fault."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._write: Record | None = None
        self._fault: SmaugError | None = None

    def __call__(self, facts: StageRecord) -> None:
        """Record the hours of the stage in MLflow.

        Raises:
            SmaugError: MLflow cannot be reached, or could not before: it is not waited for twice.
        """
        if self._fault is not None:
            raise self._fault
        try:
            self._writer()(facts)
        except SmaugError as error:
            self._fault = error
            raise

    def _writer(self) -> Record:
        if self._write is None:
            if (problem := tracking_problem(self._home)) is not None:
                raise SmaugError(problem)
            from experiments.tracking.writer import Tracker

            tracker = Tracker(self._home)
            self._write = tracker.record_stage
        return self._write


@dataclass(slots=True)
class Removed:
    """What came of a deletion."""

    deleted: list[Garbage] = field(default_factory=list)
    left: list[tuple[Garbage, str]] = field(default_factory=list)
    """With the reason."""


def remove(home: Path, garbage: Iterable[Garbage], record: Record) -> Removed:
    """Delete what was found to be garbage, as far as it still is.

    Args:
        home: the home folder.
        garbage: as `find_garbage` gave it; may be old.
        record: called for each stage that has cost something, before it goes; if it fails, the stage stays.
    """
    made, submissions = Removed(), Submissions(home / "slurm")
    for each in garbage:
        try:
            reason = _delete(home, each, record, submissions)
        except (OSError, SmaugError) as error:
            reason = str(error)
        if reason is None:
            made.deleted.append(each)
        else:
            made.left.append((each, reason))
    return made


def _delete(home: Path, each: Garbage, record: Record, submissions: Submissions) -> str | None:
    """Why it stays; none if it is gone."""
    if not _may_be_deleted(home, each.path):
        return "is a link, or leads outside of this home's folders"
    if each.kind == "mark":
        each.path.unlink(missing_ok=True)
        return None
    if reason := _in_use(home, each, each.stage) or _is_followed(home, each, each.path, submissions):
        return reason
    if each.kind == "stage":
        _record_hours(home, each.path, record)
    trash = _trash_name(home, each.path)
    try:
        each.path.rename(trash)
    except FileNotFoundError:
        return None  # another process was quicker
    # A driver or a worker may have come in between; it finds the folder back before it looks again.
    now_at = trash if each.stage == each.path else each.stage
    if reason := _in_use(home, each, now_at) or _is_followed(home, each, trash, submissions):
        trash.rename(each.path)
        return reason
    _destroy(trash)
    return None


def _in_use(home: Path, each: Garbage, stage: Path | None) -> str | None:
    """Why it must stay, asked of the folder now at `stage`; none if it may go."""
    if stage is None:
        return None
    if (holder := held_by(stage)) is not None:
        return holder
    assert each.stage is not None
    wanted, name = needs(home), each.stage.name
    if name in (wanted.fingerprints if each.path == each.stage else wanted.driven):
        return "a trial or a driver needs it now"
    return None


def _is_followed(home: Path, each: Garbage, now_at: Path, submissions: Submissions) -> str | None:
    """Why a submission to Slurm must stay, of which the folder is now at a path; none if it is none, or may go."""
    return submissions.why_kept(now_at, living(home)) if each.kind == "slurm" and now_at.exists() else None


def _record_hours(home: Path, stage: Path, record: Record) -> None:
    if read_attempts(stage):
        if (found := read_record(stage)) is None:
            raise StoreError(f"{stage}: its hours cannot be recorded, for it does not say what stage it is")
        record(found)


def _may_be_deleted(home: Path, path: Path) -> bool:
    """Whether a path lies in one of the folders that are ours to clean, and is no link, nor is one on its way."""
    if path.is_symlink():
        return False
    for root in (home / "store", home / "ray", home / "slurm", home / "cancel"):
        if path.is_relative_to(root) and path != root:
            return leads_inside(root, home) and path.parent.resolve() == _without_links(root, path.parent)
    return False


def _without_links(root: Path, folder: Path) -> Path:
    return root.resolve() / folder.relative_to(root)


def _trash_name(home: Path, path: Path) -> Path:
    """A name that nothing in the store is looked for under, on the same disk."""
    root = home / next((name for name in ("ray", "slurm") if path.is_relative_to(home / name)), "store")
    return root / f"{TRASH}{uuid.uuid4().hex[:8]}-{path.name.lstrip('.')}"


def _destroy(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()
