"""`python -m tests.benchmarks.slurm`: submitting 200 stages to the one-machine Slurm, and questions asked meanwhile."""

import os
import sys
import tempfile
import time
from pathlib import Path

from experiments.engines.command import worker_job
from experiments.engines.slurm.engine import SlurmEngine
from experiments.engines.slurm.profile import load_cluster
from experiments.store.store import Store
from tests.quick_stage import quick_stage
from tests.slurm_cluster import PROFILE, OneMachine

STAGES = 200
WATCHED_S = 60.0


def main() -> int:
    machine = OneMachine()
    if (why := machine.missing()) is not None:
        sys.stdout.write(f"not measured: {why}\n")
        return 1
    os.environ.update(machine.environment)
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder))
        stages = [quick_stage(seed=seed, hold_at=1) for seed in range(STAGES)]
        jobs = [worker_job(stage, store.prepare(stage), store.home / "data") for stage in stages]
        engine = SlurmEngine(store.home, load_cluster(PROFILE))
        started = time.perf_counter()
        for job in jobs:
            engine.submit(job)
        engine.poll()
        submitted_s = time.perf_counter() - started
        polls, started = 0, time.perf_counter()
        while time.perf_counter() - started < WATCHED_S:
            engine.poll()
            polls += 1
            time.sleep(0.1)
        queue = len(machine.jobs())
        for job in jobs:
            engine.cancel(job.name)
        began = time.perf_counter()
        while not all(state.ended for state in engine.poll().values()):
            time.sleep(0.1)
        sys.stdout.write(
            f"{STAGES} stages submitted in {submitted_s:.2f} s ({queue} in Slurm's queue); {polls} polls in"
            f" {WATCHED_S:.0f} s asked Slurm {engine.queries} times; all cancelled after"
            f" {time.perf_counter() - began:.1f} s\n"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
