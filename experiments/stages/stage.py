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
    """A unit of work, described completely by what decides its result."""

    kind: str
    """`pretrain`, `pretrain_video`, `finetune` or `evaluate`."""
    task: str | None
    """The slot it is for, e.g. `msrvtt`; None for pre-training."""
    settings: dict[str, Any]
    """The sections it reads, fully resolved, as JSON values: `model`, `data`, and its own under its kind."""
    inputs: dict[str, str | None]
    """Digests of all other inputs by name, never by path; None for media that are not available locally."""
    parents: tuple["Stage", ...]
    """The stages whose results it starts from."""
    seed: int | None
    """Seed of its random numbers; None if it draws none."""
    resources: dict[str, Any] = field(compare=False)
    """`cpus`, `gpus`, maybe their `accelerator`, `memory_gb`, and the `nodes`; not part of its identity."""

    @property
    def name(self) -> str:
        """Name for people, e.g. `finetune.msrvtt`."""
        return self.kind if self.task is None else f"{self.kind}.{self.task}"

    @property
    def unseen(self) -> list[str]:
        """Inputs that are not available locally, so that their digests are unknown."""
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
        """Content of stage.json: everything that a worker needs."""
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
"""Keys of a stage.json that are hashed to its fingerprint."""


def agrees(document: Mapping[str, Any]) -> bool:
    """Return whether a stage.json has the fingerprint that it names; True for another version of its kind."""
    if document["version"] != STAGE_KINDS[document["kind"]].version:
        return True
    try:
        found = _identified(**{key: document[key] for key in IDENTIFYING})
    except ValueError:  # it holds a NaN, which no stage does
        return False
    return found == document["fingerprint"]


def _identified(*, settings: dict[str, Any], **others: Any) -> str:
    return digest({"settings": _hashed_settings(settings), **others})


def requested_memory(resources: Mapping[str, Any]) -> int | None:
    """Bytes of memory that a stage's resources request; None if they name none."""
    return int(resources["memory_gb"] * GIB) if "memory_gb" in resources else None


def loader_workers(resources: Mapping[str, Any], processes: int = 1) -> int:
    """Loader processes of each of the `processes` that compute.

    By default they have all of its CPUs but one; where CPUs compute, there are none.
    """
    default = max(0, resources["cpus"] // processes - 1) if resources["gpus"] else 0
    return int(resources.get("workers", default))


def _hashed_settings(settings: dict[str, Any]) -> dict[str, Any]:
    """Drop settings that only say where an input is, or how it is made: its digest is among the inputs.

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
    """Return whether a setting was added after the first results and has the default that changes none of them."""
    return (section, name) in ADDED and ADDED[section, name] == value


def digest(value: Any) -> str:
    """SHA-256 of a value's canonical JSON: keys sorted, no spaces, shortest decimals, no NaN."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()
