"""A Ray cluster of several nodes on this machine, each a raylet of its own; they ask for a token.

`python -m tests.ray_cluster` makes a node for each line of JSON that it reads, `{"num_cpus": 2, ...}`, the first is
the head, and answers with the cluster's address and the process id of the node's raylet.
"""

import ctypes
import json
import os
import secrets
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any, Self

import psutil

ROOT = Path(__file__).parents[1]
NEW_HOST_NAME = 0x04000000
"""CLONE_NEWUTS of sched.h, which Python 3.11 lacks."""


class RayCluster:
    """The cluster, as a test sees it."""

    def __init__(self, folder: Path) -> None:
        token = folder / "token"
        token.write_text(secrets.token_hex(32))
        token.chmod(0o600)
        self.environment = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
        self.address = ""
        self.nodes: list[int] = []
        """Process ids of their raylets."""
        on_loopback = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_USAGE_STATS_ENABLED": "0"}
        kept = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
        with (folder / "cluster.log").open("w") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.ray_cluster"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                cwd=ROOT,
                env=kept | self.environment | on_loopback,
                start_new_session=True,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        family = psutil.Process(self._process.pid).children(recursive=True)
        self._process.stdin.close()
        self._process.wait(60)
        for left in psutil.wait_procs(family, timeout=20)[1]:
            left.kill()

    def add(self, cpus: int, gpus: int = 0, accelerator: str | None = None, host: str | None = None) -> int:
        """Make a node; gives the process id of its raylet. It may take itself for another host, as root."""
        assert self._process.stdin is not None and self._process.stdout is not None
        node: dict[str, Any] = {"num_cpus": cpus, "num_gpus": gpus, "object_store_memory": 100 * 2**20}
        if accelerator is not None:
            node["resources"] = {f"accelerator_type:{accelerator}": 1}
        if host is not None:
            node["host"] = host
        self._process.stdin.write(json.dumps(node) + "\n")
        self._process.stdin.flush()
        while not (line := self._process.stdout.readline()).startswith("{"):
            assert line, "the cluster ended"
        told = json.loads(line)
        self.address = told["address"]
        self.nodes.append(told["raylet"])
        return self.nodes[-1]


def main() -> None:
    from ray.cluster_utils import Cluster

    cluster = Cluster()
    for line in sys.stdin:
        options = json.loads(line)
        if (host := options.pop("host", None)) is not None:
            if ctypes.CDLL(None, use_errno=True).unshare(NEW_HOST_NAME):
                raise OSError(ctypes.get_errno(), "a node can have no other host's name")
            socket.sethostname(host)
        node = cluster.add_node(**options, include_dashboard=False)
        (raylet,) = node.all_processes["raylet"]
        sys.stdout.write(json.dumps({"address": cluster.address, "raylet": raylet.process.pid}) + "\n")
        sys.stdout.flush()
    cluster.shutdown()


if __name__ == "__main__":
    main()
