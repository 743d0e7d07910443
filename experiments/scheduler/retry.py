"""Failures: the cause of a job's end without a result, and whether its stage is tried again."""

import re
import shutil
import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from experiments.engines.base import JobState
from experiments.stages.kinds import STAGE_KINDS
from experiments.stages.stage import Stage
from experiments.store.attempt import Attempt, record_failure
from experiments.store.failures import POLICIES, Failure, FailureClass, Policy, Seen, classify
from experiments.store.process import this_process
from experiments.store.records import StageRecord
from experiments.worker.device import oom_kills_since

ROOM_FOR_WORDS = 2**16
"""On a disk with fewer bytes left a worker may have been unable to say what is wrong."""

OF_ENDS: Mapping[str, FailureClass] = {
    "failed": "user_error",
    "diverged": "diverged",
    "cancelled": "storage",
    "interrupted": "preempted",
}
"""What an attempt's end means that names no class: an older worker's."""


def examine(job: JobState, record: StageRecord, newest: Attempt | None) -> Failure:
    """What became of a job; `newest`: its attempt, none if it ended before it could claim the stage."""
    end = None if newest is None else newest.end
    recorded = None if end is None else end.failure or OF_ENDS.get(end.outcome)
    kills = 0 if newest is None or end is not None else _oom_kills_during(newest)
    kind = classify(Seen(exit_code=job.exit_code, engine=job.reason, reported=recorded, oom_kills=kills))
    host = "" if newest is None or newest.owner.nodes > 1 else newest.owner.host
    if end is not None:
        cause = end.message if kind == recorded or not job.message else f"{job.message}; {end.message}"
        return Failure(kind=kind, cause=cause, traceback=end.traceback, host=host, blameless=job.blameless)
    if kind == "user_error":
        return Failure(kind=kind, cause=last_words(record.directory, job), host=host)
    seen = f"; the kernel killed {kills} for want of memory meanwhile" if kills else ""
    return Failure(kind=kind, cause=killed_by(job) + seen, host=host, blameless=job.blameless)


def _oom_kills_during(attempt: Attempt) -> int:
    here, there = this_process(), attempt.owner
    same = (here.host, here.boot) == (there.host, there.boot)
    return oom_kills_since(there.oom_kills or {}) if same else 0


def killed_by(job: JobState) -> str:
    """Why a job ended without a word, as far as the engine knows."""
    if job.message:
        return job.message
    if job.exit_code is not None and job.exit_code < 0:
        return f"killed by {signal.Signals(-job.exit_code).name}"
    if job.exit_code is not None and job.exit_code > 128:
        return f"killed by {signal.Signals(job.exit_code - 128).name}"
    return "asked to stop from outside"


def last_words(directory: Path, job: JobState) -> str:
    """Why a worker ended that could not even claim its stage: in the engine's words, else in its own."""
    if job.message:
        return job.message
    with suppress(OSError):
        if said := (directory / "launch.txt").read_text(errors="replace").strip():
            return said[-2000:]
    with suppress(OSError):
        if shutil.disk_usage(directory).free < ROOM_FOR_WORDS:
            return f"{directory}: the disk is full; free some space, then give the same command again"
    return f"the worker ended with exit code {job.exit_code} and said nothing"


def pause_of(first: Stage, second: Stage, failure: Failure) -> str:
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


def alike(attempts: Sequence[Attempt], kind: str) -> int:
    """How many of the newest attempts in a row ended for this reason."""
    count = 0
    for attempt in reversed(attempts):
        if attempt.failed_as != kind:
            return count
        count += 1
    return count


def is_owed_a_try(stage: Stage, attempts: Sequence[Attempt]) -> bool:
    """Whether a driver that was ended before it could would have tried a failed stage again."""
    newest = attempts[-1].failed_as
    kind = next((kind for kind in POLICIES if kind == newest), None)
    if kind is None or not POLICIES[kind].ever or not helps(POLICIES[kind], stage):
        return False
    return alike(attempts, kind) <= (POLICIES[kind].retries or 0)


def helps(policy: Policy, stage: Stage) -> bool:
    """Whether another try could end otherwise: an evaluation has no layers to compute again."""
    return not policy.recompute or STAGE_KINDS[stage.kind].trains


def next_try(failure: Failure) -> str:
    """How the next try differs from this one; empty if it does not."""
    if POLICIES[failure.kind].recompute:
        return " with layers computed again in the backward pass"
    if POLICIES[failure.kind].elsewhere and failure.host:
        return f", away from {failure.host} where the engine can"
    return ""


def given_up(failure: Failure, stage: Stage, newest: Attempt | None, *, tries: int, saved: int) -> str:
    """Describe why a stage is not tried again: after so many tries of this run, with a checkpoint of step `saved`."""
    policy = POLICIES[failure.kind]
    if policy.resumable:
        times = f"{tries} time{'s' if tries > 1 else ''}"
        return f"stopped {times}, no further than step {saved}: {failure.words}"
    if policy.recompute and helps(policy, stage) and newest is not None:
        name, batch_size = f"{stage.kind}.batch_size", stage.settings[stage.kind].get("batch_size")
        return f"{failure.words}; {name} {batch_size} does not fit on {newest.owner.gpus} x {newest.owner.device_name}"
    return failure.words


def record_cancelled(attempt: Attempt | None, failure: Failure, done: str) -> None:
    """Record that an attempt was cancelled here, if there is one."""
    if attempt is not None:
        record_failure(attempt.directory, replace(failure, kind="cancelled"), done)
