"""The training loop, written out, and the three stages that use it."""

import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from smaug_core.clip_shape import ClipShape, clip_shape, image_size_after
from smaug_core.config import FinetuneConfig, ModelConfig, PretrainConfig, PretrainVideoConfig, ScheduleConfig
from smaug_core.data.batch import Batch
from smaug_core.data.batch_reader import BatchRecipe, BatchRequest, ReadBatch
from smaug_core.data.batches import TrainingBatches
from smaug_core.data.corpus import SampleSequence
from smaug_core.data.loading.loader import Loader
from smaug_core.data.tokenizer import load_tokenizer
from smaug_core.distributed import World
from smaug_core.errors import CheckpointError, DivergedError, SmaugError
from smaug_core.model.init_weights import build
from smaug_core.model.smaug import SMAUG
from smaug_core.pretrained.load import load_text, load_vision
from smaug_core.run_context import RunContext
from smaug_core.stage_protocol import Interrupted, Outcome
from smaug_core.training.checkpoint import (
    CHECKPOINT_EVERY_S,
    Checkpoints,
    Progress,
    load_weights,
    read_config,
    save_model,
)
from smaug_core.training.optim import build_optimizer, learning_rate
from smaug_core.training.step_clock import StepClock


def pretrain(
    model_config: ModelConfig, config: PretrainConfig, samples: SampleSequence, context: RunContext
) -> Outcome:
    """Single-frame pre-training: contrast, matching, masked words, masked patches (paper 3)."""
    model = build(model_config, load_tokenizer(model_config.tokenizer).vocab_size, seed=context.drawing_seed)
    notes: dict[str, Any] = {}
    with context.world.together():
        if config.vision_weights is not None:
            notes["vision_weights"] = asdict(load_vision(model, config.vision_weights, model_config))
        if config.text_weights is not None:
            notes["text_weights"] = asdict(load_text(model, config.text_weights, model_config))
    recipe = _recipe(model, config, mask_ratio=config.mask_ratio, mlm_ratio=config.mlm_ratio)
    return train(model, samples, recipe, config, context, notes=notes)


def pretrain_video(
    model_config: ModelConfig, config: PretrainVideoConfig, samples: SampleSequence, context: RunContext
) -> Outcome:
    """Multi-frame pre-training on clips, from a single-frame model (paper 3.5).

    Raises:
        SmaugError: there are pictures among `samples`, or no number of frames is given.
    """
    if config.frames is None:
        raise SmaugError("pretrain_video.frames: expected a number, such as the paper's 4 or 8, got None")
    pictures = samples.rows_of(images=True)
    if len(pictures):
        raise SmaugError(
            f"pretrain_video.corpus: holds {len(pictures)} captions of pictures, the first of"
            f" {samples[int(pictures[0])].media};"
            " multi-frame pre-training is on clips alone"
        )
    model, notes = _continued(model_config, clip_shape(config.frames, config.selected), context)
    recipe = _recipe(model, config, mask_ratio=config.mask_ratio, mlm_ratio=config.mlm_ratio)
    return train(model, samples, recipe, config, context, notes=notes)


def finetune(
    model_config: ModelConfig, config: FinetuneConfig, samples: SampleSequence, context: RunContext
) -> Outcome:
    """Fine-tuning for retrieval: contrast and matching, nothing hidden (paper 4.1)."""
    _, before = read_config(context.starting_weights)
    shape = clip_shape(config.frames, config.selected, before)
    model, notes = _continued(image_size_after(model_config, config.image_size_ratio), shape, context)
    recipe = _recipe(model, config, mask_ratio=0.0, mlm_ratio=0.0)
    return train(model, samples, recipe, config, context, notes=notes | {"image_size": model.config.image_size})


def _continued(config: ModelConfig, shape: ClipShape, context: RunContext) -> tuple[SMAUG, dict[str, Any]]:
    """Make a model with the weights of the stage before; return it with its new parts and those left out."""
    vocab_size = load_tokenizer(config.tokenizer).vocab_size
    model = build(config, vocab_size, seed=context.drawing_seed, shape=shape)
    with context.world.together():
        fit = load_weights(context.starting_weights, model)
    return model, {"new_parts": fit.new, "parts_left_out": fit.left_out}


def _recipe(model: SMAUG, schedule: ScheduleConfig, *, mask_ratio: float, mlm_ratio: float) -> BatchRecipe:
    return BatchRecipe(
        batch_size=schedule.batch_size,
        frames=model.shape.frames,
        image_size=model.config.image_size,
        colours=model.vision.colours,
        num_patches=model.config.num_patches,
        text_length=schedule.text_length,
        mask_ratio=mask_ratio,
        mlm_ratio=mlm_ratio,
        max_unreadable=schedule.max_unreadable,
    )


def train(
    model: SMAUG,
    samples: SampleSequence,
    recipe: BatchRecipe,
    schedule: ScheduleConfig,
    context: RunContext,
    *,
    notes: Mapping[str, Any],
) -> Outcome:
    """Train to the end of the schedule, from the newest checkpoint under the stage's folder if there is one.

    On one device the weights come out the same, bit for bit on CPU, however often it was interrupted. With several
    processes each computes its share of every batch, and the weights stay equal in all of them.

    Raises:
        Interrupted: the watch asked to stop; the state is saved.
        DivergedError: a loss is not a finite number.
        SmaugError: the batch does not divide into the processes.
    """
    world, watch, seed, device = context.world, context.watch, context.drawing_seed, context.device
    _check_shares(schedule, world)
    batches = TrainingBatches(samples, load_tokenizer(model.config.tokenizer), recipe, seed=seed, world=world)
    model.to(device).train()
    model.recompute_layers(context.recompute_layers)
    optimizer = build_optimizer(model, schedule)
    checkpoints = Checkpoints(context.out / "checkpoints")
    start = _resumed(checkpoints, model, optimizer, world)
    batches.know_unreadable(start.unreadable)
    losses_of = spread(model, world)
    total = schedule.epochs * batches.steps_per_epoch
    warmup = round(schedule.warmup_epochs * batches.steps_per_epoch)
    loader = batches.loader(start.step, total, workers=context.loader_workers, pin_memory=context.pins_memory)
    clock, saved_at, values = StepClock(context, start.times, loader), time.monotonic(), {}

    for step, batch in enumerate(_read_together(loader, batches, total - start.step), start=start.step):
        rate = learning_rate(step, total, warmup, schedule)
        for group in optimizer.param_groups:
            group["lr"] = rate
        # Dropout depends on the step, so a resumed run repeats it.
        torch.manual_seed((seed * total + step) * world.size + world.rank)
        with torch.autocast(device, torch.bfloat16, enabled=schedule.precision == "bf16"):
            losses = losses_of(
                batch.to(device),
                negatives_group=schedule.negatives_group,
                vtc_negatives=schedule.vtc_negatives,
                world=world,
            )
        terms = torch.stack(list(losses.values()))
        means = world.total(terms) / world.size
        optimizer.zero_grad()
        terms.sum().backward()  # type: ignore[no-untyped-call]
        optimizer.step()

        # The one wait for the device in a step, once all its work is queued: for the losses that are reported.
        values = dict(zip(losses, means.tolist(), strict=True))
        values["loss"] = sum(values.values())
        if not math.isfinite(values["loss"]):
            raise DivergedError(
                f"step {step + 1} of {total}: the loss is not finite: {values}; {_last_good(checkpoints)}"
            )
        watch.report(step + 1, total, values | {"lr": rate})
        due = world.is_first and time.monotonic() - saved_at > CHECKPOINT_EVERY_S
        stop, save = world.any(watch.stop_requested(), due)
        if (stop or save) and step + 1 < total:
            _check_finite(model, step + 1, total, checkpoints)
            times = clock.times()
            if world.is_first:
                with clock.checkpoint():
                    checkpoints.save(model, optimizer, Progress(step + 1, times, batches.unreadable))
            watch.useful(times.useful_s)
            saved_at = time.monotonic()
            if stop:
                world.wait()
                raise Interrupted(f"stopped after step {step + 1} of {total}")

    _check_finite(model, total, total, checkpoints)
    if world.is_first:
        save_model(context.out / "model", model, {"steps": total, "seed": seed})
    times = clock.times()
    watch.useful(times.useful_s)
    return Outcome(
        metrics={f"train.{name}": value for name, value in values.items()},
        useful_s=times.useful_s,
        loader_wait_s=times.loader_wait_s,
        checkpoint_s=times.checkpoint_s,
        files=["model/model.safetensors", "model/config.json"],
        scratch=["checkpoints"],
        notes={"steps": total, **batches.notes(), **notes},
    )


def _check_finite(model: SMAUG, step: int, total: int, checkpoints: Checkpoints) -> None:
    """Refuse weights that are not finite: their checkpoint would replace one to resume from.

    It waits for the device once, at checkpoints and at the end.
    """
    names, parameters = zip(*model.named_parameters(), strict=True)
    finite = torch.stack([parameter.isfinite().all() for parameter in parameters]).tolist()
    bad = [name for name, good in zip(names, finite, strict=True) if not good]
    if bad:
        raise DivergedError(
            f"step {step} of {total}: {len(bad)} weights are not finite, the first is {bad[0]};"
            f" {_last_good(checkpoints)}"
        )


def _last_good(checkpoints: Checkpoints) -> str:
    return f"the checkpoint to resume from is {next(iter(checkpoints.found()), 'none')}"


def spread(model: SMAUG, world: World) -> nn.Module:
    """Wrap the model so that its parameters get the mean of all processes' gradients.

    A stage may leave parts of the model out of its losses, the same ones in every step; those get no gradient.
    """
    if world.size == 1:
        return model
    return DistributedDataParallel(model, static_graph=True, forward_sync_buffers=False)  # buffers are constants


def _check_shares(schedule: ScheduleConfig, world: World) -> None:
    """Check that every process holds whole groups of negatives, else the loss would depend on their number."""
    groups = schedule.batch_size // schedule.negatives_group
    if groups % world.size:
        raise SmaugError(
            f"batch_size: {schedule.batch_size} is {groups} groups of negatives_group = {schedule.negatives_group},"
            f" which {world.size} processes cannot share; expected a number of processes that divides {groups}"
        )


def _resumed(checkpoints: Checkpoints, model: SMAUG, optimizer: torch.optim.Optimizer, world: World) -> Progress:
    """Load the state from which the training continues, the same in every process."""
    with world.together():
        start = checkpoints.resume(model, optimizer) or Progress(step=0)
    steps = [found.step for found in world.collect(start)]
    if len(set(steps)) > 1:
        raise CheckpointError(
            f"{checkpoints.folder}: expected one folder that all processes read, got newest checkpoints of steps"
            f" {steps}, by process"
        )
    return start


def _read_together(loader: Loader[BatchRequest, ReadBatch], batches: TrainingBatches, steps: int) -> Iterator[Batch]:
    """Yield the batches of some steps, as long as every process can read its share of them."""
    for _ in range(steps):
        with batches.world.together():
            batch = batches.use(next(loader))
        if batches.world.any(batches.has_news)[0]:
            batches.share_unreadable()
        yield batch
