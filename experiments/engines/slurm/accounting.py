"""Slurm's accounting (slurmdbd) of jobs that are over: one query for many; none where a cluster keeps no accounts."""

import logging
import math
import os
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from experiments.engines.slurm.commands import CommandError, MissingCommandError, output_of
from experiments.engines.slurm.queue import PACE

CLOCKS_S = 60.0
"""Maximum difference of the clocks of Slurm's controller and of the nodes, as the leases require too."""
BATCH_SIZE = 1000
"""Jobs in one query."""
DISABLED = "accounting storage is disabled"
"""Printed by sacct where a cluster keeps no accounts."""
NEVER = math.inf
"""Start of a run that waits for it, or was cancelled before."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class JobRun:
    """One run of a job; a job that is queued again has another."""

    job: str
    """Its id as squeue prints it, `7_1` in an array."""
    state: str
    start: float
    """Seconds since 1970 by the clock of Slurm's controller."""
    end: float | None
    """None while it runs."""
    cpu_s: float | None
    """User and system seconds of what srun started in it; None where the cluster gathers none."""


class Sacct:
    """Slurm's accounting, queried at the pace of all queries of this process; one lasts `limit_s` at most."""

    def __init__(self, limit_s: float | None = None) -> None:
        self._limit_s = limit_s
        self._environment = os.environ | {"SLURM_TIME_FORMAT": "%s"}  # else times are of the time zone of this machine
        self._problem = ""
        self.is_off = False
        """Whether there is no accounting; then there are no more queries."""
        self.queries = 0
        """Number of queries so far."""

    def query(self, jobs: Collection[str]) -> list[JobRun]:
        """Every run of some jobs that has begun, and of others of their arrays; a problem is logged once."""
        numbers = sorted({job.partition("_")[0] for job in jobs}, key=int)
        runs: list[JobRun] = []
        for first in range(0, len(numbers), BATCH_SIZE):
            if self.is_off:
                break
            problem = ""
            try:
                runs += read_sacct(self._output(numbers[first : first + BATCH_SIZE]))
            except CommandError as error:
                self.is_off = isinstance(error, MissingCommandError) or DISABLED in str(error)
                problem = "" if self.is_off else str(error)
            if problem and not self._problem:
                _log.warning(
                    "Slurm's accounting does not answer (%s); it is queried again, also by `smaug sync`: until then"
                    " the hours of attempts that died are estimates",
                    problem,
                )
            self._problem = problem
            if problem:
                break  # each further batch might take as long
        return runs

    def _output(self, numbers: list[str]) -> str:
        # No --starttime: of jobs that are named sacct lists all runs since 1970.
        options = ("--noheader", "--parsable2", "--duplicates", f"--jobs={','.join(numbers)}")
        PACE.wait()
        self.queries += 1
        columns = "--format=JobID,State,Start,End,TotalCPU"
        return output_of("sacct", *options, columns, limit_s=self._limit_s, environment=self._environment)


def read_sacct(text: str) -> list[JobRun]:
    """The runs in sacct's answer, of which each line is `ID|STATE|START|END|CPU TIME`; those that have begun.

    The steps of a run follow it. Of them those count that srun started, `7_1.0`: what the batch script takes itself
    (`7_1.batch`) is srun's own time.
    """
    runs: list[JobRun] = []
    for line in text.splitlines():
        if line.count("|") < 4:
            continue
        name, state, start, end, cpu = line.strip().split("|")[:5]
        job, _, step = name.partition(".")
        if not step:
            began = float(start) if start.isdecimal() else NEVER
            over = float(end) if end.isdecimal() else None
            runs.append(JobRun(job, state.partition(" ")[0], began, over, None))
        elif step.isdecimal() and runs and runs[-1].job == job:
            runs[-1] = replace(runs[-1], cpu_s=(runs[-1].cpu_s or 0.0) + seconds_of(cpu) or None)
    return [run for run in runs if run.start != NEVER]


def seconds_of(text: str) -> float:
    """A time as sacct prints it, `[D-][HH:]MM:SS[.mmm]`, in seconds; 0 for other text."""
    match = re.fullmatch(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+(?:\.\d+)?)", text)
    if match is None:
        return 0.0
    days, hours, minutes = (int(part or 0) for part in match.groups()[:3])
    return ((days * 24 + hours) * 60 + minutes) * 60 + float(match[4])


def by_job(runs: Iterable[JobRun]) -> Mapping[str, list[JobRun]]:
    """The runs of each job, oldest first."""
    grouped: dict[str, list[JobRun]] = {}
    for run in sorted(runs, key=lambda run: run.start):
        grouped.setdefault(run.job, []).append(run)
    return grouped


def run_at(runs: Sequence[JobRun], moment: float, restart: int) -> JobRun | None:
    """The run of a job, of its runs oldest first, in which something happened at a moment; None if no run is near.

    A controller that lost its memory gives ids again, and a database forgets what is old, so the moment decides.
    Where two runs lie close, the number of restarts helps: as many runs were before.
    """

    def away_s(run: JobRun) -> float:
        return max(run.start - moment, 0.0 if run.end is None else moment - run.end, 0.0)

    for candidates in (runs[restart:], runs):
        near = [run for run in candidates if away_s(run) <= CLOCKS_S]
        if near:
            return min(near, key=away_s)
    return None
