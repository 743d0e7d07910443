"""Trials and stages as their runs in MLflow tell them: the inverse of `ledger`; and runs that do not tell it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from experiments.tracking.client import Run
from experiments.tracking.runs import ENERGY, FINGERPRINT

EVALUATION = ("dataset", "split", "n_queries", "n_clips", "test_digest", "ranking")
"""What a trial's run tells of each evaluation."""

NOT_TOLD = "a stage was recorded before energy was: smaug sync tells it, where its store is"
"""Why the energy of a stage is not known whose run says nothing of it."""


class RowError(Exception):
    """A run lacks a tag, or has one that cannot be read."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialRow:
    """What MLflow holds of a trial: what a table is made of."""

    run_id: str
    experiment_id: str
    artifacts: str
    """Where its files are, as MLflow says it."""
    status: str
    sweep: str
    title: str
    table: str | None
    row_label: str
    columns: tuple[str, ...]
    scale: str
    variant: str
    position: int
    """Place among the sweep's variants, from 0."""
    baseline: str
    seed: str
    """`0`, or `0/2` where fine-tuning has its own."""
    metrics: dict[str, float]
    evaluations: dict[str, dict[str, Any]]
    """By slot: dataset, split, n_queries, n_clips, test_digest, ranking."""
    device: str
    """What pre-training ran on, e.g. `NVIDIA H200 x 4`; empty before it has begun."""
    unit: str
    """Of `row_hours.*`, e.g. `CPU h`."""
    code: str
    """Digest of the source that made the results."""
    marks: tuple[str, ...]
    stage_runs: dict[str, str]
    """By the stage's name, e.g. `finetune.msrvtt`: its run."""
    unreadable: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By the stage's name, where its training met unreadable clips: their `count`, and up to ten `files`."""

    @property
    def seeds(self) -> tuple[str, str]:
        """Of pre-training and of fine-tuning."""
        first, _, second = self.seed.partition("/")
        return first, second or first


@dataclass(frozen=True, kw_only=True, slots=True)
class StageRow:
    """What MLflow holds of a stage: the owner of the hours spent."""

    run_id: str
    experiment_id: str
    artifacts: str
    status: str
    name: str
    """E.g. `finetune.msrvtt 0123456789ab`."""
    kind: str
    fingerprint: str
    hours: dict[str, float]
    """`useful`, `lost`, `overhead`, `billed`, and `predicted` where somebody said."""
    unit: str
    device: str
    versions: dict[str, str]
    """Of Python and of the libraries that may change a result; empty where nobody told them."""
    attempts: int
    estimated: bool
    """An attempt died, so when it ended is estimated."""
    corrected: int
    """Of how many attempts Slurm's accounting says what they took."""
    no_energy: str
    """Why nobody knows what its GPUs used; empty if it is known."""
    settings: str
    """As JSON, possibly cut short."""
    commit: str
    examples: str
    """How many example pictures its run holds, and what went wrong, in words; empty where none were to be made."""
    metrics: dict[str, float]
    """The last value of everything that was recorded."""

    @property
    def kwh(self) -> float | None:
        """What its GPUs used in all attempts; none where that is not known."""
        return None if self.no_energy else self.metrics.get(ENERGY)


@dataclass(frozen=True, kw_only=True, slots=True)
class DamagedRun:
    """A run of ours that does not tell what it is."""

    run_id: str
    tags: dict[str, str]
    """All that it has, without the prefix `smaug.`."""
    what: str
    """What is wrong with it."""


def trial_row(run: Run) -> TrialRow:
    """A trial as its run tells it.

    Raises:
        RowError: a tag is missing or cannot be read.
    """
    tags = _Tags(run)
    return TrialRow(
        run_id=run.info.run_id,
        experiment_id=run.info.experiment_id,
        artifacts=run.info.artifact_uri,
        status=run.info.status,
        sweep=tags.text("sweep"),
        title=tags.text("title"),
        table=tags.text("table") or None,
        row_label=tags.text("row"),
        columns=tuple(map(str, tags.listed("columns"))),
        scale=tags.text("scale"),
        variant=tags.text("variant"),
        position=tags.count("position"),
        baseline=tags.text("baseline"),
        seed=tags.text("seed"),
        metrics=dict(run.data.metrics),
        evaluations=_evaluations(tags.mapped("evaluations")),
        device=tags.text("device"),
        unit=tags.text("unit"),
        code=tags.text("code"),
        marks=tuple(map(str, tags.listed("marks"))),
        stage_runs=tags.mapped("stage_runs"),
        unreadable=_unreadable(tags.mapped("unreadable")) if "unreadable" in tags.held else {},
    )


def stage_row(run: Run) -> StageRow:
    """A stage as its run tells it.

    Raises:
        RowError: a tag is missing or cannot be read.
    """
    tags, metrics = _Tags(run), dict(run.data.metrics)
    return StageRow(
        run_id=run.info.run_id,
        experiment_id=run.info.experiment_id,
        artifacts=run.info.artifact_uri,
        status=run.info.status,
        name=run.info.run_name,
        kind=tags.text("kind"),
        fingerprint=tags.text(FINGERPRINT.removeprefix("smaug.")),
        hours={name.removeprefix("hours."): value for name, value in metrics.items() if name.startswith("hours.")},
        unit=tags.text("unit"),
        device=tags.text("device"),
        versions=tags.mapped("versions") if "versions" in tags.held else {},
        attempts=tags.count("attempts"),
        estimated=tags.text("hours_estimated") == "true",
        corrected=tags.count("hours_corrected") if "hours_corrected" in tags.held else 0,
        no_energy=tags.held.get("no_energy", NOT_TOLD),
        settings=tags.text("settings"),
        commit=tags.held.get("commit", ""),
        examples=tags.held.get("examples", ""),
        metrics=metrics,
    )


def own_tags(run: Run) -> dict[str, str]:
    """What this project says of a run, without its prefix."""
    return {key.removeprefix("smaug."): value for key, value in run.data.tags.items() if key.startswith("smaug.")}


class _Tags:
    """A run's tags, by name without the prefix; each is there and of its type, or it is told."""

    def __init__(self, run: Run) -> None:
        self.held = own_tags(run)

    def text(self, name: str) -> str:
        if name not in self.held:
            raise RowError(f"its tag smaug.{name} is missing")
        return self.held[name]

    def count(self, name: str) -> int:
        text = self.text(name)
        if not text.isdecimal():
            raise RowError(f"its tag smaug.{name} is {text!r}; right would be a whole number")
        return int(text)

    def listed(self, name: str) -> list[Any]:
        found: list[Any] = self._json(name, list, "a list in JSON")
        return found

    def mapped(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self._json(name, dict, "an object in JSON")
        return found

    def _json(self, name: str, kind: type, right: str) -> Any:
        text = self.text(name)
        try:
            found = json.loads(text)
        except ValueError:
            found = None
        if not isinstance(found, kind):
            raise RowError(f"its tag smaug.{name} is {text[:40]!r}; right would be {right}")
        return found


def _evaluations(told: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    for task, notes in told.items():
        if not isinstance(notes, dict) or (missing := [key for key in EVALUATION if key not in notes]):
            lacks = missing[0] if isinstance(notes, dict) else "everything"
            raise RowError(f"its tag smaug.evaluations lacks {lacks} of {task}")
    return dict(told)


def _unreadable(told: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    for name, found in told.items():
        if not isinstance(found, dict) or type(found.get("count")) is not int or type(found.get("files")) is not list:
            raise RowError(f"its tag smaug.unreadable says {found!r} of {name}; expected a count and a list of files")
    return dict(told)
