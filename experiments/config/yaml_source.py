"""Reads YAML so that every fault can be told with its line: a document is plain values plus where each stands."""

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
"""After aliases are followed: a few lines of nested aliases could otherwise fill the memory."""

MOST_NAMED = 40
"""Of what a word that is unknown could have been."""

SCALARS = {f"tag:yaml.org,2002:{kind}" for kind in ("int", "float", "bool", "null", "str")}
COLLECTIONS = {f"tag:yaml.org,2002:{kind}" for kind in ("map", "seq")}
"""Tags of plain values: YAML gives them itself where a file has none."""

T = TypeVar("T")

Keys = tuple[str | int, ...]
"""The way to a value: keys of mappings, places in lists."""


@dataclass(frozen=True, order=True, slots=True)
class Fault:
    """One thing that is wrong with a file."""

    file: str
    """Or an option of the command line."""
    line: int
    """Counted from 1, as the column; 0 where there are no lines."""
    column: int
    message: str
    """Its value, and what was expected."""

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}:{self.column}" if self.line else self.file
        return f"{place}: {self.message}"


class SweepError(SmaugError):
    """A sweep, a scale or an option that cannot be used; the message is one line for each fault."""

    def __init__(self, faults: Iterable[Fault]) -> None:
        """Order the faults as they stand in their files, each once."""
        self.faults = sorted(set(faults))
        super().__init__("\n".join(map(str, self.faults)))


@dataclass(frozen=True, slots=True)
class Document:
    """What a file holds, and where."""

    file: str
    value: Any
    places: dict[Keys, tuple[int, int]] = field(repr=False)
    """Line and column of every value, counted from 1."""
    key_places: dict[Keys, tuple[int, int]] = field(repr=False)
    """Line and column of every key."""
    faults: tuple[Fault, ...] = ()
    """Keys that stand twice (the first one counts), and values that are not plain."""

    def held(self, kind: type[T], *keys: str | int) -> T:
        """The value at `keys` if it is of a kind, else an empty one: for checks beside those of the form."""
        value = self.value
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        return value if isinstance(value, kind) else kind()

    def fault(self, keys: Keys, message: str, *, at_key: bool = False) -> Fault:
        """A fault of the value at `keys`, or the nearest one around it that stands in the file."""
        while keys and keys not in self.places:
            keys = keys[:-1]
        line, column = self.key_places.get(keys, (1, 1)) if at_key else self.places.get(keys, (1, 1))
        return Fault(self.file, line, column, message)


def read_document(path: Path, name: str | None = None) -> Document:
    """Read a YAML 1.2 file.

    Args:
        path: the file.
        name: what faults call it; its path if not given.

    Raises:
        SweepError: it cannot be read, is no YAML, or is too large.
    """
    name = name or str(path)
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)  # never more: it may be large, or a device that never ends
            size = max(os.fstat(file.fileno()).st_size, len(content))
    except OSError as error:
        raise SweepError([Fault(name, 0, 0, f"cannot be read ({error.strerror})")]) from error
    if len(content) > MAX_BYTES:
        raise SweepError([Fault(name, 0, 0, f"{size} bytes or more are too many; expected at most {MAX_BYTES}")])
    return parse_document(content, name)


def parse_document(content: bytes | str, name: str) -> Document:
    """The document in `content`, which faults call `name`; raises as `read_document` does."""
    yaml = YAML(typ="safe", pure=True)
    try:
        node = yaml.compose(content)
        builder = _Builder(name, yaml)
        value = None if node is None else builder.build(node, ())
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        said = ", ".join(filter(None, [error.context, error.problem])) or "is no YAML"
        raise SweepError([Fault(name, line, column, said)]) from error
    except (YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise SweepError([Fault(name, 1, 1, f"is no YAML ({error})".replace("\n", " "))]) from error
    return Document(name, value, builder.places, builder.key_places, tuple(builder.faults))


class _Builder:
    """Turns YAML's nodes into plain values."""

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
            key = str(key_node.value)  # also 0.8 or 50%: a key is the text that stands there
            if key in value:
                line = self.key_places[*keys, key][0]
                self.faults.append(
                    Fault(self._name, *_place(key_node), f"{key!r} stands here twice, first in line {line}; drop one")
                )
                continue
            self.key_places[*keys, key] = _place(key_node)
            value[key] = self.build(child, (*keys, key))
            if child.value == "":  # where nothing stands the library gives the place of what comes next
                self.places[*keys, key] = _place(child) if child.style else self.key_places[*keys, key]
        return value

    def _scalar(self, node: Node) -> Any:
        if str(node.tag) in SCALARS:
            with suppress(ValueError, KeyError):  # how the library says that a value is not what its tag says
                return self._constructor.construct_object(node)
        message = f"{node.value!r} is tagged {node.tag}; expected a number, word or true/false without a tag"
        self.faults.append(Fault(self._name, *_place(node), message))
        return None


def _place(node: Node) -> tuple[int, int]:
    return node.start_mark.line + 1, node.start_mark.column + 1


class Form(BaseModel):
    """What a file may hold: no other keys, no values of another type."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


def spelled(pattern: str, allowed: str) -> AfterValidator:
    """A form's check of a text by a regular expression; the fault says in words what is allowed."""

    def check(text: str) -> str:
        if re.fullmatch(pattern, text) is None:
            raise PydanticCustomError("spelling", "expected {allowed}", {"allowed": allowed})
        return text

    return AfterValidator(check)


Name = Annotated[str, spelled(r"[a-z0-9_]{1,100}", "lower-case letters, digits and _, at most 100")]
"""Of a sweep, a scale, a cluster: a part of names of folders (255 bytes), and of MLflow's experiments (256) and keys
(250), which hold more than the name."""


def form_faults(document: Document, form: type[Form]) -> list[Fault]:
    """Every key that is unknown, missing or twice there, and every value of a wrong type."""
    try:
        form.model_validate_json(json.dumps(document.value))
    except ValidationError as error:
        told = error.errors(include_url=False)
        return [*document.faults, *(_form_fault(document, form, fault) for fault in told)]
    return list(document.faults)


def _form_fault(document: Document, form: type[Form], told: Any) -> Fault:
    keys: Keys = tuple(told["loc"])
    where = ".".join(map(str, keys)) or "the file"
    if told["input"] is None and not keys:
        return document.fault(keys, f"is empty; expected {', '.join(_fields(form))}")
    if told["type"] == "extra_forbidden":
        known = _known_keys(form, keys[:-1])
        return document.fault(keys, f"key {where!r} is unknown; {nearest(str(keys[-1]), known)}", at_key=True)
    if told["type"] == "missing":
        return document.fault(keys, f"{where} is missing")
    message = told["msg"][:1].lower() + told["msg"][1:]
    return document.fault(keys, f"{where}: {told['input']!r} is not allowed; {message}")


def _known_keys(form: type[Form], keys: Keys) -> list[str]:
    """The keys that are known at a place, found by following the forms within the form."""
    for key in keys:
        if (field := _fields(form).get(str(key))) is not None:
            types = (field.annotation, *get_args(field.annotation))
            form = next((one for one in types if isinstance(one, type) and issubclass(one, Form)), form)
    return list(_fields(form))


def _fields(form: type[Form]) -> dict[str, FieldInfo]:
    """Fields by their keys in the file."""
    return {field.alias or name: field for name, field in form.model_fields.items()}


def nearest(word: str, known: Iterable[str]) -> str:
    """A suggestion in the place of `word`: the nearest of `known`, or all of them, if they are few."""
    known = sorted(known)
    near = difflib.get_close_matches(word, known, n=1)
    if near:
        return f"did you mean {near[0]!r}?"
    more = f" and {len(known) - MOST_NAMED} more" if len(known) > MOST_NAMED else ""
    return f"expected one of {', '.join(known[:MOST_NAMED]) or '(none)'}{more}"
