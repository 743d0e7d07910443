"""One node of the Ray cluster that `slurm/ray_cluster.sh` makes in an allocation: starts it, and ends it gently.

`python -m experiments.engines.ray.node FOLDER` runs as one task of srun on every node; the first one is the head.
FOLDER is shared and closed to others. In it are `token`, `step` (Slurm's number of this step), `address` (the head's,
once it is up), `joined-N` (the head knows task N's node; says what that has), `failed-N` (Ray ended there unasked) and
`node-N.log` (what it printed).
"""

import ctypes
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from experiments.engines.ray.start import ON_LOOPBACK, QUIET, Share, start_command
from smaug_core.errors import SmaugError

TOKEN_FILE = "RAY_AUTH_TOKEN_PATH"
ACCELERATOR = "SMAUG_ACCELERATOR"
"""Variable with the type of the nodes' GPUs, in a scale's words, where their driver does not tell it."""
GRACE_S = 60.0
"""Time the workers of a node that ends have to save their state; Slurm may allow less (KillWait)."""
LOOK_S = 0.1


def share_of(environment: Mapping[str, str]) -> Share:
    """This node's share, from the environment of a task of srun.

    Raises:
        SmaugError: this is no such task.
    """
    try:
        task, cpus = int(environment["SLURM_PROCID"]), int(environment["SLURM_CPUS_ON_NODE"])
    except KeyError as error:
        raise SmaugError(f"ray_node: {error.args[0]} is not set; expected a task that srun started") from error
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        gpus = len([name for name in visible.split(",") if name.strip() not in ("", "-1", "NoDevFiles")])
    else:
        gpus = int(environment.get("SLURM_GPUS_ON_NODE", "0"))
    return Share(task, cpus, gpus, environment.get(ACCELERATOR) or None)


def environment_of(environment: Mapping[str, str], folder: Path) -> dict[str, str]:
    """Environment of a node's Ray; the only node of a cluster listens on the loopback device alone."""
    alone = environment.get("SLURM_NNODES") == "1"
    own = {name: value for name, value in environment.items() if not name.startswith("RAY_")}
    asks = {"RAY_AUTH_MODE": "token", TOKEN_FILE: str(folder / "token")}
    at_once = {"RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0"}  # else it waits 30 s for those who work to be idle
    return own | QUIET | asks | at_once | (ON_LOOPBACK if alone else {})


class RayNode:
    """The node of this task, in a folder that all nodes of the cluster share; the script looks after the time."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._share = folder, share_of(os.environ)
        self._asked = False

    def run(self) -> int:
        """Start Ray and wait for its end; gives 0 if that was asked for."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._hear)
        adopt_orphans()
        if self._share.task == 0:
            self._tell("step", os.environ["SLURM_STEP_ID"])
        temporary = Path(tempfile.mkdtemp(prefix="smaug-ray-", dir="/tmp"))  # short: a socket's path has 107 letters
        try:
            return self._run(temporary / "r")  # Ray opens its own folder to all
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def _hear(self, *_: object) -> None:
        self._asked = True

    def _run(self, temporary: Path) -> int:
        address = None if self._share.task == 0 else self._address()
        if self._asked:
            return 0
        with (self._folder / f"node-{self._share.task}.log").open("wb") as log:
            ray = subprocess.Popen(
                start_command(self._share, address, temporary),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment_of(os.environ, self._folder),
            )
        try:
            self._join(ray, temporary / "ray_current_cluster")
            while ray.poll() is None and not self._asked:
                time.sleep(LOOK_S)
        finally:
            ray.terminate()
            self._wait_for_all(ray)
        if not self._asked:
            (self._folder / f"failed-{self._share.task}").touch()
            sys.stderr.write(f"ray_node: Ray ended on node {self._share.task} (code {ray.returncode})\n")
        return 0 if self._asked else 1

    def _address(self) -> str:
        told = self._folder / "address"
        while not told.exists() and not self._asked:
            time.sleep(LOOK_S)
        return "" if self._asked else told.read_text()

    def _join(self, ray: "subprocess.Popen[bytes]", known: Path) -> None:
        """Wait until Ray says that the head knows this node, by a file with the cluster's address; then tell."""
        while not (known.exists() and known.read_text()):
            if self._asked or ray.poll() is not None:
                return
            time.sleep(LOOK_S)
        if self._share.task == 0:
            self._tell("address", known.read_text())
        node = os.environ.get("SLURMD_NODENAME", socket.gethostname())
        self._tell(f"joined-{self._share.task}", f"{node}: {self._share.cpus} CPUs, {self._share.gpus} GPUs\n")

    def _tell(self, name: str, text: str) -> None:
        partial = self._folder / f".{name}"
        partial.write_text(text)
        partial.replace(self._folder / name)

    def _wait_for_all(self, ray: "subprocess.Popen[bytes]") -> None:
        """Wait for Ray, then for the workers that it leaves: they save, and Slurm kills what outlives this task."""
        deadline = time.monotonic() + GRACE_S
        with suppress(subprocess.TimeoutExpired):
            ray.wait(GRACE_S)
        while time.monotonic() < deadline and has_children():
            time.sleep(LOOK_S)


def adopt_orphans() -> None:
    """Become the parent of all processes below this one whose own parent dies (Linux), as init would."""
    set_child_subreaper = 36
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(set_child_subreaper, 1)


def has_children() -> bool:
    """Whether a child of this process lives; those that ended are taken off the system's list."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return False
    return True


def main() -> int:
    """Run this task's node; gives the exit code."""
    folder = Path(sys.argv[1])
    try:
        return RayNode(folder).run()
    except SmaugError as error:
        sys.stderr.write(f"{error}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main())
