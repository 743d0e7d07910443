"""The store: one folder for each stage, the truth of what was executed.

`store/<kind>/<first 12 digits of the fingerprint>/` holds stage.json (what is asked for), attempts/, whatever the
stage writes, and result.json, which is written last: a stage with it is done.
"""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.stages.stage import Stage, agrees
from experiments.store.attempt import FAILURE, Attempt, read_attempts
from experiments.store.attempt_files import FAILED
from experiments.store.documents import (
    EVALUATION,
    PREDICTED,
    PREDICTION,
    RANKS,
    RESULT,
    STAGE,
    CurvePoint,
    Prediction,
    Result,
    StageDocument,
    StoreError,
    read_document,
    read_point,
    unwritable,
    write_json,
)
from experiments.store.examples import Gallery, stored_gallery
from experiments.store.records import StageRecord, StageState
from smaug_core.stage_protocol import EVALUATE


class Store:
    """The stages of a home folder."""

    def __init__(self, home: Path) -> None:
        self.home = home.resolve()
        self.root = self.home / "store"

    def directory(self, stage: Stage) -> Path:
        """Return the folder of a stage."""
        return stage_folder(self.home, stage.kind, stage.fingerprint)

    def prepare(self, stage: Stage) -> Path:
        """Make the stage's directory with its stage.json, ready for a worker.

        Raises:
            StoreError: it cannot be written, or another stage has the same first 12 digits.
        """
        directory = self.directory(stage)
        document = json.loads(json.dumps(stage.document()))
        there = self._there(directory, stage)
        try:
            (directory / FAILURE).unlink(missing_ok=True)  # of a job that ended before it made an attempt
        except OSError as error:
            raise unwritable(directory, error) from error
        if there != document:  # resources are not part of the fingerprint and may have changed
            try:
                directory.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise unwritable(directory, error) from error
            write_json(directory / "stage.json", document, durable=True)
        return directory

    def restore(self, stage: Stage) -> None:
        """Write the stage.json of a finished stage again if it is missing: it was damaged, and renamed."""
        if not (self.directory(stage) / "stage.json").exists():
            self.prepare(stage)

    def _there(self, directory: Path, stage: Stage) -> dict[str, Any] | None:
        """Read stage.json; None where it is missing or damaged: it holds nothing that the stage does not."""
        try:
            there = read_document(directory / "stage.json", STAGE)
        except StoreError:
            return None
        if there is None:
            return None
        self._check(directory, there.fingerprint, stage)
        return there.raw

    def result(self, stage: Stage) -> Result | None:
        """Read the stage's result; None if it is not done."""
        directory = self.directory(stage)
        result = read_result(directory)
        if result is not None:
            self._check(directory, result.fingerprint, stage)
        return result

    def has_attempt(self, stage: Stage, number: int) -> bool:
        """Return whether so many attempts have begun; faster than `record`."""
        return (self.directory(stage) / "attempts" / f"{number:04d}").exists()

    def record(self, stage: Stage) -> StageRecord:
        """Read the record of a stage, begun or not.

        Raises:
            StoreError: a file is damaged, or another stage has the same first 12 digits.
        """
        directory = self.directory(stage)
        # The attempts first: a result that is published in between still counts, never a failure in its stead.
        attempts = read_attempts(directory)
        return _record(directory, StageDocument.of(stage.document()), attempts, self.result(stage))

    def done(self, kind: str) -> Iterator[StageRecord]:
        """Read the record of every finished stage of a kind that can be read, in no particular order."""
        for path in (self.root / kind).glob("*/result.json"):
            if is_stage_folder(path.parent):
                try:
                    record = read_record(path.parent)
                except StoreError:
                    continue  # whoever needs that very stage gets the error
                if record is not None and record.result is not None:
                    yield record

    def document(self, fingerprint: str) -> StageDocument | None:
        """Read stage.json of a stage of any kind; None if it is not here.

        Raises:
            StoreError: it is damaged.
        """
        path = next(self.root.glob(f"*/{fingerprint[:12]}/stage.json"), None)
        return None if path is None else read_stage(path.parent)

    def archive(self, stage: Stage) -> Path:
        """Archive a stage's folder, so that the stage runs from its start; return the new path.

        Raises:
            StoreError: it is running.
        """
        if self.record(stage).state == "running":
            raise StoreError(f"{self.directory(stage)}: is running; stop it before it is archived")
        directory, number = self.directory(stage), 1
        while (archived := directory.with_name(f"{directory.name}.aside-{number}")).exists():
            number += 1
        try:
            return directory.rename(archived)
        except OSError as error:
            raise unwritable(archived, error) from error

    @staticmethod
    def _check(directory: Path, found: str, stage: Stage) -> None:
        if found != stage.fingerprint:
            raise StoreError(
                f"{directory}: holds the stage {found}, not {stage.fingerprint}: two stages share their first"
                " 12 digits; use another --home for one of them"
            )


def stage_folder(home: Path, kind: str, fingerprint: str) -> Path:
    """Return the folder of a stage of a home folder."""
    return home / "store" / kind / fingerprint[:12]


def is_stage_folder(folder: Path) -> bool:
    """Return whether a folder of the store holds a stage; an archived one has a longer name."""
    return re.fullmatch(r"[0-9a-f]{12}", folder.name) is not None


def all_stages(home: Path) -> Iterator[StageRecord]:
    """Read the record of every stage with an attempt."""
    for path in sorted((home / "store").glob("*/*/stage.json")):
        if is_stage_folder(path.parent) and (record := read_record(path.parent)):
            yield record


def stage_record(home: Path, kind: str, fingerprint: str) -> StageRecord | None:
    """Read the record of a stage; None before its first attempt.

    Raises:
        StoreError: a file is damaged, or another stage has the same first 12 digits.
    """
    directory = stage_folder(home, kind, fingerprint)
    record = read_record(directory)
    if record is not None and record.fingerprint != fingerprint:
        raise StoreError(f"{directory}: holds the stage {record.fingerprint}, not {fingerprint}")
    return record


def read_record(directory: Path) -> StageRecord | None:
    """Read the record of the stage in a folder; None before its first attempt."""
    # The attempts first: a result that is published in between still counts.
    attempts = read_attempts(directory)
    document, result = read_stage(directory), read_result(directory)
    return None if document is None or not attempts else _record(directory, document, attempts, result)


def _record(
    directory: Path, document: StageDocument, attempts: Sequence[Attempt], result: Result | None
) -> StageRecord:
    state = _state(directory, attempts, result)
    ended = state in (StageState.DONE, StageState.RUNNING)
    return StageRecord(
        directory=directory,
        document=document,
        state=state,
        attempts=attempts,
        result=result,
        details=_StoredDetails(directory),
        early=None if ended else read_document(directory / FAILURE, FAILED),
    )


def _state(directory: Path, attempts: Sequence[Attempt], result: Result | None) -> StageState:
    if result is not None:
        return StageState.DONE
    newest = attempts[-1].state if attempts else None
    if newest == "running":
        return StageState.RUNNING
    if newest in ("failed", "diverged"):
        return StageState.FAILED
    return StageState.RESUME if any((directory / "checkpoints").glob("step-*")) else StageState.NEW


@dataclass(frozen=True, slots=True)
class _StoredDetails:
    """Large files in a stage's folder."""

    directory: Path

    def prediction(self) -> Prediction | None:
        return read_document(self.directory / PREDICTION, PREDICTED)

    def curve(self) -> list[CurvePoint]:
        return read_curve(self.directory)

    def ranks(self) -> dict[str, dict[str, int]] | None:
        return read_document(self.directory / "ranks.json", RANKS)

    def gallery(self) -> Gallery | None:
        return stored_gallery(self.directory)


def do_again(directory: Path) -> str:
    """Return the advice for a finished stage with damaged files."""
    again = "the next run then does the stage again"
    return f"restore it from a backup, or rename the folder to {directory.name}.damaged; {again}"


def read_stage(directory: Path) -> StageDocument | None:
    """Read the stage.json of a folder; None if there is none.

    Raises:
        StoreError: it is damaged, or was edited: its settings do not have its fingerprint.
    """
    path = directory / "stage.json"
    document = read_document(path, STAGE)
    if document is not None and not agrees(document.raw):
        raise STAGE.fault(path, f"was edited: what it holds does not have its fingerprint {document.fingerprint}")
    return document


def read_result(directory: Path) -> Result | None:
    """Read the result.json of a folder; None if there is none.

    Raises:
        StoreError: it is damaged, or does not belong to the files beside it: stage.json was edited, or a file that
            the stage published has another size. Older results hold no sizes, so their files are not compared.
    """
    path = directory / "result.json"
    if not path.exists():
        return None
    document = read_stage(directory)
    evaluated = document is not None and document.kind == EVALUATE
    result = read_document(path, EVALUATION if evaluated else RESULT)
    for name, size in ({} if result is None or result.sizes is None else result.sizes).items():
        found = (directory / name).stat().st_size if (directory / name).exists() else None
        if found != size:
            got = "no such file" if found is None else f"{found} bytes"
            what = f"{directory / name}: was changed after its stage was done: expected {size} bytes, got {got}"
            raise StoreError(what, do_again(directory))
    return result


def read_curve(stage_directory: Path) -> list[CurvePoint]:
    """Read the reported points of a stage, step by step; of repeated steps, those of the newest attempt."""
    points: dict[int, CurvePoint] = {}
    for attempt in read_attempts(stage_directory):
        try:
            lines = (attempt.directory / "metrics.jsonl").read_bytes().split(b"\n")
        except FileNotFoundError:
            continue  # it ended before it could report
        for line in lines[:-1]:  # a killed worker may leave half a line
            point = read_point(line, attempt.directory / "metrics.jsonl")
            points[point.step] = point
    return [points[step] for step in sorted(points)]
