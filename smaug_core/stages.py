"""The kinds of work a stage can be, each a function from files to files.

Whoever runs a stage (the worker process of a sweep, or `smaug pretrain`) hands over plain settings, the folders
of the stages it builds on, an empty or half-finished folder to write to, and a `Watch`.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from smaug_core.config import (
    DataConfig,
    EvaluateConfig,
    FinetuneConfig,
    ModelConfig,
    PretrainConfig,
    PretrainVideoConfig,
    from_settings,
)
from smaug_core.errors import SmaugError

KINDS = ("pretrain", "pretrain_video", "finetune", "evaluate")
"""The kinds of stages, in the order in which they build on each other."""


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
    recompute_layers: bool = False,
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
        recompute_layers: compute layers again in the backward pass instead of keeping what they made: less
            memory, the same numbers.

    Raises:
        Interrupted: the watch asked to stop; a checkpoint was saved first.
        SmaugError: something named in the message is wrong with the settings, the data or the parent's weights.
    """
    from smaug_core.context import RunContext
    from smaug_core.data.corpora import Item, read_source
    from smaug_core.distributed import joined_world
    from smaug_core.evaluation.retrieval import evaluate
    from smaug_core.training.train import finetune, pretrain, pretrain_video

    if kind not in KINDS:
        raise SmaugError(f"stage kind: {kind!r} is unknown; right would be one of {', '.join(KINDS)}")
    model = from_settings(ModelConfig, settings["model"], "model")
    data = from_settings(DataConfig, settings["data"], "data") if settings.get("data") else None
    own: Mapping[str, Any] = settings[kind]

    with joined_world(device) as world:

        def read(sources: Iterable[str], split: str) -> list[Item]:
            with world.together():
                return [item for name in sources for item in read_source(name, split, data, data_root)]

        context = RunContext(
            seed=seed,
            weights=parents[0] / "model" if parents else None,
            out=out,
            device=device,
            watch=watch,
            world=world,
            recompute_layers=recompute_layers,
        )
        if kind == "pretrain":
            config = from_settings(PretrainConfig, own, kind)
            return pretrain(model, config, read(config.corpus, "train"), context)
        if kind == "pretrain_video":
            video = from_settings(PretrainVideoConfig, own, kind)
            return pretrain_video(model, video, read(video.corpus, "train"), context)
        if kind == "finetune":
            tuning = from_settings(FinetuneConfig, own, kind)
            return finetune(model, tuning, read([tuning.dataset], "train"), context)
        test = from_settings(EvaluateConfig, own, kind)
        return evaluate(model, test, read([test.dataset], test.split), context)
