"""The worker's command line that runs a stage, the same on every engine."""

import sys
from pathlib import Path

from experiments.engines.base import Job
from experiments.stages.stage import Stage, requested_memory
from experiments.worker.import_path import import_environment


def worker_job(
    stage: Stage,
    directory: Path,
    data_root: Path,
    *,
    recompute_layers: bool = False,
    peak_bytes: int | None = None,
    exclude: tuple[str, ...] = (),
) -> Job:
    """Return the job that runs a prepared stage, the same on every engine."""
    gpus, nodes = stage.resources["gpus"], stage.resources.get("nodes", 1)
    command = (sys.executable, "-m", "experiments.worker", str(directory.resolve()))
    options = ("--data-root", str(data_root.resolve()), "--device", "cuda" if gpus else "cpu")
    several = ("--processes", str(gpus)) if gpus > 1 else ()
    apart = ("--nodes", str(nodes)) if nodes > 1 else ()
    saving = ("--recompute-layers",) if recompute_layers else ()
    env = import_environment()
    if not gpus:
        env["CUDA_VISIBLE_DEVICES"] = ""  # Ray leaves every GPU visible to a job that asked for none
    return Job(
        name=stage.fingerprint,
        command=command + options + several + apart + saving,
        directory=directory,
        cpus=stage.resources["cpus"],
        gpus=gpus,
        nodes=nodes,
        accelerator=stage.resources.get("accelerator"),
        memory_bytes=requested_memory(stage.resources),
        peak_bytes=peak_bytes,
        env=env,
        exclude=exclude,
    )
