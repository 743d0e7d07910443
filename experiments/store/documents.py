"""The JSON documents of a home folder: the form of each, and what to do about one that is damaged.

Forms that only one module writes and reads are in that module: `worker.launcher`, `engines.slurm.job` and
`engines.slurm.submissions`.

No advice deletes anything: what is damaged is renamed, or written again by the process that it belongs to.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.config.scale import PEBIBYTE_GB
from experiments.store.failures import POLICIES
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
    Words,
    check,
    parse,
    write_whole,
)
from smaug_core.stage_protocol import KINDS


class StoreError(SmaugError):
    """The store cannot be written, or holds something that contradicts itself."""

    def __init__(self, what: str, advice: str = "") -> None:
        """Take what is wrong, and what to do about it where that is told apart."""
        super().__init__(f"{what}; {advice}" if advice else what)
        self.what, self.advice = what, advice


@dataclass(frozen=True, slots=True)
class Shape:
    """What a document must hold."""

    form: Form
    advice: str
    """What to do about a damaged one, so that nothing is lost; `{path}` and `{folder}` stand for where it is."""

    def fault(self, path: Path, what: object) -> StoreError:
        """The error that names the file, what is wrong, and what to do."""
        return StoreError(f"{path}: {what}", self.advice.format(path=path, folder=path.parent))


def read_document(path: Path, shape: Shape) -> dict[str, Any] | None:
    """What a document holds; none if there is no such file.

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
    assert isinstance(value, dict), shape
    return value


def read_point(line: bytes, path: Path) -> dict[str, Any]:
    """A point of a curve, `time`, `step` and `values`, from a line of `path`.

    Raises:
        StoreError: the line holds something else.
    """
    try:
        point = parse(line)
        check(point, POINT)
    except DocumentError as error:
        raise StoreError(f"{path}: a line holds no step of a training ({error})", "remove that line") from error
    assert isinstance(point, dict)
    return point


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

ANY = Shape(dict, f"{RENAME}nothing else is lost")
"""An object, whatever it holds."""

STAGE_FORM: Mapping[str, Form] = {
    "name": NAME,
    "kind": Words(KINDS),
    "task": Maybe(str),
    "version": COUNT,
    "settings": Map(dict),
    "inputs": Map(Maybe(str)),
    "parents": [DIGEST],
    "seed": Maybe(Number(-(2**63), 2**63, whole=True)),
    "resources": {
        "cpus": COUNT,
        "gpus": COUNT,
        "accelerator?": Maybe(str),
        "memory_gb?": Number(0, PEBIBYTE_GB),
        "nodes?": Maybe(POSITIVE),
    },
    "entry": Pattern(r"\w+(\.\w+)*:\w+", "module:function"),
    "fingerprint": DIGEST,
}
STAGE = Shape(STAGE_FORM, f"{RENAME}the next run of its sweep writes it again and keeps results and checkpoints")
"""stage.json."""

RESULT_FORM: Mapping[str, Form] = {
    "fingerprint": DIGEST,
    "metrics": Map(ANY_NUMBER),
    "useful_s": SECONDS,
    "files": Map(DIGEST),
    "sizes?": Map(COUNT),
    "notes": {"unreadable?": Map(str), "n_unreadable?": COUNT},
    "code": Map(str),
    "device": str,
    "device_name": str,
    "unit": str,
    "cpus": COUNT,
    "gpus": COUNT,
    "versions": Map(str),
    "recompute_layers?": bool,
    "nodes?": POSITIVE,
    "processes?": POSITIVE,
    "commit": Maybe({"id": str, "changed": bool}),
    "threads": COUNT,
    "attempt": POSITIVE,
    "time": TIME,
}
RESULT = Shape(
    RESULT_FORM, f"{RENAME}the next run then does the stage again; to keep its weights too, copy {{folder}} first"
)
"""result.json."""

EVALUATED: Mapping[str, Form] = {
    "dataset": str,
    "split": str,
    "n_queries": COUNT,
    "n_clips": COUNT,
    "test_digest": str,
    "ranking": str,
}
"""Notes in the result of an evaluation."""

EVALUATION = Shape({**RESULT_FORM, "notes": EVALUATED}, RESULT.advice)
"""result.json of an evaluation."""

PROCESS: Mapping[str, Form] = {
    "host": str,
    "boot": str,
    "pid": POSITIVE,
    "process_started": SECONDS,
    "start_ticks?": COUNT,
}
MACHINE: Mapping[str, Form] = {
    "host": str,
    "started": TIME,
    "unit": str,
    "cpus": COUNT,
    "gpus": COUNT,
    "device": str,
    "device_name": str,
    "versions": Map(str),
    "nodes?": POSITIVE,
    "recompute_layers?": bool,
    "slurm?": {"job": str, "restart": COUNT},
}
OWNER = Shape(
    {**PROCESS, **MACHINE, "oom_kills?": Map(COUNT)},
    "restore it from a backup; or, if no process works at the stage, rename {folder} to {folder.name}.damaged:"
    " checkpoints stay, but the hours of that attempt are no longer counted",
)
"""owner.json of an attempt."""

SPENT: Mapping[str, Form] = {
    "time": TIME,
    "spent_s": SECONDS,
    "wall_s": SECONDS,
    "cpu_s": SECONDS,
    "useful_s": SECONDS,
    "train_s": SECONDS,
    "step": COUNT,
    "total": COUNT,
    "values": Map(ANY_NUMBER),
    "joules?": SECONDS,
    "peak_memory_bytes?": COUNT,
}
PROGRESS = Shape(SPENT, "the attempt's hours are estimated from its curve; its checkpoints are not touched")
"""progress.json of an attempt: replaced every second, so what a power failure leaves may be empty."""

CLASS = Words(tuple(POLICIES))
"""Class of a failure."""

END = Shape(
    {
        **SPENT,
        "class": Words(("done", "failed", "diverged", "interrupted", "cancelled")),
        "message": str,
        "traceback": str,
        "failure?": CLASS,
    },
    f"{RENAME}the attempt then counts as one that died, up to its last heartbeat; checkpoints and results stay",
)
"""end.json of an attempt."""

FAILED = Shape({"class": CLASS, "seen": str, "done": str, "time": TIME}, f"{RENAME}it only says why an attempt ended")
"""failure.json of an attempt or a stage."""

ACCOUNTED = Shape(
    {"start": TIME, "end": TIME, "state": str, "cpu_s": Maybe(SECONDS)},
    f"{RENAME}`smaug sync` asks Slurm again",
)
"""accounting.json of an attempt."""

PREDICTED = Shape(
    {"hours": SECONDS, "unit": str, "source": str, "time": TIME},
    f"{RENAME}it only says what the stage was expected to take",
)
"""prediction.json of a stage."""

RANKS = Shape(
    {"t2v": Map(COUNT), "v2t": Map(COUNT)},
    "restore it from a backup; or rename result.json beside it: the next run then does the evaluation again",
)
"""ranks.json of an evaluation."""

KEPT = Shape({"sha256": Map(DIGEST)}, "the stage goes on from the checkpoint before")
"""state.json of a checkpoint: digests of its files."""

POINT: Mapping[str, Form] = {"time": TIME, "step": COUNT, "values": Map(ANY_NUMBER)}
"""A line of metrics.jsonl."""

TRIAL_FORM: Mapping[str, Form] = {
    "sweep": NAME,
    "title": str,
    "table": Maybe(str),
    "report": {"row": str, "columns": [str]},
    "scale": NAME,
    "variant": NAME,
    "position": COUNT,
    "baseline": str,
    "seed": NAME,
    "params": dict,
    "stages": Some({"name": NAME, "kind": Words(KINDS), "task": Maybe(str), "fingerprint": DIGEST}),
    "fingerprint": DIGEST,
    "marks": [str],
    "time": TIME,
}
TRIAL = Shape(
    TRIAL_FORM,
    "give the command of its sweep again, which writes the file again (before `smaug gc`: without the file the stages"
    " seem unused)",
)
"""A file of the folder `trials`."""

DRIVER = Shape(
    {"owner": PROCESS, "time": TIME, "fingerprints": [str]},
    f"{RENAME}a driver that lives writes it again within 15 s",
)
"""A file of the folder `drivers`."""

RATE = Shape(
    {"macs_per_hour": Number(1e-9, 1e30), "unit": str}, f"{RENAME}the next `smaug run` that needs it times steps again"
)
"""rate.json of a probe."""

ALONE = Shape(
    {"stage": STAGE_FORM, "from": Maybe(str)},
    f"{RENAME}the same command then writes it again and goes on from its checkpoint",
)
"""stage.json in the folder of a single command."""
METRICS = Shape(Map(ANY_NUMBER), f"{RENAME}the same command then trains the last steps again")
"""metrics.json in the folder of a single command."""

RECORDED: Mapping[str, Form] = {
    "document": STAGE_FORM,
    "attempts": Some(
        {
            "number": POSITIVE,
            "owner": MACHINE,
            "progress": SPENT,
            "end": Maybe(END.form),
            "failure?": Maybe(FAILED.form),
            "accounting?": Maybe(ACCOUNTED.form),
        }
    ),
    "result": Maybe(RESULT_FORM),
    "prediction": Maybe(PREDICTED.form),
    "curve": {"points": [POINT]},
    "ranks": Maybe(RANKS.form),
}
"""The portable record of a stage."""
