"""One Ray Tune run: its searcher suggests the submitted jobs, and each trial supervises the worker of one job.

Tune asks the searcher for trials, and places each on one machine by its CPUs, GPUs and their type. A trial starts a
worker as a subprocess and waits for its end.
"""

import logging
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.engines.base import Job, goes_back
from experiments.engines.ray.board import Board, state_of_result
from experiments.engines.ray.session import TOKEN
from experiments.engines.ray.start import OF_TYPE
from experiments.engines.supervisor import run_worker
from experiments.worker.outcome import INTERRUPTED

NODE = "ray.io/node-id"
"""Ray gives each node a label of this name with its id."""

TYPE_SHARE = 0.001
"""Share of a node's resource for its GPU type that a job requests: so small that it limits no other job."""

_log = logging.getLogger(__name__)


def bundle_of(
    cpus: int, gpus: int, accelerator: str | None = None, memory_bytes: int | None = None
) -> dict[str, float]:
    """A job's request on the one machine that it is placed on, in Ray's names."""
    of_type = {} if accelerator is None else {OF_TYPE + accelerator: TYPE_SHARE}
    return {"CPU": cpus, "GPU": gpus} | of_type | ({} if memory_bytes is None else {"memory": memory_bytes})


def nodes_to_avoid(job: Job, nodes: Sequence[Mapping[str, Any]]) -> list[str]:
    """Ids of the nodes that a job must avoid, since it was lost on their machines; `nodes` as `ray.nodes()` gives them.

    Empty, with a warning, where no other node has the resources that it requests: it would wait forever.
    """
    there = [node for node in nodes if node["Alive"] and node["NodeManagerHostname"] in job.exclude]
    others = [node["Resources"] for node in nodes if node["Alive"] and node not in there]
    bundle = bundle_of(job.cpus, job.gpus, job.accelerator, job.memory_bytes)
    if not job.exclude or any(all(has.get(name, 0) >= much for name, much in bundle.items()) for has in others):
        return [node["NodeID"] for node in there]
    _log.warning("%s", goes_back(job))
    return []


def tune_jobs(board: Board, folder: Path) -> None:
    """One Tune run whose trials are the jobs put on the board, until the board is closed."""
    import ray
    from ray import tune
    from ray.tune.search import Searcher

    class Jobs(Searcher):  # type: ignore[misc]
        def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
            job = board.take(trial_id)
            if job is None:
                return Searcher.FINISHED if board.closed else None
            return config_of(job, folder, nodes_to_avoid(job, ray.nodes()))

        def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
            if not error:  # `_listener` gets an error, with the exception
                board.end(trial_id, state_of_result(result))

        def save(self, checkpoint_path: str) -> None:
            pass  # see Board.__getstate__

    class WhenClosed(tune.Stopper):  # type: ignore[misc]
        def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
            return False

        def stop_all(self) -> bool:
            return board.stopping

    tune.Tuner(
        tune.with_resources(supervise, placement_of),
        tune_config=tune.TuneConfig(
            search_alg=Jobs(),
            num_samples=-1,
            reuse_actors=True,  # the next job of the same shape starts 1 s sooner
            trial_dirname_creator=lambda trial: trial.trial_id,
        ),
        run_config=tune.RunConfig(
            name=folder.name,
            storage_path=str(folder.parent),
            callbacks=[_listener(board)],
            stop=WhenClosed(),
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=0),  # trying again is the scheduler's decision
        ),
    ).fit()


def _listener(board: Board) -> Any:
    """Return the callback that reports Tune's loop and its trials to the board."""
    from ray import tune

    class Events(tune.Callback):  # type: ignore[misc]
        def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
            board.beat = time.monotonic()

        def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            board.fail(trial.trial_id, trial.get_pickled_error() or trial.get_error() or "")

        def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            board.start(trial.trial_id)

    return Events()


def config_of(job: Job, folder: Path, avoid: Sequence[str]) -> dict[str, Any]:
    """A trial's configuration."""
    return {
        "command": list(job.command),
        "directory": str(job.directory),
        "env": dict(job.env),
        "cancel": str(cancel_file(folder, job.name)),
        "cpus": job.cpus,
        "gpus": job.gpus,
        "accelerator": job.accelerator,
        "memory_bytes": job.memory_bytes,
        "avoid": list(avoid),
    }


def placement_of(config: dict[str, Any]) -> Any:
    """Placement group of a trial."""
    from ray.tune import PlacementGroupFactory

    bundle = bundle_of(config["cpus"], config["gpus"], config["accelerator"], config["memory_bytes"])
    others = {NODE: f"!in({','.join(config['avoid'])})"} if config["avoid"] else {}
    return PlacementGroupFactory([bundle], bundle_label_selector=[others])


def supervise(config: dict[str, Any]) -> dict[str, int]:
    """Run a job's command to its end, in a trial's process, and forward a cancellation.

    The command is asked to end too if Ray's process of this node has died: Ray leaves this process running then, and
    the driver, for which the node is lost, would wait forever for a worker that still has the stage. This process ends
    with it, or Tune, which hears of that only 15 s later, would give it the next job.
    """
    cancel, raylet = Path(config["cancel"]), os.getppid()
    if cancel.exists():
        return {"exit_code": INTERRUPTED}
    environment = {name: value for name, value in os.environ.items() if name != TOKEN} | config["env"]
    directory, is_stopping = Path(config["directory"]), lambda: cancel.exists() or os.getppid() != raylet
    exit_code = run_worker(config["command"], directory, environment, is_stopping)
    if os.getppid() != raylet:
        os._exit(1)
    return {"exit_code": exit_code}


def cancel_file(folder: Path, name: str) -> Path:
    """The file that requests a job's end."""
    return folder / "cancel" / name
