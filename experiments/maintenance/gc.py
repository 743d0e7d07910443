"""Unused files of a home folder, each with its size and the reason; nothing is deleted here."""

import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import psutil

from experiments.engines.slurm.submissions import SUBMISSION, reason_to_keep
from experiments.planning.disk_space import size_of
from experiments.store.attempt import read_attempts
from experiments.store.documents import StoreError
from experiments.store.drivers import cancel_requests, living
from experiments.store.lookup import Catalog
from experiments.store.store import is_stage_folder, read_result, read_stage
from smaug_core.errors import SmaugError

LEFTOVER_AGE_S = 3600.0
"""Age of a partial file, which takes seconds to write, after which no process will finish it."""

ARCHIVED = re.compile(r"[0-9a-f]{12}\.aside-\d+")
LEFTOVER = re.compile(r"\..+\.partial|\.claim-.+|\.partial-.+")
TRASH = ".gc-"
"""Beginning of the name under which an item waits for its deletion, which may be interrupted."""
RAY_RUN = re.compile(r"\d{8}-\d{6}-(\d+)")
"""Folder of one driver's Ray: the time of its start, and its process."""
RAY_CLUSTER = re.compile(r".+-(\d+)-\w{6}")
"""Folder of a Ray cluster in Slurm: its cluster, its job, and random characters."""

Kind = Literal["aside", "stage", "checkpoints", "leftover", "ray", "slurm", "mark", "trash"]
"""`aside`: an archived stage; `mark`: a cancel request."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Garbage:
    """A file or folder that is not needed."""

    path: Path
    kind: Kind
    why: str
    size: int
    """Bytes."""
    stage: Path | None = None
    """Folder of the stage that it is, or is part of."""

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON holds it."""
        return {"path": str(self.path), "kind": self.kind, "why": self.why, "bytes": self.size}


@dataclass(frozen=True, slots=True)
class Kept:
    """A file or folder that looks like garbage and must stay, or cannot be judged."""

    path: Path
    why: str


@dataclass(frozen=True, slots=True)
class GarbageReport:
    """All garbage of a home folder, and what looks like it and stays."""

    garbage: list[Garbage]
    kept: list[Kept]


def refuse_active_driver(home: Path) -> None:
    """Refuse to continue beside an active driver, whose stages change while they are judged.

    Raises:
        SmaugError: a driver is active, or its document cannot be read.
    """
    drivers = living(home)
    if not drivers:
        return
    documents, names, words = Catalog(home).documents, dict[str, None](), []
    for driver in drivers:
        own = [d.sweep for d in documents if driver.fingerprints.issuperset(stage.fingerprint for stage in d.stages)]
        sweeps = dict.fromkeys(own)
        names |= sweeps
        of_sweeps = f" (sweep {', '.join(sweeps)})" if sweeps else ""
        words.append(f"PID {driver.owner.pid} on {driver.owner.host}{of_sweeps}")
    raise SmaugError(
        f"{home}: expected no active driver, got {' and '.join(words)};"
        f" wait for it or cancel it (`smaug cancel {' '.join(names) or '--all'}`)"
    )


def needed_stages(home: Path) -> frozenset[str] | None:
    """Return the first 12 digits of the stages of all valid trials; None if no trial was ever requested.

    Raises:
        StoreError: a trial's document cannot be read, so its stages are not known.
    """
    catalog = Catalog(home)
    return frozenset(fingerprint[:12] for fingerprint in catalog.stages) if catalog.documents else None


def find_garbage(home: Path, now: float | None = None) -> GarbageReport:
    """Return all garbage of a home folder without an active driver; see `refuse_active_driver`.

    Raises:
        StoreError: a trial's document cannot be read, so its stages are not known.
    """
    now = time.time() if now is None else now
    items = [*_entries(home, needed_stages(home), now), *_ray_clusters(home), *_cancel_requests(home)]
    return GarbageReport(
        garbage=[item for item in items if isinstance(item, Garbage)],
        kept=[item for item in items if isinstance(item, Kept)],
    )


def leads_inside(path: Path, folder: Path) -> bool:
    """Return whether a path, links followed, stays in a folder."""
    return path.resolve().is_relative_to(folder.resolve())


def held_by(stage: Path) -> str | None:
    """Describe the process that works on the stage in a folder, with or without a driver; None if there is none.

    Raises:
        StoreError: the folder is damaged, so that is unknown.
    """
    for attempt in read_attempts(stage):
        if attempt.state == "running":
            return f"attempt {attempt.number} is running: process {attempt.owner.pid} on {attempt.owner.host}"
    return None


def _entries(home: Path, needed: frozenset[str] | None, now: float) -> Iterator[Garbage | Kept]:
    for name in ("store", "ray", "slurm"):
        root = home / name
        if not leads_inside(root, home):
            yield Kept(root, f"leads to {root.resolve()}, outside of {home}: nothing in it is touched")
            continue
        for entry in _children(root):
            if entry.name.startswith(TRASH):
                yield Garbage(path=entry, kind="trash", why="its deletion was interrupted", size=size_of(entry))
            elif entry.is_symlink():
                yield Kept(entry, "is a link; none is followed")
            elif entry.is_dir() and name == "store":
                yield from _stages(entry, needed, now)
            elif entry.is_dir():
                yield from _ray_run(entry) if name == "ray" else _submission(entry, now)


def _ray_clusters(home: Path) -> Iterator[Kept]:
    """Folders of Ray clusters in Slurm, deleted at a clean end; a job that was killed leaves its own, with a token."""
    for entry in _children(home / "ray-clusters"):
        if (match := RAY_CLUSTER.fullmatch(entry.name)) and entry.is_dir():
            why = f"of a Ray cluster in Slurm; if `squeue --jobs={match[1]}` shows no such job any more, delete it"
            yield Kept(entry, why)


def _cancel_requests(home: Path) -> Iterator[Garbage]:
    for fingerprint in sorted(cancel_requests(home)):
        path = home / "cancel" / fingerprint
        why = "requests the end of a stage, and no driver is active"
        yield Garbage(path=path, kind="mark", why=why, size=size_of(path))


def _stages(folder: Path, needed: frozenset[str] | None, now: float) -> Iterator[Garbage | Kept]:
    """Judge the stages of a kind."""
    for entry in _children(folder):
        try:
            if entry.is_symlink():
                yield Kept(entry, f"is a link to {entry.resolve()}; none is followed")
            elif ARCHIVED.fullmatch(entry.name):
                yield _unless_held(entry, "aside", "was archived, to be run again")
            elif is_stage_folder(entry) and needed is not None and entry.name in needed:
                yield from _unused_parts(entry, now)
            elif is_stage_folder(entry):
                yield from _unneeded(entry, needed, now)
        except StoreError as error:
            yield _damaged(entry, error)


def _unneeded(stage: Path, needed: frozenset[str] | None, now: float) -> Iterator[Garbage | Kept]:
    document = read_stage(stage)
    if document is None:
        if files := [name for name in ("attempts", "checkpoints", "result.json") if (stage / name).exists()]:
            yield Kept(stage, f"expected a stage.json, got only {', '.join(files)}")
        elif _age(stage, now) > LEFTOVER_AGE_S:
            yield _unless_held(stage, "leftover", "has no stage.json: the process that made it died")
    elif needed is None:
        yield Kept(stage, "no trial was ever requested in this home, so it is unknown what is needed")
    else:
        done = "done" if (stage / "result.json").exists() else "not done"
        yield _unless_held(stage, "stage", f"{document.name}, {done}: no valid trial needs it")


def _unless_held(stage: Path, kind: Kind, why: str) -> Garbage | Kept:
    holder = held_by(stage)
    if holder is not None:
        return Kept(stage, holder)
    return Garbage(path=stage, kind=kind, why=why, size=size_of(stage), stage=stage)


def _unused_parts(stage: Path, now: float) -> Iterator[Garbage]:
    """Unused parts of a stage that is needed."""
    if held_by(stage) is not None:
        return
    checkpoints = stage / "checkpoints"
    done = read_result(stage) is not None
    if done and checkpoints.is_dir() and not checkpoints.is_symlink():
        yield Garbage(
            path=checkpoints, kind="checkpoints", why="the stage is done", size=size_of(checkpoints), stage=stage
        )
    folders = [stage, stage / "attempts", *sorted((stage / "attempts").glob("[0-9]*"))]
    for folder in folders if done else [*folders, checkpoints]:
        for entry in _children(folder):
            if LEFTOVER.fullmatch(entry.name) and not entry.is_symlink() and _age(entry, now) > LEFTOVER_AGE_S:
                why = "was being written by a process that died"
                yield Garbage(path=entry, kind="leftover", why=why, size=size_of(entry), stage=stage)


def _ray_run(folder: Path) -> Iterator[Garbage]:
    # No start time is compared: a folder's name holds one by the clock, which may have been set since.
    if (match := RAY_RUN.fullmatch(folder.name)) and not psutil.pid_exists(int(match[1])):
        why = f"Ray of a driver that is gone (process {match[1]})"
        yield Garbage(path=folder, kind="ray", why=why, size=size_of(folder))


def _submission(folder: Path, now: float) -> Iterator[Garbage | Kept]:
    if SUBMISSION.fullmatch(folder.name):
        try:
            reason = reason_to_keep(folder, now)
        except StoreError as error:
            yield _damaged(folder, error)
            return
        if reason is None:
            yield Garbage(path=folder, kind="slurm", why="all of its jobs are over", size=size_of(folder))
        else:
            yield Kept(folder, reason)


def _damaged(path: Path, error: StoreError) -> Kept:
    return Kept(path, f"is damaged, so it may be in use ({error})")


def _children(folder: Path) -> list[Path]:
    try:
        return [folder / name for name in sorted(os.listdir(folder))]
    except (FileNotFoundError, NotADirectoryError):
        return []


def _age(path: Path, now: float) -> float:
    try:
        return now - path.lstat().st_mtime
    except FileNotFoundError:
        return 0.0
