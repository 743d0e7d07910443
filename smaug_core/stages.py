"""The three kinds of work a stage can be, each a function from files to files.

Whoever runs a stage (the worker process of a sweep, or `smaug pretrain`) hands over plain settings, the folders
of the stages it builds on, an empty or half-finished folder to write to, and a `Watch`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from smaug_core.config import (
    DataConfig,
    EvaluateConfig,
    FinetuneConfig,
    ModelConfig,
    PretrainConfig,
    from_settings,
)
from smaug_core.errors import SmaugError


@runtime_checkable  # for the shape checks of the tests
class Watch(Protocol):
    """What a running stage tells its supervisor, and asks of it."""

    def report(self, step: int, total: int, values: Mapping[str, float]) -> None:
        """Step `step` of `total` has ended with these losses or measurements."""

    def useful(self, seconds: float) -> None:
        """Device seconds spent so far on work that is in the state now saved, over all attempts."""

    def spent(self) -> float:
        """Device seconds this attempt has used: wall time x GPUs, or CPU time of the process tree."""

    def stop_requested(self) -> bool:
        """Whether to save a checkpoint and raise `Interrupted` at the next step."""


class Interrupted(Exception):
    """The stage saved its state because it was asked to stop; running it again continues."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What a finished stage hands back."""

    metrics: dict[str, float]
    """Results by name, e.g. `t2v.r1` in percent, or the last losses of a training."""
    useful_s: float
    """Device seconds of the steps that are in the final weights; 0 for an evaluation."""
    files: list[str] = field(default_factory=list)
    """Files written, relative to the stage's folder."""
    scratch: list[str] = field(default_factory=list)
    """Folders that are of no use once this is recorded; until then a killed stage starts from them again."""
    notes: dict[str, Any] = field(default_factory=dict)
    """Further facts worth recording, e.g. the digest of the test set, or unreadable clips."""


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
) -> Outcome:
    """Run the stage `kind` (`pretrain`, `finetune` or `evaluate`) to its end, from its newest checkpoint if any.

    Args:
        kind: which work to do.
        settings: the configuration sub-trees this stage reads: `model`, `data` and its own, under `kind`.
        seed: of the random draws; none for a stage that draws nothing.
        parents: folders of the finished stages it starts from, at most one.
        out: folder to write to; may hold checkpoints of an earlier attempt.
        data_root: where the media are, and where embedded data is rendered to.
        device: as torch names it, `cpu` or `cuda`.
        watch: receives progress, and says when to stop.

    Raises:
        Interrupted: the watch asked to stop; a checkpoint was saved first.
        SmaugError: something named in the message is wrong with the settings, the data or the parent's weights.
    """
    from smaug_core.data.corpora import read_source
    from smaug_core.evaluation.retrieval import evaluate
    from smaug_core.training.train import finetune, pretrain

    model = from_settings(ModelConfig, settings["model"], "model")
    data = from_settings(DataConfig, settings["data"], "data") if settings.get("data") else None
    own: Mapping[str, Any] = settings[kind]
    if kind == "pretrain":
        assert seed is not None
        config = from_settings(PretrainConfig, own, "pretrain")
        items = [i for name in config.corpus for i in read_source(name, "train", data, data_root)]
        return pretrain(model, config, items, seed=seed, out=out, device=device, watch=watch)
    weights = parents[0] / "model"
    if kind == "finetune":
        assert seed is not None
        tuning = from_settings(FinetuneConfig, own, "finetune")
        items = read_source(tuning.dataset, "train", data, data_root)
        return finetune(model, tuning, items, weights=weights, seed=seed, out=out, device=device, watch=watch)
    if kind == "evaluate":
        test = from_settings(EvaluateConfig, own, "evaluate")
        items = read_source(test.dataset, test.split, data, data_root)
        return evaluate(model, test, items, weights=weights, out=out, device=device, watch=watch)
    raise SmaugError(f"stage kind: {kind!r} is unknown; pretrain, finetune or evaluate")
