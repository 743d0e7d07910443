"""Kinds of stages, one row each, and the settings that their fingerprints leave out."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from experiments.config.settings import SECTIONS
from smaug_core.config import ScheduleConfig
from smaug_core.stage_protocol import EVALUATE, FINETUNE, PRETRAIN, PRETRAIN_VIDEO

SHARED_CODE = ("smaug_core.data.prepare.rendering", "smaug_core.stages")
TRAINING_CODE = (*SHARED_CODE, "smaug_core.training.train")
EVALUATION_CODE = (*SHARED_CODE, "smaug_core.evaluation.retrieval")


@dataclass(frozen=True, kw_only=True, slots=True)
class StageKind:
    """Everything that differs between kinds of stages, beside the work itself (`smaug_core.stages`)."""

    name: str
    """Also the section of its settings."""
    entry_modules: tuple[str, ...]
    """Modules from which its code is reached."""
    seed: str | None
    """Key of the sweep's seed that it draws random numbers from; None if it draws none."""
    version: int = 1
    """To be raised when the same settings are meant to give another result."""

    @property
    def config(self) -> type[Any]:
        """The class of its own section."""
        return SECTIONS[self.name]

    @property
    def trains(self) -> bool:
        """True if it has optimiser steps, checkpoints and layers that can be recomputed."""
        return issubclass(self.config, ScheduleConfig)


STAGE_KINDS = {
    kind.name: kind
    for kind in (
        StageKind(name=PRETRAIN, entry_modules=TRAINING_CODE, seed=PRETRAIN),
        StageKind(name=PRETRAIN_VIDEO, entry_modules=TRAINING_CODE, seed=PRETRAIN),
        StageKind(name=FINETUNE, entry_modules=TRAINING_CODE, seed=FINETUNE),
        StageKind(name=EVALUATE, entry_modules=EVALUATION_CODE, seed=None),
    )
}
"""By name, in the order in which they build on each other."""

TRAININGS = tuple(name for name, kind in STAGE_KINDS.items() if kind.trains)
PRETRAININGS = tuple(name for name, kind in STAGE_KINDS.items() if kind.seed == PRETRAIN)

NAMES_OF_INPUTS = {"model.tokenizer", "pretrain.vision_weights", "pretrain.text_weights"}
"""Settings that name a file, a folder or a hub's model: the digest of the content enters the fingerprint instead."""

CONSTANT = {"max_unreadable": 0}
"""Settings that only decide whether a stage stops, and what fingerprints hold in the place of their values."""

ADDED: Mapping[tuple[str, str], Any] = {}
"""Settings that were added later, as (section, name), with the default that equals the behaviour before, as JSON holds
it. At this default they stay out of the fingerprint, so that earlier results keep theirs."""
