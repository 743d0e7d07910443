"""Start Ray's processes on this machine: their command, their environment, and a Ray for this process alone."""

import fcntl
import importlib.util
import json
import os
import runpy
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from experiments.engines.base import Node
from experiments.worker.import_path import SAFE_PATH, import_environment
from experiments.worker.signals import end_with
from smaug_core.errors import SmaugError

ENDS_BY_ITSELF = {"RAY_kill_child_processes_on_worker_exit": "false"}
"""Environment of Ray's processes that start ours: Ray would kill those, but they save and end by themselves."""

QUIET = {
    **ENDS_BY_ITSELF,
    SAFE_PATH: "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_DEDUP_LOGS": "0",
    "RAY_AIR_NEW_OUTPUT": "0",  # only the old output can be switched off
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_MAX_PENDING_TRIALS_PG": "16",  # else a job that needs many GPUs blocks all others behind it
}
"""Environment that Ray reads when it is imported and when Tune starts."""

ON_LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
"""Makes Ray use 127.0.0.1 as this machine's address, as it does by itself where it expects no cluster."""

OBJECT_STORE_BYTES = 100 * 2**20
"""Shared memory that Ray reserves here; jobs exchange files, so the minimum would suffice."""

OF_TYPE = "accelerator_type:"
"""Ray gives a machine one of the resource with this prefix for the type of its GPUs."""


PREFIX, LOCK = "smaug-ray-", "lock"
"""Prefix of the folder of our own Ray, and the file in it that its process locks."""

LONGEST_SOCKET = 107
"""Maximum bytes of a socket's path (Linux)."""
LONGEST_BASE = LONGEST_SOCKET - len(
    f"/{PREFIX}12345678/r/session_2000-01-01_00-00-00_000000_1234567/sockets/plasma_store"
)
"""Maximum bytes of the path in which the folder of our own Ray is made."""

JUST_MADE_S = 60.0
"""A folder so young may not have been locked yet."""
START_S = 120.0
"""Limit of Ray's start on a busy machine; on an idle one it takes five seconds."""
START_ADVICE = "run the same command again, or use `--engine inline`, which needs no Ray"
END_S = 5.0
"""Time in which Ray's processes have to end when they are asked to; then they are killed."""

ALONE = ("--no-monitor", "--include-log-monitor=false")
"""Further arguments of `ray start` for a Ray that is not a cluster: no autoscaler, no copying of logs."""


@dataclass(frozen=True, slots=True)
class Share:
    """Resources that Ray may use on this node."""

    task: int
    """0: the head."""
    cpus: int
    gpus: int
    accelerator: str | None
    memory_bytes: int | None = None
    """None: all that is free when Ray starts."""


def start_command(share: Share, address: str | None, temporary: Path) -> list[str]:
    """Return `ray start` for a node; without an address for the head, which takes a free port."""
    command = [sys.executable, "-P", "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats"]
    command += [f"--num-cpus={share.cpus}", f"--num-gpus={share.gpus}", f"--temp-dir={temporary}"]
    command += [f"--object-store-memory={OBJECT_STORE_BYTES}"]
    if share.memory_bytes is not None:
        command.append(f"--memory={share.memory_bytes}")
    if share.accelerator is not None and share.gpus:
        command.append(f"--resources={json.dumps({OF_TYPE + share.accelerator: 1})}")
    if address is not None:
        return [*command, f"--address={address}"]
    command += ["--head", "--port=0", "--include-dashboard=false"]
    if importlib.util.find_spec("grpc") is not None:
        command.append(f"--ray-client-server-port={free_port()}")  # cannot be switched off, and is 10001 otherwise
    return command


def free_port() -> int:
    """A port that is free now."""
    with socket.socket() as free:
        free.bind(("", 0))
        return int(free.getsockname()[1])


class OwnRay:
    """A Ray for this process alone, in a session of its own: no signal for our process group reaches it.

    Its processes end when the thread that made it ends, even by SIGKILL.
    """

    def __init__(self, node: Node) -> None:
        remove_leftovers()
        base = base_folder()
        self._folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=base))  # closed to others; Ray opens its own to all
        self._lock: int | None = os.open(self._folder / LOCK, os.O_CREAT | os.O_RDWR, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        share = Share(0, node.cpus, node.gpus, None, node.memory_bytes)  # as the plan counts them
        command = start_command(share, None, self._folder / "r")
        module = command.index("ray.scripts.scripts")
        with (self._folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", __name__, str(os.getpid()), *command[module + 1 :], *ALONE],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self._folder,
                env=os.environ | import_environment(),
                start_new_session=True,
            )

    @property
    def is_alive(self) -> bool:
        """True if its processes run; one that died takes the others with it within a second or two."""
        return self._process.poll() is None

    def address(self) -> str:
        """Wait until it has started; return its `HOST:PORT`."""
        known, deadline = self._folder / "r" / "ray_current_cluster", time.monotonic() + START_S
        while time.monotonic() < deadline and self.is_alive:
            if known.exists() and (address := known.read_text()):
                return address
            time.sleep(0.05)
        how = f"not within {START_S:.0f} s" if self.is_alive else self._last_line()
        raise SmaugError(f"ray: did not start on this machine ({how}); {START_ADVICE}")

    def _last_line(self) -> str:
        with suppress(OSError):
            lines = (self._folder / "log").read_text(errors="replace").strip().splitlines()
            if printed := [line.strip() for line in lines if line.strip()]:
                return printed[-1][:300]
        return f"exit code {self._process.returncode}"

    def end(self) -> None:
        """End its processes, and remove its folder, if that is not done yet."""
        if self._lock is None:
            return
        self._process.terminate()
        try:
            self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()  # then the kernel kills the processes that it started
            self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)
        os.close(self._lock)
        self._lock = None


def base_folder() -> Path:
    """Return the folder for temporary files, or another one if its path is too long for Ray's sockets.

    Raises:
        SmaugError: no such folder is short enough and can be written.
    """
    usual = Path(os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()).absolute()
    for folder in (usual, Path("/tmp"), Path(os.environ.get("XDG_RUNTIME_DIR") or "/tmp")):
        if len(os.fsencode(folder)) <= LONGEST_BASE and os.access(folder, os.W_OK | os.X_OK):
            return folder
    raise SmaugError(
        f"TMPDIR {usual}: has {len(os.fsencode(usual))} bytes, too many for Ray's sockets, and /tmp cannot be written;"
        f" expected a folder of at most {LONGEST_BASE} bytes, or --engine inline"
    )


def remove_leftovers() -> None:
    """Remove the folders that drivers of this user left when they were killed."""
    for folder in _leftovers():
        shutil.rmtree(folder, ignore_errors=True)


def _leftovers() -> Iterator[Path]:
    """Folders whose lock is free: the kernel releases it when its process dies, in any PID namespace."""
    for folder in base_folder().glob(f"{PREFIX}????????"):
        with suppress(OSError):
            if folder.is_symlink() or folder.stat().st_uid != os.getuid():
                continue
            if time.time() - folder.stat().st_mtime < JUST_MADE_S:
                continue
            handle = os.open(folder / LOCK, os.O_RDWR | os.O_NOFOLLOW)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                yield folder
            finally:
                os.close(handle)


if __name__ == "__main__":  # as OwnRay starts it, with its process and the arguments of `ray`
    end_with(int(sys.argv[1]), signal.SIGKILL)
    sys.argv = ["ray", *sys.argv[2:]]
    runpy.run_module("ray.scripts.scripts", run_name="__main__")
