"""The JSON documents of a home folder: the form of each, and what to do about one that is damaged.

Forms that only one module writes and reads are in that module: `worker.launcher`, `engines.slurm.job` and
`engines.slurm.submissions`.

No advice deletes anything: what is damaged is renamed, or written again by the process that it belongs to.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from experiments.config.scale import PEBIBYTE_GB
from smaug_core.errors import SmaugError
from smaug_core.files import (
    ANY_NUMBER,
    COUNT,
    DIGEST,
    NAME,
    POSITIVE,
    SECONDS,
    TIME,
    DocumentError,
    Form,
    Map,
    Maybe,
    Number,
    Pattern,
    Some,
    StoredDocument,
    Words,
    check,
    key,
    parse,
    write_whole,
)
from smaug_core.stage_protocol import KINDS


class StoreError(SmaugError):
    """The store cannot be written, or holds something that contradicts itself."""

    def __init__(self, what: str, advice: str = "") -> None:
        """Take the error, and the advice where it is given separately."""
        super().__init__(f"{what}; {advice}" if advice else what)
        self.what, self.advice = what, advice


D = TypeVar("D")


@dataclass(frozen=True, slots=True)
class Shape(Generic[D]):
    """The form of a document, and how it is read."""

    form: Form
    advice: str
    """What to do about a damaged one, so that nothing is lost; `{path}` and `{folder}` stand for where it is."""
    of: Callable[[dict[str, Any]], D]

    def fault(self, path: Path, what: object) -> StoreError:
        """The error that names the file, what is wrong, and what to do."""
        return StoreError(f"{path}: {what}", self.advice.format(path=path, folder=path.parent))


def plain(form: Form, advice: str) -> Shape[dict[str, Any]]:
    """Shape of a document that is read as a dict."""
    return Shape(form, advice, dict)


def read_document(path: Path, shape: Shape[D]) -> D | None:
    """Read a document; None if there is no such file.

    Raises:
        StoreError: it cannot be read, or holds something else; the message says where and what to do.
    """
    try:
        value = parse(path.read_bytes())
        check(value, shape.form)
    except FileNotFoundError:
        return None
    except (OSError, DocumentError) as error:
        what = f"cannot be read ({error.strerror})" if isinstance(error, OSError) else error
        raise shape.fault(path, what) from error
    return shape.of(value)


def write_json(path: Path, value: Any, *, durable: bool = False) -> None:
    """Make `path` hold `value`, complete or not at all; `durable`: it outlives a power failure.

    Raises:
        StoreError: it cannot be written, e.g. the disk is full.
    """
    try:
        write_whole(path, lambda partial: _dump(partial, value), durable=durable)
    except OSError as error:
        raise unwritable(path, error) from error


def _dump(path: Path, value: Any) -> None:
    with path.open("w") as file:
        json.dump(value, file, indent=1)


def unwritable(path: Path, error: OSError) -> StoreError:
    """The error that names what could not be written, why, and what to do."""
    return StoreError(
        f"{path}: cannot be written ({error.strerror}); free some space or choose another --home,"
        " then give the same command again"
    )


RENAME = "restore it from a backup, or rename it to {path.name}.damaged; "

ANY = plain(dict, f"{RENAME}nothing else is lost")
"""An object, whatever it holds."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StageDocument(StoredDocument):
    """stage.json: all that a worker needs."""

    name: str = key(NAME)
    kind: str = key(Words(KINDS))
    task: str | None = key(Maybe(str))
    version: int = key(COUNT)
    settings: dict[str, dict[str, Any]] = key(Map(dict))
    inputs: dict[str, str | None] = key(Map(Maybe(str)))
    parents: list[str] = key([DIGEST])
    seed: int | None = key(Maybe(Number(-(2**63), 2**63, whole=True)))
    resources: dict[str, Any] = key(
        {
            "cpus": COUNT,
            "gpus": COUNT,
            "accelerator?": Maybe(str),
            "memory_gb?": Number(0, PEBIBYTE_GB),
            "nodes?": Maybe(POSITIVE),
            "workers?": COUNT,
        }
    )
    entry: str = key(Pattern(r"\w+(\.\w+)*:\w+", "module:function"))
    fingerprint: str = key(DIGEST)


STAGE = Shape(
    StageDocument.form(),
    f"{RENAME}the next run of its sweep writes it again and keeps results and checkpoints",
    StageDocument.of,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Result(StoredDocument):
    """result.json: written last; the stage is done."""

    fingerprint: str = key(DIGEST)
    metrics: dict[str, float] = key(Map(ANY_NUMBER))
    useful_s: float = key(SECONDS)
    loader_wait_s: float = key(SECONDS, absent=0.0)
    checkpoint_s: float = key(SECONDS, absent=0.0)
    files: dict[str, str] = key(Map(DIGEST))
    sizes: dict[str, int] | None = key(Map(COUNT), absent=None)
    notes: dict[str, Any] = key({"unreadable?": Map(str), "n_unreadable?": COUNT})
    code: dict[str, str] = key(Map(str))
    device: str = key(str)
    device_name: str = key(str)
    unit: str = key(str)
    cpus: int = key(COUNT)
    gpus: int = key(COUNT)
    versions: dict[str, str] = key(Map(str))
    recompute_layers: bool = key(bool, absent=False)
    nodes: int = key(POSITIVE, absent=1)
    processes: int = key(POSITIVE, absent=1)
    commit: dict[str, Any] | None = key(Maybe({"id": str, "changed": bool}))
    threads: int = key(COUNT)
    attempt: int = key(POSITIVE)
    time: float = key(TIME)


RESULT = Shape(
    Result.form(),
    f"{RENAME}the next run then does the stage again; to keep its weights too, copy {{folder}} first",
    Result.of,
)
EVALUATED = {
    "dataset": str,
    "split": str,
    "n_queries": COUNT,
    "n_clips": COUNT,
    "test_digest": str,
    "ranking": str,
}
"""Notes in the result of an evaluation."""

EVALUATION = Shape({**RESULT.form, "notes": EVALUATED}, RESULT.advice, Result.of)
"""result.json of an evaluation."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Prediction(StoredDocument):
    """prediction.json of a stage: its hours as they were predicted before it began."""

    hours: float = key(SECONDS)
    unit: str = key(str)
    source: str = key(str)
    time: float = key(TIME)


PREDICTION = "prediction.json"
PREDICTED = Shape(Prediction.form(), f"{RENAME}it only says what the stage was expected to take", Prediction.of)

RANKS = plain(
    {"t2v": Map(COUNT), "v2t": Map(COUNT)},
    "restore it from a backup; or rename result.json beside it: the next run then does the evaluation again",
)
"""ranks.json of an evaluation."""


KEPT = plain({"sha256": Map(DIGEST)}, "the stage goes on from the checkpoint before")
"""state.json of a checkpoint: digests of its files."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CurvePoint(StoredDocument):
    """A line of metrics.jsonl."""

    time: float = key(TIME)
    step: int = key(COUNT)
    values: dict[str, float] = key(Map(ANY_NUMBER))


RATE = plain(
    {"macs_per_hour": Number(1e-9, 1e30), "unit": str}, f"{RENAME}the next `smaug run` that needs it times steps again"
)
"""rate.json of a probe."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CommandDocument(StoredDocument):
    """stage.json in the folder of a single command."""

    stage: StageDocument = key(StageDocument.form(), document=StageDocument)
    start: str | None = key(Maybe(str), name="from")


ALONE = Shape(
    CommandDocument.form(),
    f"{RENAME}the same command then writes it again and goes on from its checkpoint",
    CommandDocument.of,
)
METRICS = plain(Map(ANY_NUMBER), f"{RENAME}the same command then trains the last steps again")
"""metrics.json in the folder of a single command."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialStage(StoredDocument):
    """A stage of a trial."""

    name: str = key(NAME)
    kind: str = key(Words(KINDS))
    task: str | None = key(Maybe(str))
    fingerprint: str = key(DIGEST)


@dataclass(frozen=True, kw_only=True, slots=True)
class TableLayout(StoredDocument):
    """The columns of a sweep's table, and the title of its first one."""

    row: str = key(str)
    columns: list[str] = key([str])


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialDocument(StoredDocument):
    """A file of the folder `trials`: a row of a table, and the stages that it needs."""

    sweep: str = key(NAME)
    title: str = key(str)
    table: str | None = key(Maybe(str))
    report: TableLayout = key(TableLayout.form(), document=TableLayout)
    scale: str = key(NAME)
    variant: str = key(NAME)
    position: int = key(COUNT)
    baseline: str = key(str)
    seed: str = key(NAME)
    params: dict[str, Any] = key(dict)
    stages: tuple[TrialStage, ...] = key(Some(TrialStage.form()), document=TrialStage)
    fingerprint: str = key(DIGEST)
    marks: list[str] = key([str])
    time: float = key(TIME)


TRIAL = Shape(
    TrialDocument.form(),
    "give the command of its sweep again, which writes the file again (before `smaug gc`: without the file the stages"
    " seem unused)",
    TrialDocument.of,
)


POINT = CurvePoint.form()
"""Computed once: a curve has many lines."""


def read_point(line: bytes, path: Path) -> CurvePoint:
    """Read a point of a curve from a line of `path`.

    Raises:
        StoreError: the line holds something else.
    """
    try:
        point = parse(line)
        check(point, POINT)
    except DocumentError as error:
        raise StoreError(f"{path}: a line holds no step of a training ({error})", "remove that line") from error
    return CurvePoint.of(point)
