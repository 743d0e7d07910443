"""What a sweep took by MLflow's own account, whichever home folders ran its trials."""

from contextlib import suppress

from experiments.store.device_hours import Total, has_hours, totals_of
from experiments.tracking.client import MlflowClient, runs_of_ids, runs_untagged
from experiments.tracking.rows import RowError, StageRow, TrialRow, stage_row, trial_row
from experiments.tracking.runs import SUPERSEDED


def sweep_spending(client: MlflowClient, sweep: str, stages: str) -> dict[str, list[Total]]:
    """By scale, what the distinct stages of the trials that count took; runs that do not tell it are left out.

    Args:
        client: the ledger.
        sweep: id of the experiment of its trials.
        stages: id of the experiment of all stages.
    """
    trials: dict[str, list[TrialRow]] = {}
    for run in runs_untagged(client, [sweep], SUPERSEDED):
        with suppress(RowError):  # reports tell of it
            trial = trial_row(run)
            trials.setdefault(trial.scale, []).append(trial)
    return {scale: totals_of(_stages(client, stages, held)) for scale, held in trials.items()}


def _stages(client: MlflowClient, stages: str, trials: list[TrialRow]) -> list[StageRow]:
    ids = list(dict.fromkeys(run for trial in trials for run in trial.stage_runs.values()))
    found = []
    for run in runs_of_ids(client, stages, ids):
        with suppress(RowError):
            found.append(stage_row(run))
    return [stage for stage in found if has_hours(stage)]
