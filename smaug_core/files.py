"""JSON documents on disk: checked against a declared form when read, and whole or absent when written.

A form is one of these: `str`, `bool`, `dict` or `list`; `Number`; `Words`; `Pattern`; `Maybe`, which allows null;
`Map`, an object with any keys; a list with the form of each item; a dict with the form of each key, where a key that
ends in `?` may be missing. Keys that a form does not name are allowed: a newer version may write more.
"""

import errno
import json
import os
import re
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from smaug_core.errors import SmaugError

Form = Any
SHOWN = 60
"""Characters of a wrong value that a message shows."""


class DocumentError(SmaugError):
    """A document that is no JSON, or does not have its form; the message says where, and what is expected."""


@dataclass(frozen=True, slots=True)
class Number:
    """A number from `low` to `high`, an integer if `whole`; NaN only if `unbounded`."""

    low: int | float
    high: int | float
    whole: bool = False
    unbounded: bool = False

    @property
    def words(self) -> str:
        """Description of an expected number, for messages."""
        noun = "an integer" if self.whole else "a number"
        return noun if self.unbounded else f"{noun} from {self.low:.10g} to {self.high:.10g}"

    def fits(self, value: Any) -> bool:
        """Return whether a value is such a number."""
        if isinstance(value, bool) or not isinstance(value, int if self.whole else int | float):
            return False
        if self.unbounded and isinstance(value, float):
            return True
        return self.low <= value <= self.high


ANY_NUMBER = Number(-(2.0**63), 2.0**63, unbounded=True)
"""A measurement; NaN and infinity too, as a diverged loss has."""
COUNT = Number(0, 2**53, whole=True)
POSITIVE = Number(1, 2**31, whole=True)
SECONDS = Number(-1e12, 1e12)
TIME = Number(0, 1e11)
"""Seconds since 1970."""


@dataclass(frozen=True, slots=True)
class Words:
    """One of some strings."""

    words: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Pattern:
    """A string that matches `regex` whole; `words` describes it."""

    regex: str
    words: str


DIGEST = Pattern(r"[0-9a-f]{64}", "64 hexadecimal digits")
NAME = Pattern(r"(?s).+", "a string that is not empty")


@dataclass(frozen=True, slots=True)
class Map:
    """An object with any keys."""

    form: Form


@dataclass(frozen=True, slots=True)
class Maybe:
    """The same, or null."""

    form: Form


@dataclass(frozen=True, slots=True)
class Some:
    """A list that is not empty."""

    form: Form


def parse(content: str | bytes) -> Any:
    """The value that JSON text holds.

    Raises:
        DocumentError: it is no JSON.
    """
    if not content.strip():
        raise DocumentError("cannot be read: it is empty")
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise DocumentError(f"cannot be read as JSON ({error})") from error


def check(value: Any, form: Form) -> None:
    """Compare a value with a form.

    Raises:
        DocumentError: it differs; the first difference is named.
    """
    for where, expected, found in _faults(value, form, ""):
        raise DocumentError(f"{where}expected {expected}, got {found}")


def _faults(value: Any, form: Form, where: str) -> Iterator[tuple[str, str, str]]:
    if isinstance(form, Maybe):
        if value is not None:
            yield from ((at, f"{expected} or null", got) for at, expected, got in _faults(value, form.form, where))
    elif isinstance(form, Map):
        yield from _map_faults(value, form, where)
    elif isinstance(form, list | Some):
        yield from _list_faults(value, form, where)
    elif isinstance(form, dict):
        yield from _object_faults(value, form, where)
    elif not _fits(value, form):
        yield f"{where}: " if where else "", _words(form), _shown(value)


def _map_faults(value: Any, form: Map, where: str) -> Iterator[tuple[str, str, str]]:
    if not isinstance(value, dict):
        yield f"{where}: " if where else "", "an object", _shown(value)
        return
    for key, held in value.items():
        yield from _faults(held, form.form, f"{where}.{key}".lstrip("."))


def _list_faults(value: Any, form: list[Form] | Some, where: str) -> Iterator[tuple[str, str, str]]:
    if not isinstance(value, list) or (isinstance(form, Some) and not value):
        noun = "a list that is not empty" if isinstance(form, Some) else "a list"
        yield f"{where}: " if where else "", noun, _shown(value)
        return
    each = form.form if isinstance(form, Some) else form[0]
    for place, held in enumerate(value):
        yield from _faults(held, each, f"{where}[{place}]")


def _object_faults(value: Any, form: Mapping[str, Form], where: str) -> Iterator[tuple[str, str, str]]:
    if not isinstance(value, dict):
        yield f"{where}: " if where else "", "an object", _shown(value)
        return
    for key, held in form.items():
        name = key.removesuffix("?")
        at = f"{where}.{name}".lstrip(".")
        if name in value:
            yield from _faults(value[name], held, at)
        elif not key.endswith("?"):
            yield f"{at}: ", _words(held), "nothing: the key is missing"


def _fits(value: Any, form: Form) -> bool:
    if isinstance(form, Number):
        return form.fits(value)
    if isinstance(form, Words):
        return isinstance(value, str) and value in form.words
    if isinstance(form, Pattern):
        return isinstance(value, str) and re.fullmatch(form.regex, value) is not None
    return isinstance(value, form)


NOUNS = {str: "a string", bool: "true or false", dict: "an object", list: "a list"}


def _words(form: Form) -> str:
    if isinstance(form, Number | Pattern):
        return form.words
    if isinstance(form, Words):
        return f"one of {', '.join(form.words)}"
    if isinstance(form, Maybe):
        return f"{_words(form.form)} or null"
    if isinstance(form, type):
        return NOUNS[form]
    return "a list" if isinstance(form, list | Some) else "an object"


def _shown(value: Any) -> str:
    try:
        text = json.dumps(value)
    except (ValueError, RecursionError):  # an integer of too many digits
        return f"a {type(value).__name__}"
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def key(form: Form, *, name: str = "", absent: Any = MISSING, partly: Any = MISSING, document: Any = None) -> Any:
    """A key of a document, as a field of its class.

    Args:
        form: of its value.
        name: the key, where it is not the field's name.
        absent: the value where the key is missing; without it, a document must hold the key.
        partly: the value where only a part of the document is kept, without the key; the form asks for it all the same.
        document: the class of the value, or of each item of a list.
    """
    metadata = {"form": form, "name": name, "optional": absent is not MISSING, "document": document}
    default = partly if absent is MISSING else absent
    return field(metadata=metadata) if default is MISSING else field(metadata=metadata, default=default)


D = TypeVar("D", bound="StoredDocument")


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredDocument:
    """A JSON object that was checked: its keys as attributes, and all of it in `raw`, unknown keys too."""

    raw: dict[str, Any] = field(repr=False)

    @classmethod
    def form(cls, *, without: Collection[str] = ()) -> dict[str, Form]:
        """The form of such a document, maybe of a part of it."""
        keys = [(each.metadata["name"] or each.name, each.metadata) for each in fields(cls) if each.metadata]
        return {f"{name}{'?' if m['optional'] else ''}": m["form"] for name, m in keys if name not in without}

    @classmethod
    def of(cls: type[D], raw: dict[str, Any]) -> D:
        """The document that a checked object is."""
        values = {}
        for each in fields(cls):
            name = each.metadata["name"] or each.name if each.metadata else ""
            if name in raw:
                values[each.name] = _typed(raw[name], each.metadata["document"])
        return cls(raw=raw, **values)


def _typed(value: Any, document: type[StoredDocument] | None) -> Any:
    if document is None or value is None:
        return value
    return tuple(map(document.of, value)) if isinstance(value, list) else document.of(value)


def write_whole(path: Path, write: Callable[[Path], object], *, durable: bool = True) -> None:
    """Have `write` make a file beside `path`, then rename it into place: it appears complete or not at all.

    Args:
        path: of the file; its folder is there.
        write: makes the file whose path it is given.
        durable: it outlives a power failure from here on.

    Raises:
        OSError: it cannot be written; nothing is left beside `path`.
    """
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        write(partial)
        if durable:
            sync(partial)
        partial.rename(path)
        if durable:
            sync(path.parent)
    except BaseException:
        with suppress(OSError):  # a read-only disk refuses to remove even what is not there
            partial.unlink()
        raise


def sync(path: Path) -> None:
    """Make what a file holds, or the names in a folder, outlive a power failure."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno != errno.EINVAL or not path.is_dir():  # some network file systems cannot, and need not
            raise
    finally:
        os.close(handle)
