"""Calibration: a few steps of a training, timed on its device, where no finished stage gives a rate."""

import dataclasses
import json
import time
from pathlib import Path

from experiments.engines.base import Engine, Job, JobState
from experiments.engines.command import worker_job
from experiments.planning.cost_model import rate_file
from experiments.planning.plan import Plan
from experiments.scheduler.retry import launch_error
from experiments.scheduler.scheduler import TICK_S
from experiments.stages.stage import Stage
from experiments.store.documents import RATE, StageDocument, read_document, unwritable, write_json
from experiments.store.store import Store
from experiments.worker.signals import StopFlag, stop_on_signals
from smaug_core.errors import SmaugError


class ProbeStopped(Exception):
    """Ctrl-C or SIGTERM ended a probe."""


def unpriced(plan: Plan) -> Stage | None:
    """Return the first training of a plan without a price that can be timed."""
    unknown = ("unknown", "published")
    wanted = [p.stage for p in plan.stages if not p.is_done and p.price.basis in unknown and not p.stage.parents]
    return next((stage for stage in wanted if "model" in stage.settings and not stage.unseen), None)


def find_rate(stage: Stage, store: Store, engine: Engine, data_root: Path) -> None:
    """Time a few steps of a training, and keep its rate where prices look for it.

    Raises:
        SmaugError: it could not be timed; the message says why.
        ProbeStopped: Ctrl-C or SIGTERM; the engine has nothing of it any more. A second Ctrl-C does not wait for that.
    """
    stage = _on_one_device(stage)
    directory = rate_file(store, StageDocument.of(stage.document())).parent
    try:
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "launch.txt").unlink(missing_ok=True)  # what an earlier probe said explains nothing now
    except OSError as error:
        raise unwritable(directory, error) from error
    write_json(directory / "stage.json", json.loads(json.dumps(stage.document())))
    job = worker_job(stage, directory, data_root)
    ended = _run(engine, dataclasses.replace(job, name=f"probe {job.name}", command=(*job.command, "--probe")))
    if read_document(directory / "rate.json", RATE) is None:
        raise SmaugError(f"{stage.name} could not be timed: {launch_error(directory, ended)}")


def _run(engine: Engine, job: Job) -> JobState:
    """A job's end; on Ctrl-C and SIGTERM the engine is asked to cancel it, and its end is waited for all the same."""
    stop, passed_on = StopFlag(), False
    with stop_on_signals(stop.set):
        engine.submit(job)
        while not (state := engine.poll()[job.name]).ended:
            if stop.is_set() and not passed_on:
                passed_on = True
                engine.cancel(job.name)
            time.sleep(TICK_S)
    if stop.is_set():
        raise ProbeStopped
    return state


def _on_one_device(stage: Stage) -> Stage:
    """The share of a training that one of its GPUs has."""
    gpus = stage.resources["gpus"]
    if gpus <= 1:
        return stage
    own = stage.settings[stage.kind]
    share = own | {"batch_size": own["batch_size"] // gpus}
    resources = stage.resources | {"gpus": 1, "cpus": max(1, stage.resources["cpus"] // gpus), "nodes": 1}
    if "memory_gb" in resources:
        resources["memory_gb"] /= gpus
    return dataclasses.replace(stage, settings=stage.settings | {stage.kind: share}, resources=resources)
