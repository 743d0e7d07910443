"""A connection to Ray: to one on this machine for this process alone, or to a cluster that runs already.

A Ray that we start requires a token, and listens on the loopback device only.
"""

import gc
import os
import secrets
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from experiments.engines.base import Inventory, Node, local_inventory
from experiments.engines.ray.start import ENDS_BY_ITSELF, OF_TYPE, ON_LOOPBACK, QUIET, START_ADVICE, OwnRay
from experiments.worker.import_path import import_environment
from experiments.worker.signals import HANGS
from smaug_core.errors import SmaugError

TOKEN = "RAY_AUTH_TOKEN"
"""Variable from which Ray takes a token first; then from a file, RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token."""

_OURS = secrets.token_hex(32)
"""Token of each Ray that this process starts, since Ray reads it once. It never leaves the environment."""

CONNECT_S = 5.0
"""Time in which a cluster has to answer."""

CONNECT_LIMITS = {
    "RAY_gcs_server_port_wait_time_s": "1",  # number of tries
    "RAY_py_gcs_connect_timeout_s": "5",
    "RAY_gcs_rpc_server_connect_timeout_s": "3",
    "RAY_gcs_server_request_timeout_seconds": "20",
}
"""Without these, Ray tries to reach a cluster that does not exist for 13 minutes, with a line for each try."""

KEEP_CONTROL = {
    "RAY_gcs_rpc_server_reconnect_timeout_s": "3600",  # else Ray ends this process a minute after its head has ended
    "RAY_DISABLE_FAILURE_SIGNAL_HANDLER": "1",  # else Ray takes SIGTERM, from whichever thread meets it
    "RAY_ENABLE_AUTO_CONNECT": "0",  # else a thread that uses Ray after it was left starts another one
}
"""Settings by which Ray neither ends this process nor starts by itself."""

CHECK_EVERY_S = 3.0
"""Time between two checks of the cluster's head."""
LOST_AFTER = 2
"""Checks in a row without an answer."""
LEAVE_S = 4.0
"""Limit of Ray's shutdown, which waits for a head that does not answer."""


class RaySession:
    """A connection to Ray; a process has one at a time.

    An address is `HOST:PORT` of a cluster, or `auto` for the one that runs on this machine; None starts Ray here.
    `on_message` gets each message that Ray would print to the terminal, from a thread of Ray.
    """

    def __init__(self, address: str | None, on_message: Callable[[str], None]) -> None:
        self._address, self._on_message = address, on_message
        self._own: OwnRay | None = None
        self._is_open = False
        self._head = ("", 0)
        self._next_check, self._missed = 0.0, 0

    @property
    def is_ours(self) -> bool:
        """True if Ray is this process's own, and ends with it."""
        return self._address is None

    def begin(self) -> None:
        """Join the cluster, or begin to start our own Ray, from the thread that lives longest."""
        if self._address is not None:
            self.open()
        elif self._own is None:
            os.environ.update({**QUIET, **KEEP_CONTROL, **ON_LOOPBACK, **import_environment()})
            os.environ.update({"RAY_AUTH_MODE": "token", TOKEN: _OURS})
            (here,) = local_inventory().nodes
            self._own = OwnRay(here)

    def open(self) -> None:
        """Join the cluster, or wait for our own Ray and join that, unless that is done.

        Raises:
            SmaugError: there is no cluster at the address, it does not let us in, or our own Ray does not start.
        """
        if self._is_open:
            return
        handlers = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)}
        if self._own is not None:
            _join_own(self._own, self._on_message)
        elif self._address is not None:
            os.environ.update({**QUIET, **KEEP_CONTROL})
            _join(self._address, self._on_message)
        import ray

        host, _, port = ray.get_runtime_context().gcs_address.rpartition(":")
        self._head = (host.strip("[]"), int(port))
        self._is_open, self._missed = True, 0
        if threading.current_thread() is threading.main_thread():
            for number, handler in handlers.items():
                signal.signal(number, handler)  # Ray takes SIGTERM for itself

    def inventory(self) -> Inventory:
        """The machines of the cluster, once it is open."""
        import ray

        return Inventory(tuple(_node(node["Resources"]) for node in ray.nodes() if node["Alive"]))

    def lost(self) -> str:
        """Error for which Ray can no longer be used; empty as long as it can."""
        if not self._is_open:
            return ""
        if self._own is not None and not self._own.is_alive:
            return "Ray's own processes on this machine have ended"
        if time.monotonic() >= self._next_check:
            self._next_check = time.monotonic() + CHECK_EVERY_S
            try:
                socket.create_connection(self._head, timeout=CONNECT_S).close()
                self._missed = 0
            except OSError:
                self._missed += 1
        if self._missed < LOST_AFTER:
            return ""
        host, port = self._head
        return f"the head of Ray at {host}:{port} no longer answers"

    def end_unopened(self) -> None:
        """End our own Ray if it has not started yet; a thread that waits for it in `open` gets an error."""
        if self._own is not None and not self._is_open:
            self._own.end()

    def close(self) -> bool:
        """Leave the cluster, or end our own Ray; return whether this process can use Ray again.

        Takes some seconds at most. Where Ray does not let go, this process has to be ended by `leave`.
        """
        can_go_on = True
        if self._is_open:
            can_go_on = not self.lost()  # to shut down would wait for the head
            self._is_open = False
            if can_go_on:
                leaving = threading.Thread(target=_shut_down, name="leave Ray", daemon=True)
                leaving.start()
                leaving.join(LEAVE_S)
                can_go_on = not leaving.is_alive()
        if self._own is not None:
            self._own.end()
            self._own = None
        if os.environ.get(TOKEN) == _OURS:
            del os.environ[TOKEN]
        if not can_go_on:
            HANGS.set()
        return can_go_on


@contextmanager
def _translate_errors(where: str, advice: str) -> Iterator[None]:
    """Raise an error of Ray's connection as a SmaugError of one line."""
    from ray.exceptions import RayError

    try:
        yield
    except (RayError, OSError, RuntimeError, ValueError, AssertionError) as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise SmaugError(f"{where} ({reason[0].rstrip('.')}); {advice}") from error


def _divert_messages(on_message: Callable[[str], None]) -> None:
    """Redirect messages that Ray prints to standard output, e.g. 45 lines when a node's process is killed.

    Ray 2.60 has no setting for it: `log_to_driver` is only about what workers print.
    """
    from ray._private import worker

    def pass_on(data: Mapping[str, Any], **_: object) -> None:
        on_message("\n".join(data["lines"]))

    worker.print_to_stdstream = pass_on


def _join_own(own: OwnRay, on_message: Callable[[str], None]) -> None:
    """Join our own Ray as soon as it has started."""
    import ray  # takes a second, in which Ray starts

    _divert_messages(on_message)
    address = own.address()
    with _translate_errors("ray: started on this machine, but refuses the connection", START_ADVICE):
        ray.init(address=address, job_config=_job_config(), logging_level="CRITICAL", log_to_driver=False)


def _job_config() -> Any:
    """Ray's settings of a job, whose processes do not import from the driver's working directory."""
    from ray.job_config import JobConfig

    class Job(JobConfig):  # type: ignore[misc]
        def _serialize(self) -> bytes:
            self._py_driver_sys_path.clear()  # else Ray 2.60 puts that directory first on the sys.path of all of them
            serialized: bytes = super()._serialize()
            return serialized

    return Job()


def _shut_down() -> None:
    """Shut Ray down, with all of its garbage collected before.

    Ray ends this process silently where another thread's garbage collection meets a reference of Ray while it shuts
    down. Tune leaves many, in cycles.
    """
    import ray

    gc.collect()
    gc.disable()
    try:
        ray.shutdown()
    finally:
        gc.enable()


def _join(address: str, on_message: Callable[[str], None]) -> None:
    """Join a cluster that runs already; its token is in the environment or in ~/.ray, as its owner arranged it."""
    if address != "auto":
        host = _check_answers(address)
        if host in ("localhost", "127.0.0.1"):
            os.environ.update(ON_LOOPBACK)  # else Ray would try this machine's other address
    for name, value in CONNECT_LIMITS.items():
        os.environ.setdefault(name, value)
    import ray

    _divert_messages(on_message)
    advice = (
        "expected HOST:PORT of a head node's `ray start --head`, a node of the same cluster on this machine,"
        " and its token"
    )
    with _translate_errors(f"--address {address}: no Ray cluster takes us in", advice), _silence():
        ray.init(
            address=address,
            runtime_env={"env_vars": {**ENDS_BY_ITSELF, **import_environment()}},
            job_config=_job_config(),
            logging_level="CRITICAL",
            log_to_driver=False,
        )


@contextmanager
def _silence() -> Iterator[None]:
    """Drop all output to stderr: Ray's native part warns there of each try, at any log level."""
    sys.stderr.flush()
    stderr, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, 2)
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(null)


def _check_answers(address: str) -> str:
    """Return the host of an address where a process listens."""
    host, _, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or "/" in host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise SmaugError(f"--address {address}: expected HOST:PORT, e.g. 10.0.0.1:6379, or auto")
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_S).close()
    except OSError as error:
        raise SmaugError(
            f"--address {address}: no process answers ({error}); expected HOST:PORT of a head node's"
            " `ray start --head`, usually port 6379"
        ) from error
    return host


def _node(resources: Mapping[str, float]) -> Node:
    types = sorted(name.removeprefix(OF_TYPE) for name in resources if name.startswith(OF_TYPE))
    memory = int(resources["memory"]) if "memory" in resources else None
    cpus, gpus = int(resources.get("CPU", 0)), int(resources.get("GPU", 0))
    return Node(cpus=cpus, gpus=gpus, accelerators=tuple(types), memory_bytes=memory)
