"""Tags of MLflow's runs, and the rows that they hold: one table for writing and reading. Imports no mlflow."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, TypeVar, get_type_hints

if TYPE_CHECKING:
    from experiments.tracking.client import Run

EVALUATION = ("dataset", "split", "n_queries", "n_clips", "test_digest", "ranking")
"""Keys of each evaluation that a trial's run holds."""
HOURS = "hours."
"""Prefix of the metrics with a stage's hours."""
ENERGY = "energy.kwh"
"""Metric of a stage's run: energy of its GPUs in all attempts."""
ENERGY_NOT_RECORDED = "a stage was recorded before energy was: smaug sync records it, where its store is"
TAG_LENGTH = 5000
"""Longest text of a tag that MLflow accepts everywhere."""

T = TypeVar("T")


class RowError(Exception):
    """A run lacks a tag, or has one that cannot be read."""


class Tag(NamedTuple):
    """Tag that holds a field of a row. `read` raises ValueError with the expected form."""

    name: str
    write: Callable[[Any], str] = str
    read: Callable[[str], Any] = str
    default: str | None = None
    """Text that stands for a missing tag; None if the tag is required."""


def _cut(text: str) -> str:
    return text[:TAG_LENGTH]


def sorted_json(value: Any) -> str:
    """Return JSON that does not depend on the order of keys."""
    return json.dumps(value, sort_keys=True)


def _json(kind: type[T], expected: str) -> Callable[[str], T]:
    def read(text: str) -> T:
        try:
            value = json.loads(text)
        except ValueError:
            value = None
        if not isinstance(value, kind):
            raise ValueError(expected)
        return value

    return read


_object = _json(dict, "an object in JSON")
_list = _json(list, "a list in JSON")


def _texts(text: str) -> tuple[str, ...]:
    return tuple(map(str, _list(text)))


def _count(text: str) -> int:
    if not text.isdecimal():
        raise ValueError("a whole number")
    return int(text)


def _evaluations(text: str) -> dict[str, Any]:
    evaluations = _object(text)
    for task, notes in evaluations.items():
        if not isinstance(notes, dict) or any(key not in notes for key in EVALUATION):
            raise ValueError(f"{', '.join(EVALUATION)} of {task}")
    return evaluations


def _unreadable(text: str) -> dict[str, Any]:
    trainings = _object(text)
    for name, clips in trainings.items():
        if not isinstance(clips, dict) or type(clips.get("count")) is not int or type(clips.get("files")) is not list:
            raise ValueError(f"a count and a list of files of {name}")
    return trainings


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialRow:
    """Trial as MLflow holds it: a row of a table."""

    run_id: str
    experiment_id: str
    artifacts: str
    """Address of its files in MLflow."""
    status: str
    sweep: Annotated[str, Tag("smaug.sweep")]
    title: Annotated[str, Tag("smaug.title")]
    table: Annotated[str | None, Tag("smaug.table", lambda value: value or "", lambda text: text or None)]
    row_label: Annotated[str, Tag("smaug.row")]
    columns: Annotated[tuple[str, ...], Tag("smaug.columns", json.dumps, _texts)]
    scale: Annotated[str, Tag("smaug.scale")]
    variant: Annotated[str, Tag("smaug.variant")]
    position: Annotated[int, Tag("smaug.position", read=_count)]
    """Index among the sweep's variants, from 0."""
    baseline: Annotated[str, Tag("smaug.baseline")]
    seed: Annotated[str, Tag("smaug.seed")]
    """`0`, or `0/2` where fine-tuning has its own."""
    metrics: dict[str, float]
    evaluations: Annotated[dict[str, dict[str, Any]], Tag("smaug.evaluations", sorted_json, _evaluations)]
    """By slot: dataset, split, n_queries, n_clips, test_digest, ranking."""
    device: Annotated[str, Tag("smaug.device")]
    """Device of pre-training, e.g. `NVIDIA H200 x 4`; empty before it has begun."""
    unit: Annotated[str, Tag("smaug.unit")]
    """Unit of `row_hours.*`, e.g. `CPU h`."""
    code: Annotated[str, Tag("smaug.code")]
    """Digest of the source that made the results."""
    marks: Annotated[tuple[str, ...], Tag("smaug.marks", json.dumps, _texts)]
    stage_runs: Annotated[dict[str, str], Tag("smaug.stage_runs", json.dumps, _object)]
    """Run of each stage by the stage's name, e.g. `finetune.msrvtt`."""
    unreadable: Annotated[
        dict[str, dict[str, Any]], Tag("smaug.unreadable", sorted_json, _unreadable, default="{}")
    ] = field(default_factory=dict)
    """By the stage's name, where its training met unreadable clips: their `count`, and up to ten `files`."""

    @property
    def seeds(self) -> tuple[str, str]:
        """Seeds of pre-training and of fine-tuning."""
        first, _, second = self.seed.partition("/")
        return first, second or first


@dataclass(frozen=True, kw_only=True, slots=True)
class StageRow:
    """Stage as MLflow holds it: the owner of the hours spent."""

    run_id: str
    experiment_id: str
    artifacts: str
    status: str
    name: str
    """E.g. `finetune.msrvtt 0123456789ab`."""
    kind: Annotated[str, Tag("smaug.kind")]
    fingerprint: Annotated[str, Tag("smaug.fingerprint")]
    hours: dict[str, float]
    """`useful`, `lost`, `overhead`, `billed`, and `predicted` if there was a prediction."""
    unit: Annotated[str, Tag("smaug.unit")]
    device: Annotated[str, Tag("smaug.device")]
    versions: Annotated[dict[str, str], Tag("smaug.versions", sorted_json, _object, default="{}")]
    """Versions of Python and of the libraries that may change a result; empty if they were not recorded."""
    attempts: Annotated[int, Tag("smaug.attempts", read=_count)]
    estimated: Annotated[
        bool, Tag("smaug.hours_estimated", lambda value: str(value).lower(), lambda text: text == "true")
    ]
    """An attempt died, so its end is estimated."""
    corrected: Annotated[int, Tag("smaug.hours_corrected", read=_count, default="0")]
    """Number of attempts whose time is known from Slurm's accounting."""
    no_energy: Annotated[str, Tag("smaug.no_energy", default=ENERGY_NOT_RECORDED)]
    """Reason why the energy of its GPUs is not known; empty if it is."""
    settings: Annotated[str, Tag("smaug.settings", _cut)]
    """As JSON, possibly cut short."""
    commit: Annotated[str, Tag("smaug.commit", default="")]
    """As JSON; empty if it is not known."""
    examples: Annotated[str, Tag("smaug.examples", _cut, default="")]
    """Number of example pictures of its run, and what failed, in words; empty where none were to be made."""
    metrics: dict[str, float]
    """Last value of everything that was recorded."""

    @property
    def kwh(self) -> float | None:
        """Energy of its GPUs in all attempts; None if it is not known."""
        return None if self.no_energy else self.metrics.get(ENERGY)


@dataclass(frozen=True, kw_only=True, slots=True)
class DamagedRun:
    """Run of ours that is neither a trial nor a stage."""

    run_id: str
    tags: dict[str, str]
    """All that it has, without the prefix `smaug.`."""
    what: str
    """Its first error."""


@cache
def tags_of(row: type) -> dict[str, Tag]:
    """Tags that hold the fields of a row, by the field's name."""
    hints = get_type_hints(row, include_extras=True)
    return {name: hint.__metadata__[0] for name, hint in hints.items() if hasattr(hint, "__metadata__")}


def encode(row: type, values: Mapping[str, Any]) -> dict[str, str]:
    """Return the tags that hold some fields of a row."""
    tags = tags_of(row)
    return {tags[name].name: tags[name].write(value) for name, value in values.items()}


def decode(row: type, tags: Mapping[str, str]) -> dict[str, Any]:
    """Return the fields of a row that a run's tags hold; raises RowError if one is missing or cannot be read."""
    values = {}
    for name, tag in tags_of(row).items():
        text = tags.get(tag.name, tag.default)
        if text is None:
            raise RowError(f"its tag {tag.name} is missing")
        try:
            values[name] = tag.read(text)
        except ValueError as error:
            raise RowError(f"its tag {tag.name}: expected {error}, got {text[:40]!r}") from error
    return values


def trial_row(run: "Run") -> TrialRow:
    """Read a trial from its run, or raise RowError."""
    return TrialRow(**_info(run), **decode(TrialRow, run.data.tags))


def stage_row(run: "Run") -> StageRow:
    """Read a stage from its run, or raise RowError."""
    info = _info(run)
    hours = {name.removeprefix(HOURS): value for name, value in info["metrics"].items() if name.startswith(HOURS)}
    return StageRow(name=run.info.run_name, hours=hours, **info, **decode(StageRow, run.data.tags))


def _info(run: "Run") -> dict[str, Any]:
    return {
        "run_id": run.info.run_id,
        "experiment_id": run.info.experiment_id,
        "artifacts": run.info.artifact_uri,
        "status": run.info.status,
        "metrics": dict(run.data.metrics),
    }


def own_tags(run: "Run") -> dict[str, str]:
    """Tags of a run that this project writes, without their prefix."""
    return {key.removeprefix("smaug."): value for key, value in run.data.tags.items() if key.startswith("smaug.")}
