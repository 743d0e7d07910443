"""The least an engine can be: every job at once, as a process of this machine."""

import os
import subprocess
from collections.abc import Mapping

from experiments.engines.base import Engine, Inventory, Job, JobState, Node


class ProcessEngine(Engine):
    """Starts jobs when they are submitted, however many CPUs they ask for."""

    def __init__(self, cpus: int = 4) -> None:
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.submitted: list[str] = []
        self._cpus = cpus

    def submit(self, job: Job) -> None:
        self.submitted.append(job.name)
        with (job.directory / "launch.txt").open("wb") as output:
            self.processes[job.name] = subprocess.Popen(
                [*job.command, "--parent", str(os.getpid())],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=os.environ | job.env,
                start_new_session=True,
            )

    def poll(self) -> Mapping[str, JobState]:
        codes = {name: process.poll() for name, process in self.processes.items()}
        return {name: JobState(code is not None, code) for name, code in codes.items()}

    def cancel(self, name: str) -> None:
        if name in self.processes:
            self.processes[name].terminate()

    def inventory(self) -> Inventory:
        return Inventory((Node(cpus=self._cpus),))

    def close(self) -> None:
        for process in self.processes.values():
            process.kill()
            process.wait()
