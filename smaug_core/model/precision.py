"""Where autocast must not lower the precision."""

import torch
from torch import Tensor


def full_precision(near: Tensor) -> torch.autocast:
    """A context without autocast on the device of `near`: what is computed in it keeps its inputs' precision."""
    return torch.autocast(near.device.type, enabled=False)
