"""Unused files of a home folder: found, measured and explained; nothing is deleted here."""

import os
import re
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import psutil

from experiments.engines.slurm.submissions import SUBMISSION, Submissions
from experiments.planning.disk_space import size_of
from experiments.store.attempt import read_attempts
from experiments.store.documents import StoreError
from experiments.store.drivers import Driver, cancel_requests, living
from experiments.store.lookup import Catalog
from experiments.store.store import read_result, read_stage

LEFTOVER_AGE_S = 3600.0
"""Age of a file written aside, which takes seconds, after which no process will finish it."""

STAGE = re.compile(r"[0-9a-f]{12}")
ASIDE = re.compile(r"[0-9a-f]{12}\.aside-\d+")
LEFTOVER = re.compile(r"\..+\.partial|\.claim-.+|\.partial-.+")
TRASH = ".gc-"
"""Beginning of the name under which a thing waits for its deletion, which may be interrupted."""
RAY_RUN = re.compile(r"(\d{8}-\d{6})-(\d+)")
"""Folder of one driver's Ray: when it started, and its process."""

RAY_CLUSTER = re.compile(r".+-(\d+)-\w{6}")
"""Folder of a Ray cluster in Slurm: its cluster, its job, and chance."""

Kind = Literal["aside", "stage", "checkpoints", "leftover", "ray", "slurm", "mark", "trash"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Garbage:
    """One file or folder that may go."""

    path: Path
    kind: Kind
    why: str
    size: int
    """Bytes."""
    stage: Path | None = None
    """Folder of the stage that it is, or is part of."""

    def to_json(self) -> dict[str, Any]:
        """All of it in plain values."""
        return {"path": str(self.path), "kind": self.kind, "why": self.why, "bytes": self.size}


@dataclass(frozen=True, slots=True)
class Kept:
    """Something that looks like garbage and must stay, or cannot be judged."""

    path: Path
    why: str


@dataclass(slots=True)
class Found:
    """What there is to say of a home folder."""

    garbage: list[Garbage] = field(default_factory=list)
    kept: list[Kept] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True, slots=True)
class Needs:
    """What must stay at this moment."""

    fingerprints: frozenset[str]
    """First 12 digits of the stages that a valid trial or a living driver needs."""
    driven: frozenset[str]
    """Those of them that a living driver looks after: nothing in their folders is touched."""
    drivers: list[Driver]
    any_trial: bool
    """Whether a trial was ever requested; without one it is unknown what is needed."""


def needs(home: Path) -> Needs:
    """What valid trials and living drivers need now.

    Raises:
        StoreError: a trial's or driver's document cannot be read, so what it needs is not known.
    """
    catalog, drivers = Catalog(home), living(home)
    driven = frozenset(fingerprint[:12] for driver in drivers for fingerprint in driver.fingerprints)
    return Needs(
        fingerprints=driven | {fingerprint[:12] for fingerprint in catalog.stages},
        driven=driven,
        drivers=drivers,
        any_trial=bool(catalog.documents),
    )


def find_garbage(home: Path, now: float | None = None) -> Found:
    """All that could go, and what looks like it and stays.

    Raises:
        StoreError: what is needed is not known.
    """
    found, wanted = Found(), needs(home)
    now = time.time() if now is None else now
    store, ray, slurm = home / "store", home / "ray", home / "slurm"
    for root in (store, ray, slurm):
        if not leads_inside(root, home):
            found.kept.append(Kept(root, f"leads to {root.resolve()}, outside of {home}: nothing in it is touched"))
    if leads_inside(store, home):
        _look_at_store(store, wanted, now, found)
    if leads_inside(ray, home):
        found.garbage += _ray_garbage(ray, wanted.drivers)
    if leads_inside(slurm, home):
        _look_at_submissions(slurm, wanted.drivers, now, found)
    found.kept += _ray_clusters(home / "ray-clusters")
    driven = {fingerprint for driver in wanted.drivers for fingerprint in driver.fingerprints}
    for fingerprint in sorted(cancel_requests(home).keys() - driven):
        path = home / "cancel" / fingerprint
        why = "asks for the end of a stage that no driver is at"
        found.garbage.append(Garbage(path=path, kind="mark", why=why, size=size_of(path)))
    return found


def leads_inside(path: Path, folder: Path) -> bool:
    """Whether a path, links followed, stays in a folder."""
    return path.resolve().is_relative_to(folder.resolve())


def held_by(stage: Path) -> str | None:
    """Describe the process that works on the stage in a folder; None if there is none.

    Raises:
        StoreError: the folder is damaged, so that is unknown.
    """
    for attempt in read_attempts(stage):
        if attempt.state == "running":
            return f"attempt {attempt.number} is running: process {attempt.owner.pid} on {attempt.owner.host}"
    return None


def _look_at_store(store: Path, wanted: Needs, now: float, found: Found) -> None:
    for entry in _children(store):
        if entry.name.startswith(TRASH):
            found.garbage.append(_trash(entry))
        elif entry.is_symlink():
            found.kept.append(Kept(entry, "is a link; none is followed"))
        elif entry.is_dir():
            _look_at_kind(entry, wanted, now, found)


def _look_at_kind(folder: Path, wanted: Needs, now: float, found: Found) -> None:
    for entry in _children(folder):
        if entry.is_symlink():
            found.kept.append(Kept(entry, f"is a link to {entry.resolve()}; none is followed"))
            continue
        try:
            if ASIDE.fullmatch(entry.name):
                _look_at_doomed(entry, "aside", "was put aside, to be run again", found)
            elif STAGE.fullmatch(entry.name) and entry.name in wanted.fingerprints:
                found.garbage += [] if entry.name in wanted.driven else _parts(entry, now)
            elif STAGE.fullmatch(entry.name):
                _look_at_unwanted(entry, wanted, now, found)
        except StoreError as error:
            found.kept.append(Kept(entry, f"is damaged, so it may be in use ({error})"))


def _look_at_unwanted(stage: Path, wanted: Needs, now: float, found: Found) -> None:
    document = read_stage(stage)
    if document is None:
        if held := [name for name in ("attempts", "checkpoints", "result.json") if (stage / name).exists()]:
            found.kept.append(Kept(stage, f"holds no stage.json, but {', '.join(held)}; it is unknown what it is"))
        elif _age(stage, now) > LEFTOVER_AGE_S:
            _look_at_doomed(stage, "leftover", "holds no stage.json: whoever made it died", found)
    elif wanted.any_trial:
        done = "done" if (stage / "result.json").exists() else "not done"
        _look_at_doomed(stage, "stage", f"{document.name}, {done}: no valid trial asks for it", found)
    else:
        found.kept.append(Kept(stage, "no trial was ever requested in this home, so it is unknown what is needed"))


def _look_at_doomed(stage: Path, kind: Kind, why: str, found: Found) -> None:
    holder = held_by(stage)
    if holder is None:
        found.garbage.append(Garbage(path=stage, kind=kind, why=why, size=size_of(stage), stage=stage))
    else:
        found.kept.append(Kept(stage, holder))


def _parts(stage: Path, now: float) -> Iterator[Garbage]:
    """What may go of a stage that is needed."""
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


def _ray_garbage(ray: Path, drivers: Iterable[Driver]) -> Iterator[Garbage]:
    at_work = {driver.owner.pid for driver in drivers}
    for entry in _children(ray):
        if entry.name.startswith(TRASH):
            yield _trash(entry)
        elif (made := RAY_RUN.fullmatch(entry.name)) and entry.is_dir() and not entry.is_symlink():
            pid = int(made[2])
            # No start time is compared: a folder's name holds one by the clock, which may have been set since.
            if pid not in at_work and not psutil.pid_exists(pid):
                why = f"Ray of a driver that is gone (process {pid})"
                yield Garbage(path=entry, kind="ray", why=why, size=size_of(entry))


def _ray_clusters(root: Path) -> Iterator[Kept]:
    """Folders of Ray clusters in Slurm, which go at a clean end; a job that was killed leaves its own, with a token."""
    for entry in _children(root):
        if (made := RAY_CLUSTER.fullmatch(entry.name)) and entry.is_dir():
            why = f"of a Ray cluster in Slurm; if `squeue --jobs={made[1]}` shows no such job any more, delete it"
            yield Kept(entry, why)


def _look_at_submissions(slurm: Path, drivers: list[Driver], now: float, found: Found) -> None:
    submissions = Submissions(slurm)
    for entry in _children(slurm):
        if entry.name.startswith(TRASH):
            found.garbage.append(_trash(entry))
        elif entry.is_symlink():
            found.kept.append(Kept(entry, "is a link; none is followed"))
        elif SUBMISSION.fullmatch(entry.name) and entry.is_dir():
            try:
                reason = submissions.why_kept(entry, drivers, now)
            except StoreError as error:
                reason = f"is damaged, so it may be in use ({error})"
            if reason is None:
                why = "all of its jobs are over"
                found.garbage.append(Garbage(path=entry, kind="slurm", why=why, size=size_of(entry)))
            else:
                found.kept.append(Kept(entry, reason))


def _trash(path: Path) -> Garbage:
    return Garbage(path=path, kind="trash", why="its deletion was interrupted", size=size_of(path))


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
