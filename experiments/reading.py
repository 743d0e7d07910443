"""What the ledger in MLflow holds, for reports: trials, stages, ranks and curves. It never writes."""

import gc
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from experiments.connection import (
    MlflowClient,
    Run,
    artifact,
    connect,
    exists,
    experiments_named,
    faults_told,
    runs_untagged,
    runs_with,
)
from experiments.connection import TrackingError as TrackingError
from experiments.gallery import FOLDER as EXAMPLES
from experiments.gallery import LIST, Example, GalleryError, read_gallery
from experiments.ledger import FINGERPRINT, STAGES, SUPERSEDED, ranks_file
from experiments.mounts import tracking_uri

READ_ADVICE = "see that it is up, and that MLFLOW_TRACKING_URI is right"
TOLD_ANEW = "delete that run there, and `smaug sync` tells it anew"


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
    settings: str
    """As JSON, possibly cut short."""
    commit: str
    examples: str
    """How many example pictures its run holds, and what went wrong, in words; empty where none were to be made."""
    metrics: dict[str, float]
    """The last value of everything that was recorded."""


class Ledger:
    """The ledger of a home folder, or of the server that MLFLOW_TRACKING_URI names.

    Every method raises TrackingError where MLflow cannot be reached or lacks what is asked for.
    """

    def __init__(self, home: Path) -> None:
        """Nothing is opened yet, and nothing is ever made."""
        self.uri = tracking_uri(home)

    @property
    def exists(self) -> bool:
        """Whether anything may have been recorded; of a server this is not asked."""
        return exists(self.uri)

    def trials(self) -> list[TrialRow]:
        """Every trial that is not superseded, of all sweeps; none where nothing was ever recorded.

        Two that claim the same sweep, scale, variant and seed are both given.
        """
        with self._read() as client, _without_garbage_collection():
            ids = [found.experiment_id for found in experiments_named(client, "smaug/") if found.name != STAGES]
            runs = list(runs_untagged(client, ids, SUPERSEDED)) if ids else []
        rows = [_trial(run) for run in runs if "smaug.columns" in run.data.tags]
        return sorted(rows, key=lambda row: (row.sweep, row.scale, row.position, row.variant, row.seed, row.run_id))

    def stages(self) -> list[StageRow]:
        """Every stage that is not superseded, by kind and fingerprint."""
        return self._stages(runs_untagged)

    def set_aside(self) -> list[StageRow]:
        """Every stage that was set aside and begun anew since, by kind and fingerprint: its hours were spent too."""
        return self._stages(runs_with)

    def _stages(self, having: Callable[[MlflowClient, list[str], str], Iterator[Run]]) -> list[StageRow]:
        with self._read() as client, _without_garbage_collection():
            ids = [found.experiment_id for found in experiments_named(client, STAGES) if found.name == STAGES]
            runs = list(having(client, ids, SUPERSEDED)) if ids else []
        rows = [_stage(run) for run in runs if "smaug.kind" in run.data.tags]
        return sorted(rows, key=lambda row: (row.kind, row.fingerprint, row.run_id))

    def ranks(self, trial: TrialRow, task: str) -> dict[str, int]:
        """The rank of each query's clip, from 1, by query id, in a trial's evaluation for a slot, e.g. `msrvtt`."""
        text = self.text(trial, ranks_file(task))
        ranks: dict[str, int] = json.loads(text)
        return ranks

    def text(self, row: TrialRow | StageRow, name: str) -> str:
        """What a file of a run holds, e.g. `attempts.json`."""
        with self._read(f"run {row.run_id} must hold {name}") as client:
            return artifact(client, row.run_id, row.artifacts, name).decode()

    def examples(self, stage: StageRow) -> list[Example]:
        """The example pictures of what a stage learnt, in the order of their list; none where there are none.

        A picture that is listed and cannot be read, or is not the one that was listed, is an error.
        """
        if not stage.examples:
            return []
        with self._read(f"run {stage.run_id} must hold {EXAMPLES}/{LIST} and what it names") as client:

            def held(name: str) -> bytes:
                return artifact(client, stage.run_id, stage.artifacts, f"{EXAMPLES}/{name}")

            try:
                return list(read_gallery(held(LIST), held, f"run {stage.run_id}: {EXAMPLES}/{LIST}").examples)
            except GalleryError as error:
                raise TrackingError(f"MLflow at {self.uri}: {error}; {TOLD_ANEW}") from error

    def curve(self, stage: StageRow, name: str) -> list[tuple[int, float]]:
        """Step and value of everything that was reported under a name, e.g. `loss`, in order."""
        with self._read() as client:
            return sorted((point.step, point.value) for point in client.get_metric_history(stage.run_id, name))

    @cached_property
    def _client(self) -> MlflowClient:
        return connect(self.uri)

    @contextmanager
    def _read(self, advice: str = READ_ADVICE) -> Iterator[MlflowClient]:
        if not exists(self.uri):
            raise TrackingError(f"{self.uri}: no such database; run a sweep first")
        with faults_told(self.uri, advice):
            yield self._client


def read_trials(home: Path) -> list[TrialRow]:
    """Every trial that is not superseded; none where nothing was ever recorded.

    Raises:
        TrackingError: MLflow cannot be reached.
    """
    ledger = Ledger(home)
    return ledger.trials() if ledger.exists else []


@contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """MLflow makes a million small objects of 10,000 runs; looking for cycles among them takes longer than that."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def _tags(run: Run) -> Mapping[str, str]:
    return {key.removeprefix("smaug."): value for key, value in run.data.tags.items() if key.startswith("smaug.")}


def _trial(run: Run) -> TrialRow:
    """A trial as its run tells it: the inverse of `ledger.tell_trial`."""
    tags = _tags(run)
    return TrialRow(
        run_id=run.info.run_id,
        experiment_id=run.info.experiment_id,
        artifacts=run.info.artifact_uri,
        status=run.info.status,
        sweep=tags["sweep"],
        title=tags["title"],
        table=tags["table"] or None,
        row_label=tags["row"],
        columns=tuple(json.loads(tags["columns"])),
        scale=tags["scale"],
        variant=tags["variant"],
        position=int(tags["position"]),
        baseline=tags["baseline"],
        seed=tags["seed"],
        metrics=dict(run.data.metrics),
        evaluations=json.loads(tags["evaluations"]),
        device=tags["device"],
        unit=tags["unit"],
        code=tags["code"],
        marks=tuple(json.loads(tags["marks"])),
        stage_runs=json.loads(tags["stage_runs"]),
    )


def _stage(run: Run) -> StageRow:
    """A stage as its run tells it: the inverse of `ledger.tell_stage`."""
    tags, metrics = _tags(run), dict(run.data.metrics)
    return StageRow(
        run_id=run.info.run_id,
        experiment_id=run.info.experiment_id,
        artifacts=run.info.artifact_uri,
        status=run.info.status,
        name=run.info.run_name,
        kind=tags["kind"],
        fingerprint=run.data.tags[FINGERPRINT],
        hours={name.removeprefix("hours."): value for name, value in metrics.items() if name.startswith("hours.")},
        unit=tags["unit"],
        device=tags["device"],
        versions=json.loads(tags.get("versions", "{}")),
        attempts=int(tags["attempts"]),
        estimated=tags["hours_estimated"] == "true",
        settings=tags["settings"],
        commit=tags.get("commit", ""),
        examples=tags.get("examples", ""),
        metrics=metrics,
    )
