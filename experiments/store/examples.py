"""The example pictures that a stage left: the list of them, and the pictures, read from anywhere and checked."""

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from smaug_core.errors import SmaugError

FOLDER, LIST = "examples", "examples.json"
"""Where in a stage's folder, and among the files of its run, the pictures are; and the file that lists them."""
FILE_NAME = re.compile(r"[a-z][a-z0-9-]*\.png")

Kind = Literal["reconstruction", "selection"]


class GalleryError(SmaugError):
    """Example pictures that are missing, damaged, or listed under names that are none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Example:
    """One picture of what a trained model does."""

    file: str
    """Name of the PNG file, without a folder."""
    kind: Kind
    """`reconstruction`: a frame, the same with hidden patches grey, and with these as predicted (Figures 4 to 7).
    `selection`: the frames of a clip, those that were selected with a thick border and a tick (Figure 3)."""
    caption: str
    alt: str
    """A sentence that says what the picture shows."""
    source: str
    """E.g. `moving_shapes/sentence`."""
    split: str
    """`test` where the source has one, which training never saw; else `train`."""
    width: int
    height: int
    """Of the picture, in pixels."""
    mask_ratio: float | None = None
    """Of a reconstruction: the share of the patches that are hidden."""
    selected: tuple[int, ...] | None = None
    """Of a selection: the selected frames, counted from 1."""
    relevant: tuple[int, ...] | None = None
    """Of a selection: the frames that show what the caption names, from 1; None where they were not recorded."""
    scores: tuple[float, ...] | None = None
    """Of a selection: the selector's score of each frame; only differences matter."""
    png: bytes

    def entry(self) -> dict[str, Any]:
        """Entry of the list: all but the picture, which its digest replaces."""
        entry = asdict(self)
        content = entry.pop("png")
        return {name: value for name, value in entry.items() if value is not None} | {"sha256": _sha256(content)}


@dataclass(frozen=True, kw_only=True, slots=True)
class Gallery:
    """What a stage left to look at."""

    examples: tuple[Example, ...] = ()
    unreadable: Mapping[str, str] = field(default_factory=dict)
    """Why each clip that could not be read has no picture, by its path."""
    failed: str = ""
    """Why there are no pictures, or not all of them; empty: nothing went wrong."""

    def listing(self) -> dict[str, Any]:
        """What `examples.json` holds."""
        listing: dict[str, Any] = {"examples": [example.entry() for example in self.examples]}
        if self.unreadable:
            listing["unreadable"] = dict(self.unreadable)
        return listing | ({"failed": self.failed} if self.failed else {})

    @property
    def summary(self) -> str:
        """In a few words: how many pictures there are, and what went wrong."""
        faults = [f"clips that could not be read: {len(self.unreadable)}"] if self.unreadable else []
        faults += [self.failed] if self.failed else []
        return "; ".join([f"{len(self.examples)} pictures", *faults])


class _Entry(BaseModel):
    """What the list must say of a picture."""

    model_config = ConfigDict(extra="forbid")

    file: str
    kind: Kind
    caption: str
    alt: str
    source: str
    split: str
    width: int
    height: int
    mask_ratio: float | None = None
    selected: tuple[int, ...] | None = None
    relevant: tuple[int, ...] | None = None
    scores: tuple[float, ...] | None = None
    sha256: str


class _Listing(BaseModel):
    model_config = ConfigDict(extra="forbid")

    examples: list[_Entry]
    unreadable: dict[str, str] = {}
    failed: str = ""


def read_gallery(listing: str | bytes, picture: Callable[[str], bytes], where: str) -> Gallery:
    """The pictures that a list names.

    Args:
        listing: what `examples.json` holds.
        picture: gives what the file of a name holds; it is asked for plain names of PNG files only.
        where: that is, for messages.

    Raises:
        GalleryError: that is no such list, a name is no plain file name or is there twice, or a picture is not
            the one that was listed.
        OSError: `picture` cannot read a file.
    """
    try:
        listed = _Listing.model_validate_json(listing)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise GalleryError(f"{where}: lists no example pictures ({place}: {first['msg']})") from error
    _check_names([entry.file for entry in listed.examples], where)
    made = []
    for entry in listed.examples:
        content = picture(entry.file)
        if _sha256(content) != entry.sha256:
            raise GalleryError(f"{where}: {entry.file} is damaged: it is not the picture that was listed")
        made.append(Example(**entry.model_dump(exclude={"sha256"}), png=content))
    return Gallery(examples=tuple(made), unreadable=listed.unreadable, failed=listed.failed)


def stored_gallery(stage_directory: Path) -> Gallery | None:
    """The pictures in a stage's folder; none if no attempt was made at any.

    Missing and damaged files are named in the gallery's `failed`, so that all else about the stage can be recorded.
    """
    folder = stage_directory / FOLDER
    try:
        return read_gallery((folder / LIST).read_bytes(), lambda name: (folder / name).read_bytes(), f"{FOLDER}/{LIST}")
    except FileNotFoundError as error:
        if not folder.exists():
            return None
        return Gallery(failed=f"{FOLDER}/{Path(error.filename).name}: is missing")
    except OSError as error:
        return Gallery(failed=f"{FOLDER}/{Path(error.filename).name}: cannot be read ({error.strerror})")
    except GalleryError as error:
        return Gallery(failed=str(error))


def to_record(gallery: Gallery) -> dict[str, Any]:
    """A gallery as JSON holds it, pictures and all."""
    # Base64 without slashes: it must never look like a path.
    pictures = {example.file: base64.urlsafe_b64encode(example.png).decode() for example in gallery.examples}
    return {"listing": gallery.listing(), "pictures": pictures}


def from_record(recorded: Mapping[str, Any]) -> Gallery:
    """The inverse of `to_record`.

    Raises:
        GalleryError: it holds something else.
    """
    try:
        pictures = {name: base64.b64decode(held, b"-_", validate=True) for name, held in recorded["pictures"].items()}
        return read_gallery(json.dumps(recorded["listing"]), pictures.__getitem__, LIST)
    except (KeyError, TypeError, AttributeError, binascii.Error) as error:
        raise GalleryError(f"{LIST}: its pictures cannot be read ({type(error).__name__}: {error})") from error


def _check_names(names: Sequence[str], where: str) -> None:
    for place, name in enumerate(names):
        if not FILE_NAME.fullmatch(name):
            raise GalleryError(f"{where}: {name!r} is no plain name of a PNG file; expected e.g. selection-1.png")
        if name in names[:place]:
            raise GalleryError(f"{where}: {name} is listed twice")


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
