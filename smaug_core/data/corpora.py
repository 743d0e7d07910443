"""Every source of captioned media by its name: what it holds, where it lies, what it is made of."""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from smaug_core.config import DataConfig
from smaug_core.data import moving_shapes
from smaug_core.errors import SmaugError

SPLITS = {
    "moving_shapes/stills": ("train",),
    "moving_shapes/sentence": ("train", "val", "test"),
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
    """As written; the tokenizer cleans it."""
    is_image: bool
    """A single picture, not a clip."""
    flip: bool
    """Whether a mirror image still fits the caption; false where captions name sides."""
    relevant: tuple[int, ...]
    """Frames in which what the caption names can be seen."""


def read_source(name: str, split: str, data: DataConfig | None, root: Path) -> list[Item]:
    """The captions of one split of the source `name`, in a fixed order.

    Raises:
        SmaugError: no such source or split, or its media are not in `root`, or are not what was rendered there.
    """
    config = _embedded(name, split, data)
    part = "stills" if name == "moving_shapes/stills" else split
    directory = moving_shapes.directory(config, root)
    return [
        Item(
            id=f"{name}/{row['id']}",
            media=directory / row["media"],
            caption=row["caption"],
            is_image=part == "stills",
            flip=False,
            relevant=tuple(row["relevant"]),
        )
        for row in moving_shapes.open_split(directory, part)
    ]


def source_digest(name: str, split: str, data: DataConfig | None) -> str:
    """What `read_source` would hand over, as a SHA-256 that is known before anything is rendered.

    Raises:
        SmaugError: no such source or split.
    """
    recipe = moving_shapes.recipe_digest(_embedded(name, split, data))
    return hashlib.sha256(f"{name}|{split}|{recipe}".encode()).hexdigest()


def prepare(
    sources: Iterable[str],
    data: DataConfig | None,
    root: Path,
    progress: Callable[[int, int], None] | None = None,
    *,
    workers: int = 1,
) -> None:
    """Render the embedded data that these sources need and `root` does not hold yet.

    Args:
        sources: names of sources.
        data: recipe of the embedded data.
        root: folder of all media.
        progress: called with the files written so far and their total; never if nothing is missing.
        workers: processes that render.
    """
    for name in sources:
        config = _embedded(name, "train", data)
        moving_shapes.render(config, root, workers=workers, progress=progress)


def _embedded(name: str, split: str, data: DataConfig | None) -> DataConfig:
    if name not in SPLITS:
        raise SmaugError(f"source: {name!r} is unknown; right would be one of {sorted(SPLITS)}")
    if split not in SPLITS[name]:
        raise SmaugError(f"{name}: has no split {split!r}; right would be one of {list(SPLITS[name])}")
    if data is None:
        raise SmaugError(f"{name}: is rendered from the section `data`, which is missing; add it")
    return data
