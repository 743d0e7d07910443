"""The Slurm on this machine that `make slurm-up` starts, as tests see it."""

import fcntl
import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from experiments.stages.stage import Stage
from experiments.store.store import Store
from tests.conformance.drivers import Site

ROOT = Path(__file__).parents[1]
PROFILE = ROOT / "slurm" / "one_machine" / "profile.yaml"
UP = "SMAUG_ONE_MACHINE_SLURM=1 make slurm-up"


class OneMachine:
    """Two nodes of eight CPUs and four GPUs that are none."""

    def __init__(self) -> None:
        self.base = Path(os.environ.get("SMAUG_SLURM_BASE", "/tmp/smaug-slurm"))
        self.environment = {"SLURM_CONF": str(self.base / "slurm.conf")}
        self.site = Site(name=f"slurm@{PROFILE}", environment=self.environment, cpus=8, outlives=True)

    def missing(self) -> str | None:
        """Why the tests on it cannot run, and what to do; none if they can."""
        if not (self.base / ".smaug-one-machine").exists():
            return f"no one-machine Slurm is up; {UP}"
        ping = self.ask("scontrol", "ping", check=False)
        return None if "UP" in ping else f"the one-machine Slurm does not answer; make slurm-down, then {UP}"

    def missing_accounts(self) -> str | None:
        """Why the tests of accounting cannot run, and what to do; none if they can."""
        told = self.ask("sacctmgr", "--noheader", "--parsable2", "list", "cluster", "format=cluster", check=False)
        if told.strip():
            return None
        return f"the one-machine Slurm keeps no accounts; make slurm-down, then SMAUG_SLURM_ACCOUNTING=1 {UP}"

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep other sessions of tests away: they count jobs, cancel them, and kill what runs them."""
        with (self.base / ".tests").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def ask(self, *command: str, check: bool = True) -> str:
        """What one of Slurm's commands answers."""
        ran = subprocess.run(
            command, env=os.environ | self.environment, capture_output=True, text=True, timeout=60, check=check
        )
        return ran.stdout

    def jobs(self) -> dict[str, str]:
        """State of every job that waits or runs, by id."""
        rows = self.ask("squeue", "--noheader", "--array", "--format=%i %T").split("\n")
        return dict(row.split() for row in rows if row)

    def job_of(self, store: Store, stage: Stage) -> str:
        """Id of the one job that was ever submitted for a stage."""
        told = [json.loads(file.read_text()) for file in store.home.glob("slurm/*/placed-*.json")]
        ids = [ids[stage.fingerprint] for ids in told if stage.fingerprint in ids]
        assert len(ids) == 1, f"{stage.name} was submitted {len(ids)} times"
        return str(ids[0])

    def end_daemon(self, name: str) -> None:
        """Kill the slurmd of `node1` or `node2` without a word, or have `slurmctld` end, as for a restart."""
        file = self.base / "run" / f"{name}.pid"
        process = psutil.Process(int(file.read_text()))
        process.terminate() if name == "slurmctld" else process.kill()
        process.wait(30)

    def lacks(self, name: str) -> bool:
        """Whether that process is gone."""
        return not psutil.pid_exists(int((self.base / "run" / f"{name}.pid").read_text()))

    def start_daemon(self, name: str) -> None:
        """Start it again."""
        self.ask(*(("slurmctld",) if name == "slurmctld" else ("slurmd", "-N", name)))

    def resume_nodes(self) -> None:
        """Take back nodes that Slurm has given up."""
        if "drain" in (told := self.ask("sinfo", "--noheader", "--format=%T")) or "down" in told:
            self.ask("scontrol", "update", "NodeName=node[1-2]", "State=RESUME", check=False)
