"""Stages that sleep one second, on two slots: by our driver, by plain Ray Tune, by Optuna; all start the same worker.

    python -m tests.benchmarks.one_second tune JOBS

JOBS is a JSON file: the command and the environment of each worker. Our driver is `tests.quick_driver`; it makes the
stages' folders itself, for the others they lie ready. Tune may keep its actors for the next job of the same shape, as
ours does, which makes it quicker than it is by default.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.engines.command import worker_job
from experiments.store.attempt import read_attempts
from experiments.store.store import Store
from tests.documents import read_json
from tests.quick_driver import make_stages

ROOT = Path(__file__).resolve().parents[2]
SLOTS = 2
STEPS, STEP_S = 4, 0.25
WAYS = ("ours", "tune", "optuna")
PATIENCE_S = 1800


@dataclass(frozen=True, slots=True)
class Block:
    """What one command took for its stages."""

    wall_s: float
    """From its start to its end."""
    working_s: float
    """From the first start of a worker to the last result."""


def run_block(way: str, home: Path, num_stages: int) -> Block:
    """Run so many stages in one of the `WAYS`, in a process of its own with two CPUs."""
    chains = [[("pretrain", {"seed": seed, "steps": STEPS, "step_s": STEP_S})] for seed in range(num_stages)]
    store, stages = Store(home), make_stages(chains)
    if way == "ours":
        command = ["tests.quick_driver", str(home), "ray", json.dumps(chains)]
    else:
        jobs = [worker_job(stage, store.prepare(stage), home / "data") for stage in stages]
        (home / "jobs.json").write_text(json.dumps([{"command": job.command, "env": dict(job.env)} for job in jobs]))
        command = ["tests.benchmarks.one_second", way, str(home / "jobs.json")]
    with two_cpus():
        began = time.monotonic()
        ran = subprocess.run(
            [sys.executable, "-m", *command], capture_output=True, text=True, cwd=ROOT, timeout=PATIENCE_S
        )
        wall_s = time.monotonic() - began
    results = [read_json(store.directory(stage) / "result.json") for stage in stages]
    if ran.returncode or None in results:
        raise RuntimeError(f"{way}: {results.count(None)} of {num_stages} stages have no result; {ran.stderr[-2000:]}")
    started = min(read_attempts(store.directory(stage))[0].owner.started for stage in stages)
    return Block(wall_s, max(result.time for result in results if result) - started)


@contextmanager
def two_cpus() -> Iterator[None]:
    """Let what is started meanwhile have two CPUs, hence two slots."""
    before = os.sched_getaffinity(0)
    if len(before) < SLOTS:
        raise SystemExit(f"{len(before)} CPU is here; expected {SLOTS}, for so many slots")
    os.sched_setaffinity(0, sorted(before)[:SLOTS])
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def work(job: dict[str, Any]) -> int:
    """Run one worker to its end, as anybody would who has its command."""
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.run(job["command"], env=os.environ | job["env"], check=False, **quiet).returncode


def run_tune(jobs: list[dict[str, Any]], folder: Path) -> list[int]:
    """One Tune run over the jobs, one CPU each; gives their exit codes."""
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1"}
    import ray
    from ray import tune

    def trainable(config: dict[str, Any]) -> dict[str, int]:
        return {"exit_code": work(config["job"])}

    ray.init(num_cpus=SLOTS, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    results = tune.Tuner(
        tune.with_resources(trainable, {"CPU": 1}),
        param_space={"job": tune.grid_search(jobs)},
        tune_config=tune.TuneConfig(reuse_actors=True, trial_dirname_creator=lambda trial: trial.trial_id),
        run_config=tune.RunConfig(name="tune", storage_path=str(folder), verbose=0),
    ).fit()
    codes = [result.metrics["exit_code"] for result in results if result.metrics]
    ray.shutdown()
    return codes


def run_optuna(jobs: list[dict[str, Any]]) -> list[int]:
    """One Optuna study in memory, with a trial for each job, in two threads; gives their exit codes."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study()
    study.optimize(lambda trial: work(jobs[trial.number]), n_trials=len(jobs), n_jobs=SLOTS)
    return [int(trial.value or 0) for trial in study.trials]


def main() -> None:
    """Run the jobs of a file."""
    way, path = sys.argv[1], Path(sys.argv[2])
    jobs = json.loads(path.read_text())
    codes = run_tune(jobs, path.parent) if way == "tune" else run_optuna(jobs)
    if codes != [0] * len(jobs):
        raise SystemExit(f"{way}: exit codes {codes}; expected {len(jobs)} times 0")


if __name__ == "__main__":
    main()
