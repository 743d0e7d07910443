"""Recording of everything that a home folder holds in MLflow, as `smaug sync` does."""

from pathlib import Path

from experiments.store.drivers import living
from experiments.store.export import Records, read_records
from experiments.store.store import all_stages
from experiments.store.trials import identity, superseded, trial_documents, trial_record
from experiments.tracking.client import TrackingError
from experiments.tracking.database import archive, database_file, lock, redacted
from experiments.tracking.location import tracking_uri
from experiments.tracking.run_content import STAGES, experiment_of
from experiments.tracking.writer import MlflowWriter


def sync(home: Path, *, records: Path | None = None) -> tuple[int, int]:
    """Record everything that the home folder holds; return the numbers of stages and of trials.

    Args:
        home: the folder that holds the store.
        records: a folder of portable records, to be recorded as well. What the home folder has itself takes
            precedence: a stage that was started here, and a trial that was requested here.

    Raises:
        TrackingError: MLflow cannot be reached or refuses.
        RecordError: a record cannot be read; nothing was recorded.
    """
    given = Records({}, []) if records is None else read_records(records)
    documents, writer = trial_documents(home), MlflowWriter(home)
    requested = {identity(document) for document in documents}
    more = [document for document in given.documents if identity(document) not in requested]
    writer.read_ahead(STAGES, *(experiment_of(sweep) for sweep in {d.sweep for d in (*documents, *more)}))
    begun = {facts.fingerprint for facts in all_stages(home) if writer.record_stage(facts)}
    others = [facts for fingerprint, facts in given.stages.items() if fingerprint not in begun]
    for facts in others:
        writer.record_stage(facts)
    outdated = [id(old) for old, _ in superseded(documents)]
    for document in documents:
        valid, trial = id(document) not in outdated, trial_record(home, document)
        if valid or all(stage is not None for _, stage in trial.stages):  # else `gc` removed some: keep its record
            writer.record_trial(trial, valid=valid)
    for document in more:
        writer.record_trial(given.trial(document))
    writer.record_spending()
    return len(begun) + len(others), len(documents) + len(more)


def rebuild(home: Path, *, records: Path | None = None) -> tuple[Path | None, int, int]:
    """Archive MLflow's database and make a new one by `sync`; return the archived file, and counts as `sync` does.

    Raises:
        TrackingError: MLflow is on a server, or a driver of this home folder writes to the database.
    """
    uri = tracking_uri(home)
    file = database_file(uri)
    if file is None:
        raise TrackingError(f"MLFLOW_TRACKING_URI is {redacted(uri)}: expected an SQLite file to archive")
    if drivers := living(home):
        owner = drivers[0].owner
        raise TrackingError(f"{file}: process {owner.pid} on {owner.host} writes to it; wait for its end, or end it")
    with lock(home.resolve()):
        archived = archive(file)
    return archived, *sync(home, records=records)
