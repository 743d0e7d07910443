"""The training loop, written out, and the two stages that use it."""

import math
import time
from pathlib import Path

import torch

from smaug_core.config import FinetuneConfig, ModelConfig, PretrainConfig, ScheduleConfig
from smaug_core.data.corpora import Item
from smaug_core.data.loader import BatchRecipe, TrainingBatches
from smaug_core.data.text import load_tokenizer
from smaug_core.errors import DivergedError
from smaug_core.model.smaug import SMAUG, build
from smaug_core.stages import Interrupted, Outcome, Watch
from smaug_core.training.checkpoint import Checkpoints, Progress, load_weights, save_model
from smaug_core.training.optim import build_optimizer, learning_rate

CHECKPOINT_EVERY_S = 60.0
"""Wall time between checkpoints: the most that a kill can cost. Results do not depend on it."""


def pretrain(
    model_config: ModelConfig,
    config: PretrainConfig,
    items: list[Item],
    *,
    seed: int,
    out: Path,
    device: str,
    watch: Watch,
) -> Outcome:
    """Single-frame pre-training from new weights: contrast, matching, masked words, masked patches (paper 3)."""
    tokenizer = load_tokenizer(model_config.tokenizer)
    model = build(model_config, tokenizer.vocab_size, seed=seed)
    recipe = _recipe(model_config, config, frames=1, mask_ratio=config.mask_ratio, mlm_ratio=config.mlm_ratio)
    batches = TrainingBatches(items, tokenizer, recipe, seed=seed)
    return train(model, batches, config, seed=seed, out=out, device=device, watch=watch)


def finetune(
    model_config: ModelConfig,
    config: FinetuneConfig,
    items: list[Item],
    *,
    weights: Path,
    seed: int,
    out: Path,
    device: str,
    watch: Watch,
) -> Outcome:
    """Fine-tuning for retrieval from the weights in `weights`: contrast and matching, nothing hidden (paper 4.1)."""
    tokenizer = load_tokenizer(model_config.tokenizer)
    model = SMAUG(model_config, tokenizer.vocab_size)
    load_weights(weights, model, model_config)
    recipe = _recipe(model_config, config, frames=config.frames, mask_ratio=0.0, mlm_ratio=0.0)
    batches = TrainingBatches(items, tokenizer, recipe, seed=seed)
    return train(model, batches, config, seed=seed, out=out, device=device, watch=watch)


def _recipe(
    model: ModelConfig, schedule: ScheduleConfig, *, frames: int, mask_ratio: float, mlm_ratio: float
) -> BatchRecipe:
    return BatchRecipe(
        batch_size=schedule.batch_size,
        frames=frames,
        image_size=model.image_size,
        num_patches=model.num_patches,
        text_length=schedule.text_length,
        mask_ratio=mask_ratio,
        mlm_ratio=mlm_ratio,
        max_unreadable=schedule.max_unreadable,
    )


def train(
    model: SMAUG,
    batches: TrainingBatches,
    schedule: ScheduleConfig,
    *,
    seed: int,
    out: Path,
    device: str,
    watch: Watch,
) -> Outcome:
    """Train to the end of the schedule, from the newest checkpoint under `out` if there is one.

    On one device the weights come out the same, bit for bit on CPU, however often it was interrupted.

    Raises:
        Interrupted: the watch asked to stop; the state is saved.
        DivergedError: a loss is not a finite number.
    """
    model.to(device).train()
    optimizer = build_optimizer(model, schedule)
    checkpoints = Checkpoints(out / "checkpoints")
    start = checkpoints.resume(model, optimizer) or Progress(step=0, useful_s=0.0)
    total = schedule.epochs * batches.steps_per_epoch
    warmup = round(schedule.warmup_epochs * batches.steps_per_epoch)
    spent_before, saved_at, values = watch.spent(), time.monotonic(), {}

    for step, batch in enumerate(batches.from_step(start.step, total), start=start.step):
        rate = learning_rate(step, total, warmup, schedule)
        for group in optimizer.param_groups:
            group["lr"] = rate
        torch.manual_seed(seed * total + step)  # dropout depends on the step, so a resumed run repeats it
        with torch.autocast(device, torch.bfloat16, enabled=schedule.precision == "bf16"):
            losses = model(batch.to(device), negatives_group=schedule.negatives_group)
        loss = torch.stack(list(losses.values())).sum()
        values = {name: value.item() for name, value in losses.items()} | {"loss": loss.item()}
        if not math.isfinite(values["loss"]):
            raise DivergedError(
                f"step {step + 1} of {total}: the loss is not finite: {values}; the last checkpoint is"
                f" {next(iter(checkpoints.found()), 'none')}"
            )
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

        watch.report(step + 1, total, values | {"lr": rate})
        stop = watch.stop_requested()
        if (stop or time.monotonic() - saved_at > CHECKPOINT_EVERY_S) and step + 1 < total:
            useful_s = start.useful_s + watch.spent() - spent_before
            checkpoints.save(model, optimizer, Progress(step=step + 1, useful_s=useful_s))
            watch.useful(useful_s)
            saved_at = time.monotonic()
            if stop:
                raise Interrupted(f"stopped after step {step + 1} of {total}")

    save_model(out / "model", model, model.config, {"steps": total, "seed": seed})
    useful_s = start.useful_s + watch.spent() - spent_before
    watch.useful(useful_s)
    return Outcome(
        metrics={f"train.{name}": value for name, value in values.items()},
        useful_s=useful_s,
        files=["model/model.safetensors", "model/config.json"],
        scratch=["checkpoints"],
        notes={"steps": total, "unreadable": batches.unreadable},
    )
