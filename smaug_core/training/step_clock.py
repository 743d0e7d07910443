"""Device time of a training's steps, and what of it went to loading and to checkpoints."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from smaug_core.data.loading.loader import Loader
from smaug_core.run_context import RunContext


@dataclass(frozen=True, kw_only=True, slots=True)
class StepTimes:
    """Device seconds of all steps up to one, over all attempts: wall time x GPUs, or CPU time on a CPU."""

    useful_s: float = 0.0
    """From the first step to the last, less what loader processes did for batches that were not used."""
    loader_wait_s: float = 0.0
    """Part of it: waiting for a batch; on a CPU the time of the loader processes."""
    checkpoint_s: float = 0.0
    """Part of it: writing checkpoints, but for the newest one."""


class StepClock:
    """Measures the steps of one attempt, from the moment it is made: when the loader processes are up."""

    def __init__(self, context: RunContext, before: StepTimes, loader: Loader[Any, Any]) -> None:
        """Start; `before` are the times of earlier attempts."""
        self._context, self._before, self._loader = context, before, loader
        self._checkpoint_s, self._loader_cpu_before = 0.0, loader.cpu_s()
        self._spent_before = context.watch.spent()

    @contextmanager
    def checkpoint(self) -> Iterator[None]:
        """Measure the writing of a checkpoint."""
        start = self._now()
        yield
        self._checkpoint_s += self._now() - start

    def times(self) -> StepTimes:
        """Times so far of all processes, the same in each; every process must call this."""
        spent_s, wait_s = self._context.watch.spent() - self._spent_before, self._loader.wait_s
        if not self._on_gpu:  # of all that loader processes did, what was used
            wait_s = self._loader.used_cpu_s
            spent_s += wait_s - (self._loader.cpu_s() - self._loader_cpu_before)
        found = self._context.world.collect((spent_s, wait_s, self._checkpoint_s))
        spent, waits, checkpoints = zip(*found, strict=True)
        return StepTimes(
            useful_s=self._before.useful_s + max(0.0, sum(spent)),
            loader_wait_s=self._before.loader_wait_s + sum(waits),
            # The first process writes; on GPUs all others wait for it.
            checkpoint_s=self._before.checkpoint_s + sum(checkpoints) * (len(found) if self._on_gpu else 1),
        )

    @property
    def _on_gpu(self) -> bool:
        return self._context.device == "cuda"

    def _now(self) -> float:
        return time.monotonic() if self._on_gpu else time.process_time()
