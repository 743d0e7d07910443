"""Status of a home folder: each trial, each stage of it, and the active drivers."""

import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from experiments.engines.slurm.submissions import QueuedJob, QueuedJobs
from experiments.store.attempt import FAILURE, Attempt
from experiments.store.attempt_files import FAILED, FailureNote
from experiments.store.device_hours import Hours, stage_hours
from experiments.store.documents import StoreError, TrialDocument, read_document, read_point
from experiments.store.drivers import Driver, cancel_requests, living
from experiments.store.lookup import Catalog, Named
from experiments.store.records import StageRecord, StageState
from experiments.store.store import stage_record
from experiments.tracking.accounting import unaccounted

TrialWord = Literal["done", "running", "waiting", "failed", "stopped", "new"]

RATE_FROM_BYTES = 2**14
"""The end of a training's curve from which its rate is taken: some dozens of steps."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StageStanding:
    """One stage."""

    named: Named
    state: StageState
    """As the store has it; `resume`: a checkpoint waits; `unreadable`: its folder is damaged."""
    folder: Path
    driven: bool = False
    """A living driver looks after it."""
    asked_to_end: bool = False
    attempt: int = 0
    """Number of the newest; 0 before the first."""
    step: int = 0
    total: int = 0
    """0 before the first report of the stage."""
    rate: float | None = None
    """Steps per second lately; while it runs."""
    host: str = ""
    pid: int = 0
    slurm_job: str | None = None
    """That the newest attempt is or was, as squeue prints it."""
    message: str = ""
    """How the newest attempt or job ended, or what is wrong with the folder."""
    failure: str = ""
    """Class of that failure; empty if it has none."""
    hours: Hours | None = None
    """What it took so far; none before the first attempt, or where its folder cannot be read."""
    unit: str = ""
    """Of its hours."""
    peak_memory_bytes: int | None = None
    """Largest memory that the processes of an attempt held; None where it was not measured."""
    unsaved: float = 0.0
    """Of its lost hours, those of steps that the attempt that runs has not saved yet."""
    queued: QueuedJob | None = None
    """Its job in Slurm."""

    @property
    def where(self) -> str:
        """Where the newest attempt runs or ran, in words."""
        job = "" if self.slurm_job is None else f" (Slurm job {self.slurm_job})"
        return f"process {self.pid} on {self.host}{job}"

    @property
    def is_active(self) -> bool:
        """Whether a driver runs it, or will."""
        return self.driven and self.state in ("running", "new", "resume")

    @property
    def left_s(self) -> float | None:
        """Seconds until its last step at its recent rate; None if unknown."""
        return (self.total - self.step) / self.rate if self.rate and self.total else None

    def to_json(self) -> dict[str, Any]:
        """All of it in plain values."""
        return {
            "fingerprint": self.named.fingerprint,
            "state": self.state,
            "driven": self.driven,
            "asked_to_end": self.asked_to_end,
            "attempt": self.attempt,
            "step": self.step,
            "total": self.total,
            "steps_per_s": self.rate,
            "left_s": self.left_s,
            "host": self.host,
            "pid": self.pid,
            "slurm_job": self.slurm_job,
            "message": self.message,
            "failure": self.failure,
            "queued": None if self.queued is None else self.queued.words,
            "hours": self._hours_to_json(),
            "peak_memory_bytes": self.peak_memory_bytes,
            "folder": str(self.folder),
        }

    def _hours_to_json(self) -> dict[str, Any] | None:
        if self.hours is None:
            return None
        lost = {"lost": self.hours.lost - self.unsaved, "unsaved": self.unsaved}
        return asdict(self.hours) | lost | {"unit": self.unit}


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialStanding:
    """One trial."""

    document: TrialDocument
    stages: dict[str, StageStanding]
    """By the name that the trial has for it; two names may be of one stage."""

    @property
    def state(self) -> TrialWord:
        """`waiting`: a driver or Slurm will start it; `stopped`: begun, and no process works on it."""
        states = {stage.state for stage in self.stages.values()}
        if states == {"done"}:
            return "done"
        if states & {"failed", "unreadable"}:
            return "failed"
        if "running" in states:
            return "running"
        if any(stage.queued is not None and stage.queued.is_known for stage in self.stages.values()):
            return "waiting"
        if any(stage.driven for stage in self.stages.values() if stage.state != "done"):
            return "waiting"
        return "stopped" if any(stage.attempt for stage in self.stages.values()) else "new"

    def to_json(self) -> dict[str, Any]:
        """All of it in plain values."""
        identity = {key: self.document.raw[key] for key in ("sweep", "scale", "variant", "seed")}
        return identity | {
            "stages": {name: stage.state for name, stage in self.stages.items()},
            "state": self.state,
            "detail": {name: stage.to_json() for name, stage in self.stages.items()},
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class HomeStatus:
    """A home folder at one moment."""

    catalog: Catalog
    trials: list[TrialStanding]
    drivers: list[Driver]
    stages: dict[str, StageStanding] = field(repr=False)
    """Every stage of the trials once, by fingerprint."""

    @property
    def at_work(self) -> bool:
        """Whether something runs, or a driver or Slurm will start something."""
        queued = (stage.queued for stage in self.stages.values())
        return (
            bool(self.drivers)
            or any(self.in_state(StageState.RUNNING))
            or any(job is not None and job.is_known for job in queued)
        )

    def in_state(self, *states: StageState) -> Iterator[StageStanding]:
        """The stages in one of these states."""
        return (stage for stage in self.stages.values() if stage.state in states)

    def by_sweep(self) -> dict[tuple[str, str], list[TrialStanding]]:
        """The trials by sweep and scale, in the order in which they were first asked for."""
        found: dict[tuple[str, str], list[TrialStanding]] = {}
        for trial in self.trials:
            found.setdefault((trial.document.sweep, trial.document.scale), []).append(trial)
        for trials in found.values():
            trials.sort(key=lambda trial: (trial.document.position, trial.document.seed))
        return found


class Observer:
    """Looks at a home folder, again and again; what is done, and what it took is known for good, is read once."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._done: dict[str, StageStanding] = {}
        self._jobs = QueuedJobs(home)

    def look(self) -> HomeStatus:
        """Where everything stands now.

        Raises:
            StoreError: a trial's or a driver's document cannot be read.
        """
        catalog, drivers = Catalog(self._home), living(self._home)
        driven = {fingerprint for driver in drivers for fingerprint in driver.fingerprints}
        ending = cancel_requests(self._home).keys()
        stages = {
            f: self._stage(catalog, named, f in driven, f in ending and f in driven)
            for f, named in catalog.stages.items()
        }
        waiting = [f for f, stage in stages.items() if stage.state in ("new", "resume")]
        for fingerprint, job in self._jobs.of(waiting).items():
            if job.is_known or not stages[fingerprint].driven:  # a driver may have it run elsewhere since
                stages[fingerprint] = replace(stages[fingerprint], queued=job)
        trials = [
            TrialStanding(document=d, stages={stage.name: stages[stage.fingerprint] for stage in d.stages})
            for d in catalog.documents
        ]
        return HomeStatus(catalog=catalog, trials=trials, drivers=drivers, stages=stages)

    def _stage(self, catalog: Catalog, named: Named, driven: bool, ending: bool) -> StageStanding:
        known = self._done.get(named.fingerprint)
        if known is not None and (known.folder / "result.json").exists():
            return known
        folder = catalog.directory(named)
        try:
            facts = stage_record(self._home, named.kind, named.fingerprint)
            if facts is None:
                found = StageStanding(
                    named=named, state=StageState.NEW, folder=folder, driven=driven, asked_to_end=ending
                )
                return _ended_early(found, read_document(folder / FAILURE, FAILED))
            found = _ended_early(_standing(named, facts, folder, driven, ending), facts.early)
        except StoreError as error:
            return StageStanding(
                named=named, state=StageState.UNREADABLE, folder=folder, driven=driven, message=str(error)
            )
        if found.state == "done" and facts.attempts[-1].end is not None and not unaccounted(facts.attempts):
            self._done[named.fingerprint] = found
        return found


def _standing(named: Named, facts: StageRecord, folder: Path, driven: bool, ending: bool) -> StageStanding:
    attempt = facts.attempts[-1]
    state, last = facts.state, attempt.last
    return StageStanding(
        named=named,
        state=state,
        folder=folder,
        driven=driven and state != "done",
        asked_to_end=ending and state != "done",
        attempt=attempt.number,
        step=last.step,
        total=last.total,
        rate=recent_rate(attempt) if state == "running" else None,
        host=attempt.owner.host,
        pid=attempt.owner.pid,
        slurm_job=attempt.slurm_job,
        message=_message(attempt) if state not in ("done", "running") else "",
        failure=(attempt.failed_as or "") if state != "done" else "",
        hours=facts.hours,
        unit=facts.host.unit,
        peak_memory_bytes=facts.peak_memory_bytes,
        unsaved=_unsaved(facts) if state == "running" else 0.0,
    )


def _ended_early(stage: StageStanding, failure: FailureNote | None) -> StageStanding:
    """A stage of which the latest job ended before it made an attempt."""
    if failure is None or stage.state in ("done", "running"):
        return stage
    return replace(stage, message=failure.words, failure=failure.kind)


def _unsaved(facts: StageRecord) -> float:
    """Lost hours of a stage that it had not lost before its newest attempt, which may yet save them."""
    return max(0.0, facts.hours.lost - stage_hours(facts.attempts[:-1], None).lost)


def _message(attempt: Attempt) -> str:
    if attempt.failure is not None:
        return attempt.failure.words
    return "" if attempt.end is None else attempt.end.message


def recent_rate(attempt: Attempt) -> float | None:
    """Steps per second by the end of an attempt's curve; none before its second step."""
    try:
        with (attempt.directory / "metrics.jsonl").open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - RATE_FROM_BYTES))
            lines = file.read().split(b"\n")
    except FileNotFoundError:
        return None
    whole = lines[:-1] if size <= RATE_FROM_BYTES else lines[1:-1]  # the first may be cut, the last half written
    points = [read_point(line, attempt.directory / "metrics.jsonl") for line in (*whole[:1], *whole[-1:])]
    if len(points) < 2 or points[1].time <= points[0].time:
        return None
    return (points[1].step - points[0].step) / (points[1].time - points[0].time)
