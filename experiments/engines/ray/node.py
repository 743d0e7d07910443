"""One node of the Ray cluster that `slurm/ray_cluster.sh` makes in an allocation: starts it, and ends it gently.

`python -m experiments.engines.ray.node FOLDER` runs as one task of srun on every node; the first one is the head.
FOLDER is shared and closed to other users. It holds `token`, `step` (Slurm's number of this step), `address` (of the
head, once it is up), `joined-N` (the resources of task N's node, once the head knows it), `failed-N` (Ray ended there
unasked) and `node-N.log` (its output).
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
from experiments.engines.supervisor import GRACE_S
from smaug_core.errors import SmaugError

ACCELERATOR = "SMAUG_ACCELERATOR"
"""Variable with the type of the nodes' GPUs, as a scale names it, where their driver does not report it."""
POLL_S = 0.1


def share_of(environment: Mapping[str, str]) -> Share:
    """This node's share, from the environment of a task of srun."""
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
    """Environment of a node's Ray; the only node of a cluster listens on the loopback device only."""
    own = {name: value for name, value in environment.items() if not name.startswith("RAY_")}
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(folder / "token")}
    no_drain = {"RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0"}  # else it waits 30 s for its workers to be idle
    return own | QUIET | token | no_drain | (ON_LOOPBACK if environment.get("SLURM_NNODES") == "1" else {})


class RayNode:
    """The node of this task, in a folder that all nodes of the cluster share; the script limits the time."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._share = folder, share_of(os.environ)
        self._stopping = False

    def run(self) -> int:
        """Start Ray and wait for its end; return 0 if that was requested."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        adopt_orphans()
        if self._share.task == 0:
            self._publish("step", os.environ["SLURM_STEP_ID"])
        temporary = Path(tempfile.mkdtemp(prefix="smaug-ray-", dir="/tmp"))  # short: a socket's path has 107 bytes
        try:
            self._run(temporary / "r")  # Ray makes its own folder open to all
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        return 0 if self._stopping else 1

    def _on_signal(self, *_: object) -> None:
        self._stopping = True

    def _run(self, temporary: Path) -> None:
        address = None if self._share.task == 0 else self._read_when_there(self._folder / "address")
        if self._stopping:
            return
        with (self._folder / f"node-{self._share.task}.log").open("wb") as log:
            ray = subprocess.Popen(
                start_command(self._share, address, temporary),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment_of(os.environ, self._folder),
            )
        try:
            # Ray writes this file when the head knows the node.
            address = self._read_when_there(temporary / "ray_current_cluster", ray)
            if address and self._share.task == 0:
                self._publish("address", address)
            if address:
                name = os.environ.get("SLURMD_NODENAME", socket.gethostname())
                resources = f"{self._share.cpus} CPUs, {self._share.gpus} GPUs"
                self._publish(f"joined-{self._share.task}", f"{name}: {resources}\n")
            while ray.poll() is None and not self._stopping:
                time.sleep(POLL_S)
        finally:
            ray.terminate()
            _wait_for_all(ray)
        if not self._stopping:
            (self._folder / f"failed-{self._share.task}").touch()
            sys.stderr.write(f"ray_node: Ray ended on node {self._share.task} (code {ray.returncode})\n")

    def _read_when_there(self, file: Path, ray: "subprocess.Popen[bytes] | None" = None) -> str:
        """Wait for a file that holds something; empty if this node stops or Ray ends before."""
        while not self._stopping and (ray is None or ray.poll() is None):
            if file.exists() and (text := file.read_text()):
                return text
            time.sleep(POLL_S)
        return ""

    def _publish(self, name: str, text: str) -> None:
        partial = self._folder / f".{name}"
        partial.write_text(text)
        partial.replace(self._folder / name)


def _wait_for_all(ray: "subprocess.Popen[bytes]") -> None:
    """Wait for Ray, then for the workers that it leaves: they save, and Slurm kills those that outlive this task."""
    deadline = time.monotonic() + GRACE_S  # Slurm may allow less (KillWait)
    with suppress(subprocess.TimeoutExpired):
        ray.wait(GRACE_S)
    while time.monotonic() < deadline and has_children():
        time.sleep(POLL_S)


def adopt_orphans() -> None:
    """Become the parent of all processes below this one whose own parent dies (Linux), as init would."""
    set_child_subreaper = 36
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(set_child_subreaper, 1)


def has_children() -> bool:
    """Return whether a child of this process lives; those that ended are reaped."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return False
    return True


if __name__ == "__main__":
    try:
        sys.exit(RayNode(Path(sys.argv[1])).run())
    except SmaugError as error:
        sys.exit(str(error))
