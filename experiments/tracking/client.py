"""A connection to MLflow, as the ledger needs it; the only importer of mlflow."""

import logging
import os
import re
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from glob import escape
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import unquote, urlsplit

from experiments.tracking.database import DAMAGE, REBUILD, damage_of, database_file, redacted, sqlite_uri
from experiments.tracking.database import TrackingError as TrackingError
from experiments.tracking.runs import LATER

os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # mlflow's own choice keeps a driver waiting for minutes
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")

from mlflow.entities import Experiment as Experiment  # noqa: E402
from mlflow.entities import Metric, Param, RunTag  # noqa: E402
from mlflow.entities import Run as Run  # noqa: E402
from mlflow.exceptions import MlflowException  # noqa: E402
from mlflow.tracking import MlflowClient as MlflowClient  # noqa: E402
from sqlalchemy.exc import SQLAlchemyError  # noqa: E402

METRICS_AT_ONCE, PARAMS_AT_ONCE = 800, 100
"""MLflow refuses more than 100 parameters or tags, or more than 1000 entries of all kinds, in one call."""
IDS_AT_ONCE = 200
"""Of runs that are asked for by their ids, so that the question stays short."""
QUIET = {
    "alembic": logging.WARNING,
    "mlflow.store.db.utils": logging.CRITICAL,
    "urllib3.connectionpool": logging.ERROR,
}
"""What goes wrong is raised and told once; these would print it as well, some with a traceback."""


def connect(uri: str, answered: Callable[[], None] | None = None) -> MlflowClient:
    """Open the ledger; a new database is made here, not at some later call.

    Args:
        uri: of the ledger.
        answered: called after each call that succeeds.

    Raises:
        TrackingError: its database is damaged.
    """
    for name, level in QUIET.items():
        logging.getLogger(name).setLevel(level)
    file = database_file(uri)
    if file is not None and not file.exists():
        _make_database(file)
    elif file is not None and (damage := damage_of(file)) is not None:
        raise TrackingError(f"MLflow at {redacted(uri)}: the database {damage}; {REBUILD}")
    client = _opened(uri)
    return client if answered is None else _Reporting(client, answered)


class _Reporting:
    """A client that reports each call that succeeds: a slow ledger differs from one that does not answer."""

    def __init__(self, client: MlflowClient, answered: Callable[[], None]) -> None:
        self._client, self._answered = client, answered

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._client, name)
        if not callable(found):
            return found

        def call(*given: Any, **named: Any) -> Any:
            answer = found(*given, **named)
            self._answered()
            return answer

        return call


def remove_partials(uri: str) -> None:
    """Delete what makers of a database left that were killed; only where nobody can be making one now."""
    path = database_file(uri)
    for left in () if path is None else path.parent.glob(f".{escape(path.name)}.*.partial*"):  # or its journal
        left.unlink(missing_ok=True)


def _make_database(path: Path) -> None:
    """Have MLflow make its tables aside, so that the database is there as a whole or not at all.

    MLflow can do nothing with a database whose maker was killed before the last table.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    _opened(sqlite_uri(partial))
    try:
        os.link(partial, path)
    except FileExistsError:  # a driver of another home folder was quicker
        pass
    except OSError:  # no hard links here
        partial.rename(path)
    partial.unlink(missing_ok=True)


def _opened(uri: str) -> MlflowClient:
    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    client.search_experiments(max_results=1)
    return client


def exists(uri: str) -> bool:
    """Whether something may have been recorded there."""
    file = database_file(uri)
    return file is None or file.exists()


@contextmanager
def faults_told(uri: str, advice: str = LATER) -> Iterator[None]:
    """Let whatever MLflow meets be told as one error."""
    try:
        yield
    except (MlflowException, SQLAlchemyError, OSError) as error:
        said = [line for line in str(error).strip().splitlines() if not line.startswith("(raised as a result of")]
        lines = said or [type(error).__name__]
        if DAMAGE.search(lines[0]) and database_file(uri) is not None:
            advice = REBUILD
        raise TrackingError(redacted(f"MLflow at {uri}: {lines[0][:300]}; {advice}")) from error


def experiment_named(client: MlflowClient, name: str, artifacts: Path) -> Experiment:
    """The experiment of that name, made if missing.

    Args:
        client: the ledger.
        name: of the experiment.
        artifacts: folder for its files, where the ledger is a database; a server has its own.
    """
    found = client.get_experiment_by_name(name)
    if found is not None:
        return found
    on_server = client.tracking_uri.startswith(("http:", "https:"))
    try:
        client.create_experiment(name, artifact_location=None if on_server else artifacts.as_uri())
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":  # a driver of another home folder was quicker
            raise
    return client.get_experiment_by_name(name)


def tag_experiment(client: MlflowClient, experiment_id: str, tags: Mapping[str, str]) -> None:
    """Write tags of an experiment; another driver may be writing the same."""
    for key, value in tags.items():
        try:
            client.set_experiment_tag(experiment_id, key, value)
        except MlflowException:  # its database tells two that write a new tag at once that there is one already
            if client.get_experiment(experiment_id).tags.get(key) != value:
                raise


def experiments_named(client: MlflowClient, prefix: str) -> list[Experiment]:
    """All experiments whose names begin so."""
    wanted = f"name LIKE '{prefix}%'"
    return list(_pages(lambda token: client.search_experiments(filter_string=wanted, page_token=token)))


def runs_tagged(client: MlflowClient, experiment_ids: list[str], tags: dict[str, str]) -> Iterator[Run]:
    """All runs that have these tags, in the order of their start."""
    wanted = " and ".join(f"tags.`{key}` = {_quoted(value)}" for key, value in tags.items())
    order = ["attributes.start_time ASC", "attributes.run_id ASC"]
    return _pages(lambda token: client.search_runs(experiment_ids, wanted, order_by=order, page_token=token))


def runs_of_ids(client: MlflowClient, experiment_id: str, ids: Sequence[str]) -> Iterator[Run]:
    """The runs with these ids, in no particular order; those that are missing or deleted are left out."""
    for first in range(0, len(ids), IDS_AT_ONCE):
        wanted = f"attributes.run_id IN ({', '.join(map(_quoted, ids[first : first + IDS_AT_ONCE]))})"
        yield from client.search_runs([experiment_id], wanted, max_results=IDS_AT_ONCE)


def runs_untagged(client: MlflowClient, experiment_ids: list[str], tag: str) -> Iterator[Run]:
    """All runs that lack a tag, in the order of their start."""
    wanted, order = f"tags.`{tag}` IS NULL", ["attributes.start_time ASC", "attributes.run_id ASC"]
    return _pages(lambda token: client.search_runs(experiment_ids, wanted, order_by=order, page_token=token))


def runs_with(client: MlflowClient, experiment_ids: list[str], tag: str) -> Iterator[Run]:
    """All runs that have a tag, whatever its value, in the order of their start."""
    wanted, order = f"tags.`{tag}` IS NOT NULL", ["attributes.start_time ASC", "attributes.run_id ASC"]
    return _pages(lambda token: client.search_runs(experiment_ids, wanted, order_by=order, page_token=token))


def artifact(client: MlflowClient, run_id: str, artifacts: str, name: str) -> bytes:
    """What a file of a run holds; one of this machine is read where it lies.

    Args:
        client: the ledger.
        run_id: of the run.
        artifacts: where the run's files are, as MLflow says it.
        name: path of the file in there.
    """
    where = urlsplit(artifacts)
    if where.scheme in ("", "file"):
        return Path(unquote(where.path), name).read_bytes()
    with TemporaryDirectory() as folder:
        return Path(client.download_artifacts(run_id, name, folder)).read_bytes()


def write_files(client: MlflowClient, run_id: str, files: Mapping[str, bytes]) -> None:
    """Give a run files, by their paths in it; those that it has are replaced."""
    for name, content in files.items():
        within, _, own = name.rpartition("/")
        with TemporaryDirectory() as folder:
            path = Path(folder, own)
            path.write_bytes(content)
            client.log_artifact(run_id, str(path), within or None)


def metric(name: str, value: float, at: int, step: int) -> Metric:
    """A point of a curve, or a number with step 0; `at`: milliseconds since 1970.

    Raises:
        TrackingError: MLflow would refuse the name.
    """
    if not re.fullmatch(r"[\w\-. /:]+", name, re.ASCII):
        raise TrackingError(f"metric {name!r}: MLflow allows letters, digits, _ - . / : and space; rename it")
    return Metric(name, value, at, step)


def write(
    client: MlflowClient, run_id: str, metrics: list[Metric], params: dict[str, str], tags: dict[str, str]
) -> None:
    """Add to a run, in as few calls as MLflow allows; the tags last, when the rest is there."""
    given = [Param(key, value) for key, value in params.items()]
    while len(metrics) > METRICS_AT_ONCE or len(given) > PARAMS_AT_ONCE:
        client.log_batch(run_id, metrics[:METRICS_AT_ONCE], given[:PARAMS_AT_ONCE])
        metrics, given = metrics[METRICS_AT_ONCE:], given[PARAMS_AT_ONCE:]
    client.log_batch(run_id, metrics, given, [RunTag(key, value) for key, value in tags.items()])


def _pages(ask: Callable[[str | None], Any]) -> Iterator[Any]:
    """All that is answered, page by page."""
    page = ask(None)
    yield from page
    while page.token:
        page = ask(page.token)
        yield from page


def _quoted(value: str) -> str:
    return f'"{value}"' if "'" in value else f"'{value}'"
