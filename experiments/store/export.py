"""Portable records: a folder with all that MLflow is told of some trials, small enough to be committed.

`trials/<sweep>/<name>.json` is as in the home folder; `stages/<kind>/<first 12 digits>.json` holds what a stage is,
every attempt at it, its result, its curve in at most a hundred points, its ranks, and its example pictures. No weights,
no logs, and nothing that only says where on which machine it was.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from experiments.stages.stage import digest
from experiments.store.attempt import Attempt, AttemptState
from experiments.store.documents import RECORDED
from experiments.store.examples import Gallery, GalleryError, from_record, to_record
from experiments.store.facts import StageFacts, TrialFacts
from experiments.store.store import StageState
from experiments.store.trials import stage_facts, trial_documents, trial_file, valid_documents
from smaug_core.errors import SmaugError
from smaug_core.files import DocumentError, check, write_whole

FORMAT = "smaug stage 1"
"""What a stage's record says of itself; another number where it is to be read in another way."""
POINTS = 100
"""Of a longer curve so many are kept."""
OF_THE_MACHINE = ("boot", "pid", "process_started", "start_ticks", "oom_kills")
"""What an attempt's owner holds only to tell whether it lives, and why it may have died."""
FOLDERS = re.compile(r"(?:file:/{2,3}|(?<![\w./])(?<!:/)~?/)(?:[^\s/:;,'\"()\[\]{}]+/)+")
"""The folders of an absolute path, in any text; addresses like https://host/page are none."""


class RecordError(SmaugError):
    """A folder of records cannot be written, or holds what is no record."""


@dataclass(frozen=True, slots=True)
class Records:
    """What a folder of records tells."""

    stages: dict[str, StageFacts]
    """By fingerprint, parents and children in no particular order."""
    documents: list[dict[str, Any]]
    """Every trial, the newest last."""

    def trial(self, document: dict[str, Any]) -> TrialFacts:
        """What the stages of a trial did."""
        stages = ((told, self.stages.get(told["fingerprint"])) for told in document["stages"])
        return TrialFacts(document=document, stages=tuple(stages))


def write_records(home: Path, out: Path) -> tuple[int, int]:
    """Write the valid trials of a home folder, and the stages they need; gives the numbers of stages and of trials.

    The same facts give the same bytes. Each file is replaced whole; records of what is no longer needed are removed,
    other files are left alone.

    Raises:
        RecordError: there is no trial, or a file cannot be written.
        StoreError: the store contradicts itself.
    """
    documents = valid_documents(trial_documents(home))
    if not documents:
        raise RecordError(f"{home}: holds no trial, so there is nothing to record; run a sweep first")
    asked = {(told["kind"], told["fingerprint"]): None for document in documents for told in document["stages"]}
    places = _Places(home)
    texts: dict[Path, str] = {}
    for kind, fingerprint in asked:
        if (facts := stage_facts(home, kind, fingerprint)) is not None:
            texts[_stage_file(kind, fingerprint)] = _stage_text(places.left_out(_stage_body(facts)))
    num_stages = len(texts)
    for document in map(places.left_out, documents):
        there = [t["fingerprint"] for t in document["stages"] if _stage_file(t["kind"], t["fingerprint"]) in texts]
        texts[trial_file(document)] = json.dumps(_signed(document | {"recorded": there}), indent=1)
    for path, text in texts.items():
        _write(out / path, text)
    for path in record_files(out):
        if path.relative_to(out) not in texts and _is_record(path, out):
            path.unlink()
    return num_stages, len(texts) - num_stages


def read_records(folder: Path) -> Records:
    """Read a folder that `write_records` has written.

    Raises:
        RecordError: it holds no records, or one is missing, truncated, was changed, or is none; the first is named.
    """
    stages: dict[str, StageFacts] = {}
    documents = []
    for path in record_files(folder):
        if path.relative_to(folder).parts[0] == "trials":
            documents.append(_read_trial(path, folder))
        else:
            facts = _read_stage(path, folder)
            stages[facts.fingerprint] = facts
    if not documents:
        raise RecordError(f"{folder}: holds no records (trials/*/*.json); expected a folder of `sync --to`")
    for facts in stages.values():
        for parent in facts.document["parents"]:
            if facts.result is not None and parent not in stages:
                path = folder / _stage_file(facts.document["kind"], facts.fingerprint)
                raise RecordError(f"{path}: the stage it builds on, {parent[:12]}, is not in {folder / 'stages'}")
    for document in documents:
        for told in document["stages"]:
            if told["fingerprint"] in document["recorded"] and told["fingerprint"] not in stages:
                path = folder / _stage_file(told["kind"], told["fingerprint"])
                raise RecordError(f"{path}: is missing; {trial_file(document)} was recorded with it")
    return Records(stages, sorted(documents, key=lambda document: float(document["time"])))


class _Model(BaseModel):
    model_config = ConfigDict(strict=True)


class _ReportOfTrial(_Model):
    row: str
    columns: list[str]


class _StageOfTrial(_Model):
    name: str
    kind: str
    task: str | None
    fingerprint: str


class _Trial(_Model):
    """What the document of a trial must hold."""

    sweep: str
    title: str
    table: str | None
    report: _ReportOfTrial
    scale: str
    variant: str
    position: int
    baseline: str
    seed: str
    params: dict[str, Any]
    stages: list[_StageOfTrial]
    fingerprint: str
    marks: list[str]
    time: float
    recorded: list[str]


class _Recorded(Attempt):
    """An attempt as a record tells it: whoever was at it, nobody here is."""

    @property
    def state(self) -> AttemptState:
        return "dead" if self.end is None else super().state


@dataclass(frozen=True, slots=True)
class _RecordedDetails:
    """Curve, ranks and pictures that a record holds."""

    body: dict[str, Any]
    pictures: Gallery | None

    def curve(self) -> list[dict[str, Any]]:
        """Thinned, if it was long."""
        return list(self.body["curve"]["points"])

    def ranks(self) -> dict[str, Any] | None:
        """As the evaluation wrote them."""
        return self.body["ranks"]

    def gallery(self) -> Gallery | None:
        """As the worker left it."""
        return self.pictures


class _Places:
    """Takes out of what is recorded where on which machine it was."""

    def __init__(self, home: Path) -> None:
        self._folders = [f"{folder}/" for folder in (home.resolve(), home.absolute(), Path.home()) if folder.parts[1:]]

    def left_out(self, value: Any) -> Any:
        """The same with `.../` for the folders of absolute paths, in all texts; other text is not changed."""
        if isinstance(value, dict):
            return {self.left_out(key): self.left_out(held) for key, held in value.items()}
        if isinstance(value, list):
            return [self.left_out(held) for held in value]
        if isinstance(value, str):
            for folder in self._folders:
                value = value.replace(folder, "/.../")
            if value.startswith(("/", "~/")) and ": " not in value:  # nothing but a path, maybe with spaces
                return f".../{value.rpartition('/')[2]}"
            return FOLDERS.sub(".../", value)
        return value


def _stage_body(facts: StageFacts) -> dict[str, Any]:
    points, gallery = facts.details.curve(), facts.gallery
    kept = _thinned(points)
    body = {
        "format": FORMAT,
        "document": facts.document,
        "attempts": [_attempt_body(attempt) for attempt in facts.attempts],
        "result": facts.result,
        "prediction": facts.prediction,
        "curve": {"points": kept, "reported": len(points), "thinned": len(kept) < len(points)},
        "ranks": facts.details.ranks(),
    }
    return body if gallery is None else body | {"examples": to_record(gallery)}


def _attempt_body(attempt: Attempt) -> dict[str, Any]:
    owner = {key: value for key, value in attempt.owner.items() if key not in OF_THE_MACHINE}
    owner["host"] = _host_told(owner["host"])
    end = None if attempt.end is None else attempt.end | {"traceback": ""}
    body = {"number": attempt.number, "owner": owner, "progress": attempt.progress, "end": end}
    more = {"failure": attempt.failure, "accounting": attempt.accounting}
    return body | {name: told for name, told in more.items() if told is not None}


def _host_told(host: str) -> str:
    """Equal for attempts on one machine, without its name."""
    return f"host-{hashlib.sha256(host.encode()).hexdigest()[:8]}"


def _thinned(points: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """At most `POINTS` of a curve, evenly spread; the first and the last are kept."""
    if len(points) <= POINTS:
        return list(points)
    return [points[round(place * (len(points) - 1) / (POINTS - 1))] for place in range(POINTS)]


def _stage_text(body: Mapping[str, Any]) -> str:
    return _compact({**body, "sha256": hashlib.sha256(_compact(body).encode()).hexdigest()}) + "\n"


def _compact(value: Mapping[str, Any]) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def _stage_file(kind: str, fingerprint: str) -> Path:
    return Path("stages", kind, f"{fingerprint[:12]}.json")


def record_files(folder: Path) -> Iterator[Path]:
    """Every file of a folder of records that is a record by its place."""
    for part in ("stages", "trials"):
        yield from sorted(folder.glob(f"{part}/*/*.json"))


def _is_record(path: Path, folder: Path) -> bool:
    try:
        (_read_trial if path.relative_to(folder).parts[0] == "trials" else _read_stage)(path, folder)
    except RecordError:
        return False
    return True


def _read_stage(path: Path, folder: Path) -> StageFacts:
    body = _read(path)
    if body.get("format") != FORMAT:
        raise RecordError(f"{path}: is no record of a stage (format {body.get('format')!r}, not {FORMAT!r}); remove it")
    stated = body.pop("sha256", None)
    if hashlib.sha256(_compact(body).encode()).hexdigest() != stated:
        raise RecordError(f"{path}: was changed or damaged after it was written; take it from its source again")
    try:
        check(body, RECORDED)
    except DocumentError as error:
        raise RecordError(f"{path}: is no record of a stage ({error}); take it from its source again") from error
    document, result = body["document"], body["result"]
    _check_place(path, folder, _stage_file(document["kind"], document["fingerprint"]))
    attempts = [_Recorded(directory=path, **attempt) for attempt in body["attempts"]]
    try:
        gallery = from_record(body["examples"]) if "examples" in body else None
    except GalleryError as error:
        raise RecordError(f"{path}: {error}; take it from its source again") from error
    return StageFacts(
        document=document,
        state=_state(attempts[-1], result),
        attempts=attempts,
        result=result,
        prediction=body["prediction"],
        details=_RecordedDetails(body, gallery),
    )


def _state(newest: Attempt, result: dict[str, Any] | None) -> StageState:
    if result is not None:
        return "done"
    return "failed" if newest.state in ("failed", "diverged") else "new"


def _read_trial(path: Path, folder: Path) -> dict[str, Any]:
    document = _read(path)
    try:
        told = _Trial.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise RecordError(f"{path}: is no record of a trial ({where}: {first['msg']}); remove it") from error
    if told.fingerprint != digest([stage.fingerprint for stage in told.stages]):
        raise RecordError(f"{path}: was changed or damaged: its stages are those of another trial")
    _check_place(path, folder, trial_file(document))
    if document != _signed({key: value for key, value in document.items() if key != "sha256"}):
        raise RecordError(f"{path}: was changed or damaged: its digest is that of something else")
    return document


def _signed(document: Mapping[str, Any]) -> dict[str, Any]:
    return {**document, "sha256": digest(document)}


def _check_place(path: Path, folder: Path, expected: Path) -> None:
    if path != folder / expected:
        raise RecordError(f"{path}: holds what belongs in {expected}; take it from its source again")


def _read(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise RecordError(f"{path}: cannot be read ({error}); take it from its source again") from error
    if not isinstance(value, dict):
        raise RecordError(f"{path}: is no record: it holds a {type(value).__name__}")
    return value


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, lambda partial: partial.write_text(text), durable=False)
    except OSError as error:
        raise RecordError(f"{path}: cannot be written ({error.strerror}); choose another folder") from error
