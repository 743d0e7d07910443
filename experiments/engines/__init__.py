"""Engines place commands on machines; they own no truth, which is in the store."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol


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
    gpus: int
    env: Mapping[str, str] = field(default_factory=dict)
    """Added to the environment the engine gives."""


@dataclass(frozen=True, slots=True)
class JobState:
    """Where a job stands with its engine."""

    ended: bool
    exit_code: int | None = None
    """Once ended: the command's, negative for the signal that killed it; none where the engine lost the job."""
    message: str = ""
    """Why the engine lost it, or could not start it."""


@dataclass(frozen=True, slots=True)
class Inventory:
    """The largest job that the engine can place."""

    cpus: int
    gpus: int


class Engine(Protocol):
    """What the scheduler needs of an engine."""

    def submit(self, job: Job) -> None:
        """Take a job; it starts when its CPUs and GPUs are free. A name whose job has ended may come again."""

    def poll(self) -> Mapping[str, JobState]:
        """The state of every job ever submitted, by name, without waiting."""

    def cancel(self, name: str) -> None:
        """Ask a job to end: SIGTERM to its command, SIGKILL after a time of grace; one not started never starts."""

    def inventory(self) -> Inventory:
        """What this engine has."""

    def close(self) -> None:
        """End what still runs and give back what the engine holds; may be called twice."""


def local_inventory() -> Inventory:
    """CPUs and GPUs this process may use, found without loading a GPU library."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        gpus = len([name for name in visible.split(",") if name.strip() not in ("", "-1")])
    elif Path("/dev").is_dir():
        gpus = len([name for name in os.listdir("/dev") if re.fullmatch(r"nvidia\d+", name)])
    else:
        gpus = 0
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Inventory(cpus=cpus, gpus=gpus)
