"""What the ledger in MLflow holds, for reports: trials, stages, ranks and curves. It never writes."""

import gc
import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from experiments.console import complain
from experiments.store.examples import FOLDER as EXAMPLES
from experiments.store.examples import LIST, Example, GalleryError, read_gallery
from experiments.tracking.client import (
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
from experiments.tracking.client import TrackingError as TrackingError
from experiments.tracking.database import redacted, settle
from experiments.tracking.location import tracking_uri
from experiments.tracking.rows import DamagedRun as DamagedRun
from experiments.tracking.rows import RowError, own_tags, stage_row, trial_row
from experiments.tracking.rows import StageRow as StageRow
from experiments.tracking.rows import TrialRow as TrialRow
from experiments.tracking.runs import STAGES, SUPERSEDED, ranks_file

READ_ADVICE = "see that it is up, and that MLFLOW_TRACKING_URI is right"
TOLD_ANEW = "delete that run there, and `smaug sync` tells it anew"

Row = TypeVar("Row", TrialRow, StageRow)


class MlflowReader:
    """The ledger of a home folder, or of the server that MLFLOW_TRACKING_URI names.

    Every method raises TrackingError where MLflow cannot be reached or lacks what is asked for.
    """

    def __init__(self, home: Path) -> None:
        """Nothing is opened yet, and nothing is ever made."""
        self._home, self.uri = home, tracking_uri(home)
        self.damaged: dict[str, DamagedRun] = {}
        """By run: those met so far that do not tell what they are, and so are no rows."""

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
        rows = self._told(runs, trial_row)
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
        rows = self._told(runs, stage_row)
        return sorted(rows, key=lambda row: (row.kind, row.fingerprint, row.run_id))

    def _told(self, runs: Iterable[Run], read: Callable[[Run], Row]) -> list[Row]:
        """The rows of runs that tell what they are; others of ours are kept as damaged, if nobody is writing them."""
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
        """The rank of each query's clip, from 1, by query id, in a trial's evaluation for a slot, e.g. `msrvtt`."""
        name = ranks_file(task)
        try:
            ranks = json.loads(self.text(trial, name))
        except ValueError:
            ranks = None
        if not ranks or not isinstance(ranks, dict) or not all(type(r) is int and r >= 1 for r in ranks.values()):
            raise TrackingError(f"run {trial.run_id}: {name} is damaged; right would be {{query: rank from 1}}")
        return ranks

    def text(self, row: TrialRow | StageRow, name: str) -> str:
        """What a file of a run holds, e.g. `attempts.json`; raises ValueError where it is no text."""
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
                raise TrackingError(f"MLflow at {redacted(self.uri)}: {error}; {TOLD_ANEW}") from error

    def curve(self, stage: StageRow, name: str) -> list[tuple[int, float]]:
        """Step and value of everything that was reported under a name, e.g. `loss`, in order."""
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
        with faults_told(self.uri, advice):
            yield self._client


def read_trials(home: Path) -> list[TrialRow]:
    """Every trial that is not superseded; none where nothing was ever recorded.

    Raises:
        TrackingError: MLflow cannot be reached.
    """
    ledger = MlflowReader(home)
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
