"""Runs stages as the trials of one Ray Tune run, on this machine or a Ray cluster.

Tune asks a searcher for trials. Ours answers with the jobs that were submitted, so that Tune places each on one
machine by its CPUs, GPUs and their type; what a trial does is start a worker as a subprocess and wait for it.
"""

import logging
import os
import subprocess
import threading
import time
import traceback
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

from experiments.engines.base import Engine, Inventory, Job, JobState, goes_back, local_inventory
from experiments.engines.ray.board import Board, state_of, state_of_result
from experiments.engines.ray.session import TOKEN, RaySession
from experiments.engines.ray.start import OF_TYPE, base_folder
from experiments.stages.memory import bytes_to_ask
from experiments.worker.outcome import INTERRUPTED
from experiments.worker.signals import HANGS
from smaug_core.errors import SmaugError

NODE = "ray.io/node-id"
"""Ray gives each node a label of this name with its id."""

A_BIT = 0.001
"""So much of it keeps others out of nothing."""

STILL_S = 180.0
"""With nothing running, jobs that fit wait so long at most; then Ray is started again, or a cluster is joined again.

Ray 2.60 may count what a supervisor had as taken for ever when that, or its node, was killed: seen once each. It
takes back what was a driver's when that leaves.
"""
SILENT_S = 10.0
"""A loop of Tune that has not come round for so long hangs, once jobs are asked to end; before that, after STILL_S."""
JOIN_S = 5.0
"""Time in which Tune ends once its jobs have ended."""
RESTARTS_S = (5.0, 20.0, 60.0)
"""Pauses before Tune is restarted: so many restarts in a row may leave no stage finished."""
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
        if address is None:
            base_folder()
        self._folder = _new_folder(home.resolve() / "ray")
        self._session = RaySession(address, self._hear)
        self._board = Board(ours=address is None)
        self._tune: threading.Thread | None = None
        self._restarts = 0
        self._restart_at: float | None = None
        self._asked: dict[str, float] = {}
        """When jobs were asked to end."""
        self._fault = ""

    @property
    def fault(self) -> str:
        """Why it runs nothing any more; empty as long as it does."""
        return self._fault

    def submit(self, job: Job) -> None:
        """Take a job; the first one has Ray start, which takes some seconds."""
        _cancel_mark(self._folder, job.name).unlink(missing_ok=True)
        self._asked.pop(job.name, None)
        self._board.put(replace(job, memory_bytes=memory_of(job, is_own=self._session.is_ours)))
        if self._tune is None and self._restart_at is None and not self._fault:
            self._start()

    def _start(self) -> None:
        self._session.begin()
        self._tune = threading.Thread(target=self._run_tune, args=[self._board], name="tune", daemon=True)
        self._tune.start()

    def _run_tune(self, board: Board) -> None:
        """Whatever Tune raises ends this thread, and nothing else."""
        try:
            self._session.open()
            tune_jobs(board, self._folder)
        except BaseException as error:  # noqa: BLE001
            board.death = error
        else:
            board.death = "it was interrupted"

    def poll(self) -> Mapping[str, JobState]:
        """The state of every job ever submitted.

        Raises:
            SmaugError: Ray did not start the first time.
        """
        self._look_after_tune()
        self._look_after_asked()
        with self._board.changed:
            return dict(self._board.states)

    def _look_after_tune(self) -> None:
        board = self._board
        if self._fault:
            board.lose(JobState(True, None, self._fault, "preempted"))
        elif self._restart_at is not None:
            if time.monotonic() >= self._restart_at and board.waiting:
                self._restart_at = None
                self._restart()
        elif self._tune is not None:
            if isinstance(board.death, SmaugError) and not self._restarts:
                raise board.death
            if lost := self._session.lost():
                self._give_up(lost)
            elif trouble := self._trouble():
                self._lose_tune(trouble)
            elif board.stands_still(STILL_S):
                self._join_again()

    def _trouble(self) -> BaseException | str:
        """What is wrong with Tune; empty if nothing is."""
        if self._board.death is not None:
            return self._board.death
        if self._board.is_silent(SILENT_S if self._board.unended() <= self._asked.keys() else STILL_S):
            return "its loop hangs"
        if self._session.is_ours and self._board.stands_still(STILL_S):
            return "it started nothing though nothing ran"
        return ""

    def _look_after_asked(self) -> None:
        """Give up jobs that were asked to end, and of whose end Ray does not tell."""
        for name, at in list(self._asked.items()):
            if self._board.states[name].ended:
                del self._asked[name]
            elif time.monotonic() - at > GRACE_S + SILENT_S:
                self._board.lose(JobState(True, None, "Ray does not tell of its end", "killed"), {name})

    def _lose_tune(self, trouble: BaseException | str) -> None:
        """Have what ran stand as lost, and what waits come to another Tune, in another Ray where that is ours."""
        state = state_of(trouble, "preempted")
        self._keep(trouble)
        if self._board.finished:
            self._restarts = 0
        ends, words = self._restarts == len(RESTARTS_S), state.message
        if not ends:
            pause = RESTARTS_S[self._restarts]
            self._restarts += 1
            words += f"; Ray Tune is restarted in {pause:.0f} s ({self._restarts} of {len(RESTARTS_S)})"
        lost = self._board.lose_started(replace(state, message=words, blameless=True))
        if not self._replace_board():
            self._give_up(f"Ray Tune ended ({state.message}), and Ray does not let go of this process")
        elif ends:
            times = self._restarts + 1
            self._give_up(f"Ray Tune ended {times} times with no stage finished in between; lastly: {state.message}")
        else:
            self._restart_at = time.monotonic() + pause
            if not lost:  # else it is told of those
                _log.warning("Ray Tune ended: %s", words)

    def _join_again(self) -> None:
        """Leave a cluster that starts nothing, and come with the same jobs; it may just have others at work."""
        _log.warning("the Ray cluster started nothing for %.0f s, of what fits on it; it is joined again", STILL_S)
        if self._replace_board():
            self._restart_at = time.monotonic()
        else:
            self._give_up("Ray does not let go of this process")

    def _replace_board(self) -> bool:
        """Leave Ray, and keep the jobs that have not started for another Tune; gives whether there can be one."""
        board, waiting = self._board, self._board.unstarted()
        can_go_on = self._leave()
        self._folder = _new_folder(self._folder.parent)
        self._board = Board(ours=board.ours, states=board.states, waiting=deque(waiting))
        return can_go_on

    def _restart(self) -> None:
        try:
            self._start()
        except SmaugError as error:
            self._board.death = error
            self._lose_tune(error)

    def _give_up(self, why: str) -> None:
        self._keep(why)
        self._fault = why
        self._board.lose(JobState(True, None, why, "preempted"))

    def _keep(self, trouble: BaseException | str) -> None:
        """Leave all that was raised in the folder of this Tune: the terminal gets a line of it."""
        lines = traceback.format_exception(trouble) if isinstance(trouble, BaseException) else [f"{trouble}\n"]
        self._write_down("".join(lines))

    def _hear(self, message: str) -> None:
        """Leave a message of Ray's there too; of a cluster, which may warn of anything, its first line is logged."""
        if not self._session.is_ours:
            _log.warning("Ray: %s", message.strip().partition("\n")[0])
        self._write_down(f"{message.rstrip()}\n")

    def _write_down(self, text: str) -> None:
        with suppress(OSError):
            self._folder.mkdir(parents=True, exist_ok=True)
            with (self._folder / "ended.txt").open("a", encoding="utf-8", errors="backslashreplace") as file:
                file.write(text)

    def cancel(self, name: str) -> None:
        """Ask a job to end, by a mark that its supervisor looks for, wherever in the cluster it is."""
        mark = _cancel_mark(self._folder, name)
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.touch()
        self._board.drop(name)
        if name in self._board.states:
            self._asked.setdefault(name, time.monotonic())

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
        """End the Tune run and what still runs in it, and leave Ray; takes some 15 s at most."""
        self._leave()

    def _leave(self) -> bool:
        """End Tune, and leave Ray; gives whether this process can use Ray again."""
        with self._board.changed:
            self._board.closed = self._board.stopping = True
            self._board.changed.notify_all()
        self._session.end_unopened()
        tune, self._tune = self._tune, None
        if tune is not None and not self._session.lost():
            tune.join(JOIN_S)
        can_go_on = self._session.close()
        if tune is not None:
            tune.join(0.5)
            if tune.is_alive():
                HANGS.set()
                return False
        return can_go_on

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def memory_of(job: Job, *, is_own: bool) -> int | None:
    """Bytes of memory that a job asks Ray for: what the scale says, else what those like it held on our own Ray.

    None where neither is known. A cluster's owner may not expect jobs to ask, or may count memory in another way.
    """
    (here,) = local_inventory().nodes
    if job.memory_bytes is not None or job.peak_bytes is None or not is_own:
        return job.memory_bytes
    asked = bytes_to_ask(job.peak_bytes)
    return asked if here.memory_bytes is None else min(asked, here.memory_bytes)


def bundle_of(
    cpus: int, gpus: int, accelerator: str | None = None, memory_bytes: int | None = None
) -> dict[str, float]:
    """What a job asks of the one machine that it is placed on, in Ray's words."""
    of_type = {} if accelerator is None else {OF_TYPE + accelerator: A_BIT}
    return {"CPU": cpus, "GPU": gpus} | of_type | ({} if memory_bytes is None else {"memory": memory_bytes})


def nodes_to_avoid(job: Job, nodes: Sequence[Mapping[str, Any]]) -> list[str]:
    """Ids of the nodes that a job is kept away from, since it was lost on their machines; `nodes` as Ray tells them.

    None, and it is told, where no other node has what the job asks for: it would wait for ever.
    """
    there = [node for node in nodes if node["Alive"] and node["NodeManagerHostname"] in job.exclude]
    others = [node["Resources"] for node in nodes if node["Alive"] and node not in there]
    asked = bundle_of(job.cpus, job.gpus, job.accelerator, job.memory_bytes)
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
            return config_of(job, folder, nodes_to_avoid(job, ray.nodes()))

        def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
            if not error:  # of an error `_listener` hears, with what was raised
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
    """Has the board hear of Tune's loop and of what happens to its trials."""
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
    """What a trial is told of its job."""
    return {
        "command": list(job.command),
        "directory": str(job.directory),
        "env": dict(job.env),
        "cancel": str(_cancel_mark(folder, job.name)),
        "cpus": job.cpus,
        "gpus": job.gpus,
        "accelerator": job.accelerator,
        "memory_bytes": job.memory_bytes,
        "avoid": list(avoid),
    }


def placement_of(config: dict[str, Any]) -> Any:
    """Where Tune may place a trial."""
    from ray.tune import PlacementGroupFactory

    bundle = bundle_of(config["cpus"], config["gpus"], config["accelerator"], config["memory_bytes"])
    others = {NODE: f"!in({','.join(config['avoid'])})"} if config["avoid"] else {}
    return PlacementGroupFactory([bundle], bundle_label_selector=[others])


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
