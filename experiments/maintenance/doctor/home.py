"""Checks of a home folder: its disk, its stages, its data and MLflow's database."""

import os
import shutil
from collections.abc import Iterator, Sequence
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
from experiments.store.store import do_again, is_stage_folder, read_result, read_stage
from experiments.tracking.database import REBUILD, TrackingError, damage_of, database_file, redacted, settle
from experiments.tracking.location import FileSystem, file_system_of, read_mounts, tracking_problem, tracking_uri
from smaug_core.config import DataConfig
from smaug_core.data.dataset_sizes import PUBLISHED
from smaug_core.data.datasets import EMBEDDED, open_source
from smaug_core.data.media.video import read_frames
from smaug_core.data.moving_shapes import dataset as moving_shapes
from smaug_core.errors import ClipError, SmaugError

SAMPLE = 16
"""Media files of a split of real data that are decoded."""
LEAST_FILES = 10_000
"""Fewest files that the disk must take; with fewer, a sweep soon fails."""
TRACKING = """
import json, sys
from pathlib import Path
from experiments.tracking.reader import read_trials
print(json.dumps({"trials": len(read_trials(Path(sys.argv[1])))}))
"""


def check_inputs(scale: Scale, home: Path) -> Iterator[Finding]:
    """Check everything that stages of a scale read: vocabulary, weights and data, by the same rule as a plan."""
    try:
        stages = scale_stages(scale, home / "data")
    except SmaugError as error:
        yield fault("inputs", str(error), "fix that file, or name another one with --set")
        return
    for missing in missing_inputs(stages, home / "data"):
        if not missing.source:
            yield fault(missing.name, f"not here; it belongs in {missing.place}", missing.fix)
    names = dict.fromkeys(name for stage in stages for name, digest in stage.inputs.items() if digest is not None)
    yield from (fine(name, "is here") for name in names if name in HUB_FILES)
    yield from check_data(scale, home, stages)


def check_data(scale: Scale, home: Path, stages: Sequence[Stage]) -> Iterator[Finding]:
    """Check the data that stages read: open it as they do, and decode a sample of the real media."""
    config = scale.base_config()
    for source in read_splits(stages):
        if source in EMBEDDED and config.data is not None:
            yield _embedded(source, config.data, home / "data")
    yield from check_real_data(home, stages)


def check_real_data(home: Path, stages: Sequence[Stage]) -> Iterator[Finding]:
    """Check the real data sets that stages read: list what is missing and where it belongs, else decode a sample."""
    root = home / "data"
    missing = missing_inputs(stages, root)
    for source, splits in read_splits(stages).items():
        if source not in EMBEDDED:
            lacking = [each for each in missing if each.source == source]
            yield _missing_data(source, lacking, root) if lacking else _real(source, splits, root)


def _missing_data(source: str, missing: Sequence[MissingInput], root: Path) -> Finding:
    splits = [each.name.removeprefix(f"{source} ") for each in missing]
    files = "; ".join(f"put annotations at {each.place} ({each.fix})" for each in missing)
    fix = f"{files}; media in {root / source / 'media'}"
    if source in PUBLISHED:
        fix += f"; or `smaug data prepare {source} --split {splits[0]} --from PATH`, of these files or of shards"
    words = ", ".join(f"{split}{_published_words(source, split)}" for split in splits)
    return fault(f"data {source}", f"not here: {words}", fix)


def _published_words(source: str, split: str) -> str:
    if source not in PUBLISHED:
        return ""
    published = PUBLISHED[source]
    media = f"{published.media[split]:,} {'pictures' if published.is_image else 'clips'}"
    return f" ({published.captions[split]:,} captions of {media})"


def _embedded(name: str, config: DataConfig, root: Path) -> Finding:
    source, check = EMBEDDED[name], f"data {name}"
    if not moving_shapes.is_rendered(source, config, root):
        return fine(check, "not rendered yet; a run does it, or `smaug data`")
    folder = moving_shapes.directory(source, config, root)
    try:
        count = sum(len(moving_shapes.open_split(folder, split)) for split in moving_shapes.split_sizes(source, config))
    except SmaugError as error:
        return fault(check, str(error), f"rm -r {folder}, then `smaug data --scale` renders it again")
    return fine(check, f"{count} files; a sample decodes as when rendered")


def _real(name: str, splits: Sequence[str], root: Path) -> Finding:
    check, errors, num_captions, num_sampled = f"data {name}", list[ClipError](), 0, 0
    try:
        for split in splits:
            samples = open_source(name, split, None, root)
            picked = min(SAMPLE, len(samples))
            num_captions, num_sampled = num_captions + len(samples), num_sampled + picked
            for k in range(picked):
                try:  # the whole file is read, its first frame decoded
                    read_frames(samples[k * len(samples) // picked].media, lambda available: [0])
                except ClipError as error:
                    errors.append(error)
    except SmaugError as error:
        return fault(check, str(error), "fix that file, or fetch it again")
    if errors:
        words = f"{len(errors)} of {num_sampled} sampled files cannot be read, the first: {errors[0]}"
        return fault(check, words, "fetch these files again")
    published = sum(PUBLISHED[name].captions[split] for split in splits) if name in PUBLISHED else None
    share = "" if published is None else f" of {published:,} published"
    return fine(check, f"{num_captions:,} captions{share}; {num_sampled} sampled files decode")


def check_mlflow(home: Path, mounts: list[FileSystem] | None = None) -> Iterator[Finding]:
    """Check that MLflow's database or server answers."""
    uri, check = tracking_uri(home), "mlflow"
    if (problem := tracking_problem(home, mounts)) is not None:
        message, _, expected = problem.partition("; expected ")
        yield fault(check, message, f"use {expected}")
        return
    file, shown = database_file(uri), redacted(uri)
    try:
        if file is not None and file.exists() and (why := damage_of(file)) is not None:
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


def check_disk(scale: Scale, home: Path, mounts: list[FileSystem] | None = None) -> Iterator[Finding]:
    """Check the disk of the home folder: its file system, and its room for the largest stage."""
    folder = existing(home)
    under = file_system_of(folder.resolve(), read_mounts() if mounts is None else mounts)
    kind = "" if under is None else f", {under.type}{' over the network' if under.is_network else ''}"
    free, status = shutil.disk_usage(folder).free, os.statvfs(folder)
    room = f"{in_words(free)} free at {folder}{kind}"
    if not os.access(folder, os.W_OK):
        yield fault("disk", f"{folder} may not be written to", "choose another --home, or change its permissions")
        return
    try:
        stages = cut_stages(resolved(scale.base_config()), scale.resources, 0, 0)
        stage = max(stages, key=room_needed)
        needed = room_needed(stage)
    except SmaugError as error:
        yield warning("disk", f"{room}; what scale {scale.name} needs is not known ({error})", "see that message")
        return
    if free < needed:
        message = f"{room}; {stage.name} at scale {scale.name} needs {in_words(needed)}"
        yield fault("disk", message, "`smaug gc` shows what can go; or choose another --home")
    elif status.f_files and status.f_favail < LEAST_FILES:
        yield fault("disk", f"{room}, but only {status.f_favail} more files", "delete files, or choose another --home")
    else:
        yield fine("disk", f"{room}; the largest stage at scale {scale.name} needs {in_words(needed)}")


def check_stages(home: Path) -> Iterator[Finding]:
    """Check that every stage, trial and driver's document is whole, and that no stage was left by a dead process."""
    count, wrong = 0, []
    for folder in sorted((home / "store").glob("*/*")):
        if is_stage_folder(folder):
            count += 1
            wrong += list(_stage_findings(folder))
    for check, read in (("trials", Catalog), ("drivers", living)):
        try:
            read(home)
        except StoreError as error:
            wrong.append(fault(check, error.what, error.advice))
    yield from wrong
    if not wrong:
        yield fine("stages", f"{count} in {home}, none damaged, none left by a process that died")


def _stage_findings(folder: Path) -> Iterator[Finding]:
    check = f"stage {folder.parent.name}/{folder.name}"
    try:
        document, result = read_stage(folder), read_result(folder)
        if document is None:
            fix = "the next run of its sweep writes it; if no sweep needs it, `smaug gc` deletes it"
            yield warning(check, f"{folder}: expected a stage.json, got none", fix)
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
        died = f"attempt {attempt.number} died without a final record (process {attempt.owner.pid} on"
        yield warning(check, f"{document.name}: {died} {attempt.owner.host})", "the next run continues it")
