"""What Slurm's accounting (slurmdbd) says of jobs that are over: one question for many, and none where it is off."""

import logging
import math
import os
import re
import subprocess
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from experiments.engines.slurm.queue import PACE, QUERY_LIMIT_S

CLOCKS_S = 60.0
"""The clocks of Slurm's controller and of the nodes agree to so much, as the leases ask of them too."""
MOST_AT_ONCE = 1000
"""Jobs in one question; the others are asked about in the next."""
DISABLED = "accounting storage is disabled"
"""What sacct says where a cluster keeps no accounts."""
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
    """Seconds since 1970; as Slurm's controller saw it."""
    end: float | None
    """None while it runs."""
    cpu_s: float | None
    """User and system seconds of what srun started in it; none where the cluster gathers none."""


class Sacct:
    """Asks Slurm's accounting, in turns with whoever else of this process asks Slurm."""

    def __init__(self) -> None:
        self._environment = os.environ | {"SLURM_TIME_FORMAT": "%s"}  # else times are of the time zone of this machine
        self._complained = ""
        self.is_off = False
        """It is known that there is no accounting; then nothing is asked any more."""
        self.queries = 0
        """Asked so far."""

    def ask(self, jobs: Collection[str]) -> list[JobRun]:
        """Every run of some jobs, and of others of their arrays, that has begun; each question waits for its turn.

        Where there is no answer that is told, once.
        """
        numbers = sorted({job.partition("_")[0] for job in jobs}, key=int)
        found: list[JobRun] = []
        for first in range(0, len(numbers), MOST_AT_ONCE):
            if not self.is_off:
                found += read_sacct(self._answer(numbers[first : first + MOST_AT_ONCE]))
        return found

    def _answer(self, numbers: list[str]) -> str:
        """What sacct prints of some jobs; nothing where it does not answer."""
        # No --starttime: of jobs that are named sacct tells all runs since 1970.
        command = ["sacct", "--noheader", "--parsable2", "--duplicates", f"--jobs={','.join(numbers)}"]
        PACE.wait()
        self.queries += 1
        try:
            ran = subprocess.run(
                [*command, "--format=JobID,State,Start,End,TotalCPU"],
                capture_output=True,
                text=True,
                timeout=QUERY_LIMIT_S,
                env=self._environment,
                check=False,
            )
        except FileNotFoundError:
            self.is_off = True
            return ""
        except (OSError, subprocess.TimeoutExpired) as error:
            self._complain(str(error))
            return ""
        if ran.returncode != 0:
            self.is_off = DISABLED in ran.stderr + ran.stdout
            self._complain("" if self.is_off else ran.stderr.strip())
            return ""
        self._complain("")
        return ran.stdout

    def _complain(self, why: str) -> None:
        if why and not self._complained:
            _log.warning(
                "Slurm's accounting does not answer (%s); it is asked again, and by `smaug sync`: until then the hours"
                " of attempts that died are estimates",
                why,
            )
        self._complained = why


def read_sacct(text: str) -> list[JobRun]:
    """The runs in sacct's answer, of which each line is `ID|STATE|START|END|CPU TIME`; those that have begun.

    The steps of a run follow it. Of them those count that srun started, `7_1.0`: what the batch script takes itself
    (`7_1.batch`) is srun's own time.
    """
    found: list[JobRun] = []
    for line in text.splitlines():
        if line.count("|") < 4:
            continue
        name, state, start, end, cpu = line.strip().split("|")[:5]
        job, _, step = name.partition(".")
        if not step:
            began = float(start) if start.isdecimal() else NEVER
            over = float(end) if end.isdecimal() else None
            found.append(JobRun(job, state.partition(" ")[0], began, over, None))
        elif step.isdecimal() and found and found[-1].job == job:
            run = found[-1]
            found[-1] = replace(run, cpu_s=(run.cpu_s or 0.0) + seconds_of(cpu) or None)
    return [run for run in found if run.start != NEVER]


def seconds_of(text: str) -> float:
    """A time as sacct prints it, `[D-][HH:]MM:SS[.mmm]`; 0 of what is none."""
    match = re.fullmatch(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+(?:\.\d+)?)", text)
    if match is None:
        return 0.0
    days, hours, minutes = (int(part or 0) for part in match.groups()[:3])
    return ((days * 24 + hours) * 60 + minutes) * 60 + float(match[4])


def by_job(runs: Iterable[JobRun]) -> Mapping[str, list[JobRun]]:
    """The runs of each job, the first one first."""
    found: dict[str, list[JobRun]] = {}
    for run in sorted(runs, key=lambda run: run.start):
        found.setdefault(run.job, []).append(run)
    return found


def run_at(runs: Sequence[JobRun], moment: float, restart: int) -> JobRun | None:
    """The run of a job in which something happened at a moment; none if no run is near.

    A controller that lost its memory gives ids again, and a database forgets what is old, so the moment decides; that
    before the run after `restart` requeues there were as many others helps where two lie close.

    Args:
        runs: of one id, the first one first.
        moment: seconds since 1970 by the clock of the node.
        restart: how often the job had been queued again.
    """

    def away_s(run: JobRun) -> float:
        return max(run.start - moment, 0.0 if run.end is None else moment - run.end, 0.0)

    for candidates in (runs[restart:], runs):
        near = [run for run in candidates if away_s(run) <= CLOCKS_S]
        if near:
            return min(near, key=away_s)
    return None
