"""A few steps of a training, timed on the device that would run it: a rate where nothing finished tells one."""

import dataclasses
import json
import time
from pathlib import Path

from experiments.attempt import read_json, write_json
from experiments.command import worker_job
from experiments.engines import Engine, Job
from experiments.plan import Plan
from experiments.prices import rate_file
from experiments.scheduler import TICK_S
from experiments.stage import Stage
from experiments.store import Store
from smaug_core.errors import SmaugError


def find_rate(plan: Plan, store: Store, engine: Engine, data_root: Path) -> None:
    """Time the first training of a plan that nothing tells the price of; where there is none, do nothing.

    Raises:
        SmaugError: it could not be timed; the message says why.
    """
    unknown = ("unknown", "published")
    wanted = [p.stage for p in plan.stages if not p.is_done and p.price.basis in unknown and not p.stage.parents]
    wanted = [stage for stage in wanted if "model" in stage.settings and not stage.unseen]
    if not wanted:
        return
    stage = _on_one_device(wanted[0])
    directory = rate_file(store, stage.document()).parent
    directory.mkdir(parents=True, exist_ok=True)
    write_json(directory / "stage.json", json.loads(json.dumps(stage.document())))
    job = worker_job(stage, directory, data_root)
    _wait(engine, dataclasses.replace(job, name=f"probe {job.name}", command=(*job.command, "--probe")))
    if read_json(directory / "rate.json") is None:
        said = (directory / "launch.txt").read_text(errors="replace").strip() if directory.exists() else ""
        raise SmaugError(f"{stage.name} could not be timed: {said[-500:] or 'the worker said nothing'}")


def _wait(engine: Engine, job: Job) -> None:
    engine.submit(job)
    while not engine.poll()[job.name].ended:
        time.sleep(TICK_S)


def _on_one_device(stage: Stage) -> Stage:
    """The share of a training that one of its GPUs has."""
    gpus = stage.resources["gpus"]
    if gpus <= 1:
        return stage
    own = stage.settings[stage.kind]
    share = own | {"batch_size": own["batch_size"] // gpus}
    resources = stage.resources | {"gpus": 1, "cpus": max(1, stage.resources["cpus"] // gpus), "nodes": 1}
    return dataclasses.replace(stage, settings=stage.settings | {stage.kind: share}, resources=resources)
