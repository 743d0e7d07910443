"""What is mirrored to MLflow, as plain facts read from the home folder: what trials there are, what stages did."""

import re
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from experiments.attempt import StoreError, read_attempts, read_json, unwritable, write_json
from experiments.expand import Trial
from experiments.stage import digest
from experiments.store import StageRecord, read_curve
from smaug_core.stages import KINDS

RunStatus = Literal["RUNNING", "FINISHED", "FAILED", "KILLED"]
"""As MLflow names them; `KILLED`: neither done nor failed, and nobody is at it."""

STATUS_OF_STATE: dict[str, RunStatus] = {
    "done": "FINISHED",
    "running": "RUNNING",
    "failed": "FAILED",
    "resume": "KILLED",
    "new": "KILLED",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class StageFacts:
    """One stage that somebody has begun."""

    document: dict[str, Any]
    """What stage.json holds."""
    record: StageRecord

    @property
    def fingerprint(self) -> str:
        """All 64 digits."""
        return str(self.document["fingerprint"])

    @property
    def status(self) -> RunStatus:
        """Where it stands."""
        return STATUS_OF_STATE[self.record.state]

    @property
    def result(self) -> dict[str, Any] | None:
        """What result.json holds; none until it is done."""
        return self.record.result

    @property
    def host(self) -> dict[str, Any]:
        """Device, its name and unit, cpus, gpus, host: of the attempt that made the result, else of the newest."""
        made_by = self.record.attempts[-1].number if self.result is None else self.result["attempt"]
        return next(attempt.owner for attempt in self.record.attempts if attempt.number == made_by)

    @property
    def started(self) -> float:
        """When the first attempt began, seconds since 1970."""
        return float(self.record.attempts[0].owner["started"])

    @property
    def last_sign(self) -> float:
        """When it last gave a sign of life, or ended, seconds since 1970."""
        signs = [attempt.last["time"] for attempt in self.record.attempts]
        return float(max(signs + ([] if self.result is None else [self.result["time"]])))

    def curve(self) -> list[dict[str, Any]]:
        """What it reported: `time`, `step`, `values`, oldest step first."""
        return read_curve(self.record.directory)

    def attempts(self) -> list[dict[str, Any]]:
        """An account of every attempt, for people and programs."""
        return [{"number": a.number, "state": a.state, "owner": a.owner, "last": a.last} for a in self.record.attempts]


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialFacts:
    """One trial, and what its stages did so far."""

    document: dict[str, Any]
    """What `write_trial` wrote."""
    stages: tuple[tuple[dict[str, Any], StageFacts | None], ...]
    """Each stage as the document tells it (name, kind, task, fingerprint), and the facts once it has begun."""

    def status(self, *, driven: bool) -> RunStatus:
        """Where it stands; `driven`: a driver is at it, so what is not done yet is still to come."""
        found = {None if facts is None else facts.status for _, facts in self.stages}
        if found == {"FINISHED"}:
            return "FINISHED"
        if "FAILED" in found:
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
        for task, _, result in self.done("evaluate"):
            found |= {f"{task}.{name}": (value, result["time"]) for name, value in result["metrics"].items()}
        for name, kinds in (("pretrain", ["pretrain", "pretrain_video"]), ("total", list(KINDS))):
            asked = [told for told, _ in self.stages if told["kind"] in kinds]
            there = self.done(*kinds)
            # Hours of different devices have no sum.
            if there and len(there) == len(asked) and len({facts.host["unit"] for _, facts, _ in there}) == 1:
                useful = sum(facts.record.hours.useful for _, facts, _ in there)
                found[f"row_hours.{name}"] = (useful, max(result["time"] for _, _, result in there))
        return found

    def evaluations(self) -> dict[str, dict[str, Any]]:
        """By slot: real dataset, split, number of queries and clips, digest of the test set, ranking."""
        return {task: result["notes"] for task, _, result in self.done("evaluate") if task is not None}

    def ranks(self) -> dict[str, dict[str, int]]:
        """By real dataset: the rank of every query's clip."""
        found: dict[str, dict[str, int]] = {}
        for _, facts, result in self.done("evaluate"):
            if (held := read_json(facts.record.directory / "ranks.json")) is not None:
                found[result["notes"]["dataset"]] = held["t2v"]
        return found

    @property
    def pretrained_on(self) -> StageFacts | None:
        """The stage whose device counts the hours of pre-training; none before it has begun."""
        return next((facts for told, facts in self.stages if told["kind"] == "pretrain" and facts), None)

    @property
    def code(self) -> str:
        """Digest of the source that made the results so far; rows of one table should agree in it."""
        return digest([[told["name"], facts.result["code"]] for told, facts in self.stages if facts and facts.result])

    @property
    def started(self) -> float:
        """When the trial was first asked for, seconds since 1970."""
        return float(self.document["time"])

    @property
    def last_sign(self) -> float:
        """When a stage of it last gave a sign of life, seconds since 1970."""
        return max([self.started, *(facts.last_sign for _, facts in self.stages if facts)])


def write_trial(home: Path, trial: Trial, *, marks: Sequence[str] = ()) -> Path:
    """Keep what a trial is, so that its records can be made again from the home folder alone.

    Args:
        home: the folder that holds the store.
        trial: it becomes the valid one of its sweep, scale, variant and seed.
        marks: what a reader of the table must know of its results, e.g. `stale code accepted`.

    Raises:
        StoreError: it cannot be written.
    """
    document: dict[str, Any] = {
        "sweep": trial.sweep.name,
        "title": trial.sweep.title,
        "table": trial.sweep.table,
        "report": {"row": trial.sweep.report.row, "columns": list(trial.sweep.report.columns)},
        "scale": trial.scale,
        "variant": trial.variant,
        "position": list(trial.sweep.variants).index(trial.variant),
        "baseline": trial.sweep.baseline,
        "seed": trial.seed,
        "seed_pretrain": trial.seed_pretrain,
        "seed_finetune": trial.seed_finetune,
        "params": trial.params(),
        "stages": [
            {"name": s.name, "kind": s.kind, "task": s.task, "fingerprint": s.fingerprint} for s in trial.stages
        ],
        "fingerprint": trial.fingerprint,
        "marks": list(marks),
    }
    # Two variants may be equal in everything but their name.
    name = f"{trial.fingerprint[:12]}-{digest([trial.scale, trial.variant])[:6]}.json"
    path = home / "trials" / trial.sweep.name / name
    newest = {identity(d): d for d in trial_documents(home, trial.sweep.name)}.get(identity(document))
    still_valid = newest is not None and newest["fingerprint"] == trial.fingerprint
    document["time"] = newest["time"] if newest is not None and still_valid else time.time()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(path, error) from error
    write_json(path, document)
    return path


def identity(document: dict[str, Any]) -> tuple[str, str, str, str]:
    """What there is one valid trial of: sweep, scale, variant, seed."""
    return document["sweep"], document["scale"], document["variant"], document["seed"]


def trial_documents(home: Path, sweep: str = "*") -> list[dict[str, Any]]:
    """Every trial that was ever asked for here, the newest last; of equal identity the last one is valid."""
    found = [read_json(path) for path in sorted((home / "trials").glob(f"{sweep}/*.json"))]
    return sorted((d for d in found if d is not None), key=lambda d: float(d["time"]))


def trial_facts(home: Path, document: dict[str, Any]) -> TrialFacts:
    """What the stages of a trial did so far."""
    stages = ((told, stage_facts(home, told["kind"], told["fingerprint"])) for told in document["stages"])
    return TrialFacts(document=document, stages=tuple(stages))


def stage_facts(home: Path, kind: str, fingerprint: str) -> StageFacts | None:
    """What is known of a stage; none if nobody has begun it.

    Raises:
        StoreError: another stage has the same first 12 digits.
    """
    facts = _read_stage(home / "store" / kind / fingerprint[:12])
    if facts is not None and facts.fingerprint != fingerprint:
        raise StoreError(f"{facts.record.directory}: holds the stage {facts.fingerprint}, not {fingerprint}")
    return facts


def all_stages(home: Path) -> Iterator[StageFacts]:
    """Every stage in the store that somebody has begun; not those set aside."""
    for path in sorted((home / "store").glob("*/*/stage.json")):
        if re.fullmatch(r"[0-9a-f]{12}", path.parent.name) and (facts := _read_stage(path.parent)):
            yield facts


def _read_stage(directory: Path) -> StageFacts | None:
    # The attempts first: a result that is published in between still counts.
    attempts = read_attempts(directory)
    document, result = read_json(directory / "stage.json"), read_json(directory / "result.json")
    if document is None or not attempts:
        return None
    return StageFacts(document=document, record=StageRecord(directory=directory, attempts=attempts, result=result))


def superseded(documents: Iterable[dict[str, Any]]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Pairs of a trial that is no longer valid and the one that is, given trials with the newest last."""
    listed = list(documents)
    valid = {identity(document): document for document in listed}
    return [(d, valid[identity(d)]) for d in listed if valid[identity(d)] is not d]
