"""The processes of one training, each with its share of every batch; one process alone is a world of one."""

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from jaxtyping import Shaped
from torch import Tensor
from torch.distributed.rendezvous import rendezvous

from smaug_core.errors import SmaugError

T = TypeVar("T")

EXCHANGED = frozenset(
    {torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int8, torch.uint8}
)
"""Types of numbers that NCCL and gloo both add up; NCCL knows no other integers, and makes a sum of bools an or."""


@dataclass(frozen=True, kw_only=True, slots=True)
class World:
    """Number of processes, and the rank of this one. With a size of 1 every method returns its input."""

    rank: int = 0
    size: int = 1
    device: str = "cpu"
    """Device of the tensors that are exchanged: `cpu` or `cuda`."""

    @property
    def is_first(self) -> bool:
        """True if this process is the one that writes files."""
        return self.rank == 0

    def share(self, count: int) -> slice:
        """This process's share of `count` things in a row, all shares as equal as can be."""
        return slice(self.rank * count // self.size, (self.rank + 1) * count // self.size)

    def gather(self, rows: Shaped[Tensor, " here *rest"]) -> Shaped[Tensor, " all *rest"]:
        """Gather the rows of all processes, in the order of their ranks; each row's gradient goes back to its owner.

        Every process must hold equally many.
        """
        return rows if self.size == 1 else _Gather.apply(rows, self)  # type: ignore[no-untyped-call]

    def total(self, value: Shaped[Tensor, "*shape"]) -> Shaped[Tensor, "*shape"]:
        """The sum over all processes, without gradient."""
        if self.size == 1:
            return value.detach()
        summed = value.detach().clone(memory_format=torch.contiguous_format)
        check_exchange(summed, self.device)
        dist.all_reduce(summed)
        return summed

    def any(self, *flags: bool) -> list[bool]:
        """Return whether a flag is set in any process, for each flag; by gloo, so that no GPU has to be waited for."""
        if self.size == 1:
            return list(flags)
        counts = torch.tensor(flags, dtype=torch.int32)
        dist.all_reduce(counts)
        return [bool(count) for count in counts.tolist()]

    def collect(self, value: Any) -> list[Any]:
        """The values of all processes, by rank; for anything small that is not a tensor."""
        if self.size == 1:
            return [value]
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, value)
        return found

    def wait(self) -> None:
        """Wait until every process has called this."""
        self.any(False)

    @contextmanager
    def together(self) -> Iterator[None]:
        """Run work that may fail in some processes only: a `SmaugError` of one of them is raised in all.

        Without it the others would wait for the failed one in their next exchange.
        """
        fault = None
        try:
            yield
        except SmaugError as error:
            fault = error
        if self.any(fault is not None)[0]:
            raise next(found for found in self.collect(fault) if found is not None)


class _Gather(torch.autograd.Function):
    """all_gather along the first axis; backward, gradients of a row from all processes are added at its owner."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, world: World) -> Tensor:
        ctx.world, ctx.num = world, len(rows)
        rows = rows.contiguous()
        check_exchange(rows, world.device)
        found = [torch.empty_like(rows) for _ in range(world.size)]
        dist.all_gather(found, rows)
        return torch.cat(found)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        total = ctx.world.total(grads[0])
        return total[ctx.world.rank * ctx.num : (ctx.world.rank + 1) * ctx.num], None


def check_exchange(tensor: Tensor, device: str) -> None:
    """Refuse what NCCL refuses, on every device: gloo accepts it, and adds up transposed tensors element by element.

    Raises:
        ValueError: the tensor is not contiguous, lies on another device than `device`, or holds other numbers than
            those in `EXCHANGED`.
    """
    found = f"{tensor.dtype}, shape {list(tensor.shape)}, strides {list(tensor.stride())}, on {tensor.device.type}"
    if not tensor.is_contiguous() or tensor.device.type != device or tensor.dtype not in EXCHANGED:
        raise ValueError(
            f"exchange between processes: got {found}; expected a contiguous tensor of numbers on {device}"
        )


@contextmanager
def joined_world(device: str) -> Iterator[World]:
    """Join the processes that torchrun started (RANK and WORLD_SIZE are set); a world of one without it.

    Args:
        device: `cpu` or `cuda`; on `cuda` each process takes the GPU of its LOCAL_RANK.

    Raises:
        SmaugError: torchrun's variables are incomplete, or there are more processes than GPUs.
    """
    rank, size = _place()
    if size == 1:
        yield World()
        return
    if device == "cuda":
        gpus, here = torch.cuda.device_count(), int(os.environ.get("LOCAL_WORLD_SIZE", size))
        if here > gpus:
            raise SmaugError(
                f"--device cuda: expected at most one process per GPU, got {here} processes on this machine, where"
                f" torch finds {gpus} GPUs; start torchrun with as many processes as there are GPUs"
            )
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    backend = "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo"
    dist.init_process_group(backend, store=_store(), rank=rank, world_size=size)
    yield World(rank=rank, size=size, device=device)
    # Not after an error: NCCL would wait here for processes that are gone. Leaving the group to the process's end
    # closes its connections, which ends the others' waiting.
    dist.destroy_process_group()


def first_does(name: str, work: Callable[[], T]) -> T:
    """Run `work` in the first process and return its result in all; the others wait for it without any limit.

    It is for work before training that may take hours, such as rendering data: an exchange times out after half an
    hour.

    Args:
        name: identifies this piece of work within the run.
        work: its result must be what JSON holds.

    Raises:
        SmaugError: the first process raised one.
    """
    rank, size = _place()
    if size == 1:
        return work()
    store = _store()
    if rank == 0:
        try:
            result = work()
        except SmaugError as error:
            store.set(name, json.dumps({"error": str(error)}))
            raise
        store.set(name, json.dumps({"result": result}))
        return result
    while not store.check([name]):
        time.sleep(0.1)
    message = json.loads(store.get(name))
    if "error" in message:
        raise SmaugError(message["error"])
    decided: T = message["result"]
    return decided


def says_first(message: str) -> bool:
    """Return whether no other process has reported this message yet: what all of them meet is reported once."""
    return _place()[1] == 1 or _store().add(f"said/{message}", 1) == 1


def _place() -> tuple[int, int]:
    """Rank of this process, and number of processes."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return 0, 1
    missing = [name for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise SmaugError(f"WORLD_SIZE = {size}, but {', '.join(missing)} is not set; start with torchrun, or unset it")
    return int(os.environ["RANK"]), size


@cache
def _store() -> Any:
    """Store in which the processes of a run leave short messages for each other; torchrun runs it."""
    return next(iter(rendezvous("env://")))[0]
