"""Sweep files, checked as a whole: all errors are reported at once, with their lines."""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, PlainValidator

from experiments.config.constraints import Condition, ConditionError
from experiments.config.scale import Scale, scale_names
from experiments.config.seeds import Seeds, read_seeds, seed_faults
from experiments.config.settings import (
    PER_TASK,
    Tree,
    setting_types,
    shown,
    type_fault,
    value_faults,
    with_overrides,
)
from experiments.config.yaml_source import Document, Fault, Form, Name, SweepError, form_faults, nearest, read_document
from smaug_core.errors import SettingsError

DIRECTIONS = ("t2v", "v2t")
METRICS = ("r1", "r5", "r10", "median_rank")
HOURS = "pretrain.hours"
LONGEST_ROW = 200
"""Limit of the characters of a row's name; the name of its run in MLflow (250) also holds its seeds."""
LISTS = (("tasks",), ("report", "columns"))
"""The lists of a sweep file whose entries must differ; `experiments.config.seeds` checks those of seeds."""


def _seeds(given: Any) -> Seeds:
    """Read seeds; an invalid value is reported by `_seed_faults`, with its place."""
    return Seeds() if any(seed_faults(given)) else read_seeds(given)


class ReportSpec(Form):
    """The look of a sweep's table."""

    row: str
    """Header of the rows' names."""
    columns: list[str] = Field(min_length=1)
    """Slots, e.g. `pretrain.hours`, `msrvtt.t2v.r1`."""


class Sweep(Form):
    """A checked sweep file."""

    name: Name = Field(alias="sweep")
    title: str
    table: str | None = None
    """Number of the paper's table that it rebuilds."""
    variants: dict[str, dict[str, Any]] = Field(min_length=1)
    """Overrides by dotted setting, in the order of the table's rows."""
    baseline: str
    """The variant that the others are compared with."""
    tasks: list[str] = Field(min_length=1)
    zero_shot: bool = False
    """Whether tasks are evaluated without fine-tuning."""
    seeds: Annotated[Seeds, PlainValidator(_seeds)] = Seeds()
    require: list[str] = []
    """Conditions that every variant fulfils."""
    budget: dict[str, Annotated[float, Field(gt=0)]] = {}
    """By scale: most hours of its device that the sweep may cost."""
    report: ReportSpec


def load_sweep(path: Path, scale: Scale) -> Sweep:
    """Read a sweep file and check every variant of it at a scale.

    Raises:
        SweepError: every error of the file.
    """
    document = read_document(path)
    errors = [
        *form_faults(document, Sweep),
        *_name_faults(document, scale),
        *_repetition_faults(document),
        *_seed_faults(document),
        *_variants_faults(document, scale),
    ]
    if errors:
        raise SweepError(errors)
    return Sweep.model_validate_json(json.dumps(document.value))


def override_faults(
    overrides: Mapping[str, Any], scale: Scale, tasks: Iterable[str], also: Iterable[str] = ()
) -> list[tuple[str, str, bool]]:
    """Return the errors of overrides: setting, message, and whether its name is unknown."""
    types = setting_types(tasks)
    found, typed = [], {}
    for key, value in overrides.items():
        if key not in types:
            found.append((key, f"setting {key!r} is unknown; {nearest(key, [*types, *also])}", True))
        elif wrong := type_fault(key, value, types[key]):
            found.append((key, wrong, False))
        else:
            typed[key] = value
    faults = ((key, _value_fault(key, typed, scale)) for key in typed)
    return found + [(key, f"{key}: {wrong}", False) for key, wrong in faults if wrong]


def _value_fault(key: str, overrides: Mapping[str, Any], scale: Scale) -> str | None:
    """Return the error of one override's value together with the others of its section."""
    section, *task, name = key.split(".")
    value = overrides[key]
    if name == "corpus":
        unknown = f"{value!r} is unknown at scale {scale.name}; {nearest(value, scale.corpora)}"
        return None if value in scale.corpora else unknown
    settings = scale.tree[section]
    if section in PER_TASK:
        settings = settings.get(task[0], {})  # an unknown task is reported at `tasks`
        if not settings:
            return None
    if settings is None:
        return f"scale {scale.name} has no section {section!r}; drop it"
    place = key.removesuffix(name)
    together = {k.removeprefix(place): v for k, v in overrides.items() if k.startswith(place) and k != f"{place}corpus"}
    return value_faults(section, settings | together).get(name)


def _name_faults(document: Document, scale: Scale) -> Iterator[Fault]:
    """Errors of unknown names."""
    variants, tasks = document.held(dict, "variants"), _tasks(document)
    baseline = document.held(str, "baseline")
    if document.held(str, "sweep") == "stages":
        yield document.fault(("sweep",), "sweep 'stages' is reserved for the records; choose another")
    if baseline and variants and baseline not in variants:
        yield document.fault(("baseline",), f"baseline {baseline!r} is no variant; {nearest(baseline, variants)}")
    for number, task in enumerate(tasks):
        if task not in scale.datasets:
            message = f"task {task!r} is unknown at scale {scale.name}; {nearest(task, scale.datasets)}"
            yield document.fault(("tasks", number), message)
    for name in document.held(dict, "budget"):
        if name not in {scale.name, *scale_names()}:
            message = f"scale {name!r} is unknown; {nearest(name, scale_names())}"
            yield document.fault(("budget", name), message, at_key=True)
    known = report_columns(tasks)
    for number, column in enumerate(document.held(list, "report", "columns")):
        if isinstance(column, str) and tasks and column not in known:
            message = f"column {column!r} is not measured by any stage; {nearest(column, known)}"
            yield document.fault(("report", "columns", number), message)


def _repetition_faults(document: Document) -> Iterator[Fault]:
    """Errors of repeated entries: they would be measured, or shown, twice."""
    for *sections, name in LISTS:
        seen: set[str] = set()
        for number, value in enumerate(document.held(list, *sections, name)):
            if (text := json.dumps(value)) in seen:
                message = f"{name}: {shown(value)} is given twice; drop one"
                yield document.fault((*sections, name, number), message)
            seen.add(text)


def _seed_faults(document: Document) -> Iterator[Fault]:
    """Errors of `seeds`, if the file gives them."""
    given = document.held(dict)
    for keys, what in seed_faults(given["seeds"]) if "seeds" in given else ():
        yield document.fault(("seeds", *keys), what, at_key=what.startswith("key "))


def _tasks(document: Document) -> list[str]:
    return [task for task in document.held(list, "tasks") if isinstance(task, str)]


def report_columns(tasks: Iterable[str]) -> list[str]:
    """Return every slot that a table may show."""
    return [HOURS, *(f"{task}.{way}.{metric}" for task in tasks for way in DIRECTIONS for metric in METRICS)]


def _variants_faults(document: Document, scale: Scale) -> Iterator[Fault]:
    """Errors of overrides, of conditions, and of both together."""
    tasks = _tasks(document)
    conditions = dict(_conditions(document, tasks))
    yield from (document.fault(("require", n), found) for n, found in conditions.items() if isinstance(found, str))
    for variant, overrides in document.held(dict, "variants").items():
        if wrong := _row_fault(variant):
            yield document.fault(("variants", variant), wrong, at_key=True)
        if not isinstance(overrides, dict):
            continue  # reported by form_faults
        found = override_faults(overrides, scale, tasks or scale.datasets)
        for key, what, at_key in found:
            yield document.fault(("variants", variant, key), what, at_key=at_key)
        if found:
            continue
        tree = with_overrides(scale.tree, overrides)
        try:
            scale.config(tree, [task for task in tasks if task in scale.datasets])
        except SettingsError as error:
            for where, what in error.faults:
                yield document.fault(("variants", variant), f"variant {variant!r}: {where}: {what}", at_key=True)
            continue
        for number, condition in conditions.items() if set(tasks) <= scale.datasets.keys() else ():
            if isinstance(condition, Condition) and (wrong := _broken(condition, tree)):
                yield document.fault(("require", number), f"{wrong} for variant {variant!r}: {shown(overrides)}")


def _row_fault(variant: str) -> str | None:
    """Return the error of a row's name, if there is one."""
    if not (variant.isprintable() and variant.strip() == variant != ""):
        return f"variant {variant!r}: a row's name is one line of text without spaces around it"
    if len(variant) > LONGEST_ROW:
        return f"variant {variant[:20]!r}...: has {len(variant)} characters; expected at most {LONGEST_ROW}"
    return None


def _conditions(document: Document, tasks: list[str]) -> Iterator[tuple[int, Condition | str]]:
    """Every condition by its index, or its error."""
    for number, text in enumerate(document.held(list, "require")):
        if isinstance(text, str):
            try:
                yield number, Condition(text, setting_types(tasks))
            except ConditionError as error:
                yield number, f"{text!r} is no condition: {error}"


def _broken(condition: Condition, tree: Tree) -> str | None:
    try:
        return None if condition.holds(tree) else f"{condition.text!r} does not hold"
    except ConditionError as error:
        return f"{condition.text!r} cannot be evaluated ({error})"
