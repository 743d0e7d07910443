"""Every source of captioned media by its name: its captions, folder and digest."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from smaug_core.config import DataConfig
from smaug_core.data.dataset_sizes import PUBLISHED
from smaug_core.data.moving_shapes import dataset as moving_shapes
from smaug_core.data.sources.annotation import annotation_digest, join_sentences
from smaug_core.data.sources.formats import FORMATS
from smaug_core.errors import SmaugError

EMBEDDED = {f"moving_shapes/{source}": source for source in moving_shapes.SOURCES}
"""Sources that are rendered, and their names in `moving_shapes`."""
SPLITS: dict[str, tuple[str, ...]] = {
    **{name: tuple(moving_shapes.SOURCES[source].sizes) for name, source in EMBEDDED.items()},
    **{name: tuple(published.captions) for name, published in PUBLISHED.items()},
}
"""The splits of each source."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """One caption with its clip or picture."""

    id: str
    """Unique over all sources."""
    media: Path
    """File of the clip or picture."""
    caption: str
    """As written, a paragraph's sentences joined by one space; the tokenizer cleans it."""
    is_image: bool
    """A single picture, not a clip."""
    flip: bool
    """Whether a mirror image still fits the caption; false where captions name sides."""
    relevant: tuple[int, ...]
    """Frames that show what the caption names; None if the source does not record them."""


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


def read_source(name: str, split: str, data: DataConfig | None, root: Path) -> list[Item]:
    """The captions of one split of the source `name`, in a fixed order.

    A rendered source is checked by a sample of its files. Of a real one only the annotation file is read; its media
    are checked when they are decoded.

    Raises:
        SmaugError: no such source or split, or its media are not in `root`, or are not what was rendered there, or
            its annotation file is missing or wrong.
    """
    check_known(name, split)
    if name in EMBEDDED:
        return _read_embedded(name, split, embedded_section(name, data), root)
    kind, folder = PUBLISHED[name], root / name / "media"
    path = _annotations(name, split, root)
    rows = FORMATS[kind.format].read(path, is_image=kind.is_image, is_paragraph=kind.is_paragraph)
    return [
        Item(
            id=f"{name}/{split}/{number:08d}",
            media=folder / row.media,
            caption=row.caption,
            is_image=kind.is_image,
            flip=not row.names_sides,
            relevant=(),
        )
        for number, row in enumerate(rows)
    ]


def source_digest(name: str, split: str, data: DataConfig | None, root: Path | None = None) -> str | None:
    """SHA-256 of what `read_source` would return, known before anything is rendered or decoded.

    For a real source it is the digest of its annotation file, and None if that is not in `root`.

    Raises:
        SmaugError: no such source or split, or an annotation file that cannot be read.
    """
    check_known(name, split)
    if name in EMBEDDED:
        recipe = moving_shapes.split_digest(EMBEDDED[name], split, embedded_section(name, data))
        return hashlib.sha256(f"{name}|{split}|{recipe}".encode()).hexdigest()
    return None if root is None else annotation_digest(_annotations(name, split, root))


def _read_embedded(name: str, split: str, config: DataConfig, root: Path) -> list[Item]:
    source = EMBEDDED[name]
    directory = moving_shapes.directory(source, config, root)
    is_image = moving_shapes.SOURCES[source].frames is None
    return [
        Item(
            id=f"{name}/{row['id']}",
            media=directory / row["media"],
            caption=join_sentences(row["caption"]),
            is_image=is_image,
            flip=False,
            relevant=tuple(row["relevant"]),
        )
        for row in moving_shapes.open_split(directory, split)
    ]


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
