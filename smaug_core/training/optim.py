"""AdamW and its learning rate."""

import math

import torch
from torch import nn

from smaug_core.config import ScheduleConfig

NO_DECAY = (
    "cls_token",
    "pos_embed",
    "mask_token",
    "fused_position",
    "embeddings",
    "time_embed",
    "temperature",
    "bias_table",
)
"""Parts of the names of parameters that are exempt from weight decay though they are tables."""


def build_optimizer(model: nn.Module, schedule: ScheduleConfig) -> torch.optim.AdamW:
    """AdamW with weight decay on the weight matrices only: not on biases, norms, embeddings or temperature."""
    trained = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    decayed = [p for n, p in trained if _decays(n, p)]
    exempt = [p for n, p in trained if not _decays(n, p)]
    groups = [
        {"params": decayed, "weight_decay": schedule.weight_decay},
        {"params": exempt, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=schedule.lr, betas=(0.9, schedule.beta2), fused=True)


def _decays(name: str, parameter: nn.Parameter) -> bool:
    return parameter.dim() >= 2 and not any(part in name for part in NO_DECAY)


def learning_rate(step: int, total: int, warmup: int, schedule: ScheduleConfig) -> float:
    """Rate of step `step` of `total`: linear from `lr / warmup` over `warmup` steps, then cosine to `min_lr`."""
    if step < warmup:
        return schedule.lr * (step + 1) / warmup
    progress = (step - warmup) / max(1, total - 1 - warmup)
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    return schedule.min_lr + (schedule.lr - schedule.min_lr) * cosine
