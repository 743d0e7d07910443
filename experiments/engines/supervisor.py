"""Supervise a worker: start its process, forward requests to stop, and wait for its end within limits."""

import os
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

GRACE_S = 60.0
"""Time a worker that is asked to stop has to save its state before it is killed."""
POLL_S = 0.2


def run_worker(
    command: Sequence[str],
    directory: Path,
    environment: Mapping[str, str],
    is_stopping: Callable[[], bool],
    may_kill: Callable[[], bool] = lambda: True,
) -> int:
    """Run a stage's worker to its end; return its exit code, negative for the signal that killed it.

    The worker gets SIGTERM once `is_stopping`, and SIGKILL after `GRACE_S` if `may_kill`. It stops by itself should
    this process be killed, and no signal of a terminal reaches it: the driver decides.
    """
    with (directory / "launch.txt").open("wb") as output:
        worker = subprocess.Popen(
            [*command, "--parent", str(os.getpid())],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=directory,
            env=environment,
            start_new_session=True,
        )
    stopping_since: float | None = None
    while worker.poll() is None:
        if stopping_since is None and is_stopping():
            stopping_since = time.monotonic()
            worker.terminate()
        if stopping_since is not None and may_kill() and time.monotonic() - stopping_since > GRACE_S:
            worker.kill()
        with suppress(subprocess.TimeoutExpired):
            worker.wait(timeout=POLL_S)
    return worker.returncode
