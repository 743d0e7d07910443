"""Status of a home folder: each trial, each stage of it, and the active drivers."""

import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from experiments.engines.slurm.submissions import QueuedJob, QueuedJobs
from experiments.store.attempt import FAILURE, Attempt
from experiments.store.attempt_files import FAILED, FailureNote
from experiments.store.device_hours import stage_hours
from experiments.store.documents import StoreError, TrialDocument, read_document, read_point
from experiments.store.drivers import Driver, cancel_requests, living
from experiments.store.lookup import Catalog, Named
from experiments.store.records import StageRecord, StageState
from experiments.store.store import stage_record
from experiments.tracking.accounting import unaccounted

TrialWord = Literal["done", "running", "waiting", "failed", "stopped", "new"]

RATE_FROM_BYTES = 2**14
"""Length of the end of a training's curve that its rate is computed from: some dozens of steps."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StageStatus:
    """Status of a stage: its record, and the driver and the Slurm job that look after it."""

    named: Named
    folder: Path
    record: StageRecord | None = None
    """None before the first attempt, or if the folder is damaged."""
    damage: str = ""
    """Error of a damaged folder; empty if there is none."""
    early: FailureNote | None = None
    """Failure of its latest job, if that made no attempt and the stage neither runs nor is done."""
    driven: bool = False
    """An active driver looks after it."""
    asked_to_end: bool = False
    rate: float | None = None
    """Recent steps per second, while it runs."""
    queued: QueuedJob | None = None
    """Its job in Slurm."""

    @property
    def state(self) -> StageState:
        """State in the store; `unreadable`: its folder is damaged."""
        if self.record is not None:
            return self.record.state
        return StageState.UNREADABLE if self.damage else StageState.NEW

    @property
    def attempt(self) -> Attempt | None:
        """The newest attempt; None before the first."""
        return None if self.record is None else self.record.attempts[-1]

    @property
    def where(self) -> str:
        """Process and host of the newest attempt, in words."""
        assert self.attempt is not None
        job = "" if self.attempt.slurm_job is None else f" (Slurm job {self.attempt.slurm_job})"
        return f"process {self.attempt.owner.pid} on {self.attempt.owner.host}{job}"

    @property
    def is_active(self) -> bool:
        """True if a driver runs it, or will."""
        return self.driven and self.state in ("running", "new", "resume")

    @property
    def left_s(self) -> float | None:
        """Seconds until its last step at its recent rate; None if unknown."""
        if self.attempt is None or not self.rate or not self.attempt.last.total:
            return None
        return (self.attempt.last.total - self.attempt.last.step) / self.rate

    @property
    def message(self) -> str:
        """End of the newest attempt or job in words, or the damage of its folder; empty if it runs or is done."""
        if self.attempt is None or self.state in ("done", "running"):
            return self.damage if self.early is None else self.early.words
        if (note := self.early or self.attempt.failure) is not None:
            return note.words
        return "" if self.attempt.end is None else self.attempt.end.message

    @property
    def failure(self) -> str:
        """Class of that failure; empty if it has none."""
        if self.early is not None:
            return self.early.kind
        return "" if self.attempt is None or self.state == "done" else self.attempt.failed_as or ""

    @property
    def unsaved(self) -> float:
        """Lost hours that a running stage had not lost before its newest attempt, which may yet save them."""
        if self.record is None or self.state != "running":
            return 0.0
        return max(0.0, self.record.hours.lost - stage_hours(self.record.attempts[:-1], None).lost)

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON holds it."""
        attempt, record = self.attempt, self.record
        return {
            "fingerprint": self.named.fingerprint,
            "state": self.state,
            "driven": self.driven,
            "asked_to_end": self.asked_to_end,
            "attempt": 0 if attempt is None else attempt.number,
            "step": 0 if attempt is None else attempt.last.step,
            "total": 0 if attempt is None else attempt.last.total,
            "steps_per_s": self.rate,
            "left_s": self.left_s,
            "host": "" if attempt is None else attempt.owner.host,
            "pid": 0 if attempt is None else attempt.owner.pid,
            "slurm_job": None if attempt is None else attempt.slurm_job,
            "message": self.message,
            "failure": self.failure,
            "queued": None if self.queued is None else self.queued.words,
            "hours": None if record is None else self._hours_to_json(record),
            "peak_memory_bytes": None if record is None else record.peak_memory_bytes,
            "folder": str(self.folder),
        }

    def _hours_to_json(self, record: StageRecord) -> dict[str, Any]:
        lost = {"lost": record.hours.lost - self.unsaved, "unsaved": self.unsaved}
        return asdict(record.hours) | lost | {"unit": record.host.unit}


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialStatus:
    """Status of a trial."""

    document: TrialDocument
    stages: dict[str, StageStatus]
    """By their names in the trial; a stage may have two."""

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
        """Return it as JSON holds it."""
        identity = {key: self.document.raw[key] for key in ("sweep", "scale", "variant", "seed")}
        return identity | {
            "stages": {name: stage.state for name, stage in self.stages.items()},
            "state": self.state,
            "detail": {name: stage.to_json() for name, stage in self.stages.items()},
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class HomeStatus:
    """Status of a home folder at one moment."""

    catalog: Catalog
    trials: list[TrialStatus]
    drivers: list[Driver]
    stages: dict[str, StageStatus] = field(repr=False)
    """Every stage of the trials once, by fingerprint."""

    @property
    def is_active(self) -> bool:
        """True if something runs, or a driver or Slurm will start something."""
        queued = (stage.queued for stage in self.stages.values())
        return (
            bool(self.drivers)
            or any(self.in_state(StageState.RUNNING))
            or any(job is not None and job.is_known for job in queued)
        )

    def in_state(self, *states: StageState) -> Iterator[StageStatus]:
        """The stages in one of these states."""
        return (stage for stage in self.stages.values() if stage.state in states)

    def by_sweep(self) -> dict[tuple[str, str], list[TrialStatus]]:
        """The trials by sweep and scale, in the order in which they were first requested."""
        sweeps: dict[tuple[str, str], list[TrialStatus]] = {}
        for trial in self.trials:
            sweeps.setdefault((trial.document.sweep, trial.document.scale), []).append(trial)
        for trials in sweeps.values():
            trials.sort(key=lambda trial: (trial.document.position, trial.document.seed))
        return sweeps


class Observer:
    """Polls a home folder; stages that are done, and whose hours are final, are read once."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._done: dict[str, StageStatus] = {}
        self._jobs = QueuedJobs(home)

    def poll(self) -> HomeStatus:
        """Return the status now.

        Raises:
            StoreError: a trial's or a driver's document cannot be read.
        """
        catalog, drivers = Catalog(self._home), living(self._home)
        driven = {fingerprint for driver in drivers for fingerprint in driver.fingerprints}
        cancelled = cancel_requests(self._home).keys() & driven
        stages = {
            f: self._stage(catalog, named, driven=f in driven, asked_to_end=f in cancelled)
            for f, named in catalog.stages.items()
        }
        waiting = [f for f, stage in stages.items() if stage.state in ("new", "resume")]
        for fingerprint, job in self._jobs.of(waiting).items():
            if job.is_known or not stages[fingerprint].driven:  # a driver may have it run elsewhere since
                stages[fingerprint] = replace(stages[fingerprint], queued=job)
        trials = [
            TrialStatus(document=d, stages={stage.name: stages[stage.fingerprint] for stage in d.stages})
            for d in catalog.documents
        ]
        return HomeStatus(catalog=catalog, trials=trials, drivers=drivers, stages=stages)

    def _stage(self, catalog: Catalog, named: Named, *, driven: bool, asked_to_end: bool) -> StageStatus:
        known = self._done.get(named.fingerprint)
        if known is not None and (known.folder / "result.json").exists():
            return known
        status = StageStatus(named=named, folder=catalog.directory(named), driven=driven, asked_to_end=asked_to_end)
        try:
            record = stage_record(self._home, named.kind, named.fingerprint)
            if record is None:
                return replace(status, early=read_document(status.folder / FAILURE, FAILED))
            if record.state == StageState.DONE:
                status = replace(status, record=record, driven=False, asked_to_end=False)
                if record.attempts[-1].end is not None and not unaccounted(record.attempts):
                    self._done[named.fingerprint] = status
                return status
            rate = recent_rate(record.attempts[-1]) if record.state == StageState.RUNNING else None
            return replace(status, record=record, early=record.early, rate=rate)
        except StoreError as error:
            return replace(status, damage=str(error), asked_to_end=False)


def recent_rate(attempt: Attempt) -> float | None:
    """Return the steps per second at the end of an attempt's curve; None before its second step."""
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
