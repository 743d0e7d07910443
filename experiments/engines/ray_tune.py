"""Runs stages as the trials of one Ray Tune run, on this machine or a Ray cluster; the only importer of ray.

Tune asks a searcher for trials. Ours answers with the jobs that were submitted, so that Tune places each on one
machine by its CPUs, GPUs and their type; what a trial does is start a worker as a subprocess and wait for it.

The Ray that we start asks everybody for a token, and listens on the loopback device only.
"""

import gc
import logging
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from experiments.engines import Engine, Inventory, Job, JobState, Node, goes_back, local_inventory
from experiments.work import INTERRUPTED
from smaug_core.errors import SmaugError

ENDS_BY_ITSELF = {"RAY_kill_child_processes_on_worker_exit": "false"}
"""For Ray's processes that start ours: Ray kills by SIGKILL, but ours end by themselves, and save."""

QUIET = {
    **ENDS_BY_ITSELF,
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_DEDUP_LOGS": "0",
    "RAY_AIR_NEW_OUTPUT": "0",  # the old output is the one that can be switched off
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_MAX_PENDING_TRIALS_PG": "16",  # else a job that needs many GPUs keeps all others waiting behind it
}
"""Environment that Ray reads when it is imported and when Tune starts."""

ON_LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
"""Makes Ray take 127.0.0.1 for this machine's address, as it does by itself where it expects no cluster."""

TOKEN = "RAY_AUTH_TOKEN"
"""The variable in which Ray looks for a token first; before a file in RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token."""

_OURS = secrets.token_hex(32)
"""The token of the Ray that this process starts; one for all, for Ray reads it once. Never leaves the environment."""

CONNECT_S = 5.0
"""A cluster that does not answer for so long is not there."""

QUICK_TO_DOUBT = {
    "RAY_gcs_server_port_wait_time_s": "1",  # tries, in fact
    "RAY_py_gcs_connect_timeout_s": "5",
    "RAY_gcs_rpc_server_connect_timeout_s": "3",
    "RAY_gcs_server_request_timeout_seconds": "20",
}
"""Else Ray looks for a cluster that is not there for 13 minutes, with a line in between for each try."""

OBJECT_STORE_BYTES = 100 * 2**20
"""Shared memory that Ray reserves here; jobs exchange files, so the least it accepts would do."""

OF_TYPE = "accelerator_type:"
"""Ray gives a machine one of the resource with this prefix for the type of its GPUs."""

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


@dataclass(slots=True)
class _Board:
    """Where the scheduler's thread and Tune's meet."""

    changed: threading.Condition = field(default_factory=threading.Condition)
    waiting: deque[Job] = field(default_factory=deque)
    placed: dict[str, Job] = field(default_factory=dict)
    """Jobs that Tune has and that have not ended, by trial."""
    started: set[str] = field(default_factory=set)
    """Trials whose process has started."""
    states: dict[str, JobState] = field(default_factory=dict)
    moved: float = field(default_factory=time.monotonic)
    """When a job last came, started or ended."""
    closed: bool = False
    stopping: bool = False

    def __getstate__(self) -> None:
        """Nothing: Tune copies its settings, and stores them as a pickle that nobody reads; the store is our memory."""

    def put(self, job: Job) -> None:
        with self.changed:
            self.states[job.name] = JobState(False)
            self.waiting.append(job)
            self.moved = time.monotonic()
            self.changed.notify_all()

    def take(self, trial: str) -> Job | None:
        """The next job for Tune; none: there is none now, or never again."""
        with self.changed:
            if not self.placed:  # nothing else for Tune to do, and it would sleep a second or two on a none
                self.changed.wait_for(lambda: self.waiting or self.closed)
            if not self.waiting:
                return None
            self.placed[trial] = self.waiting.popleft()
            return self.placed[trial]

    def end(self, trial: str, state: JobState) -> None:
        with self.changed:
            job = self.placed.pop(trial)
            self.started.discard(trial)
            self.moved = time.monotonic()
            if not self.states[job.name].ended:
                self.states[job.name] = state

    def start(self, trial: str) -> None:
        with self.changed:
            self.started.add(trial)
            self.moved = time.monotonic()

    def stands_still(self) -> bool:
        """Whether jobs wait to be started though nothing runs, and have done so for too long."""
        with self.changed:
            waits = bool(self.placed) and not self.started
            return waits and not self.closed and time.monotonic() - self.moved > STILL_S

    def unstarted(self) -> list[Job]:
        """Jobs whose process has not started, those that Tune has first."""
        with self.changed:
            placed = [job for trial, job in self.placed.items() if trial not in self.started]
            return [job for job in [*placed, *self.waiting] if not self.states[job.name].ended]

    def drop(self, name: str) -> None:
        """Forget a job whose process has not started: it is told to end should it start after all."""
        with self.changed:
            self.waiting = deque(job for job in self.waiting if job.name != name)
            running = {self.placed[trial].name for trial in self.started}
            if name not in running:
                self.states[name] = JobState(True, INTERRUPTED, "cancelled before it started")

    def lose_all(self, message: str) -> None:
        """Tune has ended: so has everything else."""
        with self.changed:
            self.closed = True
            lost = {name: JobState(True, None, message, "killed") for name, s in self.states.items() if not s.ended}
            self.states |= lost


class RayEngine(Engine):
    """Ray Tune, started with the first job: Ray on this machine, or the cluster at `address`.

    Args:
        home: its folder `ray` holds what Tune writes, and requests to end; a cluster's machines must all see it.
        address: `HOST:PORT` of the cluster, or `auto`: the one that runs on this machine; none starts Ray here.
    """

    def __init__(self, home: Path, address: str | None = None) -> None:
        self._folder = _new_folder(home.resolve() / "ray")
        self._address = address
        self._board = _Board()
        self._tune: threading.Thread | None = None
        self._connected = False

    def submit(self, job: Job) -> None:
        """Take a job; the first one starts Ray, which takes some seconds."""
        _cancel_mark(self._folder, job.name).unlink(missing_ok=True)
        self._board.put(job)
        if self._tune is None:
            self._connect()
            self._tune = threading.Thread(target=self._run_tune, name="tune", daemon=True)
            self._tune.start()

    def poll(self) -> Mapping[str, JobState]:
        """The state of every job ever submitted."""
        if self._board.stands_still():
            if self._address is None:
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
        self._board = _Board(states=self._board.states)

    def _join_anew(self) -> None:
        """Leave a cluster that starts nothing, and come with the same jobs; it may just have others at work."""
        _log.warning("the Ray cluster started nothing for %.0f s, of what fits on it; it is joined anew", STILL_S)
        states, waiting = dict(self._board.states), self._board.unstarted()
        self.close()
        self._folder = _new_folder(self._folder.parent)
        self._board = _Board(states=states)
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
        if self._address is None:
            return local_inventory()
        self._connect()
        import ray

        return Inventory(tuple(_node(told["Resources"]) for told in ray.nodes() if told["Alive"]))

    def close(self) -> None:
        """End the Tune run and what still runs in it, and leave Ray."""
        with self._board.changed:
            self._board.closed = self._board.stopping = True
            self._board.changed.notify_all()
        if self._tune is not None:
            self._tune.join()
            self._tune = None
        if self._connected:
            self._connected = False
            _leave_ray()
            if os.environ.get(TOKEN) == _OURS:
                del os.environ[TOKEN]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _connect(self) -> None:
        if self._connected:
            return
        handlers = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)}
        os.environ.update(QUIET)
        if self._address is None:
            _start_ray()
        else:
            _join_ray(self._address)
        self._connected = True
        if threading.current_thread() is threading.main_thread():
            for number, handler in handlers.items():
                signal.signal(number, handler)  # Ray takes SIGTERM for itself

    def _run_tune(self) -> None:
        try:
            tune_jobs(self._board, self._folder)
        finally:
            self._board.lose_all("Ray Tune ended before the job did")


def _start_ray() -> None:
    """Ray on this machine, for this process alone."""
    os.environ.update({"RAY_AUTH_MODE": "token", TOKEN: _OURS, **ON_LOOPBACK})
    import ray

    (here,) = local_inventory().nodes
    ray.init(
        address="local",
        num_cpus=here.cpus,
        num_gpus=here.gpus,
        include_dashboard=False,
        object_store_memory=OBJECT_STORE_BYTES,
        logging_level="ERROR",
        log_to_driver=False,
    )


def _leave_ray() -> None:
    """Shut Ray down with nothing of it left to be collected.

    Ray ends this process, without a word to us, where another thread's garbage collection meets a reference of Ray's
    while it shuts down. Tune leaves many, in cycles.
    """
    import ray

    gc.collect()
    gc.disable()
    try:
        ray.shutdown()
    finally:
        gc.enable()


def _join_ray(address: str) -> None:
    """A cluster that runs already; what lets us in is in the environment or in ~/.ray, as its owner arranged it.

    Raises:
        SmaugError: it is not there, or does not let us in.
    """
    if address != "auto":
        host = _check_answers(address)
        if host in ("localhost", "127.0.0.1"):
            os.environ.update(ON_LOOPBACK)  # else Ray would look at this machine's other address
    for name, value in QUICK_TO_DOUBT.items():
        os.environ.setdefault(name, value)
    import ray
    from ray.exceptions import RayError

    sources = str(Path(__file__).resolve().parents[2])
    try:
        with _silence():
            ray.init(
                address=address,
                runtime_env={"env_vars": {**ENDS_BY_ITSELF, "PYTHONPATH": sources}},
                logging_level="CRITICAL",
                log_to_driver=False,
            )
    except (RayError, ConnectionError, RuntimeError, ValueError, TimeoutError, AssertionError) as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise SmaugError(
            f"--address {address}: no Ray cluster takes us in ({reason[0].rstrip('.')}); right would be HOST:PORT of a"
            " head node's `ray start --head`, a node of the same cluster on this machine, and its token"
        ) from error


@contextmanager
def _silence() -> Iterator[None]:
    """Drop what is written to stderr: Ray's native part warns there of each try, whatever its log level is."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _check_answers(address: str) -> str:
    """The host of an address at which somebody listens.

    Raises:
        SmaugError: it is none, or nobody does.
    """
    host, _, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or "/" in host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise SmaugError(f"--address {address}: is no address; right would be HOST:PORT, e.g. 10.0.0.1:6379, or auto")
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_S).close()
    except OSError as error:
        raise SmaugError(
            f"--address {address}: nobody answers ({error}); right would be HOST:PORT of a head node's"
            " `ray start --head`, usually port 6379"
        ) from error
    return host


def _node(resources: Mapping[str, float]) -> Node:
    types = sorted(name.removeprefix(OF_TYPE) for name in resources if name.startswith(OF_TYPE))
    return Node(cpus=int(resources.get("CPU", 0)), gpus=int(resources.get("GPU", 0)), accelerators=tuple(types))


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


def tune_jobs(board: _Board, folder: Path) -> None:
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
            pass  # see _Board.__getstate__

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
