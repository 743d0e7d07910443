"""A stage: the unit that is fingerprinted, cached, scheduled, retried and billed."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from experiments.stages.kinds import ADDED, CONSTANT, NAMES_OF_INPUTS, STAGE_KINDS
from experiments.stages.memory import GIB

ENTRY = "smaug_core.stages:run"
"""The function that a worker calls."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One piece of work, told completely by what decides its result."""

    kind: str
    """`pretrain`, `pretrain_video`, `finetune` or `evaluate`."""
    task: str | None
    """The slot it is for, e.g. `msrvtt`; none for pre-training."""
    settings: dict[str, Any]
    """The sub-trees it reads, fully resolved, as JSON holds them: `model`, `data`, and its own under its kind."""
    inputs: dict[str, str | None]
    """Digest of everything else that enters, by name: never a path. None for real media that were not seen."""
    parents: tuple["Stage", ...]
    """The stages whose results it starts from."""
    seed: int | None
    """Of its random draws; none if it draws nothing."""
    resources: dict[str, Any] = field(compare=False)
    """`cpus`, `gpus`, maybe their `accelerator`, `memory_gb`, and the `nodes`; where a stage runs is not what it is."""

    @property
    def name(self) -> str:
        """For people, e.g. `finetune.msrvtt`."""
        return self.kind if self.task is None else f"{self.kind}.{self.task}"

    @property
    def unseen(self) -> list[str]:
        """Inputs that are not here, so that what they hold is not known."""
        return [name for name, digest_ in self.inputs.items() if digest_ is None]

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of what decides the result; the slot's name, paths, devices and resources do not."""
        return _identified(
            kind=self.kind,
            version=STAGE_KINDS[self.kind].version,
            settings=self.settings,
            inputs=self.inputs,
            parents=[parent.fingerprint for parent in self.parents],
            seed=self.seed,
        )

    def document(self) -> dict[str, Any]:
        """What stage.json holds: all a worker needs, and all a reader may ask."""
        return {
            "name": self.name,
            "kind": self.kind,
            "task": self.task,
            "version": STAGE_KINDS[self.kind].version,
            "settings": self.settings,
            "inputs": self.inputs,
            "parents": [parent.fingerprint for parent in self.parents],
            "seed": self.seed,
            "resources": self.resources,
            "entry": ENTRY,
            "fingerprint": self.fingerprint,
        }


IDENTIFYING = ("kind", "version", "settings", "inputs", "parents", "seed")
"""Keys of a stage.json that its fingerprint stands for."""


def agrees(document: Mapping[str, Any]) -> bool:
    """Whether what a stage.json asks for has the fingerprint that it names; one of another version is not judged."""
    if document["version"] != STAGE_KINDS[document["kind"]].version:
        return True
    try:
        found = _identified(**{key: document[key] for key in IDENTIFYING})
    except ValueError:  # it holds a NaN, which no stage does
        return False
    return found == document["fingerprint"]


def _identified(*, settings: dict[str, Any], **others: Any) -> str:
    return digest({"settings": _what_counts(settings), **others})


def memory_asked(resources: Mapping[str, Any]) -> int | None:
    """Bytes of memory that a stage's resources ask for; none where they say nothing."""
    return int(resources["memory_gb"] * GIB) if "memory_gb" in resources else None


def _what_counts(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings without those that only say where an input is, or how it is made: its digest is among the inputs.

    So a source's sizes in `data` leave stages alone that read another source, and a moved file changes nothing. What
    only decides whether a stage stops enters as a constant, and a setting of `ADDED` only with another value.
    """
    return {
        section: {
            name: CONSTANT.get(name, value)
            for name, value in values.items()
            if f"{section}.{name}" not in NAMES_OF_INPUTS and not is_old_behaviour(section, name, value)
        }
        for section, values in settings.items()
        if section != "data"
    }


def is_old_behaviour(section: str, name: str, value: Any) -> bool:
    """Whether a setting was added after the first results and has the default that changes none of them."""
    return (section, name) in ADDED and ADDED[section, name] == value


def digest(value: Any) -> str:
    """SHA-256 of a value's canonical JSON: keys sorted, no spaces, shortest decimals, no NaN."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()
