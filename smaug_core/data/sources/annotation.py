"""A caption of real media, and what the reader of each format of annotation files provides."""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from smaug_core.data.manifest import ManifestRow
from smaug_core.errors import SmaugError

SIDES = re.compile(r"\b(left|right)\b", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True, slots=True)
class Annotation:
    """One caption of a picture or clip."""

    media: str
    """File of the picture or clip, relative to the folder of all media of its source."""
    sentences: tuple[str, ...]
    """As written: one text, or the sentences of a paragraph."""

    @property
    def names_sides(self) -> bool:
        """True if the caption may not fit a mirror image."""
        return any(SIDES.search(sentence) for sentence in self.sentences)


class AnnotationFormat(Protocol):
    """A module of this package: one format of annotation files."""

    def file_of(self, folder: Path, split: str) -> Path:
        """The file of a split in a source's folder `annotations`; its content decides the captions."""

    def read(self, path: Path, *, is_image: bool, is_paragraph: bool) -> list[Annotation]:
        """Captions of a split, in a fixed order.

        Args:
            path: given by `file_of`.
            is_image: whether the file must be of pictures, else of clips.
            is_paragraph: whether a list of texts holds the sentences of one caption, as in DiDeMo and ActivityNet;
                else each of them is a caption of its own.

        Raises:
            SmaugError: the file is missing or not of the format; the message lists wrong rows.
        """


def annotation_digest(path: Path) -> str | None:
    """SHA-256 of an annotation file's content; None if the file is missing, since its data is unknown.

    Raises:
        SmaugError: the file exists and cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise SmaugError(f"{path}: cannot be read ({error.strerror}); it should be an annotation file") from error


def numbered(prefix: str, annotations: Iterable[Annotation]) -> Iterator[ManifestRow]:
    """Name each caption by its clip or picture, and its number among that one's captions."""
    captions: Counter[str] = Counter()
    for row in annotations:
        yield ManifestRow(
            id=f"{prefix}/{row.media}#{captions[row.media]}",
            sentences=row.sentences,
            path=row.media,
            flip=not row.names_sides,
        )
        captions[row.media] += 1


def state_of(path: Path) -> str:
    """Name, size and time of a file, which show whether it has changed; empty if there is none."""
    try:
        state = path.stat()
    except OSError:  # its reader says what is wrong
        return ""
    return f"{path.name} of {state.st_size} bytes at {state.st_mtime_ns}"
