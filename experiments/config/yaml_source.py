"""YAML documents as plain values with the line and column of each, so that all errors can be reported at once."""

import difflib
import json
import os
import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from smaug_core.errors import SmaugError

MAX_BYTES = 256 * 1024
MAX_VALUES = 20_000
"""Limit after aliases are expanded: a few lines of nested aliases could otherwise fill the memory."""

MOST_NAMED = 40
"""Limit of the names that are listed for an unknown word."""

SCALARS = {f"tag:yaml.org,2002:{kind}" for kind in ("int", "float", "bool", "null", "str")}
COLLECTIONS = {f"tag:yaml.org,2002:{kind}" for kind in ("map", "seq")}
"""Tags of plain values, which YAML assigns to values without a tag."""

T = TypeVar("T")

Keys = tuple[str | int, ...]
"""Path of a value: keys of mappings, indices of lists."""


@dataclass(frozen=True, order=True, slots=True)
class Fault:
    """One error of a file."""

    file: str
    """Or an option of the command line."""
    line: int
    """Counted from 1, as the column; 0 if there are no lines."""
    column: int
    message: str
    """Its value, and what was expected."""

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}:{self.column}" if self.line else self.file
        return f"{place}: {self.message}"


class SweepError(SmaugError):
    """A sweep, a scale or an option that cannot be used; the message has one line for each error."""

    def __init__(self, faults: Iterable[Fault]) -> None:
        """Sort the errors by file and line, without repetitions."""
        self.faults = sorted(set(faults))
        super().__init__("\n".join(map(str, self.faults)))


@dataclass(frozen=True, slots=True)
class Document:
    """Content of a file, with places."""

    file: str
    value: Any
    places: dict[Keys, tuple[int, int]] = field(repr=False)
    """Line and column of every value, counted from 1."""
    key_places: dict[Keys, tuple[int, int]] = field(repr=False)
    """Line and column of every key."""
    faults: tuple[Fault, ...] = ()
    """Repeated keys (the first one counts), and values that are not plain."""

    def held(self, kind: type[T], *keys: str | int) -> T:
        """Return the value at `keys` if it has the type, otherwise an empty one: for checks beside those of a form."""
        value = self.value
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        return value if isinstance(value, kind) else kind()

    def fault(self, keys: Keys, message: str, *, at_key: bool = False) -> Fault:
        """Return an error of the value at `keys`, or of the nearest enclosing value of the file."""
        while keys and keys not in self.places:
            keys = keys[:-1]
        line, column = self.key_places.get(keys, (1, 1)) if at_key else self.places.get(keys, (1, 1))
        return Fault(self.file, line, column, message)


def read_document(path: Path, name: str | None = None) -> Document:
    """Read a YAML 1.2 file.

    Args:
        path: the file.
        name: name in errors; by default its path.

    Raises:
        SweepError: it cannot be read, is not YAML, or is too large.
    """
    name = name or str(path)
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)  # not more: it may be huge, or an endless device
            size = max(os.fstat(file.fileno()).st_size, len(content))
    except OSError as error:
        raise SweepError([Fault(name, 0, 0, f"cannot be read ({error.strerror})")]) from error
    if len(content) > MAX_BYTES:
        raise SweepError([Fault(name, 0, 0, f"{size} bytes or more are too many; expected at most {MAX_BYTES}")])
    return parse_document(content, name)


def parse_document(content: bytes | str, name: str) -> Document:
    """Return the document in `content`, called `name` in errors; raises as `read_document` does."""
    yaml = YAML(typ="safe", pure=True)
    try:
        node = yaml.compose(content)
        builder = _Builder(name, yaml)
        value = None if node is None else builder.build(node, ())
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        message = ", ".join(filter(None, [error.context, error.problem])) or "is no YAML"
        raise SweepError([Fault(name, line, column, message)]) from error
    except (YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise SweepError([Fault(name, 1, 1, f"is no YAML ({error})".replace("\n", " "))]) from error
    return Document(name, value, builder.places, builder.key_places, tuple(builder.faults))


class _Builder:
    """Converter of YAML's nodes to plain values."""

    def __init__(self, name: str, yaml: YAML) -> None:
        self._name, self._constructor = name, yaml.constructor
        self.places: dict[Keys, tuple[int, int]] = {}
        self.key_places: dict[Keys, tuple[int, int]] = {}
        self.faults: list[Fault] = []

    def build(self, node: Node, keys: Keys) -> Any:
        self.places[keys] = _place(node)
        if len(self.places) > MAX_VALUES:
            message = f"more than {MAX_VALUES} values; aliases count in full"
            raise SweepError([Fault(self._name, *_place(node), message)])
        if isinstance(node, MappingNode | SequenceNode) and str(node.tag) not in COLLECTIONS:
            message = f"is tagged {node.tag}; expected a mapping or list without a tag"
            self.faults.append(Fault(self._name, *_place(node), message))
        if isinstance(node, MappingNode):
            return self._mapping(node, keys)
        if isinstance(node, SequenceNode):
            return [self.build(child, (*keys, number)) for number, child in enumerate(node.value)]
        return self._scalar(node)

    def _mapping(self, node: MappingNode, keys: Keys) -> dict[str, Any]:
        value: dict[str, Any] = {}
        for key_node, child in node.value:
            if not isinstance(key_node, ScalarNode):
                self.faults.append(Fault(self._name, *_place(key_node), "a key must be a word, not a list or mapping"))
                continue
            key = str(key_node.value)  # also 0.8 or 50%: keys are never converted
            if key in value:
                line = self.key_places[*keys, key][0]
                self.faults.append(
                    Fault(self._name, *_place(key_node), f"{key!r} is given twice, first in line {line}; drop one")
                )
                continue
            self.key_places[*keys, key] = _place(key_node)
            value[key] = self.build(child, (*keys, key))
            if child.value == "":  # the library gives an empty value the place of the next one
                self.places[*keys, key] = _place(child) if child.style else self.key_places[*keys, key]
        return value

    def _scalar(self, node: Node) -> Any:
        if str(node.tag) in SCALARS:
            with suppress(ValueError, KeyError):  # the value does not have the type of its tag
                return self._constructor.construct_object(node)
        message = f"{node.value!r} is tagged {node.tag}; expected a number, word or true/false without a tag"
        self.faults.append(Fault(self._name, *_place(node), message))
        return None


def _place(node: Node) -> tuple[int, int]:
    return node.start_mark.line + 1, node.start_mark.column + 1


class Form(BaseModel):
    """Schema of a file: no other keys, no values of another type."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


def spelled(pattern: str, allowed: str) -> AfterValidator:
    """Validate a text by a regular expression; the error describes it in words."""

    def check(text: str) -> str:
        if re.fullmatch(pattern, text) is None:
            raise PydanticCustomError("spelling", "expected {allowed}", {"allowed": allowed})
        return text

    return AfterValidator(check)


Name = Annotated[str, spelled(r"[a-z0-9_]{1,100}", "lower-case letters, digits and _, at most 100")]
"""Name of a sweep, a scale or a cluster. It is part of names of folders (255 bytes) and of MLflow's experiments (256)
and keys (250), which are longer."""


def form_faults(document: Document, form: type[Form]) -> list[Fault]:
    """Errors of unknown, missing and repeated keys, and of values of a wrong type."""
    try:
        form.model_validate_json(json.dumps(document.value))
    except ValidationError as error:
        errors = error.errors(include_url=False)
        return [*document.faults, *(_form_fault(document, form, one) for one in errors)]
    return list(document.faults)


def _form_fault(document: Document, form: type[Form], error: Any) -> Fault:
    keys: Keys = tuple(error["loc"])
    where = ".".join(map(str, keys)) or "the file"
    if error["input"] is None and not keys:
        return document.fault(keys, f"is empty; expected {', '.join(_fields(form))}")
    if error["type"] == "extra_forbidden":
        known = _known_keys(form, keys[:-1])
        return document.fault(keys, f"key {where!r} is unknown; {nearest(str(keys[-1]), known)}", at_key=True)
    if error["type"] == "missing":
        return document.fault(keys, f"{where} is missing")
    message = error["msg"][:1].lower() + error["msg"][1:]
    return document.fault(keys, f"{where}: {error['input']!r} is not allowed; {message}")


def _known_keys(form: type[Form], keys: Keys) -> list[str]:
    """Return the keys of a form, or of a form within it."""
    for key in keys:
        if (field := _fields(form).get(str(key))) is not None:
            types = (field.annotation, *get_args(field.annotation))
            form = next((one for one in types if isinstance(one, type) and issubclass(one, Form)), form)
    return list(_fields(form))


def _fields(form: type[Form]) -> dict[str, FieldInfo]:
    """Fields by their keys in the file."""
    return {field.alias or name: field for name, field in form.model_fields.items()}


def nearest(word: str, known: Iterable[str]) -> str:
    """Suggest the nearest of `known`, or list them."""
    known = sorted(known)
    near = difflib.get_close_matches(word, known, n=1)
    if near:
        return f"did you mean {near[0]!r}?"
    more = f" and {len(known) - MOST_NAMED} more" if len(known) > MOST_NAMED else ""
    return f"expected one of {', '.join(known[:MOST_NAMED]) or '(none)'}{more}"
