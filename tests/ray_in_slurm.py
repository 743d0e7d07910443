"""A Ray cluster in an allocation of this machine's Slurm, as a test sees it."""

import os
import shlex
import sys
from pathlib import Path
from typing import Any, Self

import psutil

from tests.conformance.drivers import ROOT, Site, wait_until
from tests.slurm_cluster import OneMachine

SCRIPT = ROOT / "slurm" / "ray_cluster.sh"


class RayInSlurm:
    """A job that runs `slurm/ray_cluster.sh`, on two nodes of two CPUs and two GPUs unless told otherwise."""

    def __init__(
        self, slurm: OneMachine, folder: Path, *command: str, nodes: int = 2, cpus: int = 2, **variables: Any
    ) -> None:
        self._slurm, self.home = slurm, folder / "home"
        self.log = folder / "slurm.log"
        told = {"SMAUG_HOME": self.home, "SMAUG_PYTHON": sys.executable, "SMAUG_ACCELERATOR": "A6000"} | variables
        passed = ",".join(["PATH", "HOME", "SLURM_CONF", *(f"{name}={value}" for name, value in told.items())])
        asked = (f"--nodes={nodes}", f"--cpus-per-task={cpus}", "--gres=gpu:a6000:2", "--mem=2G", "--time=20")
        files = (f"--output={self.log}", f"--export={passed}", f"--chdir={ROOT}")
        self.job = slurm.ask("sbatch", "--parsable", *asked, *files, str(SCRIPT), *command).strip()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._slurm.ask("scancel", self.job)
        self.wait_for_end()

    @property
    def folders(self) -> list[Path]:
        """Those of this job: one, unless it has ended, or something was left behind."""
        return sorted((self.home / "ray-clusters").glob(f"*-{self.job}-*"))

    def wait_until_ready(self) -> dict[str, str]:
        """Wait for the nodes; gives what the file `ready` says."""
        wait_until(lambda: any((folder / "ready").exists() for folder in self.folders) or self.has_ended())
        assert not self.has_ended(), self.log.read_text()
        (folder,) = self.folders
        return dict(line.split(": ", 1) for line in (folder / "ready").read_text().splitlines())

    def site(self) -> Site:
        """Where drivers run that are told what the file `ready` says."""
        told = self.wait_until_ready()
        words = shlex.split(told["on a node of the cluster"])
        environment = dict(word.split("=", 1) for word in words if word.startswith("RAY_"))
        return Site(name=f"ray@{told['address']}", environment=environment, cpus=2)

    def has_ended(self) -> bool:
        """Whether Slurm has done with the job."""
        return self.job not in self._slurm.jobs()

    def wait_for_end(self) -> str:
        """Wait until Slurm has done with the job; gives its state and exit code, as Slurm prints them."""
        wait_until(self.has_ended)
        told = dict(
            word.split("=", 1) for word in self._slurm.ask("scontrol", "show", "job", self.job).split() if "=" in word
        )
        return f"{told['JobState']} {told['ExitCode']}"

    def processes(self) -> list[psutil.Process]:
        """All that the job started and that still run."""
        return [process for process in psutil.process_iter() if _of_job(process, self.job)]


def _of_job(process: psutil.Process, job: str) -> bool:
    try:
        return process.environ().get("SLURM_JOB_ID") == job
    except psutil.Error:
        return False


def outside() -> dict[str, str]:
    """This environment, without what a job that we may be in would give."""
    return {key: value for key, value in os.environ.items() if not key.startswith(("SLURM_", "SMAUG_", "RAY_"))}
