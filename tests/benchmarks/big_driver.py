"""A driver of a large sweep in a process of its own, as far as its own memory and time go; prints JSON.

    python -m tests.benchmarks.big_driver HOME NUM_STAGES ENGINE

With ENGINE `instant` every job publishes a result when it is submitted, so that what is not finished passes through
the driver without a worker. With `holding` jobs never end: the driver is stopped after `TICKS` looks at them.
"""

import json
import resource
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psutil

from experiments.engines.base import Engine, Inventory, Job, JobState, local_inventory
from experiments.planning.budget import Budget
from experiments.planning.cost_model import Prices, Rate
from experiments.planning.disk_space import room_problem
from experiments.planning.plan import distinct_stages
from experiments.scheduler.scheduler import Scheduler
from experiments.store.attempt import claim
from experiments.store.lookup import stage_labels
from experiments.store.store import Store
from experiments.worker.outcome import DONE, INTERRUPTED
from tests.benchmarks.made_store import publish, request
from tests.experiments.finished import HOST

TICKS = 40
"""Looks of the driver at jobs that run and wait."""
FIRST_TICKS = 5
"""Of these, in which it still hands out jobs."""
AT_WORK = 2
"""Jobs that have begun, and are looked at more closely."""


class Instant(Engine):
    """Runs nothing: a job has published when it is submitted."""

    def __init__(self, publish_job: Callable[[str], None]) -> None:
        self._publish = publish_job
        self._states: dict[str, JobState] = {}

    def submit(self, job: Job) -> None:
        self._publish(job.name)
        self._states[job.name] = JobState(True, DONE)

    def poll(self) -> Mapping[str, JobState]:
        return dict(self._states)

    def cancel(self, name: str) -> None: ...

    def inventory(self) -> Inventory:
        return local_inventory()

    def close(self) -> None: ...


class Holding(Instant):
    """Two jobs begin, and none ends before it is cancelled; notes the CPU time at every look."""

    def __init__(self) -> None:
        super().__init__(lambda name: None)
        self.looks: list[float] = []
        self.stop: Callable[[], None] = lambda: None

    def submit(self, job: Job) -> None:
        if len(self._states) < AT_WORK:
            claim(job.directory, HOST | {"cpus": job.cpus})
        self._states[job.name] = JobState(False)

    def poll(self) -> Mapping[str, JobState]:
        self.looks.append(time.process_time())
        if len(self.looks) == FIRST_TICKS + TICKS:
            self.stop()
        return dict(self._states)

    def cancel(self, name: str) -> None:
        self._states[name] = JobState(True, INTERRUPTED)


def never_asked() -> Rate:
    raise AssertionError("the paper's rate is for GPUs")


def main() -> None:
    """Plan and run as told."""
    home, num_stages, engine_name = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    import mlflow  # noqa: F401  a driver has both in memory
    import ray.tune  # noqa: F401

    process = psutil.Process()
    libraries = process.memory_info().rss
    store, began = Store(home), time.process_time()
    plan, _ = request(home, num_stages).plan(local_inventory(), never_asked)
    stages = distinct_stages(plan.trials)
    named = stage_labels(plan.trials)
    by_name = {stage.fingerprint: stage for stage in stages}
    holding = Holding()
    engine = holding if engine_name == "holding" else Instant(lambda name: publish(store, by_name[name]))
    scheduler = Scheduler(
        stages,
        store,
        engine,
        data_root=home / "data",
        on_event=lambda event: None,
        budget=Budget(store, Prices(store), None),
        room_problem=lambda stage: room_problem(stage, store.directory(stage)),
    )
    holding.stop = scheduler.stop
    planned = time.process_time()
    summary = scheduler.run()
    told: dict[str, Any] = {
        "stages": len(named),
        "cached": len(summary.cached),
        "done": len(summary.done),
        "libraries_bytes": libraries,
        "bytes": process.memory_info().rss,
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "plan_cpu_s": planned - began,
        "run_cpu_s": time.process_time() - planned,
    }
    if holding.looks:
        ticks = [after - before for before, after in zip(holding.looks, holding.looks[1:], strict=False)]
        told["tick_cpu_s"] = statistics.median(ticks[FIRST_TICKS:])
    sys.stdout.write(json.dumps(told) + "\n")


if __name__ == "__main__":
    main()
