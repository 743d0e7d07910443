"""Prepared data sets: the document `dataset.yaml`, which describes a data set and each split's manifest."""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

from smaug_core.data.manifest import WRONG_NAMED, Manifest, ManifestKind, is_inside
from smaug_core.errors import SmaugError
from smaug_core.files import COUNT, DIGEST, NAME, POSITIVE, DocumentError, Form, Map, Number, Words, check, write_whole

FILE = "dataset.yaml"
"""A folder under the data root is a data set exactly if it holds this file."""
SHORT_SIDE = re.compile(r"(?:jpeg|intra)(?: \d+ fps)? (\d+)\b")
"""In a preparation's words, such as `jpeg 2 fps 224 q95`."""
MEDIA = "media"
"""Folder of the media, unless another one is given."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Counts:
    """Size of a split."""

    captions: int
    media: int


@dataclass(frozen=True, kw_only=True, slots=True)
class SplitInfo:
    """A split's manifest, as it was when it was prepared."""

    captions: int
    media: int
    """Clips or pictures."""
    digest: str
    """Digest that `write_manifest` returned."""
    size: int
    """Bytes of the manifest."""
    mtime_ns: int
    """Time of its last change. With the size, it shows that the digest still holds, without reading the manifest."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DatasetInfo:
    """A prepared data set."""

    folder: Path
    name: str
    """The folder, relative to the data root."""
    is_image: bool
    is_paragraph: bool = False
    """Whether the sentences of a caption are those of one paragraph."""
    licence: str = "unknown"
    protocol: str = ""
    """Source of the captions and splits, for people."""
    media: str = MEDIA
    """Folder of the media: relative to the data set's folder, or absolute."""
    preparation: str = "none"
    """Changes of the media after their source, such as `jpeg 2 fps 224 q95`."""
    splits: Mapping[str, SplitInfo]
    published: Mapping[str, Counts] = field(default_factory=dict)
    """Published size of each split, where it is known."""

    @property
    def file(self) -> Path:
        """The document."""
        return self.folder / FILE

    @property
    def media_root(self) -> Path:
        """Folder that the paths of the manifests are relative to."""
        return self.folder / self.media

    @property
    def short_side(self) -> int | None:
        """Most pixels of the shorter side of the media, if they were prepared so."""
        found = SHORT_SIDE.match(self.preparation)
        return None if found is None else int(found[1])

    @property
    def manifest_kind(self) -> ManifestKind:
        """Facts that hold for every row."""
        return ManifestKind(is_image=self.is_image, is_paragraph=self.is_paragraph, preparation=self.preparation)

    def manifest_of(self, split: str) -> Path:
        """File of a split's manifest."""
        return manifest_of(self.folder, split)

    def split(self, split: str) -> SplitInfo:
        """Facts of one split.

        Raises:
            SmaugError: there is no such split.
        """
        if split not in self.splits:
            raise SmaugError(f"{self.name}: has no split {split!r}; expected one of {list(self.splits)}")
        return self.splits[split]

    def digest(self, split: str) -> str:
        """Digest of a split, without reading its manifest.

        Raises:
            SmaugError: there is no such split, or its manifest is missing or was changed since it was prepared.
        """
        expected, path = self.split(split), self.manifest_of(split)
        try:
            state = path.stat()
        except OSError as error:
            raise SmaugError(f"{path}: no such manifest, and {self.file} names it; {self._prepare}") from error
        if (state.st_size, state.st_mtime_ns) != (expected.size, expected.mtime_ns):
            raise SmaugError(
                f"{path}: expected {_state(expected.size, expected.mtime_ns)}, as {self.file} says, got"
                f" {_state(state.st_size, state.st_mtime_ns)}; {self._again}"
            )
        return expected.digest

    def open(self, split: str) -> Manifest:
        """Open the manifest of a split.

        Raises:
            SmaugError: as `digest`; or the manifest is damaged or not what the document says, the folder of the media
                is missing, or shards are missing or newer than the document, whose offsets may then mean nothing.
        """
        self.digest(split)
        if not self.media_root.is_dir():
            raise SmaugError(f"{self.file}: media: expected a folder, got {self.media!r}: no folder {self.media_root}")
        found, captions = Manifest(self.manifest_of(split), self.media_root), self.splits[split].captions
        if found.kind != self.manifest_kind or len(found) != captions:
            raise SmaugError(
                f"{found.path}: expected {captions} captions and {self.manifest_kind}, as {self.file} says, got"
                f" {len(found)} and {found.kind}; {self._prepare}"
            )
        self._check_shards(found)
        return found

    def _check_shards(self, manifest: Manifest) -> None:
        wrong, written = [], self.file.stat().st_mtime_ns
        for shard in manifest.shards():
            try:
                changed = shard.stat().st_mtime_ns
            except OSError as error:
                wrong.append(f"{shard}: {error.strerror}")
            else:
                if changed > written:
                    wrong.append(f"{shard}: is newer than {self.file}")
        if wrong:
            more = f"; and {len(wrong) - WRONG_NAMED} more" if len(wrong) > WRONG_NAMED else ""
            raise SmaugError(f"{manifest.path}: {'; '.join(wrong[:WRONG_NAMED])}{more}; {self._again}")

    @property
    def _again(self) -> str:
        return f"if it was only copied, `smaug data check {self.name}` reads it again; else {self._prepare}"

    @property
    def _prepare(self) -> str:
        return f"prepare the data set again (`smaug data prepare {self.name}`)"


def manifest_of(folder: Path, split: str) -> Path:
    """File of the manifest of one split of a data set in `folder`."""
    return folder / f"{split}.arrow"


def describe_split(path: Path, digest: str | None = None) -> SplitInfo:
    """Facts of a manifest as it is now; its digest is computed from all rows unless `write_manifest` just gave it.

    Raises:
        SmaugError: it is missing or damaged.
    """
    manifest, state = Manifest(path, path.parent), path.stat()
    return SplitInfo(
        captions=len(manifest),
        media=manifest.num_media,
        digest=digest or manifest.digest(),
        size=state.st_size,
        mtime_ns=state.st_mtime_ns,
    )


def write_info(info: DatasetInfo) -> None:
    """Write `dataset.yaml`, whole or not at all.

    Raises:
        OSError: it cannot be written.
    """
    import yaml

    document = {
        "kind": "image" if info.is_image else "video",
        "paragraph": info.is_paragraph,
        "licence": info.licence,
        "protocol": info.protocol,
        "media": info.media,
        "preparation": info.preparation,
        "splits": {split: asdict(held) for split, held in info.splits.items()},
    }
    if info.published:
        document["published"] = {split: asdict(counts) for split, counts in info.published.items()}
    text = yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=120)
    write_whole(info.file, lambda partial: partial.write_text(text, encoding="utf-8"))


NANOSECONDS = Number(-(2**63), 2**63 - 1, whole=True)
COUNTS: dict[str, Form] = {"captions": POSITIVE, "media": POSITIVE}
SPLIT: dict[str, Form] = COUNTS | {"digest": DIGEST, "size": COUNT, "mtime_ns": NANOSECONDS}
DOCUMENT: dict[str, Form] = {
    "kind": Words(("image", "video")),
    "paragraph": bool,
    "licence": str,
    "protocol?": str,
    "media?": NAME,
    "preparation?": NAME,
    "splits": Map(SPLIT),
    "published?": Map(COUNTS),
}


def read_info(root: Path, name: str) -> DatasetInfo:
    """Read the `dataset.yaml` of the data set `name` under the data root.

    Raises:
        SmaugError: the file is missing or cannot be read, or a key or value is wrong.
    """
    path = root / name / FILE
    try:
        state = path.stat()
    except OSError as error:
        raise SmaugError(f"{path}: no such file; prepare the data set first (`smaug data prepare`)") from error
    return _read(path, name, state.st_mtime_ns, state.st_size, state.st_ino)


@lru_cache(maxsize=256)  # a plan needs the same ones for every stage
def _read(path: Path, name: str, *state: int) -> DatasetInfo:
    """Read the file as it is in this state."""
    held = _document(path)
    try:
        check(held, DOCUMENT)
        _check_keys(held, DOCUMENT, "")
        for section, form in (("splits", SPLIT), ("published", COUNTS)):
            for split, facts in held.get(section, {}).items():
                _check_keys(facts, form, f"{section}.{split}.")
                if not is_inside(split) or "/" in split:
                    raise DocumentError(f"{section}: expected names of splits, got {split!r}")
        if not held["splits"]:
            raise DocumentError("splits: expected at least one, got none")
    except DocumentError as error:
        raise SmaugError(f"{path}: {error}") from error
    optional = {key: held[key] for key in ("protocol", "media", "preparation") if key in held}
    return DatasetInfo(
        folder=path.parent,
        name=name,
        is_image=held["kind"] == "image",
        is_paragraph=held["paragraph"],
        licence=held["licence"],
        splits={split: SplitInfo(**facts) for split, facts in held["splits"].items()},
        published={split: Counts(**facts) for split, facts in held.get("published", {}).items()},
        **optional,
    )


def is_prepared(root: Path, name: str) -> bool:
    """Return whether the data root holds a prepared data set of this name, spelt as `prepared_names` does."""
    return is_inside(name) and PurePosixPath(name).as_posix() == name and (root / name / FILE).is_file()


def prepared_names(root: Path) -> list[str]:
    """Names of the prepared data sets under the data root, at most two folders deep."""
    found = [*root.glob(f"*/{FILE}"), *root.glob(f"*/*/{FILE}")]
    return sorted(path.parent.relative_to(root).as_posix() for path in found)


def _document(path: Path) -> Any:
    import yaml

    try:
        held = yaml.safe_load(path.read_text(encoding="utf-8"))
        return json.loads(json.dumps(held, default=str))  # a date, say, is a text to us
    except OSError as error:
        raise SmaugError(f"{path}: cannot be read ({error.strerror})") from error
    except (yaml.YAMLError, TypeError, ValueError, RecursionError) as error:
        problem = " ".join(str(error).split()) or type(error).__name__
        raise SmaugError(f"{path}: cannot be read as YAML ({problem})") from error


def _check_keys(held: Mapping[str, Any], form: Mapping[str, Form], where: str) -> None:
    known = [key.removesuffix("?") for key in form]
    for key in held:
        if key not in known:
            raise DocumentError(f"{where}{key}: expected one of the keys {', '.join(known)}, got an unknown key")


def _state(size: int, mtime_ns: int) -> str:
    return f"{size} bytes of {datetime.fromtimestamp(mtime_ns / 1e9, UTC):%Y-%m-%d %H:%M:%S.%f} UTC"
