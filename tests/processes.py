"""Several real processes on this machine, as torchrun starts them."""

import multiprocessing
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from tests.experiments.smoke import ROOT


def run_together(size: int, work: Callable[..., None], *arguments: Any) -> None:
    """Run `work(rank, *arguments)` in `size` processes of one thread each, to the end of all of them.

    They are forked from a process that has imported torch once and run nothing: each would need 4 s for that alone.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    multiprocessing.set_forkserver_preload(["torch", "smaug_core.stages", "tests.processes"])
    mp.start_processes(_start, args=(size, port, work, arguments), nprocs=size, start_method="forkserver")


def _start(rank: int, size: int, port: int, work: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    for name in ("all_reduce", "all_gather"):
        setattr(dist, name, _compared(name, getattr(dist, name)))
    work(rank, *arguments)


def _compared(name: str, exchange: Callable[..., Any]) -> Callable[..., Any]:
    """The exchange, refused where processes differ in what they exchange: NCCL would hang, or mix up numbers."""

    def checked(*tensors: Any) -> Any:
        given: list[Any] = [None] * dist.get_world_size()
        own = (name, tensors[-1].dtype, tensors[-1].shape)  # of all_gather the first argument takes the results
        dist.all_gather_object(given, own)
        if len(set(given)) > 1:
            raise ValueError(f"the processes exchange different tensors: {given}")
        return exchange(*tensors)

    return checked


def torchrun(size: int, *arguments: str) -> list[str]:
    """The command that runs `smaug ARGUMENTS` in `size` processes."""
    rendezvous = ["--nnodes", "1", "--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0"]
    return [
        *(sys.executable, "-m", "torch.distributed.run", *rendezvous, "--nproc-per-node", str(size)),
        *("-m", "experiments.cli", *arguments),
    ]


def environment(home: Path) -> dict[str, str]:
    """For a command that keeps its data in `home`."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("SMAUG_")}
    more = {"SMAUG_HOME": str(home), "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    return kept | more | {"COLUMNS": "200"}


def run_torchrun(size: int, home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `smaug ARGUMENTS` in `size` processes."""
    return subprocess.run(
        torchrun(size, *arguments), capture_output=True, text=True, env=environment(home), cwd=home, timeout=300
    )
