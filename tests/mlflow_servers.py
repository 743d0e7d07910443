"""Real MLflow servers on loopback, over sqlite or PostgreSQL, that can be stopped, killed and started again."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


class Server:
    """`mlflow server` as a group of processes; it keeps its files itself."""

    def __init__(self, folder: Path, backend: str) -> None:
        self._folder, self._backend, self._port = folder, backend, free_port()
        self.uri = f"http://127.0.0.1:{self._port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start, and wait until it answers."""
        options = ["--backend-store-uri", self._backend, "--artifacts-destination", str(self._folder / "kept")]
        where = ["--host", "127.0.0.1", "--port", str(self._port), "--workers", "1"]
        kept = {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW_")}
        with (self._folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "mlflow", "server", *options, *where],
                cwd=self._folder,
                env=kept | {"MLFLOW_DISABLE_TELEMETRY": "true"},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        give_up = time.monotonic() + 240
        while not self._answers():
            assert self._process.poll() is None and time.monotonic() < give_up, self.log()
            time.sleep(0.2)

    def log(self) -> str:
        return (self._folder / "server.log").read_text()

    def signal(self, number: int) -> None:
        """Send all its processes a signal."""
        os.killpg(self._process.pid, number)

    def kill(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self.signal(signal.SIGKILL)
            self._process.wait()

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=5) as answer:
                return answer.status == 200
        except OSError:
            return False


@contextmanager
def server(folder: Path, backend: str | None = None) -> Iterator[Server]:
    """A server that runs; `backend`: its database, else one in sqlite."""
    folder.mkdir(parents=True, exist_ok=True)
    made = Server(folder, backend or f"sqlite:///{folder / 'server.db'}")
    made.start()
    try:
        yield made
    finally:
        made.kill()


@contextmanager
def postgresql() -> Iterator[str]:
    """A PostgreSQL of its own on loopback; gives the URI of an empty database, or skips where there is none."""
    tools = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not tools and shutil.which("initdb") is None:
        pytest.skip("PostgreSQL is not installed")
    programs = (tools[-1] if tools else Path(shutil.which("initdb"))).parent
    with tempfile.TemporaryDirectory() as name:
        folder, user = Path(name), []
        if os.geteuid() == 0:  # it refuses to run as root
            user = ["setpriv", "--reuid", "nobody", "--regid", "nogroup", "--clear-groups"]
            shutil.chown(folder, "nobody", "nogroup")
        with _running(programs, folder, user) as port:
            yield f"postgresql+psycopg2://smaug@127.0.0.1:{port}/postgres"


@contextmanager
def _running(programs: Path, folder: Path, user: list[str]) -> Iterator[int]:
    port, data = free_port(), folder / "data"
    make = [str(programs / "initdb"), "-D", str(data), "-U", "smaug", "-A", "trust", "-E", "UTF8", "--no-sync"]
    subprocess.run([*user, *make], check=True, capture_output=True, cwd=folder)
    run = [str(programs / "postgres"), "-D", str(data), "-h", "127.0.0.1", "-p", str(port), "-k", str(folder)]
    with (folder / "postgres.log").open("ab") as log:
        process = subprocess.Popen([*user, *run], cwd=folder, stdout=log, stderr=subprocess.STDOUT)
    try:
        ready = [str(programs / "pg_isready"), "-h", "127.0.0.1", "-p", str(port), "-d", "postgres", "-U", "smaug"]
        give_up = time.monotonic() + 60
        while subprocess.run(ready, capture_output=True).returncode:
            assert process.poll() is None and time.monotonic() < give_up, (folder / "postgres.log").read_text()
            time.sleep(0.1)
        yield port
    finally:
        process.send_signal(signal.SIGINT)  # ends it without waiting for its clients
        process.wait(timeout=60)
