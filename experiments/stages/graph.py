"""The chain of stages that one configuration needs, and the inputs of each."""

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
"""Input name -> SHA-256; None if the input is not available locally."""


def cut_stages(
    config: Config,
    resources: Mapping[str, dict[str, Any]],
    seed_pretrain: int,
    seed_finetune: int,
    data_root: Path | None = None,
) -> tuple[Stage, ...]:
    """Return the stages of one configuration, parents first, each with the settings that it reads alone.

    Raises:
        SmaugError: a source is unknown, or an input exists and cannot be read.
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
    """Return the same chain with other seeds; cutting it for each pair of seeds would take most of a plan's time.

    Args:
        stages: of one configuration, parents first.
        seed_pretrain: of pre-training.
        seed_finetune: of fine-tuning.
        known: stages of earlier calls for this configuration; equal stages are shared.
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
    """Fill in the frames that fine-tuning takes over from pre-training, or drop fine-tuning if it is zero-shot."""
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
    """Digests of the initial weights; empty if the weights are new."""
    found: Digests = {}
    for what, source in (("vision", config.pretrain.vision_weights), ("text", config.pretrain.text_weights)):
        if source is not None:
            found |= _input(f"{what} weights", source, weights_digest(source, vision=config.model.vision))
    return found


def _input(what: str, source: str, digest: str | None) -> Digests:
    """Key an input by its digest, or by its name if the digest is unknown."""
    return {what: digest} if digest else {f"{what} {source}": None}


def _plain(value: Any) -> Any:
    """Convert to JSON's types: tuples become lists."""
    return json.loads(json.dumps(value))
