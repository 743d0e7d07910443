"""Preparation of a data set: from annotation files or shards to manifests and, if wanted, smaller media.

The work is cut into parts. Each part's result appears by rename, so that a preparation that was killed continues; the
manifest and `dataset.yaml` come last.
"""

import io
import json
import os
import shutil
import tarfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

from smaug_core.data.dataset_info import DatasetInfo, SplitInfo, describe_split, is_prepared, read_info, write_info
from smaug_core.data.manifest import ManifestRow, write_manifest
from smaug_core.data.media.location import MediaLocation
from smaug_core.data.prepare.leftovers import name_aside, remove_leftovers
from smaug_core.data.prepare.parts import PreparationPart
from smaug_core.data.prepare.process_pool import in_processes
from smaug_core.data.prepare.transcode import Preparation
from smaug_core.data.sources.shards import Rejected, content_of
from smaug_core.errors import ClipError, SmaugError
from smaug_core.files import write_whole

Progress = Callable[[int, int, int, int], None]
"""Receives parts done, all parts, samples kept so far, and samples left out."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """Outcome of a preparation."""

    info: DatasetInfo
    split: str
    rejected: int
    report: Path | None
    """File that lists each sample that was left out, with its reason; None if there is none."""

    @property
    def counts(self) -> SplitInfo:
        """Size of the split."""
        return self.info.splits[self.split]


def prepare_split(
    info: DatasetInfo,
    split: str,
    parts: Sequence[PreparationPart],
    preparation: Preparation,
    *,
    workers: int = 1,
    progress: Progress | None = None,
) -> Prepared:
    """Prepare one split of a data set, from where an earlier attempt stopped.

    Args:
        info: of the data set; its other splits are those of the `dataset.yaml` that is there.
        split: its name.
        parts: all of its work.
        preparation: what becomes of the media; with `copy` they stay where they are.
        workers: processes.
        progress: called after each part.

    Raises:
        SmaugError: no sample could be prepared, or the files cannot be written.
    """
    folder = info.folder
    results = folder / f".{split}.parts"
    media = None if preparation.frames == "copy" else info.media_root / f"{split}-{_key(str(preparation))}"
    try:
        for made in (results, media):
            if made is not None:
                made.mkdir(parents=True, exist_ok=True)
                remove_leftovers(made)
        kept, rejected = 0, 0
        jobs = [_Job(part, results / f"{part.name}.jsonl", info.media_root, media, preparation) for part in parts]
        for done, (more, out) in enumerate(in_processes(_run, jobs, workers), 1):
            kept, rejected = kept + more, rejected + out
            if progress:
                progress(done, len(parts), kept, rejected)
        rejected = sum("reason" in line for line in _settled(jobs))
        report = folder / f"{split}.rejected.jsonl" if rejected else None
        if report is not None:
            write_whole(report, lambda partial: _write_lines(partial, _rejected(jobs)))
        digest = write_manifest(info.manifest_of(split), _rows(jobs), info.manifest_kind)
        there = read_info(folder.parent, folder.name).splits if is_prepared(folder.parent, folder.name) else {}
        splits = dict(there) | {split: describe_split(info.manifest_of(split), digest)}
        info = replace(info, splits=splits)
        write_info(info)
        shutil.rmtree(results)
    except OSError as error:
        raise SmaugError(f"{folder}: cannot be written ({error.strerror}); the same command continues") from error
    return Prepared(info, split, rejected, report)


@dataclass(frozen=True, slots=True)
class _Job:
    """A part, and where its result goes."""

    part: PreparationPart
    result: Path
    media_root: Path
    media: Path | None
    """Folder of the prepared media; None if they stay where they are."""
    preparation: Preparation

    @property
    def header(self) -> dict[str, str]:
        """First line of the result: it is that of this work, or is made again."""
        return {"source": self.part.state, "preparation": str(self.preparation)}


def _run(job: _Job) -> tuple[int, int]:
    """Do a part unless its result is there."""
    lines = _lines(job)
    if lines is None:
        if job.media is None:
            lines = [_line(index, row) for index, row in _hashed(job)]
        else:
            lines = _converted(job, job.media)
        write_whole(job.result, lambda partial: _write_lines(partial, [job.header, *lines]))
    kinds = Counter("reason" in line for line in lines)
    return kinds[False], kinds[True]


def _lines(job: _Job) -> list[dict[str, Any]] | None:
    """Read the lines of a part that is done; None if it is not, or of other work."""
    try:
        header, *lines = map(json.loads, job.result.read_text().splitlines())
    except (FileNotFoundError, ValueError):
        return None
    if header != job.header or (job.media is not None and lines and not (job.media / f"{job.part.name}.tar").exists()):
        return None
    return lines


def _hashed(job: _Job) -> Iterator[tuple[int, ManifestRow | Rejected]]:
    """Rows of media that stay where they are, with the hash of each."""
    known: dict[str, bytes | Rejected] = {}
    for index, row in job.part.rows():
        if isinstance(row, Rejected) or row.content is not None:
            yield index, row
            continue
        location = job.part.location(row)
        if str(location) not in known:
            try:
                known[str(location)] = content_of(location.read())
            except ClipError as error:
                known[str(location)] = _unreadable(location, error)
        found = known[str(location)]
        yield index, found if isinstance(found, Rejected) else replace(row, content=found)


def _converted(job: _Job, folder: Path) -> list[dict[str, Any]]:
    """Convert the media of a part into one shard, and return its lines."""
    lines, known = list[dict[str, Any]](), dict[str, ManifestRow | Rejected]()
    target = folder / f"{job.part.name}.tar"
    partial = target.with_name(name_aside(target.name))
    try:
        with partial.open("wb") as file:
            with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
                for index, row in job.part.rows():
                    if isinstance(row, ManifestRow):
                        location = job.part.location(row)
                        if str(location) not in known:
                            known[str(location)] = _add(tar, job, target, location, row)
                        made = known[str(location)]
                        row = made if isinstance(made, Rejected) else _moved(row, made)
                    lines.append(_line(index, row))
            file.flush()
            os.fsync(file.fileno())
        partial.rename(target)
    finally:
        partial.unlink(missing_ok=True)
    return lines


def _add(
    tar: tarfile.TarFile, job: _Job, target: Path, location: MediaLocation, row: ManifestRow
) -> ManifestRow | Rejected:
    """Add one prepared clip or picture to a shard."""
    try:
        content, duration = job.preparation.convert(location)
    except ClipError as error:
        return _unreadable(location, error)
    # With its own ending too: clips such as a.mp4 and a.mov stay two.
    entry = tarfile.TarInfo((row.member or row.path).removesuffix(suffix := job.preparation.suffix) + suffix)
    entry.size = len(content)
    tar.addfile(entry, io.BytesIO(content))
    padded = -(-len(content) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
    return replace(
        row,
        path=str(target.relative_to(job.media_root)),
        member=entry.name,
        offset=tar.offset - padded,
        length=len(content),
        content=content_of(content),
        duration=duration,
    )


def _moved(row: ManifestRow, made: ManifestRow) -> ManifestRow:
    """A row of a clip or picture that was prepared for another row already."""
    place = {name: getattr(made, name) for name in ("path", "member", "offset", "length", "content", "duration")}
    return replace(row, **place)


def _unreadable(location: MediaLocation, error: ClipError) -> Rejected:
    return Rejected(str(location), str(error).removeprefix(f"{location}: "))


def _line(index: int, row: ManifestRow | Rejected) -> dict[str, Any]:
    line: dict[str, Any] = {"index": index} | asdict(row)
    if isinstance(row, ManifestRow) and row.content is not None:
        line["content"] = row.content.hex()
    return line


def _settled(jobs: Iterable[_Job]) -> Iterator[dict[str, Any]]:
    """Lines of all parts; a sample whose id an earlier one has is left out."""
    seen = set[str]()
    for job in jobs:
        for line in _lines(job) or ():
            if "reason" not in line and line["id"] in seen:
                where = f"{Path(line['path']).name}[{line['member']}]"
                line = {"index": line["index"], "where": where, "reason": f"its id is an earlier one's: {line['id']}"}
            elif "reason" not in line:
                seen.add(line["id"])
            yield line


def _rejected(jobs: Iterable[_Job]) -> Iterator[dict[str, Any]]:
    return ({"where": line["where"], "reason": line["reason"]} for line in _settled(jobs) if "reason" in line)


def _rows(jobs: Sequence[_Job]) -> Iterator[ManifestRow]:
    """Rows of all parts, in the order of the source."""
    lines: Iterator[dict[str, Any]] = (line for line in _settled(jobs) if "reason" not in line)
    if any(job.part.is_mixed for job in jobs):
        lines = iter(sorted(lines, key=lambda line: line["index"]))
    for line in lines:
        held = {name: value for name, value in line.items() if name != "index"}
        content = held["content"]
        held |= {"sentences": tuple(held["sentences"]), "relevant": tuple(held["relevant"])}
        held["content"] = None if content is None else bytes.fromhex(str(content))
        yield ManifestRow(**held)


def _write_lines(path: Path, lines: Iterable[object]) -> None:
    with path.open("w") as file:
        for line in lines:
            file.write(json.dumps(line) + "\n")


def _key(text: str) -> str:
    return blake2b(text.encode(), digest_size=4).hexdigest()
