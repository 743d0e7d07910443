"""Every source of captioned media by its name: its manifests and digest."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from smaug_core.config import DataConfig
from smaug_core.data.dataset_sizes import PUBLISHED
from smaug_core.data.manifest import Manifest, ManifestKind, ManifestRow, write_manifest
from smaug_core.data.moving_shapes import dataset as moving_shapes
from smaug_core.data.sources.annotation import Annotation, annotation_digest
from smaug_core.data.sources.formats import FORMATS
from smaug_core.errors import SmaugError

EMBEDDED = {f"moving_shapes/{source}": source for source in moving_shapes.SOURCES}
"""Sources that are rendered, and their names in `moving_shapes`."""
SPLITS: dict[str, tuple[str, ...]] = {
    **{name: tuple(moving_shapes.SOURCES[source].sizes) for name, source in EMBEDDED.items()},
    **{name: tuple(published.captions) for name, published in PUBLISHED.items()},
}
"""The splits of each source."""


def is_known(name: str) -> bool:
    """Whether there is a source of this name, with or without local media."""
    return name in SPLITS


def published_size(name: str, split: str = "train") -> int:
    """Captions in one split of the paper's corpus or benchmark `name`, known without its files.

    Raises:
        SmaugError: no such source or split, or one that is rendered, whose size the section `data` decides.
    """
    check_known(name, split)
    if name in EMBEDDED:
        raise SmaugError(f"{name}: has no published size; the section `data` decides it")
    return PUBLISHED[name].captions[split]


def open_source(name: str, split: str, data: DataConfig | None, root: Path) -> Manifest:
    """Open the manifest of one split of the source `name`; write it first if it is missing or outdated.

    A rendered source is checked by a sample of its files. The media of a real one are checked when they are decoded.

    Raises:
        SmaugError: no such source or split, or its media are not in `root`, or are not what was rendered there, or
            its annotation file is missing or wrong, or the manifest cannot be written.
    """
    check_known(name, split)
    if name in EMBEDDED:
        return _open_embedded(name, split, embedded_section(name, data), root)
    path, annotations = root / name / f"{split}.arrow", _annotations(name, split, root)
    made_from = _state_of(annotations)
    with suppress(SmaugError):  # it is written again
        found = Manifest(path, root / name / "media")
        if found.source == made_from:
            return found
    kind = PUBLISHED[name]
    rows = FORMATS[kind.format].read(annotations, is_image=kind.is_image, is_paragraph=kind.is_paragraph)
    held = ManifestKind(is_image=kind.is_image, is_paragraph=kind.is_paragraph)
    try:
        write_manifest(path, _numbered(f"{name}/{split}", rows), held, made_from)
    except OSError as error:
        raise _unwritable(path, error) from error
    return Manifest(path, root / name / "media")


def _state_of(annotations: Path) -> str:
    """Size and time of an annotation file, which show whether it has changed; empty if there is none."""
    try:
        state = annotations.stat()
    except OSError:  # its reader says what is wrong
        return ""
    return f"{annotations.name} of {state.st_size} bytes at {state.st_mtime_ns}"


def _numbered(prefix: str, rows: Iterable[Annotation]) -> Iterator[ManifestRow]:
    """Name each caption by its clip or picture, and its number among that one's captions."""
    captions: Counter[str] = Counter()
    for row in rows:
        yield ManifestRow(
            id=f"{prefix}/{row.media}#{captions[row.media]}",
            sentences=row.sentences,
            path=row.media,
            flip=not row.names_sides,
        )
        captions[row.media] += 1


def _unwritable(path: Path, error: OSError) -> SmaugError:
    return SmaugError(f"{path}: the manifest cannot be written ({error.strerror})")


def source_digest(name: str, split: str, data: DataConfig | None, root: Path | None = None) -> str | None:
    """SHA-256 of what `open_source` would hold, known before anything is rendered or decoded.

    For a real source it is the digest of its annotation file, and None if that is not in `root`.

    Raises:
        SmaugError: no such source or split, or an annotation file that cannot be read.
    """
    check_known(name, split)
    if name in EMBEDDED:
        recipe = moving_shapes.split_digest(EMBEDDED[name], split, embedded_section(name, data))
        return hashlib.sha256(f"{name}|{split}|{recipe}".encode()).hexdigest()
    return None if root is None else annotation_digest(_annotations(name, split, root))


def _open_embedded(name: str, split: str, config: DataConfig, root: Path) -> Manifest:
    source = EMBEDDED[name]
    directory = moving_shapes.directory(source, config, root)
    rows = moving_shapes.open_split(directory, split)
    if not moving_shapes.manifest_of(directory, split).exists():  # rendered by an earlier version
        try:
            moving_shapes.write_manifests(directory, source, {split: rows})
        except OSError as error:
            raise _unwritable(moving_shapes.manifest_of(directory, split), error) from error
    return Manifest(moving_shapes.manifest_of(directory, split), directory)


def _annotations(name: str, split: str, root: Path) -> Path:
    return FORMATS[PUBLISHED[name].format].file_of(root / name / "annotations", split)


def check_known(name: str, split: str) -> None:
    """Raise a SmaugError unless there is such a source and split."""
    if name not in SPLITS:
        raise SmaugError(f"source: {name!r} is unknown; expected one of {sorted(SPLITS)}")
    if split not in SPLITS[name]:
        raise SmaugError(f"{name}: has no split {split!r}; expected one of {list(SPLITS[name])}")


def embedded_section(name: str, data: DataConfig | None) -> DataConfig:
    """The section `data`, from which the source is rendered; raise a SmaugError if it is missing."""
    if data is None:
        raise SmaugError(f"{name}: is rendered from the section `data`, which is missing; add it")
    return data
