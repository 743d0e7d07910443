"""Portable records: a folder with all that MLflow records of some trials, small enough to be committed.

`trials/<sweep>/<name>.json` is as in the home folder; `stages/<kind>/<first 12 digits>.json` holds the document of a
stage, every attempt at it, its result, its curve in at most a hundred points, its ranks, and its example pictures. It
holds no weights, no logs, and no names or folders of machines.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.stages.stage import digest
from experiments.store.attempt import Attempt, AttemptState
from experiments.store.attempt_files import Accounting, End, FailureNote, Heartbeat, Owner
from experiments.store.documents import (
    RANKS,
    TRIAL,
    CurvePoint,
    Prediction,
    Result,
    StageDocument,
    TrialDocument,
)
from experiments.store.examples import Gallery, GalleryError, from_record, to_record
from experiments.store.records import StageRecord, StageState, TrialRecord
from experiments.store.store import stage_record
from experiments.store.trials import trial_documents, trial_file, valid_documents
from smaug_core.errors import SmaugError
from smaug_core.files import POSITIVE, DocumentError, Maybe, Some, StoredDocument, check, key, write_whole

FORMAT = "smaug stage 1"
"""Format of a stage's record; a later one would have another number."""
POINTS = 100
"""Number of points that are kept of a longer curve."""
OF_THE_MACHINE = ("boot", "pid", "process_started", "start_ticks", "oom_kills")
"""Keys of an owner that only serve to find out whether it lives, and why it may have died."""
FOLDERS = re.compile(r"(?:file:/{2,3}|(?<![\w./])(?<!:/)~?/)(?:[^\s/:;,'\"()\[\]{}]+/)+")
"""The folders of an absolute path, in any text; addresses like https://host/page are none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RecordedAttempt(StoredDocument):
    """An attempt in a portable record."""

    number: int = key(POSITIVE)
    owner: Owner = key(Owner.form(without=OF_THE_MACHINE), document=Owner)
    progress: Heartbeat = key(Heartbeat.form(), document=Heartbeat)
    end: End | None = key(Maybe(End.form()), document=End)
    failure: FailureNote | None = key(Maybe(FailureNote.form()), absent=None, document=FailureNote)
    accounting: Accounting | None = key(Maybe(Accounting.form()), absent=None, document=Accounting)


@dataclass(frozen=True, kw_only=True, slots=True)
class RecordedStage(StoredDocument):
    """The portable record of a stage."""

    document: StageDocument = key(StageDocument.form(), document=StageDocument)
    attempts: tuple[RecordedAttempt, ...] = key(Some(RecordedAttempt.form()), document=RecordedAttempt)
    result: Result | None = key(Maybe(Result.form()), document=Result)
    prediction: Prediction | None = key(Maybe(Prediction.form()), document=Prediction)
    curve: dict[str, Any] = key({"points": [CurvePoint.form()]})
    ranks: dict[str, dict[str, int]] | None = key(Maybe(RANKS.form))


class RecordError(SmaugError):
    """A folder of records cannot be written, or holds something else."""


@dataclass(frozen=True, slots=True)
class Records:
    """Content of a folder of records."""

    stages: dict[str, StageRecord]
    """By fingerprint, parents and children in no particular order."""
    documents: list[TrialDocument]
    """Every trial, the newest last."""

    def trial(self, document: TrialDocument) -> TrialRecord:
        """Return the record of a trial."""
        stages = ((stage, self.stages.get(stage.fingerprint)) for stage in document.stages)
        return TrialRecord(document=document, stages=tuple(stages))


def write_records(home: Path, out: Path) -> tuple[int, int]:
    """Write the valid trials of a home folder and the stages they need; return the numbers of stages and of trials.

    The same store gives the same bytes. Each file is replaced whole; records of what is no longer needed are removed,
    other files are left alone.

    Raises:
        RecordError: there is no trial, or a file cannot be written.
        StoreError: the store contradicts itself.
    """
    documents = valid_documents(trial_documents(home))
    if not documents:
        raise RecordError(f"{home}: holds no trial, so there is nothing to record; run a sweep first")
    needed = {(stage.kind, stage.fingerprint): None for document in documents for stage in document.stages}
    places = _Places(home)
    texts: dict[Path, str] = {}
    for kind, fingerprint in needed:
        if (record := stage_record(home, kind, fingerprint)) is not None:
            body = places.left_out(_stage_body(record))
            texts[_stage_file(kind, fingerprint)] = json.dumps(body, sort_keys=True, separators=(",", ":")) + "\n"
    num_stages = len(texts)
    for document in documents:
        recorded = [s.fingerprint for s in document.stages if _stage_file(s.kind, s.fingerprint) in texts]
        texts[trial_file(document)] = json.dumps(places.left_out(document.raw) | {"recorded": recorded}, indent=1)
    for path, text in texts.items():
        _write(out / path, text)
    for path in record_files(out):
        if path.relative_to(out) not in texts and _is_record(path, out):
            path.unlink()
    return num_stages, len(texts) - num_stages


def read_records(folder: Path) -> Records:
    """Read a folder that `write_records` has written.

    Raises:
        RecordError: it holds no records, or one is missing or damaged; the first is named.
    """
    stages: dict[str, StageRecord] = {}
    documents = []
    for path in record_files(folder):
        if path.relative_to(folder).parts[0] == "trials":
            documents.append(_read_trial(path))
        else:
            record = _read_stage(path)
            stages[record.fingerprint] = record
    if not documents:
        raise RecordError(f"{folder}: expected a folder that `smaug sync --to` wrote, got no trials/*/*.json in it")
    for record in stages.values():
        for parent in record.document.parents:
            if record.result is not None and parent not in stages:
                path = folder / _stage_file(record.document.kind, record.fingerprint)
                raise RecordError(f"{path}: the stage it builds on, {parent[:12]}, is not in {folder / 'stages'}")
    for document in documents:
        for stage in document.stages:
            if stage.fingerprint in document.raw["recorded"] and stage.fingerprint not in stages:
                path = folder / _stage_file(stage.kind, stage.fingerprint)
                raise RecordError(f"{path}: is missing; {trial_file(document)} was recorded with it")
    return Records(stages, sorted(documents, key=lambda document: document.time))


class _Recorded(Attempt):
    """An attempt of a portable record: no process works on it, whatever its heartbeat."""

    @property
    def state(self) -> AttemptState:
        return "dead" if self.end is None else super().state


@dataclass(frozen=True, slots=True)
class _RecordedDetails:
    """Prediction, curve, ranks and pictures of a portable record."""

    recorded: RecordedStage
    pictures: Gallery | None

    def prediction(self) -> Prediction | None:
        return self.recorded.prediction

    def curve(self) -> list[CurvePoint]:
        return [CurvePoint.of(point) for point in self.recorded.curve["points"]]

    def ranks(self) -> dict[str, dict[str, int]] | None:
        return self.recorded.ranks

    def gallery(self) -> Gallery | None:
        return self.pictures


class _Places:
    """Removes the folders of this machine from records."""

    def __init__(self, home: Path) -> None:
        self._folders = [f"{folder}/" for folder in (home.resolve(), home.absolute(), Path.home()) if folder.parts[1:]]

    def left_out(self, value: Any) -> Any:
        """Replace the folders of absolute paths by `.../` in all texts; other text is not changed."""
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


def _stage_body(record: StageRecord) -> dict[str, Any]:
    points, gallery, prediction = record.details.curve(), record.gallery, record.details.prediction()
    kept = _thinned(points)
    body = {
        "format": FORMAT,
        "document": record.document.raw,
        "attempts": [_attempt_body(attempt) for attempt in record.attempts],
        "result": None if record.result is None else record.result.raw,
        "prediction": None if prediction is None else prediction.raw,
        "curve": {
            "points": [point.raw for point in kept],
            "reported": len(points),
            "thinned": len(kept) < len(points),
        },
        "ranks": record.details.ranks(),
    }
    return body if gallery is None else body | {"examples": to_record(gallery)}


def _attempt_body(attempt: Attempt) -> dict[str, Any]:
    owner = {key: value for key, value in attempt.owner.raw.items() if key not in OF_THE_MACHINE}
    owner["host"] = _pseudonym(attempt.owner.host)
    end = None if attempt.end is None else attempt.end.raw | {"traceback": ""}
    body = {"number": attempt.number, "owner": owner, "progress": attempt.progress.raw, "end": end}
    more = {"failure": attempt.failure, "accounting": attempt.accounting}
    return body | {name: document.raw for name, document in more.items() if document is not None}


def _pseudonym(host: str) -> str:
    """Pseudonym of a machine: equal for attempts on one machine."""
    return f"host-{hashlib.sha256(host.encode()).hexdigest()[:8]}"


def _thinned(points: Sequence[CurvePoint]) -> list[CurvePoint]:
    """Return at most `POINTS` of a curve, evenly spread, with the first and the last."""
    if len(points) <= POINTS:
        return list(points)
    return [points[round(place * (len(points) - 1) / (POINTS - 1))] for place in range(POINTS)]


def _stage_file(kind: str, fingerprint: str) -> Path:
    return Path("stages", kind, f"{fingerprint[:12]}.json")


def record_files(folder: Path) -> Iterator[Path]:
    """List the files of a folder of records."""
    for part in ("stages", "trials"):
        yield from sorted(folder.glob(f"{part}/*/*.json"))


def _is_record(path: Path, folder: Path) -> bool:
    try:
        (_read_trial if path.relative_to(folder).parts[0] == "trials" else _read_stage)(path)
    except RecordError:
        return False
    return True


def _read_stage(path: Path) -> StageRecord:
    body = _read(path)
    if body.get("format") != FORMAT:
        raise RecordError(f"{path}: is no record of a stage (format {body.get('format')!r}, not {FORMAT!r}); remove it")
    try:
        check(body, RecordedStage.form())
        gallery = from_record(body["examples"]) if "examples" in body else None
    except (DocumentError, GalleryError) as error:
        raise RecordError(f"{path}: is no record of a stage ({error}); take it from its source again") from error
    recorded = RecordedStage.of(body)
    attempts = [
        _Recorded(
            number=attempt.number,
            directory=path,
            owner=attempt.owner,
            progress=attempt.progress,
            end=attempt.end,
            failure=attempt.failure,
            accounting=attempt.accounting,
        )
        for attempt in recorded.attempts
    ]
    return StageRecord(
        directory=path,
        document=recorded.document,
        state=_state(attempts[-1], recorded.result),
        attempts=attempts,
        result=recorded.result,
        details=_RecordedDetails(recorded, gallery),
    )


def _state(newest: Attempt, result: Result | None) -> StageState:
    if result is not None:
        return StageState.DONE
    return StageState.FAILED if newest.state in ("failed", "diverged") else StageState.NEW


def _read_trial(path: Path) -> TrialDocument:
    document = _read(path)
    try:
        check(document, {**TRIAL.form, "recorded": [str]})
    except DocumentError as error:
        raise RecordError(f"{path}: is no record of a trial ({error}); remove it") from error
    trial = TRIAL.of(document)
    if trial.fingerprint != digest([stage.fingerprint for stage in trial.stages]):
        raise RecordError(f"{path}: was changed or damaged: its stages are those of another trial")
    return trial


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
