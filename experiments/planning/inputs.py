"""Inputs of stages that are not here: where each belongs, and how to get it."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from experiments.config.scale import Scale
from experiments.config.settings import with_overrides
from experiments.stages.graph import cut_stages, resolved
from experiments.stages.stage import Stage
from experiments.stages.workload import step_shape
from smaug_core.data.dataset_info import is_prepared, read_info
from smaug_core.data.dataset_sizes import PUBLISHED
from smaug_core.hub import TIMM, timm_hub_name
from smaug_core.stage_protocol import EVALUATE, PRETRAIN_VIDEO

HUB_FILES = {
    "tokenizer": ("model.tokenizer", "vocab.txt"),
    "vision weights": ("pretrain.vision_weights", "model.safetensors config.json"),
    "text weights": ("pretrain.text_weights", "model.safetensors config.json vocab.txt"),
}
"""By the name of an input: the setting that names it, and the files of the hub's repository that are read."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MissingInput:
    """One input that a stage reads and that is not here."""

    name: str
    """As among the inputs of a stage, e.g. `msrvtt train` or `text weights bert-base-uncased`."""
    source: str | None
    """The data set; None for a vocabulary and for weights."""
    place: str
    """Where it belongs."""
    fix: str
    """How to get it there."""

    @property
    def problem(self) -> str:
        """Reason for which a run is refused."""
        return (
            f"{self.name}: is not here, so what it holds was not seen; `smaug doctor` with the same --scale and --home"
            " says where it belongs and how to get it"
        )


def missing_inputs(stages: Iterable[Stage], data_root: Path) -> list[MissingInput]:
    """Inputs of `stages` that are not here, each once."""
    found: dict[str, MissingInput] = {}
    for stage in stages:
        for name in stage.unseen:
            found.setdefault(name, _missing(name, stage, data_root))
    return list(found.values())


def small_media(stages: Iterable[Stage], data_root: Path) -> list[str]:
    """Warn of prepared media that are smaller than the frames that a training makes of them."""
    found: dict[tuple[str, int], str] = {}
    for stage in (stage for stage in stages if stage.kind != EVALUATE):
        for source in read_splits([stage]):
            side = read_info(data_root, source).short_side if is_prepared(data_root, source) else None
            size = 0 if side is None else step_shape(stage.kind, stage.settings)[0].image_size
            if side is not None and side < size:
                warning = (
                    f"{source}: was prepared with a short side of {side} pixels; {stage.name} enlarges them to {size};"
                    f" `smaug data prepare {source}` with --short-side {size} or more keeps what they show"
                )
                found.setdefault((source, size), warning)
    return list(found.values())


def scale_stages(scale: Scale, data_root: Path | None = None) -> tuple[Stage, ...]:
    """Stages that together read every source, vocabulary and weights that a scale names.

    Raises:
        SmaugError: an input is here and cannot be read.
    """
    several_frames = {f"{PRETRAIN_VIDEO}.frames": scale.tree[PRETRAIN_VIDEO]["frames"] or 2}
    config = scale.config(with_overrides(scale.tree, several_frames), scale.datasets)
    sources = tuple(dict.fromkeys(source for slot in scale.corpora.values() for source in slot))
    config = replace(config, pretrain=replace(config.pretrain, corpus=sources))
    return cut_stages(resolved(config), scale.resources, 0, 0, data_root)


def read_splits(stages: Iterable[Stage]) -> dict[str, list[str]]:
    """The splits that stages read, by source."""
    found: dict[str, list[str]] = {}
    for name in dict.fromkeys(name for stage in stages for name in stage.inputs):
        source, _, split = name.rpartition(" ")
        if not {name, source} & HUB_FILES.keys():
            found.setdefault(source, []).append(split)
    return found


def _missing(name: str, stage: Stage, data_root: Path) -> MissingInput:
    kind, _, last = name.rpartition(" ")
    if kind not in HUB_FILES:
        return _missing_split(name, kind, last, data_root)
    from huggingface_hub.constants import HF_HUB_CACHE

    setting, files = HUB_FILES[kind]
    source = timm_hub_name(stage.settings["model"]["vision"]) if last == TIMM else last
    repository, _, revision = source.partition("@")
    command = f"hf download {repository} {files}" + (f" --revision {revision}" if revision else "")
    return MissingInput(
        name=name,
        source=None,
        place=f"the Hugging Face cache {HF_HUB_CACHE} (HF_HUB_CACHE and HF_HOME choose another)",
        fix=f"{command}; or put {files.replace(' ', ', ')} into a folder of your own and --set {setting}=FOLDER",
    )


def _missing_split(name: str, source: str, split: str, data_root: Path) -> MissingInput:
    if source not in PUBLISHED:
        fix = f"`smaug data prepare {source}`"
        return MissingInput(name=name, source=source, place=str(data_root / source), fix=fix)
    published = PUBLISHED[source].annotations[split]
    return MissingInput(
        name=name,
        source=source,
        place=str(data_root / source / "annotations" / f"{split}.json"),
        fix=f"{published} of github.com/jayleicn/singularity, or a file in its format",
    )
