"""Every source of captioned media by its name: its splits, sizes, manifests and digests.

A source is rendered, or it is a folder of the data root. One that holds `dataset.yaml` may have any name; the paper's
corpora and benchmarks may hold annotation files instead, whose manifests are written when they are first opened.
"""

import hashlib
from contextlib import suppress
from pathlib import Path

from smaug_core.config import DataConfig
from smaug_core.data.dataset_info import FILE, Counts, DatasetInfo, is_prepared, manifest_of, prepared_names, read_info
from smaug_core.data.dataset_sizes import PUBLISHED
from smaug_core.data.manifest import Manifest, ManifestKind, write_manifest
from smaug_core.data.moving_shapes import dataset as moving_shapes
from smaug_core.data.sources.annotation import annotation_digest, numbered, state_of
from smaug_core.data.sources.formats import FORMATS
from smaug_core.errors import SmaugError

EMBEDDED = {f"moving_shapes/{source}": source for source in moving_shapes.SOURCES}
"""Sources that are rendered, and their names in `moving_shapes`."""
SPLITS: dict[str, tuple[str, ...]] = {
    **{name: tuple(moving_shapes.SOURCES[source].sizes) for name, source in EMBEDDED.items()},
    **{name: tuple(published.captions) for name, published in PUBLISHED.items()},
}
"""The splits of each source whose name is fixed."""


def is_known(name: str, root: Path | None = None) -> bool:
    """Return whether there is a source of this name: one of the fixed ones, or a prepared data set under `root`."""
    return name in SPLITS or (root is not None and is_prepared(root, name))


def splits_of(name: str, root: Path | None = None) -> tuple[str, ...]:
    """The splits of a source: those that are published or rendered, and those prepared under `root`.

    Raises:
        SmaugError: there is no such source, or its `dataset.yaml` is wrong.
    """
    own = _prepared(name, root)
    if own is None and name not in SPLITS:
        there = sorted({*SPLITS, *(() if root is None else prepared_names(root))})
        place = "" if root is None else f", or a folder of {root} with a {FILE}"
        raise SmaugError(f"source: {name!r} is unknown; expected one of {there}{place}")
    return tuple(dict.fromkeys((*SPLITS.get(name, ()), *(() if own is None else own.splits))))


def split_counts(name: str, split: str, data: DataConfig | None, root: Path | None = None) -> Counts:
    """Captions and media of a split: those prepared under `root`, else those rendered or published.

    Raises:
        SmaugError: no such source or split.
    """
    own = _holding(name, split, root)
    if name in EMBEDDED:
        size = moving_shapes.split_sizes(EMBEDDED[name], embedded_section(name, data))[split]
        return Counts(captions=size, media=size)
    if own is not None:
        return Counts(captions=own.splits[split].captions, media=own.splits[split].media)
    return Counts(captions=PUBLISHED[name].captions[split], media=PUBLISHED[name].media[split])


def published_size(name: str, split: str = "train") -> int:
    """Captions in one split of the paper's corpus or benchmark `name`, known without its files.

    Raises:
        SmaugError: no such source or split, or one that is rendered, whose size the section `data` decides.
    """
    _holding(name, split, None)
    if name in EMBEDDED:
        raise SmaugError(f"{name}: has no published size; the section `data` decides it")
    return PUBLISHED[name].captions[split]


def open_source(name: str, split: str, data: DataConfig | None, root: Path) -> Manifest:
    """Open the manifest of one split of the source `name`.

    That of a rendered source or of an annotation file is written first, if it is missing or outdated.

    A rendered source is checked by a sample of its files. The media of a real one are checked when they are decoded.

    Raises:
        SmaugError: no such source or split, or its media are not in `root`, or are not what was rendered there, or
            its `dataset.yaml` or annotation file is missing or wrong, or the manifest cannot be written.
    """
    own = _holding(name, split, root)
    if name in EMBEDDED:
        return _open_embedded(name, split, embedded_section(name, data), root)
    if own is not None:
        return own.open(split)
    path, annotations = manifest_of(root / name, split), _annotations(name, split, root)
    made_from = state_of(annotations)
    with suppress(SmaugError):  # it is written again
        found = Manifest(path, root / name / "media")
        if found.source == made_from:
            return found
    kind = PUBLISHED[name]
    rows = FORMATS[kind.format].read(annotations, is_image=kind.is_image, is_paragraph=kind.is_paragraph)
    held = ManifestKind(is_image=kind.is_image, is_paragraph=kind.is_paragraph)
    try:
        write_manifest(path, numbered(f"{name}/{split}", rows), held, made_from)
    except OSError as error:
        raise _unwritable(path, error) from error
    return Manifest(path, root / name / "media")


def _unwritable(path: Path, error: OSError) -> SmaugError:
    return SmaugError(
        f"{path}: the manifest cannot be written ({error.strerror}); it is written once: make room for it, or let this"
        " user write to its folder until then"
    )


def source_digest(name: str, split: str, data: DataConfig | None, root: Path | None = None) -> str | None:
    """SHA-256 of what `open_source` would hold, known before anything is rendered or decoded.

    For a prepared data set it is the one that its `dataset.yaml` holds; else, for a real source, that of its annotation
    file, and None if there is none in `root`, or no `root` is given.

    Raises:
        SmaugError: no such source or split, a manifest that was changed since it was prepared, or an annotation file
            that cannot be read.
    """
    if root is None and name not in SPLITS:  # its dataset.yaml cannot be looked for
        return None
    own = _holding(name, split, root)
    if own is not None:
        return own.digest(split)
    if name in EMBEDDED:
        recipe = moving_shapes.split_digest(EMBEDDED[name], split, embedded_section(name, data))
        return hashlib.sha256(f"{name}|{split}|{recipe}".encode()).hexdigest()
    return None if root is None else annotation_digest(_annotations(name, split, root))


def _open_embedded(name: str, split: str, config: DataConfig, root: Path) -> Manifest:
    source = EMBEDDED[name]
    directory = moving_shapes.directory(source, config, root)
    rows, path = moving_shapes.open_split(directory, split), manifest_of(directory, split)
    with suppress(SmaugError):  # rendered by another version, or damaged: it is written again, from the same rows
        found = Manifest(path, directory)
        if len(found) == len(rows):
            return found
    try:
        moving_shapes.write_manifests(directory, source, {split: rows})
    except OSError as error:
        raise _unwritable(path, error) from error
    return Manifest(path, directory)


def _holding(name: str, split: str, root: Path | None) -> DatasetInfo | None:
    """The prepared data set that holds a split; None for a rendered split, and for one that was only published.

    Raises:
        SmaugError: no such source or split, or a `dataset.yaml` that is wrong.
    """
    if split not in (splits := splits_of(name, root)):
        raise SmaugError(f"{name}: has no split {split!r}; expected one of {list(splits)}")
    own = _prepared(name, root)
    return own if own is not None and split in own.splits else None


def _prepared(name: str, root: Path | None) -> DatasetInfo | None:
    return None if root is None or name in EMBEDDED or not is_prepared(root, name) else read_info(root, name)


def _annotations(name: str, split: str, root: Path) -> Path:
    return FORMATS[PUBLISHED[name].format].file_of(root / name / "annotations", split)


def embedded_section(name: str, data: DataConfig | None) -> DataConfig:
    """The section `data`, from which the source is rendered; raise a SmaugError if it is missing."""
    if data is None:
        raise SmaugError(f"{name}: is rendered from the section `data`, which is missing; add it")
    return data
