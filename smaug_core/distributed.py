"""The processes of one training, each with its share of every batch; one process alone is a world of one."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Shaped
from torch import Tensor

from smaug_core.errors import SmaugError


@dataclass(frozen=True, kw_only=True, slots=True)
class World:
    """How many processes there are, and which one this is. With a size of 1 every method hands back its input."""

    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that writes files."""
        return self.rank == 0

    def share(self, count: int) -> slice:
        """This process's share of `count` things in a row, all shares as equal as can be."""
        return slice(self.rank * count // self.size, (self.rank + 1) * count // self.size)

    def gather(self, rows: Shaped[Tensor, " here *rest"]) -> Shaped[Tensor, " all *rest"]:
        """The rows of all processes, in the order of their ranks; the gradient of each row goes back to its owner.

        Every process must hold equally many.
        """
        return rows if self.size == 1 else _Gather.apply(rows, self)  # type: ignore[no-untyped-call]

    def total(self, value: Shaped[Tensor, "*shape"]) -> Shaped[Tensor, "*shape"]:
        """The sum over all processes, without gradient."""
        if self.size == 1:
            return value.detach()
        summed = value.detach().clone()
        dist.all_reduce(summed)
        return summed

    def any(self, *flags: bool) -> list[bool]:
        """Whether a flag is set in any process, for each flag."""
        if self.size == 1:
            return list(flags)
        return [bool(count) for count in self.total(torch.tensor(flags, dtype=torch.int32)).tolist()]

    def collect(self, value: Any) -> list[Any]:
        """The values of all processes, by rank; for anything small that is not a tensor."""
        if self.size == 1:
            return [value]
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, value)
        return found

    def wait(self) -> None:
        """Until every process has come here."""
        if self.size > 1:
            dist.barrier()


class _Gather(torch.autograd.Function):
    """all_gather along the first axis; backward, what every process owes to a row is added up at its owner."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, world: World) -> Tensor:
        ctx.world, ctx.num = world, len(rows)
        found = [torch.empty_like(rows, memory_format=torch.contiguous_format) for _ in range(world.size)]
        dist.all_gather(found, rows.contiguous())
        return torch.cat(found)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        total = ctx.world.total(grads[0])
        return total[ctx.world.rank * ctx.num : (ctx.world.rank + 1) * ctx.num], None


@contextmanager
def joined_world(device: str) -> Iterator[World]:
    """Join the processes that torchrun started (it tells by RANK and WORLD_SIZE); alone without it.

    Args:
        device: `cpu` or `cuda`; on `cuda` each process takes the GPU of its LOCAL_RANK.

    Raises:
        SmaugError: torchrun's variables are incomplete, or there are more processes than GPUs.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield World()
        return
    missing = [name for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise SmaugError(f"WORLD_SIZE = {size}, but {', '.join(missing)} is not set; start with torchrun, or unset it")
    if device == "cuda":
        local = int(os.environ["LOCAL_RANK"])
        if local >= torch.cuda.device_count():
            raise SmaugError(
                f"LOCAL_RANK = {local}: torch finds {torch.cuda.device_count()} GPUs here;"
                " right would be torchrun with as many processes as there are GPUs"
            )
        torch.cuda.set_device(local)
    dist.init_process_group("cpu:gloo,cuda:nccl" if device == "cuda" else "gloo")
    try:
        yield World(rank=dist.get_rank(), size=dist.get_world_size())
    finally:
        dist.destroy_process_group()
