"""Activation checkpointing: layers are recomputed in the backward pass instead of being kept."""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

T = TypeVar("T")


class Recomputing(nn.Module):
    """A module whose layers may be recomputed in the backward pass: less memory, the same numbers."""

    recompute = False

    def through(self, layer: Callable[..., T], *inputs: Any, **more: Any) -> T:
        """Apply `layer` to the inputs; dropout draws the same numbers when it is recomputed."""
        if self.recompute and torch.is_grad_enabled():
            result: T = checkpoint(layer, *inputs, use_reentrant=False, **more)
            return result
        return layer(*inputs, **more)
