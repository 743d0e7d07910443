"""Work of a stage in multiply-accumulates, in closed form from its settings and the sizes of its data."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments.stages.kinds import STAGE_KINDS
from smaug_core.clip_shape import ClipShape, clip_shape, image_size_after
from smaug_core.config import (
    DataConfig,
    EvaluateConfig,
    FinetuneConfig,
    ModelConfig,
    PretrainConfig,
    PretrainVideoConfig,
)
from smaug_core.cost.flops import (
    TRAINING,
    StepShape,
    evaluation_macs,
    published_accounting,
    step_cost,
    step_of,
    total_macs,
)
from smaug_core.data.dataset_info import Counts
from smaug_core.data.datasets import split_counts
from smaug_core.data.tokenizer import load_tokenizer
from smaug_core.settings import from_settings
from smaug_core.stage_protocol import EVALUATE, FINETUNE, PRETRAIN_VIDEO

Settings = Mapping[str, Any]
"""The sections that a stage reads, as JSON values."""
Training = PretrainConfig | PretrainVideoConfig | FinetuneConfig

VOCABULARIES = {"bert-base-uncased": 30_522}
"""Sizes of vocabularies that are known without their files."""


def stage_macs(
    kind: str, settings: Settings, before: Settings | None, data_root: Path | None = None, *, as_published: bool = False
) -> int:
    """Return the multiply-accumulates of a whole stage.

    Args:
        kind: of the stage.
        settings: the stage's.
        before: those of its parent; None for the first stage.
        data_root: folder of prepared data sets, whose sizes are not published.
        as_published: count pre-training as the paper's hours do (`published_accounting`).

    Raises:
        SmaugError: the size of a source is unknown, or the vocabulary is not available.
    """
    if not STAGE_KINDS[kind].trains:
        assert before is not None
        return _evaluation(settings, before, data_root)
    training = training_of(kind, settings)
    sources = [training.dataset] if isinstance(training, FinetuneConfig) else training.corpus
    seen = training.epochs * sum(_split_size(source, settings, "train", data_root).captions for source in sources)
    return seen * step_macs(kind, settings, as_published=as_published and kind != FINETUNE)


def step_macs(kind: str, settings: Settings, *, as_published: bool = False) -> int:
    """Return the multiply-accumulates of one sample in a training step, forward and backward."""
    model, shape = step_shape(kind, settings)
    if as_published:
        model, shape = published_accounting(model, shape)
    return TRAINING * total_macs(step_cost(model, shape))


def training_of(kind: str, settings: Settings) -> Training:
    """Return the own section of a training stage."""
    section: type[Training] = STAGE_KINDS[kind].config
    return from_settings(section, settings[kind], kind)


def step_shape(kind: str, settings: Settings) -> tuple[ModelConfig, StepShape]:
    """Return the model at the image size of a training stage, and the shape of its steps."""
    model, training = from_settings(ModelConfig, settings["model"], "model"), training_of(kind, settings)
    if isinstance(training, FinetuneConfig):
        model = image_size_after(model, training.image_size_ratio)
    return model, step_of(training, vocabulary_size(model.tokenizer))


def vocabulary_size(tokenizer: str) -> int:
    """Return the number of tokens of `model.tokenizer`.

    Raises:
        SmaugError: the vocabulary is not available.
    """
    return VOCABULARIES.get(tokenizer) or load_tokenizer(tokenizer).vocab_size


def _split_size(source: str, settings: Settings, split: str, data_root: Path | None) -> Counts:
    data = settings.get("data")
    return split_counts(source, split, data and from_settings(DataConfig, data, "data"), data_root)


def _evaluation(settings: Settings, before: Settings, data_root: Path | None) -> int:
    test = from_settings(EvaluateConfig, settings[EVALUATE], EVALUATE)
    model, trained, ratio = from_settings(ModelConfig, settings["model"], "model"), ClipShape(), 1.0
    for kind in (PRETRAIN_VIDEO, FINETUNE):
        if kind in before:
            trained = clip_shape(before[kind]["frames"], before[kind]["selected"])
            ratio = before[kind].get("image_size_ratio", 1.0)
    size = _split_size(test.dataset, settings, test.split, data_root)
    clips, captions = size.media, size.captions
    pairs = min(clips * captions, (clips + captions) * test.rerank)  # if no pair is among the best in both directions
    return evaluation_macs(image_size_after(model, ratio), trained, test, clips=clips, captions=captions, pairs=pairs)
