"""What stages and trials did, as plain facts, wherever they were read: what MLflow is told."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from experiments.stages.kinds import PRETRAININGS, TRAININGS
from experiments.stages.stage import digest
from experiments.store.attempt import Attempt
from experiments.store.device_hours import Hours, energy_kwh, is_corrected, peak_memory_bytes, stage_hours
from experiments.store.examples import Gallery
from experiments.store.failures import POLICIES
from experiments.store.store import StageState
from smaug_core.stage_protocol import EVALUATE, KINDS, PRETRAIN

RunStatus = Literal["RUNNING", "FINISHED", "FAILED", "KILLED"]
"""As MLflow names them; `KILLED`: neither done nor failed, and nobody is at it."""

ESTIMATED = "estimated hours"
"""Mark of a trial of which an attempt died: when it ended is estimated."""

NO_GPUS = "a stage held no GPUs: nothing counts the energy of processors"
"""Why the energy of a stage is not known that ran on processors."""

RECOMPUTED = "layers recomputed"
"""Mark of a trial of which a training computed layers again to fit into the memory: its hours are more for that."""

STATUS_OF_STATE: dict[str, RunStatus] = {
    "done": "FINISHED",
    "running": "RUNNING",
    "failed": "FAILED",
    "resume": "KILLED",
    "new": "KILLED",
}


class Details(Protocol):
    """The bulky part of what a stage left, read when it is asked for."""

    def curve(self) -> list[dict[str, Any]]:
        """What it reported: `time`, `step`, `values`, oldest step first."""
        ...

    def ranks(self) -> dict[str, Any] | None:
        """By direction, `t2v` and `v2t`: the rank of every query's answer; none if it is no finished evaluation."""
        ...

    def gallery(self) -> Gallery | None:
        """Example pictures; none where nobody tried to make any."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class StageFacts:
    """One stage that somebody has begun."""

    document: dict[str, Any]
    """What stage.json holds."""
    state: StageState
    attempts: Sequence[Attempt]
    """At least one, oldest first."""
    result: dict[str, Any] | None
    """What result.json holds; none until it is done."""
    prediction: dict[str, Any] | None
    """`hours`, `unit`, `source`, `time`: what it was thought to cost before it began; none if nobody said."""
    details: Details
    early: dict[str, Any] | None = None
    """Why its latest job ended before it made an attempt (`class`, `seen`, `done`); none if it made one."""

    @property
    def fingerprint(self) -> str:
        """All 64 digits."""
        return str(self.document["fingerprint"])

    @property
    def status(self) -> RunStatus:
        """Where it stands."""
        return "FAILED" if _failed(self.early) else STATUS_OF_STATE[self.state]

    @property
    def hours(self) -> Hours:
        """What it cost so far."""
        return stage_hours(self.attempts, None if self.result is None else self.result["useful_s"])

    @property
    def num_corrected(self) -> int:
        """Of how many attempts Slurm's accounting says what they took."""
        return sum(map(is_corrected, self.attempts))

    @property
    def energy_kwh(self) -> float | None:
        """What its GPUs used in all attempts; none where that was not counted."""
        return energy_kwh(self.attempts)

    @property
    def peak_memory_bytes(self) -> int | None:
        """The most memory that the processes of an attempt held; none where none told."""
        return peak_memory_bytes(self.attempts)

    @property
    def no_energy(self) -> str:
        """Why that is not known; empty if it is."""
        if self.energy_kwh is not None:
            return ""
        if not any(attempt.owner["gpus"] for attempt in self.attempts):
            return NO_GPUS
        lacking = sum("joules" not in attempt.last for attempt in self.attempts)
        return f"{lacking} of {len(self.attempts)} attempts at a stage told no count of their GPUs"

    @property
    def gallery(self) -> Gallery | None:
        """Example pictures of what it learnt; none before it is done, or where nobody tried to make any."""
        return None if self.result is None else self.details.gallery()

    @property
    def host(self) -> dict[str, Any]:
        """Device, its name and unit, cpus, gpus, host: of the attempt that made the result, else of the newest."""
        made_by = self.attempts[-1].number if self.result is None else self.result["attempt"]
        newest = self.attempts[-1].owner  # where the attempt that made it was put aside, its folder being damaged
        return next((attempt.owner for attempt in self.attempts if attempt.number == made_by), newest)

    @property
    def started(self) -> float:
        """When the first attempt began, seconds since 1970."""
        return float(self.attempts[0].owner["started"])

    @property
    def last_sign(self) -> float:
        """When it last gave a sign of life, or ended, seconds since 1970."""
        signs = [attempt.last["time"] for attempt in self.attempts]
        return float(max(signs + ([] if self.result is None else [self.result["time"]])))

    def account(self) -> list[dict[str, Any]]:
        """An account of every attempt, for people and programs."""
        return [
            {"number": a.number, "state": a.state, "owner": a.owner, "last": a.last}
            | ({} if a.failure is None else {"failure": a.failure})
            | ({} if a.accounting is None else {"accounting": a.accounting})
            for a in self.attempts
        ]


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialFacts:
    """One trial, and what its stages did so far."""

    document: dict[str, Any]
    """What `write_trial` wrote."""
    stages: tuple[tuple[dict[str, Any], StageFacts | None], ...]
    """Each stage as the document tells it (name, kind, task, fingerprint), and the facts once it has begun."""
    early: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    """By a stage's name, begun or not: why its latest job ended before it made an attempt."""

    def status(self, *, driven: bool) -> RunStatus:
        """Where it stands; `driven`: a driver is at it, so what is not done yet is still to come."""
        found = {None if facts is None else facts.status for _, facts in self.stages}
        if found == {"FINISHED"}:
            return "FINISHED"
        if "FAILED" in found or any(map(_failed, self.early.values())):
            return "FAILED"
        return "RUNNING" if driven or "RUNNING" in found else "KILLED"

    def done(self, *kinds: str) -> list[tuple[str | None, StageFacts, dict[str, Any]]]:
        """The finished stages of some kinds: the slot they are for, the facts, the result."""
        return [
            (told["task"], facts, facts.result)
            for told, facts in self.stages
            if told["kind"] in kinds and facts is not None and facts.result is not None
        ]

    def metrics(self) -> dict[str, tuple[float, float]]:
        """Value and time of every result there is, e.g. `msrvtt.t2v.r1`, and of `row_hours.*` in its device's hours."""
        found: dict[str, tuple[float, float]] = {}
        for task, _, result in self.done(EVALUATE):
            found |= {f"{task}.{name}": (value, result["time"]) for name, value in result["metrics"].items()}
        for name, kinds in (("pretrain", PRETRAININGS), ("total", KINDS)):
            asked = [told for told, _ in self.stages if told["kind"] in kinds]
            there = self.done(*kinds)
            # Hours of different devices have no sum.
            if there and len(there) == len(asked) and len({facts.host["unit"] for _, facts, _ in there}) == 1:
                # Two slots of a row may share a stage.
                useful = {result["fingerprint"]: facts.hours.useful for _, facts, result in there}
                found[f"row_hours.{name}"] = (sum(useful.values()), max(result["time"] for _, _, result in there))
        return found | self._spent()

    def _spent(self) -> dict[str, tuple[float, float]]:
        """Value and time of `row_spent.*`: what all attempts at its stages took, each stage once.

        Only when all are done, for then it never changes again to what nobody knows: a sum of two units, or energy
        that another attempt did not count.
        """
        done = {told["fingerprint"]: facts for told, facts in self.stages if facts is not None and facts.result}
        if not done or len(done) != len({told["fingerprint"] for told, _ in self.stages}):
            return {}
        at = max(facts.last_sign for facts in done.values())
        if len({facts.host["unit"] for facts in done.values()}) > 1:
            return {}
        hours = [facts.hours for facts in done.values()]
        found = {part: sum(getattr(one, part) for one in hours) for part in ("useful", "lost", "overhead", "billed")}
        known = [facts.energy_kwh for facts in done.values() if facts.energy_kwh is not None]
        if len(known) == len(done):
            found["kwh"] = sum(known)
        return {f"row_spent.{name}": (value, at) for name, value in found.items()}

    def evaluations(self) -> dict[str, dict[str, Any]]:
        """By slot: real dataset, split, number of queries and clips, digest of the test set, ranking."""
        found = {task: result["notes"] for task, _, result in self.done(EVALUATE) if task is not None}
        return {
            task: {name: value for name, value in notes.items() if name != "unknown_words"}
            for task, notes in found.items()
        }

    def unreadable(self) -> dict[str, dict[str, Any]]:
        """By the name of each training that met some: the number of unreadable clips, and the paths of up to ten."""
        found = {}
        for _, facts, result in self.done(*TRAININGS):
            if files := sorted(result["notes"].get("unreadable", {})):
                count = result["notes"].get("n_unreadable", len(files))
                found[facts.document["name"]] = {"count": count, "files": files}
        return found

    def ranks(self) -> dict[str, dict[str, int]]:
        """By slot: the rank of every query's clip; two slots may hold the same dataset."""
        found: dict[str, dict[str, int]] = {}
        for task, facts, _ in self.done(EVALUATE):
            if task is not None and (held := facts.details.ranks()) is not None:
                found[task] = held["t2v"]
        return found

    @property
    def marks(self) -> list[str]:
        """What a reader of the table must know of the results: as the driver said, and of their hours."""
        estimated = any(facts is not None and facts.hours.estimated for _, facts in self.stages)
        results = [facts.result for _, facts in self.stages if facts is not None and facts.result is not None]
        found = {ESTIMATED: estimated, RECOMPUTED: any(result.get("recompute_layers") for result in results)}
        return [*self.document["marks"], *(mark for mark, holds in found.items() if holds)]

    @property
    def pretrained_on(self) -> StageFacts | None:
        """The stage whose device counts the hours of pre-training; none before it has begun."""
        return next((facts for told, facts in self.stages if told["kind"] == PRETRAIN and facts), None)

    @property
    def code(self) -> str:
        """Digest of the source files that made the results so far, whichever stages there are and wherever they lie.

        Rows of one table should agree in it; a file of which two stages had different versions counts twice.
        """
        results = (facts.result for _, facts in self.stages if facts and facts.result)
        return digest(sorted({file for result in results for file in result["code"].values()}))

    @property
    def started(self) -> float:
        """When the trial was first asked for, seconds since 1970."""
        return float(self.document["time"])

    @property
    def last_sign(self) -> float:
        """When a stage of it last gave a sign of life, or failed before it could, seconds since 1970."""
        early = (float(failure["time"]) for failure in self.early.values())
        return max([self.started, *early, *(facts.last_sign for _, facts in self.stages if facts)])


def _failed(early: Mapping[str, Any] | None) -> bool:
    """Whether a job that ended before it made an attempt failed, rather than was lost or taken back."""
    return early is not None and not POLICIES[early["class"]].resumable
