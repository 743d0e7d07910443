"""Ray itself: on this machine for this process alone, or a cluster that runs already; how it is met, and left.

The Ray that we start asks everybody for a token, and listens on the loopback device only.
"""

import gc
import os
import secrets
import signal
import socket
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from experiments.engines import Inventory, Node, local_inventory
from experiments.imports import SAFE_PATH, import_environment
from smaug_core.errors import SmaugError

ENDS_BY_ITSELF = {"RAY_kill_child_processes_on_worker_exit": "false"}
"""For Ray's processes that start ours: Ray kills by SIGKILL, but ours end by themselves, and save."""

QUIET = {
    **ENDS_BY_ITSELF,
    SAFE_PATH: "1",
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


class RaySession:
    """A connection to Ray; a process has one at a time.

    Args:
        address: `HOST:PORT` of a cluster, or `auto`: the one that runs on this machine; none starts Ray here.
    """

    def __init__(self, address: str | None) -> None:
        self._address, self._is_open = address, False

    @property
    def is_ours(self) -> bool:
        """Whether Ray is this process's own, and ends with it."""
        return self._address is None

    def open(self) -> None:
        """Start Ray, or join the cluster, unless that is done.

        Raises:
            SmaugError: there is no cluster at the address, or it does not let us in.
        """
        if self._is_open:
            return
        handlers = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)}
        os.environ.update(QUIET)
        if self._address is None:
            _start()
        else:
            _join(self._address)
        self._is_open = True
        if threading.current_thread() is threading.main_thread():
            for number, handler in handlers.items():
                signal.signal(number, handler)  # Ray takes SIGTERM for itself

    def inventory(self) -> Inventory:
        """The machines of the cluster, once it is open."""
        import ray

        return Inventory(tuple(_node(told["Resources"]) for told in ray.nodes() if told["Alive"]))

    def close(self) -> None:
        """Leave the cluster, or end our own Ray, if it is open."""
        if not self._is_open:
            return
        self._is_open = False
        _leave()
        if os.environ.get(TOKEN) == _OURS:
            del os.environ[TOKEN]


def _start() -> None:
    """Ray on this machine, for this process alone."""
    os.environ.update({"RAY_AUTH_MODE": "token", TOKEN: _OURS, **ON_LOOPBACK, **import_environment()})
    import ray

    (here,) = local_inventory().nodes
    ray.init(
        address="local",
        job_config=_job_config(),
        num_cpus=here.cpus,
        num_gpus=here.gpus,
        include_dashboard=False,
        object_store_memory=OBJECT_STORE_BYTES,
        logging_level="ERROR",
        log_to_driver=False,
    )


def _job_config() -> Any:
    """Ray's settings of a job, whose processes do not import from the driver's working directory."""
    from ray.job_config import JobConfig

    class Job(JobConfig):  # type: ignore[misc]
        def _serialize(self) -> bytes:
            self._py_driver_sys_path.clear()  # else Ray 2.60 puts that directory first on the sys.path of all of them
            serialized: bytes = super()._serialize()
            return serialized

    return Job()


def _leave() -> None:
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


def _join(address: str) -> None:
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

    try:
        with _silence():
            ray.init(
                address=address,
                runtime_env={"env_vars": {**ENDS_BY_ITSELF, **import_environment()}},
                job_config=_job_config(),
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
