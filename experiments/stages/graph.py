"""The chain of stages that one configuration needs, and what enters each of them."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from experiments.stages.kinds import STAGE_KINDS
from experiments.stages.stage import Stage
from smaug_core.clip_shape import ClipShape, clip_shape
from smaug_core.config import Config, PretrainConfig, PretrainVideoConfig
from smaug_core.data.datasets import source_digest
from smaug_core.data.tokenizer import tokenizer_digest
from smaug_core.hub import weights_digest
from smaug_core.stage_protocol import EVALUATE, FINETUNE, PRETRAIN, PRETRAIN_VIDEO

Digests = dict[str, str | None]
"""By what it is of; none for what is not here."""


def cut_stages(
    config: Config,
    resources: Mapping[str, dict[str, Any]],
    seed_pretrain: int,
    seed_finetune: int,
    data_root: Path | None = None,
) -> tuple[Stage, ...]:
    """The stages of one configuration, parents first: each carries the settings it reads, and nothing else.

    Raises:
        SmaugError: a source is unknown, or something that enters is there and cannot be read.
    """
    seeds = _by_training(seed_pretrain, seed_finetune)
    vocabulary = _input("tokenizer", config.model.tokenizer, tokenizer_digest(config.model.tokenizer))

    def stage(kind: str, own: Any, sources: Iterable[str], split: str, **rest: Any) -> Stage:
        read = {f"{name} {split}": source_digest(name, split, config.data, data_root) for name in sources}
        data = None if config.data is None else asdict(config.data)
        return Stage(
            kind=kind,
            settings=_plain({"model": asdict(config.model), "data": data, kind: asdict(own)}),
            inputs=vocabulary | read | (_initial_weights(config) if kind == PRETRAIN else {}),
            resources=resources[kind],
            seed=seeds.get(STAGE_KINDS[kind].seed),
            **rest,
        )

    def pretrain_stage(kind: str, own: PretrainConfig | PretrainVideoConfig, parents: tuple[Stage, ...]) -> Stage:
        return stage(kind, own, own.corpus, "train", task=None, parents=parents)

    pretrained = pretrain_stage(PRETRAIN, config.pretrain, ())
    stages = [pretrained]
    if config.pretrain_video is not None:
        pretrained = pretrain_stage(PRETRAIN_VIDEO, config.pretrain_video, (pretrained,))
        stages.append(pretrained)
    for task, test in config.evaluate.items():
        last = pretrained
        if task in config.finetune:
            tuning, parents = config.finetune[task], (pretrained,)
            last = stage(FINETUNE, tuning, [tuning.dataset], "train", task=task, parents=parents)
            stages.append(last)
        stages.append(stage(EVALUATE, test, [test.dataset], test.split, task=task, parents=(last,)))
    return tuple(stages)


def with_seeds(stages: Iterable[Stage], seed_pretrain: int, seed_finetune: int, known: dict[Any, Stage]) -> list[Stage]:
    """The same chain with other seeds; cutting it again for each pair of seeds would take most of a plan's time.

    Args:
        stages: of one configuration, parents first.
        seed_pretrain: of the draws of pre-training.
        seed_finetune: of the draws of fine-tuning.
        known: stages that earlier calls for this configuration made; those that differ in nothing are shared.
    """
    seeds = _by_training(seed_pretrain, seed_finetune)
    made: dict[int, Stage] = {}
    for stage in stages:
        parents = tuple(made[id(parent)] for parent in stage.parents)
        seed = seeds.get(STAGE_KINDS[stage.kind].seed)
        key = (id(stage), seed, *map(id, parents))
        if key not in known:
            known[key] = replace(stage, seed=seed, parents=parents)
        made[id(stage)] = known[key]
    return list(made.values())


def resolved(config: Config, *, zero_shot: bool = False) -> Config:
    """The same configuration with the frames that fine-tuning takes over from pre-training, or without fine-tuning."""
    video = config.pretrain_video
    before = ClipShape() if video is None else clip_shape(video.frames, video.selected)
    tuned = {}
    for task, tuning in config.finetune.items() if not zero_shot else ():
        shape = clip_shape(tuning.frames, tuning.selected, before)
        tuned[task] = replace(tuning, frames=shape.frames, selected=shape.selected)
    return replace(config, finetune=tuned)


def _by_training(seed_pretrain: int, seed_finetune: int) -> dict[str | None, int]:
    return {PRETRAIN: seed_pretrain, FINETUNE: seed_finetune}


def _initial_weights(config: Config) -> Digests:
    """What the first stage starts from; nothing for new weights."""
    found: Digests = {}
    for what, source in (("vision", config.pretrain.vision_weights), ("text", config.pretrain.text_weights)):
        if source is not None:
            found |= _input(f"{what} weights", source, weights_digest(source, vision=config.model.vision))
    return found


def _input(what: str, source: str, digest: str | None) -> Digests:
    """A digest stands for what it is of, wherever that lies; what is not here is told apart by its name."""
    return {what: digest} if digest else {f"{what} {source}": None}


def _plain(value: Any) -> Any:
    """As JSON holds it: tuples are lists."""
    return json.loads(json.dumps(value))
