"""The store: one directory for each stage's result, the truth of what was executed.

`store/<kind>/<first 12 digits of the fingerprint>/` holds stage.json (what is asked for), attempts/, whatever the
stage writes, and result.json, which is written last: present means done.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from experiments.stages.stage import Stage, agrees
from experiments.store.attempt import (
    FAILURE,
    Attempt,
    StoreError,
    read_attempts,
    unwritable,
    write_json,
)
from experiments.store.device_hours import Hours, stage_hours
from experiments.store.documents import EVALUATION, RESULT, STAGE, read_document, read_point
from smaug_core.stage_protocol import EVALUATE

StageState = Literal["new", "resume", "running", "failed", "done"]


@dataclass(frozen=True, kw_only=True, slots=True)
class StageRecord:
    """All that the store knows about a stage."""

    directory: Path
    attempts: list[Attempt]
    result: dict[str, Any] | None
    """What result.json holds; none until the stage is done."""

    @property
    def state(self) -> StageState:
        """Where the stage stands; `resume`: a checkpoint waits, `failed`: trying again alone would not help."""
        if self.result is not None:
            return "done"
        newest = self.attempts[-1].state if self.attempts else None
        if newest == "running":
            return "running"
        if newest in ("failed", "diverged"):
            return "failed"
        return "resume" if any((self.directory / "checkpoints").glob("step-*")) else "new"

    @property
    def hours(self) -> Hours:
        """What it cost so far."""
        return stage_hours(self.attempts, None if self.result is None else self.result["useful_s"])

    @property
    def unit(self) -> str | None:
        """Unit of its hours, e.g. `CPU h`; none before the first attempt."""
        return self.attempts[-1].owner["unit"] if self.attempts else None


class Store:
    """The stages kept under one home folder."""

    def __init__(self, home: Path) -> None:
        self.home = home.resolve()
        self.root = self.home / "store"

    def directory(self, stage: Stage) -> Path:
        """Where a stage is kept."""
        return self.root / stage.kind / stage.fingerprint[:12]

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
        """Write the stage.json of a finished stage again where it is missing: it was damaged, and renamed."""
        if not (self.directory(stage) / "stage.json").exists():
            self.prepare(stage)

    def _there(self, directory: Path, stage: Stage) -> dict[str, Any] | None:
        """What stage.json holds; none where it is missing or damaged: it holds nothing that the stage does not say."""
        try:
            there = read_document(directory / "stage.json", STAGE)
        except StoreError:
            return None
        if there is not None:
            self._check(directory, there["fingerprint"], stage)
        return there

    def result(self, stage: Stage) -> dict[str, Any] | None:
        """The stage's result; none if it is not done."""
        directory = self.directory(stage)
        result = read_result(directory)
        if result is not None:
            self._check(directory, result["fingerprint"], stage)
        return result

    def has_attempt(self, stage: Stage, number: int) -> bool:
        """Whether so many attempts have begun; cheaper than `record`."""
        return (self.directory(stage) / "attempts" / f"{number:04d}").exists()

    def record(self, stage: Stage) -> StageRecord:
        """All that is known about a stage."""
        # The attempts first: a result that is published in between still counts, never a failure in its stead.
        attempts = read_attempts(self.directory(stage))
        return StageRecord(directory=self.directory(stage), attempts=attempts, result=self.result(stage))

    def done(self, kind: str) -> Iterator[tuple[dict[str, Any], StageRecord]]:
        """Every finished stage of a kind that can be read, with its stage.json, in no particular order."""
        for path in (self.root / kind).glob("*/result.json"):
            if not re.fullmatch(r"[0-9a-f]{12}", path.parent.name):
                continue  # put aside
            try:
                document, result = read_stage(path.parent), read_result(path.parent)
                attempts = read_attempts(path.parent)
            except StoreError:
                continue  # it teaches nothing; whoever needs that very stage is told
            if document is not None and result is not None:
                yield document, StageRecord(directory=path.parent, attempts=attempts, result=result)

    def set_aside(self, stage: Stage) -> Path:
        """Put a stage's directory out of the way, so that the stage is run anew; gives where it is now.

        Raises:
            StoreError: it is running.
        """
        if self.record(stage).state == "running":
            raise StoreError(f"{self.directory(stage)}: is running; stop it before setting it aside")
        directory, number = self.directory(stage), 1
        while (aside := directory.with_name(f"{directory.name}.aside-{number}")).exists():
            number += 1
        try:
            return directory.rename(aside)
        except OSError as error:
            raise unwritable(aside, error) from error

    @staticmethod
    def _check(directory: Path, found: str, stage: Stage) -> None:
        if found != stage.fingerprint:
            raise StoreError(
                f"{directory}: holds the stage {found}, not {stage.fingerprint}: two stages share their first"
                " 12 digits; use another --home for one of them"
            )


def do_again(directory: Path) -> str:
    """What to do about a finished stage whose files are damaged."""
    again = "the next run then does the stage again"
    return f"restore it from a backup, or rename the folder to {directory.name}.damaged; {again}"


def read_stage(directory: Path) -> dict[str, Any] | None:
    """What the stage.json of a folder holds; none if there is none.

    Raises:
        StoreError: it is damaged, or was edited: what it asks for is not what its fingerprint stands for.
    """
    path = directory / "stage.json"
    document = read_document(path, STAGE)
    if document is not None and not agrees(document):
        raise STAGE.fault(path, f"was edited: what it holds does not have its fingerprint {document['fingerprint']}")
    return document


def read_result(directory: Path) -> dict[str, Any] | None:
    """What the result.json of a folder holds; none if there is none.

    Raises:
        StoreError: it is damaged, or is not the result of what lies beside it: stage.json was edited, or a file that
            the stage published does not have its size. Older results name no sizes, so their files are not compared.
    """
    path = directory / "result.json"
    if not path.exists():
        return None
    document = read_stage(directory)
    evaluated = document is not None and document["kind"] == EVALUATE
    result = read_document(path, EVALUATION if evaluated else RESULT)
    for name, size in ({} if result is None else result.get("sizes", {})).items():
        found = (directory / name).stat().st_size if (directory / name).exists() else None
        if found != size:
            got = "no such file" if found is None else f"{found} bytes"
            what = f"{directory / name}: was changed after its stage was done: expected {size} bytes, got {got}"
            raise StoreError(what, do_again(directory))
    return result


def read_curve(stage_directory: Path) -> list[dict[str, Any]]:
    """What a stage reported, step by step; where steps were done again, the newest attempt's account."""
    points: dict[int, dict[str, Any]] = {}
    for attempt in read_attempts(stage_directory):
        try:
            lines = (attempt.directory / "metrics.jsonl").read_bytes().split(b"\n")
        except FileNotFoundError:
            continue  # it ended before it could report
        for line in lines[:-1]:  # a killed worker may leave half a line
            point = read_point(line, attempt.directory / "metrics.jsonl")
            points[point["step"]] = point
    return [points[step] for step in sorted(points)]
