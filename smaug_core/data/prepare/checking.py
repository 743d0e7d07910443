"""Check of a prepared data set: every clip and picture is read, compared with its hash, and decoded."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from smaug_core.data.dataset_info import DatasetInfo, describe_split, write_info
from smaug_core.data.manifest import Manifest, ManifestRow, Sample, write_manifest
from smaug_core.data.media.decoding import decode
from smaug_core.data.media.frame_record import SUFFIX as RECORD
from smaug_core.data.media.stills import SUFFIXES as PICTURES
from smaug_core.data.media.video import read_frames
from smaug_core.data.prepare.process_pool import in_processes
from smaug_core.data.sources.shards import content_of
from smaug_core.errors import ClipError, SmaugError

CHUNK = 64
"""Captions that a process checks at a time."""


@dataclass(frozen=True, slots=True)
class BadRow:
    """A caption whose clip or picture cannot be used."""

    number: int
    """Row of the manifest."""
    id: str
    reason: str


def check_split(
    info: DatasetInfo, split: str, *, workers: int, progress: Callable[[int, int], None] | None = None
) -> list[BadRow]:
    """Read and decode the media of every caption of a split; return the captions whose media are bad.

    Args:
        info: the data set.
        split: its split.
        workers: processes that decode.
        progress: receives the number of captions checked so far, and their total.

    Raises:
        SmaugError: the manifest is missing, damaged or another one, or the folder of the media is missing.
    """
    if not info.media_root.is_dir():
        raise SmaugError(f"{info.file}: media: expected a folder, got {info.media!r}: no folder {info.media_root}")
    expected, manifest = info.split(split), Manifest(info.manifest_of(split), info.media_root)
    known = (digest := manifest.digest()) == expected.digest or manifest.source == _cleaned(expected.digest)
    if not known or manifest.kind != info.manifest_kind:
        raise SmaugError(
            f"{manifest.path}: expected the digest {expected.digest}, as {info.file} says, got {digest};"
            f" prepare the data set again (`smaug data prepare {info.name}`)"
        )
    chunks = [range(first, min(first + CHUNK, len(manifest))) for first in range(0, len(manifest), CHUNK)]
    bad, done = list[BadRow](), 0
    for chunk, found in zip(chunks, in_processes(partial(_check, manifest), chunks, workers), strict=True):
        bad, done = bad + found, done + len(chunk)
        if progress:
            progress(done, len(manifest))
    return bad


def _check(manifest: Manifest, rows: range) -> list[BadRow]:
    problems: dict[int, str] = {}
    bad = []
    for number in rows:
        sample = manifest[number]
        if sample.number not in problems:  # captions of the same clip mostly follow each other
            problems[sample.number] = _problem(sample, manifest.row(number)["content"])
        if problem := problems[sample.number]:
            bad.append(BadRow(number, sample.id, problem))
    return bad


def _problem(sample: Sample, content: bytes | None) -> str:
    """Return why a clip or picture cannot be used; empty if it can."""
    media = sample.media
    try:
        if content is not None and content_of(media.read()) != content:
            return f"{media}: expected the bytes that were prepared, got others"
        if media.suffix in PICTURES or media.suffix == RECORD:
            read_frames(media, range)
        else:
            decode(media, range, lambda frame, size: None)  # without keeping its frames
    except ClipError as error:
        return str(error)
    return ""


def write_clean(info: DatasetInfo, bad: Mapping[str, Sequence[BadRow]]) -> DatasetInfo:
    """Write the manifests again without the bad captions of each split, and describe all splits as they are now.

    Splits of which nothing is bad keep their manifest and digest: only its size and time are noted again, since a copy
    has another time.

    Raises:
        SmaugError: no caption of a split is good.
        OSError: a file cannot be written.
    """
    splits = dict(info.splits)
    for split, rows in bad.items():
        path, digest = info.manifest_of(split), None
        if rows:
            manifest, bad_rows = Manifest(path, info.media_root), {row.number for row in rows}
            source = _cleaned(splits[split].digest)
            digest = write_manifest(path, _good_rows(manifest, bad_rows), manifest.kind, source)
        splits[split] = describe_split(path, digest)
    clean = replace(info, splits=splits)
    write_info(clean)
    return clean


def _cleaned(digest: str) -> str:
    """Source of a clean manifest, by which a check knows it if it was killed before `dataset.yaml` was written."""
    return f"captions with good media of {digest}"


def _good_rows(manifest: Manifest, bad: set[int]) -> Iterator[ManifestRow]:
    for number in range(len(manifest)):
        if number not in bad:
            row = manifest.row(number)
            del row["media"]
            yield ManifestRow(**row | {"sentences": tuple(row["sentences"]), "relevant": tuple(row["relevant"])})
