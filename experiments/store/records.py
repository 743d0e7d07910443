"""Records of stages and trials: what their files hold, wherever they were read from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

from experiments.stages.kinds import PRETRAININGS, TRAININGS
from experiments.stages.stage import digest
from experiments.store.attempt import Attempt
from experiments.store.attempt_files import FailureNote, Owner
from experiments.store.device_hours import Hours, energy_kwh, is_corrected, peak_memory_bytes, stage_hours
from experiments.store.documents import CurvePoint, Prediction, Result, StageDocument, TrialDocument, TrialStage
from experiments.store.examples import Gallery
from experiments.store.failures import POLICIES
from smaug_core.stage_protocol import EVALUATE, KINDS, PRETRAIN

RunStatus = Literal["RUNNING", "FINISHED", "FAILED", "KILLED"]
"""Status of a run in MLflow; `KILLED`: neither done nor failed, and no process works on it."""


class StageState(StrEnum):
    """State of a stage, by the word that `smaug status --json` prints."""

    NEW = "new"
    RESUME = "resume"
    """It has a checkpoint to continue from."""
    RUNNING = "running"
    FAILED = "failed"
    """Another attempt alone would not help."""
    DONE = "done"
    UNREADABLE = "unreadable"
    """Its folder is damaged."""


PlanState = Literal["cached", "stale", "new", "resume", "running", "failed", "unreadable"]


class StateWords(NamedTuple):
    """Words for a state of a stage, outside the store."""

    plan: PlanState
    """In a plan, and in the events of a run; a done stage whose code has changed since is `stale`."""
    mlflow: RunStatus


WORDS_OF_STATE: Mapping[StageState, StateWords] = {
    StageState.NEW: StateWords("new", "KILLED"),
    StageState.RESUME: StateWords("resume", "KILLED"),
    StageState.RUNNING: StateWords("running", "RUNNING"),
    StageState.FAILED: StateWords("failed", "FAILED"),
    StageState.DONE: StateWords("cached", "FINISHED"),
    StageState.UNREADABLE: StateWords("unreadable", "FAILED"),
}

ESTIMATED = "estimated hours"
"""Flag of a trial with an attempt that died: the time of its end is estimated."""

NO_GPUS = "a stage held no GPUs: nothing counts the energy of processors"
"""Reason why the energy of a stage on processors is unknown."""

NOT_COUNTED = "attempts at a stage told no count of their GPUs"
"""Reason why the energy of some attempts is unknown; MLflow and committed records hold it."""

RECOMPUTED = "layers recomputed"
"""Flag of a trial with activation checkpointing in a training that did not fit into memory: it took longer for that."""

STARVED = "waited for data"
"""Flag of a trial of which a training waited for its loader processes for more than `MOST_LOADER_WAIT`."""
MOST_LOADER_WAIT = 0.1
"""Share of the useful hours; more says how fast media are read, not how fast the model trains."""


class Details(Protocol):
    """The large files of a stage, read on demand."""

    def prediction(self) -> Prediction | None:
        """Hours predicted before it began; None if there was no prediction."""
        ...

    def curve(self) -> list[CurvePoint]:
        """Reported points, oldest step first."""
        ...

    def ranks(self) -> dict[str, dict[str, int]] | None:
        """Rank of every query's answer by direction, `t2v` and `v2t`; None without a finished evaluation."""
        ...

    def gallery(self) -> Gallery | None:
        """Example pictures; None where no attempt was made at any."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class StageRecord:
    """A stage: what is asked for, the attempts at it, and its result."""

    directory: Path
    document: StageDocument
    state: StageState
    attempts: Sequence[Attempt]
    """Oldest first."""
    result: Result | None
    """None until the stage is done."""
    details: Details
    early: FailureNote | None = None
    """Why its latest job ended before it made an attempt; None if it made one."""

    @property
    def fingerprint(self) -> str:
        """All 64 digits."""
        return self.document.fingerprint

    @property
    def status(self) -> RunStatus:
        """Status of its run in MLflow."""
        return "FAILED" if _failed(self.early) else WORDS_OF_STATE[self.state].mlflow

    @property
    def hours(self) -> Hours:
        """Device hours so far."""
        return stage_hours(self.attempts, None if self.result is None else self.result.useful_s)

    @property
    def unit(self) -> str | None:
        """Unit of its hours, e.g. `CPU h`; None before the first attempt."""
        return self.attempts[-1].owner.unit if self.attempts else None

    @property
    def num_corrected(self) -> int:
        """Number of attempts whose hours come from Slurm's accounting."""
        return sum(map(is_corrected, self.attempts))

    @property
    def energy_kwh(self) -> float | None:
        """Energy of its GPUs in all attempts; None where it was not measured."""
        return energy_kwh(self.attempts)

    @property
    def peak_memory_bytes(self) -> int | None:
        """Largest memory that the processes of an attempt held; None where it was not measured."""
        return peak_memory_bytes(self.attempts)

    @property
    def no_energy(self) -> str:
        """Reason why the energy is unknown; empty if it is known."""
        if self.energy_kwh is not None:
            return ""
        if not any(attempt.owner.gpus for attempt in self.attempts):
            return NO_GPUS
        lacking = sum(attempt.last.joules is None for attempt in self.attempts)
        return f"{lacking} of {len(self.attempts)} {NOT_COUNTED}"

    @property
    def gallery(self) -> Gallery | None:
        """Example pictures of what it learnt; None before it is done, or where no attempt was made at any."""
        return None if self.result is None else self.details.gallery()

    @property
    def host(self) -> Owner:
        """Device and machine of the attempt that made the result, else of the newest."""
        made_by = self.attempts[-1].number if self.result is None else self.result.attempt
        newest = self.attempts[-1].owner  # where the attempt that made it was archived, its folder being damaged
        return next((attempt.owner for attempt in self.attempts if attempt.number == made_by), newest)

    @property
    def started(self) -> float:
        """Start of the first attempt, seconds since 1970."""
        return self.attempts[0].owner.started

    @property
    def last_sign(self) -> float:
        """Time of its last heartbeat or end, seconds since 1970."""
        return max(
            [attempt.last.time for attempt in self.attempts] + ([] if self.result is None else [self.result.time])
        )

    def account(self) -> list[dict[str, Any]]:
        """Every attempt as JSON holds it."""
        return [
            {"number": a.number, "state": a.state, "owner": a.owner.raw, "last": a.last.raw}
            | ({} if a.failure is None else {"failure": a.failure.raw})
            | ({} if a.accounting is None else {"accounting": a.accounting.raw})
            for a in self.attempts
        ]


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialRecord:
    """A trial and its stages."""

    document: TrialDocument
    stages: tuple[tuple[TrialStage, StageRecord | None], ...]
    """Each stage of the document, and its record once it has begun."""
    early: Mapping[str, FailureNote] = field(default_factory=dict)
    """By a stage's name, begun or not: why its latest job ended before it made an attempt."""

    def status(self, *, driven: bool) -> RunStatus:
        """Status of its run in MLflow; `driven`: an active driver will run what is not done yet."""
        found = {None if record is None else record.status for _, record in self.stages}
        if found == {"FINISHED"}:
            return "FINISHED"
        if "FAILED" in found or any(map(_failed, self.early.values())):
            return "FAILED"
        return "RUNNING" if driven or "RUNNING" in found else "KILLED"

    def done(self, *kinds: str) -> list[tuple[str | None, StageRecord, Result]]:
        """The finished stages of some kinds: the slot they are for, the record, the result."""
        return [
            (stage.task, record, record.result)
            for stage, record in self.stages
            if stage.kind in kinds and record is not None and record.result is not None
        ]

    def metrics(self) -> dict[str, tuple[float, float]]:
        """Value and time of every result there is, e.g. `msrvtt.t2v.r1`, and of `row_hours.*` in its device's hours."""
        found: dict[str, tuple[float, float]] = {}
        for task, _, result in self.done(EVALUATE):
            found |= {f"{task}.{name}": (value, result.time) for name, value in result.metrics.items()}
        for name, kinds in (("pretrain", PRETRAININGS), ("total", KINDS)):
            asked = [stage for stage, _ in self.stages if stage.kind in kinds]
            there = self.done(*kinds)
            # Hours of different devices have no sum.
            if there and len(there) == len(asked) and len({record.host.unit for _, record, _ in there}) == 1:
                # Two slots of a row may share a stage.
                useful = {result.fingerprint: record.hours.useful for _, record, result in there}
                found[f"row_hours.{name}"] = (sum(useful.values()), max(result.time for _, _, result in there))
        return found | self._spent()

    def _spent(self) -> dict[str, tuple[float, float]]:
        """Value and time of `row_spent.*`: what all attempts at its stages took, each stage once.

        Only when all are done: then it never becomes unknown again, as a sum of two units is, or energy
        that another attempt did not count.
        """
        done = {stage.fingerprint: record for stage, record in self.stages if record is not None and record.result}
        if not done or len(done) != len({stage.fingerprint for stage, _ in self.stages}):
            return {}
        at = max(record.last_sign for record in done.values())
        if len({record.host.unit for record in done.values()}) > 1:
            return {}
        hours = [record.hours for record in done.values()]
        found = {part: sum(getattr(one, part) for one in hours) for part in ("useful", "lost", "overhead", "billed")}
        known = [record.energy_kwh for record in done.values() if record.energy_kwh is not None]
        if len(known) == len(done):
            found["kwh"] = sum(known)
        return {f"row_spent.{name}": (value, at) for name, value in found.items()}

    def evaluations(self) -> dict[str, dict[str, Any]]:
        """Return by slot: real dataset, split, number of queries and clips, digest of the test set, ranking."""
        found = {task: result.notes for task, _, result in self.done(EVALUATE) if task is not None}
        return {
            task: {name: value for name, value in notes.items() if name != "unknown_words"}
            for task, notes in found.items()
        }

    def unreadable(self) -> dict[str, dict[str, Any]]:
        """Return by the name of each training that met some: the number of unreadable clips, and up to ten paths."""
        found = {}
        for _, record, result in self.done(*TRAININGS):
            if files := sorted(result.notes.get("unreadable", {})):
                count = result.notes.get("n_unreadable", len(files))
                found[record.document.name] = {"count": count, "files": files}
        return found

    def ranks(self) -> dict[str, dict[str, int]]:
        """Return by slot the rank of every query's clip; two slots may hold the same dataset."""
        found: dict[str, dict[str, int]] = {}
        for task, record, _ in self.done(EVALUATE):
            if task is not None and (held := record.details.ranks()) is not None:
                found[task] = held["t2v"]
        return found

    @property
    def marks(self) -> list[str]:
        """Flags of the results for a reader of the table: the driver's, and those of their hours."""
        estimated = any(record is not None and record.hours.estimated for _, record in self.stages)
        results = [record.result for _, record in self.stages if record is not None and record.result is not None]
        found = {
            ESTIMATED: estimated,
            RECOMPUTED: any(result.recompute_layers for result in results),
            STARVED: any(result.loader_wait_s > MOST_LOADER_WAIT * result.useful_s for result in results),
        }
        return [*self.document.marks, *(mark for mark, holds in found.items() if holds)]

    @property
    def pretrained_on(self) -> StageRecord | None:
        """The stage whose device counts the hours of pre-training; none before it has begun."""
        return next((record for stage, record in self.stages if stage.kind == PRETRAIN and record), None)

    @property
    def code(self) -> str:
        """Digest of the source files that made the results so far, whichever stages there are and wherever they lie.

        Rows of one table should agree in it; a file of which two stages had different versions counts twice.
        """
        results = (record.result for _, record in self.stages if record and record.result)
        return digest(sorted({file for result in results for file in result.code.values()}))

    @property
    def started(self) -> float:
        """Time of the trial's first request, seconds since 1970."""
        return self.document.time

    @property
    def last_sign(self) -> float:
        """Time of the last heartbeat of its stages, or of a failure before the first one, seconds since 1970."""
        early = (failure.time for failure in self.early.values())
        return max([self.started, *early, *(record.last_sign for _, record in self.stages if record)])


def _failed(early: FailureNote | None) -> bool:
    """Return whether a job that ended before it made an attempt failed, rather than was lost or taken back."""
    return early is not None and not POLICIES[early.kind].resumable
