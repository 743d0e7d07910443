"""Hours and energy of a sweep as MLflow holds them, whichever home folders ran its trials."""

from contextlib import suppress

from experiments.store.device_hours import Total, has_hours, totals_of
from experiments.tracking.client import MlflowClient, runs_of_ids, runs_where
from experiments.tracking.rows import RowError, StageRow, TrialRow, stage_row, trial_row
from experiments.tracking.ui_views import COUNTS


def sweep_spending(client: MlflowClient, sweep: str, stages: str) -> dict[str, list[Total]]:
    """Return by scale what the distinct stages of valid trials took; runs that cannot be read are left out.

    `sweep` and `stages` are ids of experiments.
    """
    trials: dict[str, list[TrialRow]] = {}
    for run in runs_where(client, [sweep], COUNTS):
        with suppress(RowError):  # reports name it
            trial = trial_row(run)
            trials.setdefault(trial.scale, []).append(trial)
    return {scale: totals_of(_stages(client, stages, rows)) for scale, rows in trials.items()}


def _stages(client: MlflowClient, stages: str, trials: list[TrialRow]) -> list[StageRow]:
    ids = list(dict.fromkeys(run for trial in trials for run in trial.stage_runs.values()))
    rows = []
    for run in runs_of_ids(client, stages, ids):
        with suppress(RowError):
            rows.append(stage_row(run))
    return [row for row in rows if has_hours(row)]
