"""Server of MLflow's pages for an SQLite database: started, waited for, and ended with all its processes."""

import errno
import os
import signal
import socket
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from http.client import HTTPConnection, HTTPException
from pathlib import Path

import psutil

from experiments.tracking.database import TrackingError, database_file, redacted
from experiments.tracking.location import tracking_uri
from experiments.worker.import_path import import_environment
from experiments.worker.signals import end_with, stop_on_signals
from smaug_core.errors import SmaugError

HOST = "127.0.0.1"
POLL_S = 0.1
ANSWER_S = 5.0
"""Timeout of one HTTP response."""
END_S = 10.0
"""Grace period before the server is killed."""


class ServerError(Exception):
    """The server ended by itself."""


def serve(home: Path, port: int, say: Callable[[str], None], log: Callable[[str], None]) -> None:
    """Serve MLflow's pages of a home folder until SIGINT or SIGTERM.

    Args:
        home: the home folder.
        port: on 127.0.0.1.
        say: called once, with the address, when the server answers there.
        log: called with each line that the server prints.

    Raises:
        SmaugError: MLflow is on a server, which shows its own pages; there is no home folder; the port is taken; the
            database is damaged.
        ServerError: the server ended by itself.
    """
    uri = tracking_uri(home)
    if database_file(uri) is None:
        raise TrackingError(f"MLFLOW_TRACKING_URI is {redacted(uri)}: open that server's own page")
    if not home.is_dir():
        raise SmaugError(f"--home {home}: does not exist, so nothing was run yet in it; expected the home of a run")
    _refuse_taken(port)
    from experiments.tracking.writer import MlflowWriter

    MlflowWriter(home).prepare()
    stop = threading.Event()
    with stop_on_signals(stop.set):
        server = _start(home.resolve(), uri, port)
        lines: deque[str] = deque(maxlen=1)
        reader = threading.Thread(target=_pass_on, args=(server, lines, log), daemon=True)
        reader.start()
        try:
            answers = False
            while server.poll() is None and not stop.wait(POLL_S):
                if not answers and (answers := _answers(server, port)):
                    say(f"http://{HOST}:{port} (Ctrl-C ends it)")
        finally:
            _end(server)
            reader.join(END_S)
    if not stop.is_set():
        last = f": {lines[0]}" if lines else ""
        raise ServerError(f"MLflow's server ended by itself with exit code {server.returncode}{last}")


def _refuse_taken(port: int) -> None:
    with socket.socket() as tried:
        # As the server does: a port that was just released is free.
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tried.bind((HOST, port))
            tried.listen()
        except OSError as error:
            why = "another process uses it" if error.errno == errno.EADDRINUSE else error.strerror
            raise SmaugError(f"--port {port}: cannot be served on ({why}); expected a free port") from error


def _start(home: Path, uri: str, port: int) -> "subprocess.Popen[str]":
    """Start the server in its own session, so that Ctrl-C reaches it through this process only."""
    options = {
        "--backend-store-uri": uri,
        "--default-artifact-root": (home / "artifacts").as_uri(),
        "--host": HOST,
        "--port": str(port),
        "--workers": "1",
    }
    arguments = [word for option in options.items() for word in option]
    # Jobs of MLflow's own, for language models, take four more processes.
    environment = import_environment() | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    return subprocess.Popen(
        [sys.executable, "-m", "mlflow", "server", *arguments, "--no-serve-artifacts"],
        cwd=home,
        env=os.environ | environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
        preexec_fn=partial(end_with, os.getpid()),
    )


def _pass_on(server: "subprocess.Popen[str]", lines: deque[str], log: Callable[[str], None]) -> None:
    assert server.stdout is not None
    for line in server.stdout:
        if line.strip():
            lines.append(line.strip())
        log(line.rstrip("\n"))


def _answers(server: "subprocess.Popen[str]", port: int) -> bool:
    """Return whether our server responds: another may have taken the port meanwhile."""
    ours = [_listens(process, port) for process in _processes(server)]
    if not any(ours):
        return False
    connection = HTTPConnection(HOST, port, timeout=ANSWER_S)  # without a proxy
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()


def _listens(process: psutil.Process, port: int) -> bool:
    with suppress(psutil.Error):
        return any(c.status == psutil.CONN_LISTEN and c.laddr.port == port for c in process.net_connections("tcp"))
    return False


def _processes(server: "subprocess.Popen[str]") -> list[psutil.Process]:
    with suppress(psutil.NoSuchProcess):
        first = psutil.Process(server.pid)
        return [first, *first.children(recursive=True)]
    return []


def _end(server: "subprocess.Popen[str]") -> None:
    """End the server with its workers; those that do not end in time are killed."""
    processes = _processes(server)
    with suppress(ProcessLookupError):
        os.killpg(server.pid, signal.SIGTERM)
    _, left = psutil.wait_procs(processes, timeout=END_S)
    for process in left:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    server.wait()
