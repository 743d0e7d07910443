"""The settings that a sweep or a scale may give: their names, types and allowed values."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, fields
from functools import cache
from typing import Any, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError

from smaug_core.config import (
    DataConfig,
    EvaluateConfig,
    FinetuneConfig,
    ModelConfig,
    PretrainConfig,
    PretrainVideoConfig,
)
from smaug_core.errors import SettingsError
from smaug_core.settings import from_settings
from smaug_core.stage_protocol import EVALUATE, FINETUNE, PRETRAIN, PRETRAIN_VIDEO

SECTIONS = {
    "data": DataConfig,
    "model": ModelConfig,
    PRETRAIN: PretrainConfig,
    PRETRAIN_VIDEO: PretrainVideoConfig,
    FINETUNE: FinetuneConfig,
    EVALUATE: EvaluateConfig,
}
"""Sections of a configuration; the last two exist once for each task."""
PER_TASK = (FINETUNE, EVALUATE)
ON_CORPUS = (PRETRAIN, PRETRAIN_VIDEO)
"""Sections whose `corpus` is a slot that the scale fills."""
FILLED = "dataset"
"""Setting of the sections per task that the scale's task slots fill."""

Tree = dict[str, Any]
"""Settings by section, and within `finetune` and `evaluate` by task; a `corpus` is the name of a slot."""


def section_types(section: str) -> dict[str, Any]:
    """Return the type of every setting of a section that a file may give."""
    config = SECTIONS[section]
    hints = get_type_hints(config)
    types = {f.name: hints[f.name] for f in fields(config) if f.name != FILLED}
    return types | {"corpus": str} if section in ON_CORPUS else types


def section_defaults(section: str) -> dict[str, Any]:
    """Return the defaults of a section as JSON values."""
    return {f.name: as_json(f.default) for f in fields(SECTIONS[section]) if f.default is not MISSING}


def setting_types(tasks: Iterable[str]) -> dict[str, Any]:
    """Return the type of every setting that a sweep may change, by its dotted name."""
    types: dict[str, Any] = {}
    for section in SECTIONS:
        for prefix in [f"{section}.{task}" for task in tasks] if section in PER_TASK else [section]:
            types |= {f"{prefix}.{name}": annotation for name, annotation in section_types(section).items()}
    return types


def type_fault(key: str, value: Any, annotation: Any) -> str | None:
    """Return the error of a value's type, if there is one."""
    try:
        _adapter(annotation).validate_json(json.dumps(value), strict=True)
    except ValidationError as error:
        return f"{key}: {shown(value)} is not allowed; {lower(error.errors(include_url=False)[0]['msg'])}"
    return None


@cache
def _adapter(annotation: Any) -> TypeAdapter[Any]:
    return TypeAdapter(annotation, config=ConfigDict(allow_inf_nan=False))


def value_faults(section: str, settings: Mapping[str, Any]) -> dict[str, str]:
    """Return the errors of one section's values, by the setting's name within it."""
    filled: dict[str, dict[str, Any]] = {name: {"corpus": []} for name in ON_CORPUS}
    filled |= {name: {FILLED: ""} for name in PER_TASK}
    try:
        from_settings(SECTIONS[section], {**settings, **filled.get(section, {})}, section)
    except SettingsError as error:
        return {where.rpartition(".")[2]: what for where, what in error.faults}
    return {}


def with_overrides(tree: Tree, overrides: Mapping[str, Any]) -> Tree:
    """Return a copy of a settings tree with dotted settings replaced."""
    copy: Tree = json.loads(json.dumps(tree))
    for key, value in overrides.items():
        *sections, name = key.split(".")
        place = copy
        for section in sections:
            place = place[section]
        place[name] = value
    return copy


def setting_of(tree: Tree, key: str) -> Any:
    """Return the value of a dotted setting."""
    value: Any = tree
    for part in key.split("."):
        value = value[part]
    return value


def as_json(value: Any) -> Any:
    """Return a default as a JSON value."""
    return list(value) if isinstance(value, tuple) else value


def shown(value: Any) -> str:
    """Return a value as text for an error message, at most 80 characters."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def lower(message: str) -> str:
    """Return a library's message with a small first letter, as the end of a sentence."""
    return message[:1].lower() + message[1:]
