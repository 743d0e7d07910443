"""Follower on the other machines of a stage: waits for the attempt of the first machine, and shares its work.

It reports the time used and the exit code of torchrun here, in `nodes/` of the attempt's folder.
"""

import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from experiments.stages.memory import PEAK_MEMORY
from experiments.store.attempt import read_attempts
from experiments.store.documents import StoreError, write_json
from experiments.worker.device import DeviceClock
from experiments.worker.launcher import LOOK_S, OVER, PEERS_LOST_S, LaunchConfig, start_torchrun

REPORT_EVERY_S = 5.0


class Follower:
    """One of the other machines.

    Args:
        directory: folder of the stage.
        node: which machine, from 1 on.
        job: what the attempt's owner says of the job that this is a part of, as `slurm_job` gives it.
        is_over: whether the first machine's part of the job has ended.
    """

    def __init__(self, directory: Path, node: int, job: dict[str, Any], is_over: Callable[[], bool]) -> None:
        self._directory, self._node, self._job, self._is_over = directory, node, job, is_over

    def run(self) -> None:
        """Share the work to its end, or to the end of the first machine's part.

        Raises:
            StoreError: the attempt's folder cannot be read, or written.
        """
        while (attempt := self._attempt()) is None:
            if self._is_over():
                return
            time.sleep(LOOK_S)
        folder, launch = attempt
        clock = DeviceClock(launch.gpus / launch.nodes)
        with (folder / f"node{self._node}.txt").open("wb") as output:
            torchrun = start_torchrun(folder, self._node, {}, stdout=output, stderr=subprocess.STDOUT)
        try:
            self._look_after(torchrun, folder, clock)
        finally:
            torchrun.kill()
            self._report(folder, clock, ended=torchrun.wait())

    def _attempt(self) -> tuple[Path, LaunchConfig] | None:
        """Folder and launch of this job's attempt; none before there is one."""
        for attempt in reversed(read_attempts(self._directory)):
            if self._job.items() <= attempt.owner.raw.items():
                launch = LaunchConfig.read(attempt.directory)
                return None if launch is None else (attempt.directory, launch)
        return None

    def _look_after(self, torchrun: "subprocess.Popen[bytes]", folder: Path, clock: DeviceClock) -> None:
        reported_at, deadline = 0.0, float("inf")
        while torchrun.poll() is None and time.monotonic() < deadline and not self._is_over():
            if (folder / "nodes" / OVER).exists():
                deadline = min(deadline, time.monotonic() + PEERS_LOST_S)
            if time.monotonic() - reported_at > REPORT_EVERY_S:
                reported_at = time.monotonic()
                with suppress(StoreError):  # a disk that is full is met by the first machine too, which says so
                    self._report(folder, clock)
            time.sleep(LOOK_S)

    def _report(self, folder: Path, clock: DeviceClock, **more: int) -> None:
        account = clock.account()
        used = {name: account[name] for name in ("cpu_s", PEAK_MEMORY, "joules") if name in account}
        write_json(folder / "nodes" / f"{self._node}.json", used | more)
