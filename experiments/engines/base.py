"""The interface of engines: they place commands on machines. All state that must last is in the store."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from experiments.stages.memory import bytes_for_jobs
from experiments.store.attempt import Attempt
from experiments.store.failures import FailureClass


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """One command to run."""

    name: str
    """The stage's fingerprint."""
    command: tuple[str, ...]
    """A worker's command line."""
    directory: Path
    """The stage's folder; what the command prints before it opens its own log goes to launch.txt in it."""
    cpus: int
    """On all its machines."""
    gpus: int
    """On all its machines."""
    nodes: int = 1
    """Machines that it runs on, with an equal share of CPUs and GPUs on each."""
    accelerator: str | None = None
    """Required type of its GPUs, as a node names it; None: any."""
    memory_bytes: int | None = None
    """The scale's request, on all its machines; None if it has none."""
    peak_bytes: int | None = None
    """Peak of stages like it, for an engine whose machine is this driver's own; None if not known."""
    env: Mapping[str, str] = field(default_factory=dict)
    """Added to the environment the engine gives."""
    exclude: tuple[str, ...] = ()
    """Host names of machines that were lost while it ran; an engine avoids them, or warns that it cannot."""


@dataclass(frozen=True, slots=True)
class JobState:
    """State of a job with its engine."""

    ended: bool
    exit_code: int | None = None
    """Once ended: the command's, negative for the signal that killed it; None if the engine lost the job."""
    message: str = ""
    """Why the engine lost it, or could not start it."""
    reason: FailureClass | None = None
    """Failure class reported by the engine, if any: `timeout`, `preempted`, `node_lost`..."""
    blameless: bool = False
    """Whether the engine itself failed, and limits its restarts; such an end does not count as a try of the job."""


@dataclass(frozen=True, slots=True)
class Node:
    """One machine that jobs can be placed on."""

    cpus: int
    gpus: int = 0
    accelerators: tuple[str, ...] = ()
    """Types of its GPUs as Ray names them, e.g. `A100`; empty where they are not known."""
    memory_bytes: int | None = None
    """Memory that jobs can request; None where it is not known."""


@dataclass(frozen=True, slots=True)
class Inventory:
    """The machines of an engine; a job's share must fit on one of them."""

    nodes: tuple[Node, ...]
    spans: bool = False
    """Whether a job can run on several of them."""
    is_own: bool = False
    """Whether it is this driver's own machine, where a stage has to fit by the peak memory of stages like it."""


class Engine(Protocol):
    """Methods of an engine that the scheduler uses."""

    def submit(self, job: Job) -> None:
        """Accept a job; it starts when its CPUs and GPUs are free. A name whose job has ended may come again."""

    def poll(self) -> Mapping[str, JobState]:
        """Return the state of every job ever submitted, by name, without waiting."""

    def cancel(self, name: str) -> None:
        """Ask a job to end: SIGTERM to its command, SIGKILL after a time of grace; one not started never starts.

        A name that was never submitted may be a job of an earlier driver, where jobs outlive drivers.
        """

    def adopt(self, job: Job, attempt: Attempt) -> bool:
        """Follow the job of an earlier driver that a stage's attempt runs in, if this engine has it.

        Only where jobs outlive drivers.
        """
        return False

    def inherits(self, name: str) -> bool:
        """Return whether an earlier driver submitted the job that is followed for a stage."""
        return False

    def inventory(self) -> Inventory:
        """Return the machines of this engine."""

    @property
    def fault(self) -> str:
        """Error for which it can run nothing any more in this process; empty as long as it can."""
        return ""

    def close(self) -> None:
        """Release resources and end running jobs, unless its jobs outlive drivers; may be called twice."""


def goes_back(job: Job) -> str:
    """Warning where a job cannot avoid the machines that were lost while it ran."""
    where = ", ".join(job.exclude)
    return f"stage {job.name[:12]} was lost on {where}; no other machine has what it asks for: it may go there again"


def local_inventory() -> Inventory:
    """This machine: CPUs and GPUs that this process may use, found without loading a GPU library."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        gpus = len([name for name in visible.split(",") if name.strip() not in ("", "-1")])
    elif Path("/dev").is_dir():
        gpus = len([name for name in os.listdir("/dev") if re.fullmatch(r"nvidia\d+", name)])
    else:
        gpus = 0
    types = _gpu_types() if gpus else ()
    here = Node(cpus=local_cpus(), gpus=gpus, accelerators=types, memory_bytes=bytes_for_jobs())
    return Inventory((here,), is_own=True)


def local_cpus() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _gpu_types(driver: Path = Path("/proc/driver/nvidia/gpus")) -> tuple[str, ...]:
    """Types of this machine's NVIDIA GPUs, from the files of their driver."""
    texts = [path.read_text() for path in driver.glob("*/information")]
    models = [match[1] for text in texts if (match := re.search(r"^Model:\s*(.+?)\s*$", text, re.MULTILINE))]
    return tuple(sorted({gpu_type(model) for model in models}))


def gpu_type(product: str) -> str:
    """A GPU's type by its product's name, as Ray calls it: `NVIDIA A100-SXM4-80GB` is an `A100`."""
    match = re.match(r"\w+\s+((?:[A-Z]+\s+)*[A-Z0-9]*\d[A-Z0-9]*)", product)
    return match[1].replace(" ", "-") if match else product.removeprefix("NVIDIA ").replace(" ", "-")
