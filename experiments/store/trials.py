"""Reads facts from the home folder, and keeps there what trials were asked for."""

import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.config.sweep import Sweep
from experiments.stages.stage import digest
from experiments.stages.trial import Trial
from experiments.store.attempt import FAILURE, StoreError, read_attempts, unwritable, write_json
from experiments.store.documents import FAILED, PREDICTED, RANKS, TRIAL, read_document
from experiments.store.examples import Gallery, stored_gallery
from experiments.store.facts import StageFacts, TrialFacts
from experiments.store.store import StageRecord, read_curve, read_result, read_stage


def write_trial(home: Path, trial: Trial, *, marks: Sequence[str] = ()) -> Path:
    """Keep what a trial is; of many, `write_trials` looks only once at those that there are.

    Args:
        home: the folder that holds the store.
        trial: it becomes the valid one of its sweep, scale, variant and seed.
        marks: what a reader of the table must know of its results, e.g. `stale code accepted`.

    Raises:
        StoreError: it cannot be written.
    """
    return write_trials(home, [(trial, marks)])[0]


def write_trials(home: Path, trials: Sequence[tuple[Trial, Sequence[str]]]) -> list[Path]:
    """Keep what trials are, so that their records can be made again from the home folder alone.

    The other valid trials of the same sweep and scale get the title, the baseline and the order of rows of these: the
    sweep file that ran last says how the table looks.

    Args:
        home: the folder that holds the store.
        trials: each with its marks; they become the valid ones.

    Raises:
        StoreError: one cannot be written.
    """
    sweeps = dict.fromkeys(trial.sweep.name for trial, _ in trials)
    newest = {identity(d): d for sweep in sweeps for d in trial_documents(home, sweep, damaged=True)}
    paths = []
    for trial, marks in trials:
        document = _document(trial, marks)
        before = newest.get(identity(document))
        still_valid = before is not None and before["fingerprint"] == trial.fingerprint
        document["time"] = before["time"] if before is not None and still_valid else time.time()
        newest[identity(document)] = document
        paths.append(_write(home, document))
    files = {(trial.sweep.name, trial.scale): trial.sweep for trial, _ in trials}
    for document in newest.values():
        sweep = files.get((document["sweep"], document["scale"]))
        if sweep is not None and document != (changed := document | _layout(sweep, document)):
            _write(home, changed)
    return paths


def _write(home: Path, document: dict[str, Any]) -> Path:
    path = home / trial_file(document)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(path, error) from error
    write_json(path, document, durable=True)
    return path


def _layout(sweep: Sweep, document: Mapping[str, Any]) -> dict[str, Any]:
    """How a sweep's table looks, for the document of a trial; a row that the sweep lacks comes after its rows."""
    rows, place = list(sweep.variants), int(document["position"])
    if document["variant"] in sweep.variants:
        place = rows.index(document["variant"])
    elif place < len(rows):
        place += len(rows)
    return {
        "title": sweep.title,
        "table": sweep.table,
        "report": {"row": sweep.report.row, "columns": list(sweep.report.columns)},
        "position": place,
        "baseline": sweep.baseline,
    }


def _document(trial: Trial, marks: Sequence[str]) -> dict[str, Any]:
    """All that a table asks of a trial, but its time."""
    return {
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


def trial_file(document: Mapping[str, Any]) -> Path:
    """Where a trial's document is kept, from the home folder or a folder of records."""
    # Two variants may be equal in everything but their name.
    name = f"{document['fingerprint'][:12]}-{digest([document['scale'], document['variant']])[:6]}.json"
    return Path("trials", document["sweep"], name)


def identity(document: Mapping[str, Any]) -> tuple[str, str, str, str]:
    """What there is one valid trial of: sweep, scale, variant, seed."""
    return document["sweep"], document["scale"], document["variant"], document["seed"]


def trial_documents(home: Path, sweep: str = "*", *, damaged: bool = False) -> list[dict[str, Any]]:
    """Every trial that was ever asked for here, the newest last; of equal identity the last one is valid.

    Args:
        home: the folder that holds the store.
        sweep: its name; all of them if not given.
        damaged: leave out what cannot be read.

    Raises:
        StoreError: a file cannot be read.
    """
    found = []
    for path in sorted((home / "trials").glob(f"{sweep}/*.json")):
        try:
            found.append(read_document(path, TRIAL))
        except StoreError:
            if not damaged:
                raise
    return sorted((d for d in found if d is not None), key=lambda d: float(d["time"]))


def trial_facts(home: Path, document: dict[str, Any]) -> TrialFacts:
    """What the stages of a trial did so far."""
    stages = tuple((told, stage_facts(home, told["kind"], told["fingerprint"])) for told in document["stages"])
    early = {
        told["name"]: read_document(_folder(home, told["kind"], told["fingerprint"]) / FAILURE, FAILED)
        if facts is None
        else facts.early
        for told, facts in stages
    }
    known = {name: failure for name, failure in early.items() if failure is not None}
    return TrialFacts(document=document, stages=stages, early=known)


def stage_facts(home: Path, kind: str, fingerprint: str) -> StageFacts | None:
    """What is known of a stage; none if nobody has begun it.

    Raises:
        StoreError: another stage has the same first 12 digits.
    """
    directory = _folder(home, kind, fingerprint)
    facts = _read_stage(directory)
    if facts is not None and facts.fingerprint != fingerprint:
        raise StoreError(f"{directory}: holds the stage {facts.fingerprint}, not {fingerprint}")
    return facts


def _folder(home: Path, kind: str, fingerprint: str) -> Path:
    return home / "store" / kind / fingerprint[:12]


def all_stages(home: Path) -> Iterator[StageFacts]:
    """Every stage in the store that somebody has begun; not those set aside."""
    for path in sorted((home / "store").glob("*/*/stage.json")):
        if re.fullmatch(r"[0-9a-f]{12}", path.parent.name) and (facts := _read_stage(path.parent)):
            yield facts


@dataclass(frozen=True, slots=True)
class _StoredDetails:
    """What lies in a stage's directory."""

    directory: Path

    def curve(self) -> list[dict[str, Any]]:
        """Where steps were done again, the newest attempt's account."""
        return read_curve(self.directory)

    def ranks(self) -> dict[str, Any] | None:
        """As the evaluation wrote them."""
        return read_document(self.directory / "ranks.json", RANKS)

    def gallery(self) -> Gallery | None:
        """As the worker left it."""
        return stored_gallery(self.directory)


def _read_stage(directory: Path) -> StageFacts | None:
    # The attempts first: a result that is published in between still counts.
    attempts = read_attempts(directory)
    document, result = read_stage(directory), read_result(directory)
    if document is None or not attempts:
        return None
    state = StageRecord(directory=directory, attempts=attempts, result=result).state
    return StageFacts(
        document=document,
        state=state,
        attempts=attempts,
        result=result,
        prediction=read_document(directory / "prediction.json", PREDICTED),
        details=_StoredDetails(directory),
        early=None if state in ("done", "running") else read_document(directory / FAILURE, FAILED),
    )


def valid_documents(documents: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The trials that count, given all with the newest last."""
    listed = list(documents)
    outdated = [id(old) for old, _ in superseded(listed)]
    return [document for document in listed if id(document) not in outdated]


def superseded(documents: Iterable[dict[str, Any]]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Pairs of a trial that is no longer valid and the one that is, given trials with the newest last."""
    listed = list(documents)
    valid = {identity(document): document for document in listed}
    return [(d, valid[identity(d)]) for d in listed if valid[identity(d)] is not d]
