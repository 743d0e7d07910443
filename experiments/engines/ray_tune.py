"""Runs stages as the trials of one Ray Tune run, on this machine or a Ray cluster.

Tune asks a searcher for trials. Ours answers with the jobs that were submitted, so that Tune places each on one
machine by its CPUs, GPUs and their type; what a trial does is start a worker as a subprocess and wait for it.
"""

import logging
import os
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from experiments.engines import Engine, Inventory, Job, JobState, goes_back, local_inventory
from experiments.engines.ray_board import Board
from experiments.engines.ray_session import OF_TYPE, TOKEN, RaySession
from experiments.work import INTERRUPTED

NODE = "ray.io/node-id"
"""Ray gives each node a label of this name with its id."""

A_BIT = 0.001
"""So much of it keeps others out of nothing."""

STILL_S = 180.0
"""With nothing running, jobs that fit wait so long at most; then Ray is started anew, or a cluster is joined anew.

Ray 2.60 may count what a supervisor had as taken for ever when that, or its node, was killed: seen once each. It
takes back what was a driver's when that leaves.
"""
GRACE_S = 60.0
"""Time a cancelled worker has to save its state before it is killed."""

_log = logging.getLogger(__name__)


class RayEngine(Engine):
    """Ray Tune, started with the first job: Ray on this machine, or the cluster at `address`.

    Args:
        home: its folder `ray` holds what Tune writes, and requests to end; a cluster's machines must all see it.
        address: `HOST:PORT` of the cluster, or `auto`: the one that runs on this machine; none starts Ray here.
    """

    def __init__(self, home: Path, address: str | None = None) -> None:
        self._folder = _new_folder(home.resolve() / "ray")
        self._session = RaySession(address)
        self._board = Board()
        self._tune: threading.Thread | None = None

    def submit(self, job: Job) -> None:
        """Take a job; the first one starts Ray, which takes some seconds."""
        _cancel_mark(self._folder, job.name).unlink(missing_ok=True)
        self._board.put(job)
        if self._tune is None:
            self._session.open()
            self._tune = threading.Thread(target=self._run_tune, name="tune", daemon=True)
            self._tune.start()

    def poll(self) -> Mapping[str, JobState]:
        """The state of every job ever submitted."""
        if self._board.stands_still(STILL_S):
            if self._session.is_ours:
                self._start_over()
            else:
                self._join_anew()
        with self._board.changed:
            return dict(self._board.states)

    def _start_over(self) -> None:
        """Give up a Ray that starts nothing any more; the next job starts another."""
        self._board.lose_all("Ray started nothing though nothing ran; it is started anew")
        self.close()
        self._folder = _new_folder(self._folder.parent)
        self._board = Board(states=self._board.states)

    def _join_anew(self) -> None:
        """Leave a cluster that starts nothing, and come with the same jobs; it may just have others at work."""
        _log.warning("the Ray cluster started nothing for %.0f s, of what fits on it; it is joined anew", STILL_S)
        states, waiting = dict(self._board.states), self._board.unstarted()
        self.close()
        self._folder = _new_folder(self._folder.parent)
        self._board = Board(states=states)
        for job in waiting:
            self.submit(job)

    def cancel(self, name: str) -> None:
        """Ask a job to end, by a mark that its supervisor looks for, wherever in the cluster it is."""
        mark = _cancel_mark(self._folder, name)
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.touch()
        self._board.drop(name)

    def inventory(self) -> Inventory:
        """What this machine has, or each machine of the cluster.

        Raises:
            SmaugError: there is no cluster at the address.
        """
        if self._session.is_ours:
            return local_inventory()
        self._session.open()
        return self._session.inventory()

    def close(self) -> None:
        """End the Tune run and what still runs in it, and leave Ray."""
        with self._board.changed:
            self._board.closed = self._board.stopping = True
            self._board.changed.notify_all()
        if self._tune is not None:
            self._tune.join()
            self._tune = None
        self._session.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run_tune(self) -> None:
        try:
            tune_jobs(self._board, self._folder)
        finally:
            self._board.lose_all("Ray Tune ended before the job did")


def bundle_of(cpus: int, gpus: int, accelerator: str | None) -> dict[str, float]:
    """What a job asks of the one machine that it is placed on, in Ray's words."""
    return {"CPU": cpus, "GPU": gpus} | ({} if accelerator is None else {OF_TYPE + accelerator: A_BIT})


def nodes_to_avoid(job: Job, nodes: Sequence[Mapping[str, Any]]) -> list[str]:
    """Ids of the nodes that a job is kept away from, since it was lost on their machines; `nodes` as Ray tells them.

    None, and it is told, where no other node has what the job asks for: it would wait for ever.
    """
    there = [node for node in nodes if node["Alive"] and node["NodeManagerHostname"] in job.exclude]
    others = [node["Resources"] for node in nodes if node["Alive"] and node not in there]
    asked = bundle_of(job.cpus, job.gpus, job.accelerator)
    if not job.exclude or any(all(has.get(name, 0) >= much for name, much in asked.items()) for has in others):
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
            return {
                "command": list(job.command),
                "directory": str(job.directory),
                "env": dict(job.env),
                "cancel": str(_cancel_mark(folder, job.name)),
                "cpus": job.cpus,
                "gpus": job.gpus,
                "accelerator": job.accelerator,
                "avoid": nodes_to_avoid(job, ray.nodes()),
            }

        def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
            if error or not result:
                board.end(trial_id, JobState(True, None, "Ray lost the process that supervised it", "node_lost"))
            else:
                board.end(trial_id, JobState(True, result["exit_code"]))

        def save(self, checkpoint_path: str) -> None:
            pass  # see Board.__getstate__

    class Starts(tune.Callback):  # type: ignore[misc]
        def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            board.start(trial.trial_id)

    class WhenClosed(tune.Stopper):  # type: ignore[misc]
        def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
            return False

        def stop_all(self) -> bool:
            return board.stopping

    def shape(config: dict[str, Any]) -> tune.PlacementGroupFactory:
        bundle = bundle_of(config["cpus"], config["gpus"], config["accelerator"])
        others = {NODE: f"!in({','.join(config['avoid'])})"} if config["avoid"] else {}
        return tune.PlacementGroupFactory([bundle], bundle_label_selector=[others])

    tune.Tuner(
        tune.with_resources(supervise, shape),
        tune_config=tune.TuneConfig(
            search_alg=Jobs(),
            num_samples=-1,
            reuse_actors=True,  # the next job of the same shape starts 1 s sooner
            trial_dirname_creator=lambda trial: trial.trial_id,
        ),
        run_config=tune.RunConfig(
            name=folder.name,
            storage_path=str(folder.parent),
            callbacks=[Starts()],
            stop=WhenClosed(),
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=0),  # trying again is the scheduler's decision
        ),
    ).fit()


def supervise(config: dict[str, Any]) -> dict[str, int]:
    """Run a job's command to its end, in a trial's process; passes a cancellation on, kills it after the grace.

    The command is asked to end too where Ray's process of this node has died: Ray leaves us running then, and the
    driver, told that the node is lost, would wait for ever for a worker that still has the stage. This process ends
    with it, or Tune, told only 15 s later, would give it the next job.
    """
    cancel, raylet = Path(config["cancel"]), os.getppid()
    if cancel.exists():
        return {"exit_code": INTERRUPTED}
    environment = {name: value for name, value in os.environ.items() if name != TOKEN}
    with (Path(config["directory"]) / "launch.txt").open("wb") as output:
        child = subprocess.Popen(
            [*config["command"], "--parent", str(os.getpid())],  # it stops should this process be killed
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=config["directory"],
            env=environment | config["env"],
            start_new_session=True,  # Ctrl-C reaches the driver, which asks the worker to stop
        )
    asked_at: float | None = None
    while child.poll() is None:
        if asked_at is None and (cancel.exists() or os.getppid() != raylet):
            asked_at = time.monotonic()
            child.terminate()
        if asked_at is not None and time.monotonic() - asked_at > GRACE_S:
            child.kill()
        try:
            child.wait(timeout=0.2)
        except subprocess.TimeoutExpired:
            continue
    if os.getppid() != raylet:
        os._exit(1)
    return {"exit_code": child.returncode}


def _new_folder(parent: Path) -> Path:
    return parent / f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"


def _cancel_mark(folder: Path, name: str) -> Path:
    return folder / "cancel" / name
