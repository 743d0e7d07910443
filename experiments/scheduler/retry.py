"""Retries: whether a stage that failed is tried again, on which machines, and the messages about that.

The numbers of each class of failures are in `store/failures.POLICIES`: a lost node allows 3 more tries, elsewhere.
"""

import re
import shutil
import signal
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from experiments.engines.base import JobState
from experiments.stages.kinds import STAGE_KINDS
from experiments.stages.stage import Stage
from experiments.store.attempt import Attempt, record_failure
from experiments.store.failures import POLICIES, Failure, FailureClass, Policy, Seen, classify
from experiments.store.process import this_process
from experiments.store.records import StageRecord
from experiments.worker.device import oom_kills_since

MIN_FREE_BYTES = 2**16
"""On a disk with less free space a worker may have been unable to write its error."""

CLASS_OF_OUTCOME: Mapping[str, FailureClass] = {
    "failed": "user_error",
    "diverged": "diverged",
    "cancelled": "storage",
    "interrupted": "preempted",
}
"""Failure class by the outcome of an attempt whose end names no class: an older worker's."""

ID_OF_JOB = re.compile(r"\b0x[0-9a-fA-F]+|\bStepId=[\w.]+|\S*/job\d+\b|\bjob \d[\d_]*|\d[\d_]*_0_log\.out")
"""Addresses, ids of jobs and their steps, and the paths that hold them: the same error has others in each job."""


@dataclass(slots=True)
class Tries:
    """Tries of one run at a stage, which decide whether and where there is another."""

    counts: Counter[FailureClass] = field(default_factory=Counter)
    saved: int = -1
    """Step of the newest checkpoint after the last try; -1 before the first."""
    fruitless: int = 0
    """Tries in a row that saved nothing new."""
    lost_on: tuple[str, ...] = ()
    """Host names of machines that were lost under the stage; engines that can keep its next try away from them."""

    @property
    def total(self) -> int:
        """Number of times that the stage ended without a result in this run."""
        return self.counts.total()

    def again(self, kind: FailureClass, *, before: int, saved: int, alike: int) -> bool:
        """Count another failure; return whether the policy of its class allows another try.

        Args:
            kind: its class.
            before: step of the newest checkpoint when the try was started.
            saved: step of the newest checkpoint now; 0 without one.
            alike: number of the newest attempts in a row, in all runs, that ended for this reason, this one included;
                0 if it ended before it made one.
        """
        policy = POLICIES[kind]
        furthest = before if policy.must_save and not self.total else self.saved
        self.counts[kind] += 1
        self.fruitless = 0 if saved > furthest else self.fruitless + 1
        self.saved = max(self.saved, saved)
        count = (alike or self.counts[kind]) if policy.ever else self.counts[kind]
        within = policy.retries is None or count <= policy.retries
        return within and (policy.stalls is None or self.fruitless <= policy.stalls)

    def avoid(self, failure: Failure) -> None:
        """Keep the next try away from the machine of a failure, where the policy of its class says so."""
        if POLICIES[failure.kind].elsewhere and failure.host:
            self.lost_on = tuple(dict.fromkeys([*self.lost_on, failure.host]))


def examine(job: JobState, record: StageRecord, newest: Attempt | None) -> Failure:
    """Return why a job ended without a result; `newest`: its attempt, None if it ended before it made one."""
    end = None if newest is None else newest.end
    recorded = None if end is None else end.failure or CLASS_OF_OUTCOME.get(end.outcome)
    kills = 0 if newest is None or end is not None else _oom_kills_during(newest)
    kind = classify(Seen(exit_code=job.exit_code, engine=job.reason, reported=recorded, oom_kills=kills))
    host = "" if newest is None or newest.owner.nodes > 1 else newest.owner.host
    if end is not None:
        cause = end.message if kind == recorded or not job.message else f"{job.message}; {end.message}"
        return Failure(kind=kind, cause=cause, traceback=end.traceback, host=host, blameless=job.blameless)
    if kind == "user_error":
        return Failure(kind=kind, cause=launch_error(record.directory, job), host=host)
    seen = f"; the kernel killed {kills} for want of memory meanwhile" if kills else ""
    return Failure(kind=kind, cause=killed_by(job) + seen, host=host, blameless=job.blameless)


def _oom_kills_during(attempt: Attempt) -> int:
    here, there = this_process(), attempt.owner
    same = (here.host, here.boot) == (there.host, there.boot)
    return oom_kills_since(there.oom_kills or {}) if same else 0


def killed_by(job: JobState) -> str:
    """Return why a job ended whose worker recorded nothing, as far as the engine knows."""
    if job.message:
        return job.message
    if job.exit_code is not None and job.exit_code < 0:
        return f"killed by {signal.Signals(-job.exit_code).name}"
    if job.exit_code is not None and job.exit_code > 128:
        return f"killed by {signal.Signals(job.exit_code - 128).name}"
    return "asked to stop from outside"


def launch_error(directory: Path, job: JobState) -> str:
    """Return why a worker ended that could not even claim its stage: the engine's message, else its own output."""
    if job.message:
        return job.message
    with suppress(OSError):
        if output := (directory / "launch.txt").read_text(errors="replace").strip():
            return output[-2000:]
    with suppress(OSError):
        if shutil.disk_usage(directory).free < MIN_FREE_BYTES:
            return f"{directory}: the disk is full; free some space, then give the same command again"
    return f"the worker ended with exit code {job.exit_code} and said nothing"


def signature(message: str, traceback: str) -> str:
    """Key of an error, equal in different stages: where it was raised and its type; without a traceback, all of it.

    Its message is left out where there is a traceback: it may hold a step, a path or an address.
    """
    frames = re.findall(r'^ +File ".*", line \d+, in .*$', traceback, re.MULTILINE)
    return "\n".join([*frames, message.partition(":")[0]]) if frames else ID_OF_JOB.sub("#", message)


def pause_message(first: Stage, second: Stage, failure: Failure) -> str:
    """Describe why a sweep pauses: two stages failed with the same error; and how it continues."""
    frames = re.findall(r'^ +(File ".*", line \d+, in .*)$', failure.traceback, re.MULTILINE)
    where = f" ({frames[-1]})" if frames else ""
    named = [f"{stage.name} {stage.fingerprint[:12]}" for stage in (first, second)]
    return (
        f"{' and '.join(named)} failed with the same error: {failure.cause}{where}; nothing new is started,"
        " what runs goes on."
        " Fix it, then give the same command with --retry-failed; without that, it goes on with the other"
        " stages, and with those that failed before they began"
    )


def count_alike(attempts: Sequence[Attempt], kind: str) -> int:
    """Count the newest attempts in a row that ended for this reason."""
    count = 0
    for attempt in reversed(attempts):
        if attempt.failed_as != kind:
            return count
        count += 1
    return count


def has_retries_left(stage: Stage, attempts: Sequence[Attempt]) -> bool:
    """Return whether an earlier driver would have tried a failed stage again, had it not ended before."""
    newest = attempts[-1].failed_as
    kind = next((kind for kind in POLICIES if kind == newest), None)
    if kind is None or not POLICIES[kind].ever or not may_help(POLICIES[kind], stage):
        return False
    return count_alike(attempts, kind) <= (POLICIES[kind].retries or 0)


def may_help(policy: Policy, stage: Stage) -> bool:
    """Return whether another try could end otherwise: an evaluation has no layers to recompute."""
    return not policy.recompute or STAGE_KINDS[stage.kind].trains


def difference_of_retry(failure: Failure) -> str:
    """Describe how the next try differs from the one that failed; empty if it does not."""
    if POLICIES[failure.kind].recompute:
        return " with layers computed again in the backward pass"
    if POLICIES[failure.kind].elsewhere and failure.host:
        return f", away from {failure.host} where the engine can"
    return ""


def final_message(failure: Failure, stage: Stage, newest: Attempt | None, *, tries: int, saved: int) -> str:
    """Describe why a stage is not tried again: after so many tries of this run, with a checkpoint of step `saved`."""
    policy = POLICIES[failure.kind]
    if policy.resumable:
        times = f"{tries} time{'s' if tries > 1 else ''}"
        return f"stopped {times}, no further than step {saved}: {failure.words}"
    if policy.recompute and may_help(policy, stage) and newest is not None:
        name, batch_size = f"{stage.kind}.batch_size", stage.settings[stage.kind].get("batch_size")
        return f"{failure.words}; {name} {batch_size} does not fit on {newest.owner.gpus} x {newest.owner.device_name}"
    return failure.words


def record_cancelled(attempt: Attempt | None, failure: Failure, done: str) -> None:
    """Record that an attempt was cancelled here, if there is one."""
    if attempt is not None:
        record_failure(attempt.directory, replace(failure, kind="cancelled"), done)
