"""Every training step of the paper's sweeps, forward and backward at full size, on a device that holds no numbers.

A GPU waits in mid-step where Python reads a number of the device or a shape depends on data, and refuses tensors of
two devices in one operation. On torch's meta device both fail, in seconds and without a GPU. It has no autocast: what
bf16 changes is tested in test_precision.py.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from experiments.config.scale import load_scale
from experiments.config.settings import with_overrides
from experiments.config.sweep import load_sweep
from smaug_core.clip_shape import ClipShape, clip_shape, image_size_after
from smaug_core.config import FinetuneConfig, ModelConfig, PretrainConfig, ScheduleConfig
from smaug_core.data.batch_reader import BatchReader, BatchRecipe
from smaug_core.data.manifest import Sample
from smaug_core.data.media.location import MediaLocation
from smaug_core.data.tokenizer import load_tokenizer
from smaug_core.distributed import World
from smaug_core.model.smaug import SMAUG
from smaug_core.training.train import _recipe

SWEEPS = Path(__file__).resolve().parents[2] / "sweeps"
VOCABULARY = 30_522
SAMPLES = 8
"""In a batch: the device's operations are the same for any number."""


@dataclass(frozen=True, slots=True)
class Step:
    """What decides the operations of a training step."""

    model: ModelConfig
    clip: ClipShape
    schedule: ScheduleConfig
    mask_ratio: float
    mlm_ratio: float

    @property
    def name(self) -> str:
        model, stage = self.model, type(self.schedule).__name__.removesuffix("Config")
        told = f"{stage} {self.clip.frames}to{self.clip.selected} mask {self.mask_ratio} keep {model.keep_rate:g}"
        return f"{told} decoder {model.decoder_depth} {model.image_size}px {model.vision[:4]}"


@cache
def steps() -> list[Step]:
    """The distinct steps of all rows of all sweeps at the paper's scale."""
    scale, found = load_scale("paper"), {}
    for path in sorted(SWEEPS.glob("*.yaml")):
        sweep = load_sweep(path, scale)
        for changes in sweep.variants.values():
            config = scale.config(with_overrides(scale.tree, changes), sweep.tasks)
            stages = [config.pretrain, config.pretrain_video, *config.finetune.values()]
            for step in _chain(config.model, [stage for stage in stages if stage is not None]):
                found.setdefault(step.name, step)
    return list(found.values())


def _chain(model: ModelConfig, stages: list[ScheduleConfig]) -> Iterator[Step]:
    """The steps of the stages of one row, each with the frames of the one before."""
    shape = ClipShape()
    for stage in stages:
        if isinstance(stage, FinetuneConfig):
            tuned = image_size_after(model, stage.image_size_ratio)
            yield Step(tuned, clip_shape(stage.frames, stage.selected, shape), stage, 0.0, 0.0)
            continue
        shape = ClipShape() if isinstance(stage, PretrainConfig) else clip_shape(stage.frames, stage.selected)
        yield Step(model, shape, stage, stage.mask_ratio, stage.mlm_ratio)


class MetaReader(BatchReader):
    """Reads batches, but for the pictures, which hold no numbers."""

    def _frames(self, sample: Sample, epoch: int) -> torch.Tensor:
        size = self.recipe.image_size
        return torch.empty(self.recipe.frames, 3, size, size, device="meta")


class OneDevice(TorchDispatchMode):
    """Refuses operations on tensors of another device, even where CUDA would copy them: it would wait for that."""

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        result = operation(*args, **(kwargs or {}))
        for leaf in tree_leaves((args, kwargs, result)):
            if isinstance(leaf, torch.Tensor) and leaf.device.type != "meta":
                raise RuntimeError(f"{operation}: got a tensor {list(leaf.shape)} on {leaf.device}, expected meta")
        return result


@cache
def items() -> list[Sample]:
    colours = ("red", "green", "blue")
    return [
        Sample(
            id=f"made/{number}",
            media=MediaLocation(Path(f"{number}.mp4")),
            number=number,
            caption=f"a {colours[number % 3]} square moves left over a {colours[number // 3]} background",
            is_image=False,
            flip=False,
            relevant=(),
        )
        for number in range(SAMPLES)
    ]


def recipe_of(step: Step, model: SMAUG) -> BatchRecipe:
    made = _recipe(model, step.schedule, mask_ratio=step.mask_ratio, mlm_ratio=step.mlm_ratio)
    return replace(made, batch_size=SAMPLES)


def is_like_another(step: Step) -> bool:
    """Whether a quick test runs the same operations: rates and depths change their sizes and their number alone."""
    if isinstance(step.schedule, FinetuneConfig):  # a part of what pre-training does
        return step.clip != ClipShape(frames=4, selected=2)
    return next(other for other in steps() if _operations(other) == _operations(step)) is not step


def _operations(step: Step) -> tuple[object, ...]:
    model = step.model
    return step.clip, model.vision, step.mask_ratio > 0, model.keep_rate < 1, model.decoder_depth > 0


def with_other_choices() -> Step:
    """A step with the settings that no sweep changes."""
    step = next(step for step in steps() if step.clip == ClipShape(frames=4, selected=2))
    model = replace(step.model, selection_per="clip", caption_vector="mean", normalize_target=True)
    return replace(step, model=model, schedule=replace(step.schedule, vtc_negatives="group"))


STEPS = [
    pytest.param(step, id=step.name, marks=[pytest.mark.slow] if is_like_another(step) else []) for step in steps()
]
STEPS.append(pytest.param(with_other_choices(), id="other choices"))


@pytest.mark.parametrize(
    ("operation", "refusal"),
    [
        (lambda x: x[x > 0], "data-dependent|meta"),
        (lambda x: x.sum().item(), "meta tensors"),
        (lambda x: bool((x > 0).all()), "meta tensors"),
        (lambda x: x.nonzero(), "meta"),
        (lambda x: x[torch.arange(2)], "on cpu, expected meta"),
        (lambda x: x + torch.ones(3), "cpu"),
    ],
)
def test_what_a_gpu_would_wait_for_is_refused(operation, refusal):
    with pytest.raises((RuntimeError, NotImplementedError), match=refusal), OneDevice():
        operation(torch.empty(3, device="meta"))


@pytest.mark.parametrize("step", STEPS)
def test_a_step_waits_for_no_device_and_stays_on_one(step):
    with torch.device("meta"):
        model = SMAUG(step.model, VOCABULARY, step.clip).train()
    reader = MetaReader(items(), load_tokenizer("moving_shapes"), recipe_of(step, model), 0, World())
    batch = reader.read(items(), 0).batch.to("meta")
    with OneDevice():
        losses = model(batch, negatives_group=SAMPLES // 2, vtc_negatives=step.schedule.vtc_negatives)
        torch.stack(list(losses.values())).sum().backward()
    wanted = {"vtc", "vtm"} | ({"mlm"} if step.mlm_ratio else set())
    wanted |= {"mvm"} if step.mask_ratio and step.model.decoder_depth else set()
    assert losses.keys() == wanted
