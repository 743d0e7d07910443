"""Dispatch of a stage to its work: a function from files to files for each kind.

The caller (the worker process of a sweep, or `smaug pretrain`) passes plain settings, the folders of the stages it
builds on, an empty or half-finished folder to write to, and a `Watch`.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smaug_core.config import (
    DataConfig,
    EvaluateConfig,
    FinetuneConfig,
    ModelConfig,
    PretrainConfig,
    PretrainVideoConfig,
)
from smaug_core.errors import SmaugError
from smaug_core.settings import from_settings
from smaug_core.stage_protocol import FINETUNE, KINDS, PRETRAIN, PRETRAIN_VIDEO, Outcome, Watch

if TYPE_CHECKING:
    from smaug_core.data.corpus import Corpus
    from smaug_core.distributed import World
    from smaug_core.run_context import RunContext

logger = logging.getLogger(__name__)


def run(
    kind: str,
    settings: Mapping[str, Any],
    *,
    seed: int | None,
    parents: Sequence[Path],
    out: Path,
    data_root: Path,
    device: str,
    watch: Watch,
    recompute_layers: bool = False,
    loader_workers: int = 0,
) -> Outcome:
    """Run the stage `kind` to its end, from its newest checkpoint if there is one.

    Under torchrun all its processes call this with the same arguments and share the work; the first one writes.

    Args:
        kind: `pretrain`, `pretrain_video`, `finetune` or `evaluate`.
        settings: the configuration sub-trees this stage reads: `model`, `data` and its own, under `kind`.
        seed: of the random draws; none for a stage that draws nothing.
        parents: folders of the finished stages it starts from, at most one.
        out: folder to write to; may hold checkpoints of an earlier attempt.
        data_root: where the media are, and where embedded data is rendered to.
        device: as torch names it, `cpu` or `cuda`.
        watch: receives progress, and says when to stop.
        recompute_layers: compute layers again in the backward pass: less memory, the same numbers.
        loader_workers: processes that read media ahead, for each process that computes; 0 reads in that one.

    Raises:
        Interrupted: the watch asked to stop; a checkpoint was saved first.
        SmaugError: something named in the message is wrong with the settings, the data or the parent's weights.
    """
    from smaug_core.distributed import joined_world
    from smaug_core.run_context import RunContext

    if kind not in KINDS:
        raise SmaugError(f"stage kind: {kind!r} is unknown; expected one of {', '.join(KINDS)}")
    with joined_world(device) as world:
        context = RunContext(
            seed=seed,
            weights=parents[0] / "model" if parents else None,
            out=out,
            device=device,
            watch=watch,
            world=world,
            recompute_layers=recompute_layers,
            loader_workers=loader_workers,
        )
        return _work(kind, settings, data_root, context)


def _work(kind: str, settings: Mapping[str, Any], data_root: Path, context: "RunContext") -> Outcome:
    """Read the data of a stage, then train or evaluate."""
    from smaug_core.evaluation.retrieval import evaluate
    from smaug_core.training.train import finetune, pretrain, pretrain_video

    model = from_settings(ModelConfig, settings["model"], "model")
    data = from_settings(DataConfig, settings["data"], "data") if settings.get("data") else None
    own: Mapping[str, Any] = settings[kind]
    reader = _Reader(data, data_root, model.tokenizer, context.world)
    if kind == PRETRAIN:
        config = from_settings(PretrainConfig, own, kind)
        outcome = pretrain(model, config, reader.read(config.corpus, "train"), context)
    elif kind == PRETRAIN_VIDEO:
        video = from_settings(PretrainVideoConfig, own, kind)
        outcome = pretrain_video(model, video, reader.read(video.corpus, "train"), context)
    elif kind == FINETUNE:
        tuning = from_settings(FinetuneConfig, own, kind)
        outcome = finetune(model, tuning, reader.read([tuning.dataset], "train"), context)
    else:
        test = from_settings(EvaluateConfig, own, kind)
        outcome = evaluate(model, test, reader.read([test.dataset], test.split), context)
    return replace(outcome, notes=outcome.notes | {"unknown_words": reader.unknown_words})


@dataclass(slots=True)
class _Reader:
    """Reads data sets, and counts what the vocabulary does not know of their captions."""

    config: DataConfig | None
    root: Path
    tokenizer: str
    world: "World"
    unknown_words: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By source and split."""

    def read(self, sources: Sequence[str], split: str) -> "Corpus":
        """Open one split of each source; warn of one with many unknown words."""
        from smaug_core.data.corpus import Corpus
        from smaug_core.data.datasets import open_source
        from smaug_core.data.tokenizer import load_tokenizer
        from smaug_core.data.unknown_words import count_unknown, sampled

        with self.world.together():
            if self.world.is_first:  # it writes the manifests that are missing
                for source in sources:
                    open_source(source, split, self.config, self.root)
        with self.world.together():
            tokenizer = load_tokenizer(self.tokenizer)
            manifests = [open_source(source, split, self.config, self.root) for source in sources]
            for source, manifest in zip(sources, manifests, strict=True):
                counts = count_unknown(tokenizer, (sample.caption for sample in sampled(manifest)))
                self.unknown_words[f"{source} {split}"] = counts.to_json()
                if counts.is_high and self.world.is_first:
                    logger.warning(counts.message(f"{source} {split}", self.tokenizer))
        return Corpus(manifests)
