"""Whether a home folder, its data and its records hold: the second half of `smaug doctor`."""

import os
import re
import shutil
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

from experiments.config.scale import Scale
from experiments.maintenance.doctor.finding import Finding, fault, fine, probe, warning
from experiments.planning.disk_space import existing, in_words, room_needed
from experiments.planning.inputs import HUB_FILES, MissingInput, missing_inputs, read_splits, scale_stages
from experiments.stages.graph import cut_stages, resolved
from experiments.stages.stage import Stage
from experiments.store.attempt import read_attempts
from experiments.store.documents import StoreError
from experiments.store.drivers import living
from experiments.store.lookup import Catalog
from experiments.store.store import do_again, read_result, read_stage
from experiments.tracking.database import REBUILD, TrackingError, damage_of, database_file, redacted, settle
from experiments.tracking.location import FileSystem, file_system_of, read_mounts, tracking_problem, tracking_uri
from smaug_core.config import DataConfig
from smaug_core.data.dataset_sizes import PUBLISHED
from smaug_core.data.datasets import EMBEDDED, read_source
from smaug_core.data.media.video import read_frames
from smaug_core.data.moving_shapes import dataset as moving_shapes
from smaug_core.errors import ClipError, MissingClipError, SmaugError

SAMPLE = 16
"""Media files of a real corpus that are decoded; of embedded data it is all of them."""
NAMED = 10
"""Missing and damaged files that are named; the rest is counted."""
LEAST_FILES = 10_000
"""A file system that takes fewer new files ends a sweep soon."""
TRACKING = """
import json, sys
from pathlib import Path
from experiments.tracking.reader import read_trials
print(json.dumps({"trials": len(read_trials(Path(sys.argv[1])))}))
"""


def check_inputs(scale: Scale, home: Path) -> Iterator[Finding]:
    """Everything that stages of a scale read: vocabulary, weights and data, by the same rule as a plan's problems."""
    try:
        stages = scale_stages(scale, home / "data")
    except SmaugError as error:
        yield fault("inputs", str(error), "fix that file, or name another one with --set")
        return
    missing = missing_inputs(stages, home / "data")
    yield from (
        fault(each.name, f"not here; it belongs in {each.place}", each.fix) for each in missing if not each.source
    )
    names = dict.fromkeys(name for stage in stages for name, digest in stage.inputs.items() if digest is not None)
    yield from (fine(name, "is here") for name in names if name in HUB_FILES)
    yield from check_data(scale, home, stages)


def check_data(scale: Scale, home: Path, stages: Sequence[Stage]) -> Iterator[Finding]:
    """The data that stages read: embedded data against its manifest, real media by annotations and a sample."""
    config = scale.base_config()
    for source in read_splits(stages):
        if source in EMBEDDED and config.data is not None:
            yield _embedded(source, config.data, home / "data")
    yield from check_real_data(home, stages)


def check_real_data(home: Path, stages: Sequence[Stage]) -> Iterator[Finding]:
    """The real data sets that stages read: what is missing and where it belongs, else a sample of the media."""
    missing = missing_inputs(stages, home / "data")
    for source, splits in read_splits(stages).items():
        if source in PUBLISHED:
            lacking = [each for each in missing if each.source == source]
            root = home / "data"
            yield _missing_data(source, lacking, root) if lacking else _real(source, splits, root)


def _missing_data(source: str, missing: Sequence[MissingInput], root: Path) -> Finding:
    splits = ", ".join(each.name.removeprefix(f"{source} ") for each in missing)
    files = "; ".join(f"put annotations at {each.place} ({each.fix})" for each in missing)
    return fault(f"data {source}", f"not here: {splits}", f"{files}; media in {root / source / 'media'}")


def _embedded(name: str, config: DataConfig, root: Path) -> Finding:
    source, check = EMBEDDED[name], f"data {name}"
    folder = moving_shapes.directory(source, config, root)
    if not moving_shapes.is_rendered(source, config, root):
        return fine(check, "not rendered yet; a run does it, or `smaug data`")
    unreadable, count = [], 0
    try:
        for split in moving_shapes.split_sizes(source, config):
            for row in moving_shapes.open_split(folder, split):
                count += 1
                unreadable += _unreadable(folder / row["media"])
    except SmaugError as error:
        return fault(check, str(error), f"rm -r {folder}, then `smaug data --scale` renders it again")
    if unreadable:
        return fault(check, _some(unreadable, f"{count} files"), f"rm -r {folder}, then `smaug data` renders it again")
    return fine(check, f"{count} files decode; a sample as when rendered")


def _real(name: str, splits: Sequence[str], root: Path) -> Finding:
    check = f"data {name}"
    unreadable, count, looked = [], 0, 0
    try:
        for split in splits:
            items = read_source(name, split, None, root)
            picked = min(SAMPLE, len(items))
            count, looked = count + len(items), looked + picked
            unreadable += [why for k in range(picked) for why in _unreadable(items[k * len(items) // picked].media)]
    except SmaugError as error:
        return fault(check, str(error), "fix that file, or fetch it again")
    if unreadable:
        return fault(check, _some(unreadable, f"{looked} sampled files"), "fetch these files again")
    return fine(check, f"{count} captions; {looked} sampled files decode")


def _unreadable(path: Path) -> list[ClipError]:
    try:
        read_frames(path, lambda available: [0])  # the whole file is read, its first frame decoded
    except ClipError as error:
        return [error]
    return []


def _some(unreadable: list[ClipError], looked_at: str) -> str:
    missing = sum(isinstance(each, MissingClipError) for each in unreadable)
    parts = [(missing, "missing"), (len(unreadable) - missing, "damaged")]
    kinds = " and ".join(f"{part} {kind}" for part, kind in parts if part)
    more = f"; and {len(unreadable) - NAMED} more" if len(unreadable) > NAMED else ""
    return f"{kinds} of {looked_at}: {'; '.join(map(str, unreadable[:NAMED]))}{more}"


def check_mlflow(home: Path, mounts: list[FileSystem] | None = None) -> Iterator[Finding]:
    """Where the ledger is, and whether it answers."""
    uri, check = tracking_uri(home), "mlflow"
    if (problem := tracking_problem(home, mounts)) is not None:
        found, _, expected = problem.partition("; expected ")
        yield fault(check, found, f"use {expected}")
        return
    file, shown = database_file(uri), redacted(uri)
    try:
        if file is not None and file.exists() and (why := damage_of(file) or database_fault(file)) is not None:
            yield fault(check, f"{file}: {why}", REBUILD)
            return
        moved = settle(home, uri)
    except TrackingError as error:
        yield fault(check, str(error), "see the message")
        return
    if moved is not None:
        yield fine(check, moved)
    answer = probe(TRACKING, str(home), MLFLOW_HTTP_REQUEST_MAX_RETRIES="0")
    if isinstance(answer, str) and REBUILD in answer:
        yield fault(check, answer.removesuffix(f"; {REBUILD}"), REBUILD)
    elif isinstance(answer, str):
        fix = "see that the server is up and MLFLOW_TRACKING_URI right" if file is None else "see the message"
        yield fault(check, f"{shown}: {answer}", f"{fix}; runs go on without it, and `smaug sync` catches up")
    elif file is not None and not file.exists():
        yield fine(check, f"loads; {shown} is made by the first run")
    else:
        yield fine(check, f"{shown} answers, {answer['trials']} trials")


def database_fault(file: Path) -> str | None:
    """What is wrong with an SQLite file, in words, by its own check; none if nothing is, or it is locked."""
    try:
        # Writable: what a killed writer left is rolled back first.
        with closing(sqlite3.connect(f"{file.as_uri()}?mode=rw", uri=True, timeout=10)) as database:
            rows = database.execute("PRAGMA quick_check(3)").fetchall()
    except sqlite3.Error as error:
        return None if error.sqlite_errorcode == sqlite3.SQLITE_BUSY else f"cannot be read ({error})"
    answer = "; ".join(str(row[0]) for row in rows)
    return None if answer == "ok" else answer


def check_disk(scale: Scale, home: Path, mounts: list[FileSystem] | None = None) -> Iterator[Finding]:
    """Room and kind of the disk that the home folder is on."""
    folder = existing(home)
    under = file_system_of(folder.resolve(), read_mounts() if mounts is None else mounts)
    kind = "" if under is None else f", {under.type}{' over the network' if under.is_network else ''}"
    free, status = shutil.disk_usage(folder).free, os.statvfs(folder)
    found = f"{in_words(free)} free at {folder}{kind}"
    if not os.access(folder, os.W_OK):
        yield fault("disk", f"{folder} may not be written to", "choose another --home, or change its permissions")
        return
    try:
        stages = cut_stages(resolved(scale.base_config()), scale.resources, 0, 0)
        stage = max(stages, key=room_needed)
        needed = room_needed(stage)
    except SmaugError as error:
        yield warning("disk", f"{found}; what scale {scale.name} needs is not known ({error})", "see that message")
        return
    if free < needed:
        answer = f"{found}; {stage.name} at scale {scale.name} needs {in_words(needed)}"
        yield fault("disk", answer, "`smaug gc` shows what can go; or choose another --home")
    elif status.f_files and status.f_favail < LEAST_FILES:
        yield fault("disk", f"{found}, but only {status.f_favail} more files", "delete files, or choose another --home")
    else:
        yield fine("disk", f"{found}; the largest stage at scale {scale.name} needs {in_words(needed)}")


def check_stages(home: Path) -> Iterator[Finding]:
    """Check every stage in the store: that it is whole, and held by no dead process; and its trials."""
    count, wrong = 0, []
    for folder in sorted((home / "store").glob("*/*")):
        if re.fullmatch(r"[0-9a-f]{12}", folder.name):
            count += 1
            wrong += list(_stage_findings(folder))
    for what, look in (("trials", Catalog), ("drivers", living)):
        try:
            look(home)
        except StoreError as error:
            wrong.append(fault(what, error.what, error.advice))
    yield from wrong
    if not wrong:
        yield fine("stages", f"{count} in {home}, none damaged, none left by a process that died")


def _stage_findings(folder: Path) -> Iterator[Finding]:
    check = f"stage {folder.parent.name}/{folder.name}"
    try:
        document, result = read_stage(folder), read_result(folder)
        if document is None:
            fix = "the next run of its sweep writes it; if no sweep asks for it, `smaug gc` removes what is empty"
            yield warning(check, f"{folder} is half written: it holds no stage.json", fix)
            return
        attempts = read_attempts(folder)
    except StoreError as error:
        yield fault(check, error.what, error.advice)
        return
    missing = [name for name in ({} if result is None else result.files) if not (folder / name).exists()]
    if missing:
        yield fault(check, f"{folder} is done, but lacks {', '.join(missing)}", do_again(folder))
    for attempt in attempts:
        if attempt.fault and attempt.state == "dead":
            yield warning(check, attempt.fault, "nothing: the next run goes on from the newest checkpoint")
    if result is None and attempts and attempts[-1].state == "dead":
        attempt = attempts[-1]
        died = f"attempt {attempt.number} died without a word (process {attempt.owner.pid} on"
        yield warning(check, f"{document.name}: {died} {attempt.owner.host})", "the next run continues it")
