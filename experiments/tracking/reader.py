"""Reader of MLflow for reports: trials, stages, ranks and curves."""

import gc
import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from experiments.console import complain
from experiments.store.device_hours import Total, has_hours, totals_of
from experiments.store.examples import FOLDER as EXAMPLES
from experiments.store.examples import LIST, Example, GalleryError, read_gallery
from experiments.tracking.client import (
    MlflowClient,
    Run,
    artifact,
    connect,
    exists,
    experiments_named,
    runs_of_ids,
    runs_where,
    translate_errors,
)
from experiments.tracking.client import TrackingError as TrackingError
from experiments.tracking.database import redacted, settle
from experiments.tracking.location import tracking_uri
from experiments.tracking.run_content import STAGES, SUPERSEDED, ranks_file
from experiments.tracking.run_schema import DamagedRun as DamagedRun
from experiments.tracking.run_schema import RowError, own_tags, stage_row, trial_row
from experiments.tracking.run_schema import StageRow as StageRow
from experiments.tracking.run_schema import TrialRow as TrialRow
from experiments.tracking.ui_views import COUNTS

READ_ADVICE = "see that it is up, and that MLFLOW_TRACKING_URI is right"
RECORD_AGAIN = "delete that run there, and `smaug sync` records it again"

Row = TypeVar("Row", TrialRow, StageRow)


class MlflowReader:
    """Reader of a home folder's MLflow, or of the server that MLFLOW_TRACKING_URI names.

    Every method raises TrackingError where MLflow cannot be reached or lacks what is requested.
    """

    def __init__(self, home: Path) -> None:
        """Open nothing yet; nothing is ever written."""
        self._home, self.uri = home, tracking_uri(home)
        self.damaged: dict[str, DamagedRun] = {}
        """Runs read so far that are neither trials nor stages, by id."""

    @property
    def exists(self) -> bool:
        """True if anything may have been recorded; always true of a server."""
        return exists(self.uri)

    def trials(self) -> list[TrialRow]:
        """Return every trial that is not superseded, of all sweeps; two of the same identity are both returned."""
        with self._read() as client, _without_garbage_collection():
            ids = [each.experiment_id for each in experiments_named(client, "smaug/") if each.name != STAGES]
            runs = list(runs_where(client, ids, COUNTS)) if ids else []
        rows = self._rows(runs, trial_row)
        return sorted(rows, key=lambda row: (row.sweep, row.scale, row.position, row.variant, row.seed, row.run_id))

    def stages(self) -> list[StageRow]:
        """Return every stage that is not superseded, by kind and fingerprint."""
        return self._stages(COUNTS)

    def archived(self) -> list[StageRow]:
        """Return every stage that was archived and started again since: its hours were spent too."""
        return self._stages(f"tags.`{SUPERSEDED}` IS NOT NULL")

    def _stages(self, query: str) -> list[StageRow]:
        with self._read() as client, _without_garbage_collection():
            ids = [each.experiment_id for each in experiments_named(client, STAGES) if each.name == STAGES]
            runs = list(runs_where(client, ids, query)) if ids else []
        rows = self._rows(runs, stage_row)
        return sorted(rows, key=lambda row: (row.kind, row.fingerprint, row.run_id))

    def _rows(self, runs: Iterable[Run], read: Callable[[Run], Row]) -> list[Row]:
        """Return the rows of runs; those of ours that are none are kept as damaged, unless they are being written."""
        rows = []
        for run in runs:
            tags = own_tags(run)
            try:
                rows.append(read(run))
            except RowError as error:
                if tags and run.info.status != "RUNNING":
                    self.damaged[run.info.run_id] = DamagedRun(run_id=run.info.run_id, tags=tags, what=str(error))
        return rows

    def ranks(self, trial: TrialRow, task: str) -> dict[str, int]:
        """Return the rank of each query's clip, from 1, by query id, in a trial's evaluation for a slot."""
        name = ranks_file(task)
        try:
            ranks = json.loads(self.text(trial, name))
        except ValueError:
            ranks = None
        if not ranks or not isinstance(ranks, dict) or not all(type(r) is int and r >= 1 for r in ranks.values()):
            raise TrackingError(f"run {trial.run_id}: {name} is damaged; expected {{query: rank from 1}}")
        return ranks

    def text(self, row: TrialRow | StageRow, name: str) -> str:
        """Return the text of a run's file, e.g. `attempts.json`; raises ValueError where it is no text."""
        with self._read(f"run {row.run_id} must hold {name}") as client:
            return artifact(client, row.run_id, row.artifacts, name).decode()

    def examples(self, stage: StageRow) -> list[Example]:
        """Return the example pictures of a stage in order; a listed one that is missing or differs is an error."""
        if not stage.examples:
            return []
        with self._read(f"run {stage.run_id} must hold {EXAMPLES}/{LIST} and what it names") as client:

            def read(name: str) -> bytes:
                return artifact(client, stage.run_id, stage.artifacts, f"{EXAMPLES}/{name}")

            try:
                return list(read_gallery(read(LIST), read, f"run {stage.run_id}: {EXAMPLES}/{LIST}").examples)
            except GalleryError as error:
                raise TrackingError(f"MLflow at {redacted(self.uri)}: {error}; {RECORD_AGAIN}") from error

    def curve(self, stage: StageRow, name: str) -> list[tuple[int, float]]:
        """Return step and value of every point of a curve, e.g. `loss`, in order."""
        with self._read() as client:
            return sorted((point.step, point.value) for point in client.get_metric_history(stage.run_id, name))

    @cached_property
    def _client(self) -> MlflowClient:
        if (moved := settle(self._home, self.uri)) is not None:
            complain(moved)
        return connect(self.uri)

    @contextmanager
    def _read(self, advice: str = READ_ADVICE) -> Iterator[MlflowClient]:
        if not exists(self.uri):
            raise TrackingError(f"{redacted(self.uri)}: no such database; run a sweep first")
        with translate_errors(self.uri, advice):
            yield self._client


def read_trials(home: Path) -> list[TrialRow]:
    """Return every trial that is not superseded; none if nothing was ever recorded.

    Raises:
        TrackingError: MLflow cannot be reached.
    """
    reader = MlflowReader(home)
    return reader.trials() if reader.exists else []


def sweep_spending(client: MlflowClient, sweep: str, stages: str) -> dict[str, list[Total]]:
    """Return by scale what the distinct stages of valid trials took; runs that cannot be read are left out.

    `sweep` and `stages` are ids of experiments.
    """
    trials: dict[str, list[TrialRow]] = {}
    for run in runs_where(client, [sweep], COUNTS):
        with suppress(RowError):  # reports name it
            trial = trial_row(run)
            trials.setdefault(trial.scale, []).append(trial)
    return {scale: totals_of(_stages_of(client, stages, rows)) for scale, rows in trials.items()}


def _stages_of(client: MlflowClient, stages: str, trials: list[TrialRow]) -> list[StageRow]:
    ids = list(dict.fromkeys(run for trial in trials for run in trial.stage_runs.values()))
    rows = []
    for run in runs_of_ids(client, stages, ids):
        with suppress(RowError):
            rows.append(stage_row(run))
    return [row for row in rows if has_hours(row)]


@contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """Speed up reading: MLflow makes a million small objects of 10,000 runs, whose cycle search takes longer."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()
