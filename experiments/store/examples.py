"""Example pictures of a stage: their list, and the pictures, read from anywhere and checked."""

import base64
import binascii
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Self, get_args

from smaug_core.errors import SmaugError
from smaug_core.files import (
    ANY_NUMBER,
    COUNT,
    DIGEST,
    DocumentError,
    Map,
    Number,
    Pattern,
    StoredDocument,
    Words,
    check,
    key,
    parse,
)

FOLDER, LIST = "examples", "examples.json"
"""Folder of the pictures in a stage's folder, and among the files of its run; and the file that lists them."""

Kind = Literal["reconstruction", "selection"]


class GalleryError(SmaugError):
    """Example pictures that are missing, damaged, or listed under names that are none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Example(StoredDocument):
    """One picture of what a trained model does: an entry of the list, with the picture."""

    file: str = key(Pattern(r"[a-z][a-z0-9-]*\.png", "the plain name of a PNG file, e.g. selection-1.png"))
    kind: Kind = key(Words(get_args(Kind)))
    """`reconstruction`: a frame, the same with masked patches grey, and with these as predicted (Figures 4 to 7).
    `selection`: the frames of a clip, those that were selected with a thick border and a tick (Figure 3)."""
    caption: str = key(str)
    alt: str = key(str)
    """Description of the picture in a sentence."""
    source: str = key(str)
    """E.g. `moving_shapes/sentence`."""
    split: str = key(str)
    """`test` where the source has one, which training never saw; else `train`."""
    width: int = key(COUNT)
    height: int = key(COUNT)
    """Of the picture, in pixels."""
    mask_ratio: float | None = key(Number(0, 1), absent=None)
    """Of a reconstruction: the share of the patches that are masked."""
    selected: list[int] | None = key([COUNT], absent=None)
    """Of a selection: the selected frames, counted from 1."""
    relevant: list[int] | None = key([COUNT], absent=None)
    """Of a selection: the frames that show what the caption names, from 1; None where they were not recorded."""
    scores: list[float] | None = key([ANY_NUMBER], absent=None)
    """Of a selection: the selector's score of each frame; only differences matter."""
    sha256: str = key(DIGEST)
    png: bytes = field(default=b"", repr=False)
    """The picture, which is a file of its own."""

    @classmethod
    def of_picture(cls, png: bytes, **entry: Any) -> Self:
        """Make an example of a picture and the other keys of its entry, without those that are None."""
        known = {name: value for name, value in entry.items() if value is not None}
        return replace(cls.of(known | {"sha256": _sha256(png)}), png=png)


@dataclass(frozen=True, kw_only=True, slots=True)
class Gallery(StoredDocument):
    """examples.json: the pictures that a stage left, and those that could not be made."""

    examples: tuple[Example, ...] = key([Example.form()], document=Example)
    unreadable: dict[str, str] | None = key(Map(str), absent=None)
    """Error of each clip that could not be read and has no picture, by its path."""
    failed: str = key(str, absent="")
    """Reason why pictures are missing; empty if nothing went wrong."""

    @classmethod
    def of_examples(
        cls, examples: Sequence[Example] = (), unreadable: Mapping[str, str] | None = None, failed: str = ""
    ) -> Self:
        """List some examples."""
        raw: dict[str, Any] = {"examples": [example.raw for example in examples]}
        raw |= {"unreadable": dict(unreadable)} if unreadable else {}
        return replace(cls.of(raw | ({"failed": failed} if failed else {})), examples=tuple(examples))

    @property
    def summary(self) -> str:
        """Number of pictures, and what went wrong."""
        errors = [f"clips that could not be read: {len(self.unreadable)}"] if self.unreadable else []
        errors += [self.failed] if self.failed else []
        return "; ".join([f"{len(self.examples)} pictures", *errors])


def read_gallery(content: str | bytes, picture: Callable[[str], bytes], where: str) -> Gallery:
    """Read a list and the pictures that it names.

    Args:
        content: of `examples.json`.
        picture: reads the file of a name; called with plain names of PNG files only.
        where: path of the list, for messages.

    Raises:
        GalleryError: that is no such list, a name is listed twice, or a picture is not the listed one.
        OSError: `picture` cannot read a file.
    """
    try:
        raw = parse(content)
        check(raw, Gallery.form())
    except DocumentError as error:
        raise GalleryError(f"{where}: lists no example pictures ({error})") from error
    gallery, examples = Gallery.of(raw), list[Example]()
    for example in gallery.examples:
        if example.file in (other.file for other in examples):
            raise GalleryError(f"{where}: {example.file} is listed twice")
        png = picture(example.file)
        if _sha256(png) != example.sha256:
            raise GalleryError(f"{where}: {example.file} is damaged: it is not the picture that was listed")
        examples.append(replace(example, png=png))
    return replace(gallery, examples=tuple(examples))


def stored_gallery(stage_directory: Path) -> Gallery | None:
    """Read the pictures in a stage's folder; None if no attempt was made at any.

    Missing and damaged files are named in the gallery's `failed`, so that all else about the stage can be recorded.
    """
    folder = stage_directory / FOLDER
    try:
        return read_gallery((folder / LIST).read_bytes(), lambda name: (folder / name).read_bytes(), f"{FOLDER}/{LIST}")
    except FileNotFoundError as error:
        if not folder.exists():
            return None
        return Gallery.of_examples(failed=f"{FOLDER}/{Path(error.filename).name}: is missing")
    except OSError as error:
        return Gallery.of_examples(failed=f"{FOLDER}/{Path(error.filename).name}: cannot be read ({error.strerror})")
    except GalleryError as error:
        return Gallery.of_examples(failed=str(error))


def to_record(gallery: Gallery) -> dict[str, Any]:
    """Return the JSON of a gallery with its pictures."""
    # Base64 without slashes: it must never look like a path.
    pictures = {example.file: base64.urlsafe_b64encode(example.png).decode() for example in gallery.examples}
    return {"listing": gallery.raw, "pictures": pictures}


def from_record(recorded: Mapping[str, Any]) -> Gallery:
    """Read a gallery from its JSON.

    Raises:
        GalleryError: it holds something else.
    """
    try:
        pictures = {name: base64.b64decode(held, b"-_", validate=True) for name, held in recorded["pictures"].items()}
        return read_gallery(json.dumps(recorded["listing"]), pictures.__getitem__, LIST)
    except (KeyError, TypeError, AttributeError, binascii.Error) as error:
        raise GalleryError(f"{LIST}: its pictures cannot be read ({type(error).__name__}: {error})") from error


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
