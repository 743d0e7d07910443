"""Parts of a preparation: the rows of one shard, or of some media of an annotation file."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Protocol, runtime_checkable

from smaug_core.data.manifest import ManifestRow
from smaug_core.data.media.location import MediaLocation
from smaug_core.data.sources.annotation import Annotation, numbered, state_of
from smaug_core.data.sources.shards import Rejected, read_shard, shards_in
from smaug_core.errors import SmaugError

MEDIA = 500
"""Clips or pictures of an annotation file in a part: minutes of work that a kill can cost."""


@runtime_checkable  # for the shape checks of the tests
class PreparationPart(Protocol):
    """Some rows of a split; it can be pickled."""

    @property
    def name(self) -> str:
        """Name of its file."""

    @property
    def state(self) -> str:
        """State of the source: what the rows are made from, and when that was changed."""

    @property
    def is_mixed(self) -> bool:
        """True if rows of other parts may come between its rows."""

    def rows(self) -> Iterator[tuple[int, ManifestRow | Rejected]]:
        """Yield each row with its index in the split, or in this part if parts follow each other."""

    def location(self, row: ManifestRow) -> MediaLocation:
        """Clip or picture of a row."""


@dataclass(frozen=True, slots=True)
class ShardPart:
    """One shard."""

    name: str
    shard: Path
    root: Path
    prefix: str
    is_image: bool
    state: str
    is_mixed: bool = False

    def rows(self) -> Iterator[tuple[int, ManifestRow | Rejected]]:
        """Yield the samples of the shard; one rejection stands for a shard that is damaged."""
        index, found = 0, read_shard(self.shard, self.root, self.prefix, is_image=self.is_image)
        try:
            for row in found:
                yield index, row
                index += 1
        except SmaugError as error:
            yield index, Rejected(str(self.shard), str(error).removeprefix(f"{self.shard}: "))

    def location(self, row: ManifestRow) -> MediaLocation:
        """Clip or picture of a row."""
        return MediaLocation(self.root / row.path, row.member, row.offset or 0, row.length)


@dataclass(frozen=True, slots=True)
class AnnotationPart:
    """Captions of some media of an annotation file."""

    name: str
    numbered: tuple[tuple[int, ManifestRow], ...]
    root: Path
    state: str
    is_mixed: bool
    """Captions of a clip mostly follow each other, so that few files have mixed parts."""

    def rows(self) -> Iterator[tuple[int, ManifestRow | Rejected]]:
        """Yield the rows."""
        yield from self.numbered

    def location(self, row: ManifestRow) -> MediaLocation:
        """Clip or picture of a row."""
        return MediaLocation(self.root / row.path)


def shard_parts(folder: Path, prefix: str, *, is_image: bool) -> list[ShardPart]:
    """Return a part for each shard in a folder.

    Raises:
        SmaugError: there is none, or two have the same name.
    """
    parts = []
    for shard in shards_in(folder):
        name = "-".join(shard.relative_to(folder).with_suffix("").parts)
        parts.append(ShardPart(name, shard, folder, prefix, is_image, state_of(shard)))
    doubled = [name for name, count in Counter(part.name for part in parts).items() if count > 1]
    if doubled:
        raise SmaugError(f"{folder}: expected shards of different names, got {doubled[0]} twice")
    return parts


def annotation_parts(file: Path, annotations: list[Annotation], prefix: str, media: Path) -> list[AnnotationPart]:
    """Return parts of some media each, with all captions of these."""
    part_of, parts = dict[str, int](), list[list[tuple[int, ManifestRow]]]()
    for index, row in enumerate(numbered(prefix, annotations)):
        number = part_of.setdefault(row.path, len(part_of) // MEDIA)
        if number == len(parts):
            parts.append([])
        parts[number].append((index, row))
    state = state_of(file)
    is_mixed = any(rows[-1][0] > after[0][0] for rows, after in pairwise(parts))
    return [AnnotationPart(f"{number:05d}", tuple(rows), media, state, is_mixed) for number, rows in enumerate(parts)]
