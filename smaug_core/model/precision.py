"""Parts of the model in which autocast must not lower the precision."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor


def full_precision(near: Tensor) -> AbstractContextManager[Any]:
    """A context without autocast on the device of `near`: what is computed in it keeps its inputs' precision.

    The meta device, which computes shapes alone, has no autocast.
    """
    kind = near.device.type
    return torch.autocast(kind, enabled=False) if torch.amp.is_autocast_available(kind) else nullcontext()
