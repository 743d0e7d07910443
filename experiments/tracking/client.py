"""Connection to MLflow; the only importer of mlflow."""

import logging
import os
import re
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from glob import escape
from pathlib import Path
from tempfile import TemporaryDirectory
from textwrap import shorten
from typing import Any
from urllib.parse import unquote, urlsplit

from experiments.tracking.database import DAMAGE, LATER, REBUILD, damage_of, database_file, redacted, sqlite_uri
from experiments.tracking.database import TrackingError as TrackingError

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
MESSAGE_LENGTH = 600
IDS_AT_ONCE = 200
"""Number of runs queried by their ids at once, so that the query stays short."""
QUIET = {
    "alembic": logging.WARNING,
    "mlflow.store.db.utils": logging.CRITICAL,
    "urllib3.connectionpool": logging.ERROR,
}
"""Loggers that would print errors that are raised as well, some with a traceback."""


def connect(uri: str, on_response: Callable[[], None] | None = None) -> MlflowClient:
    """Open MLflow, unless its database is damaged; a new one is made here, not at some later call."""
    for name, level in QUIET.items():
        logging.getLogger(name).setLevel(level)
    file = database_file(uri)
    if file is not None and not file.exists():
        _make_database(file)
    elif file is not None and (damage := damage_of(file)) is not None:
        raise TrackingError(f"MLflow at {redacted(uri)}: the database {damage}; {REBUILD}")
    client = _opened(uri)
    return client if on_response is None else _Reporting(client, on_response)


class _Reporting:
    """Client that reports each call that succeeds: slow differs from unresponsive."""

    def __init__(self, client: MlflowClient, on_response: Callable[[], None]) -> None:
        self._client, self._on_response = client, on_response

    def __getattr__(self, name: str) -> Any:
        member = getattr(self._client, name)
        if not callable(member):
            return member

        def call(*args: Any, **kwargs: Any) -> Any:
            response = member(*args, **kwargs)
            self._on_response()
            return response

        return call


def remove_partials(uri: str) -> None:
    """Delete what killed makers of a database left; the caller sees to it that no process is making one."""
    path = database_file(uri)
    for partial in () if path is None else path.parent.glob(f".{escape(path.name)}.*.partial*"):  # or its journal
        partial.unlink(missing_ok=True)


def _make_database(path: Path) -> None:
    """Make the tables in a temporary file, so that the database appears as a whole or not at all.

    MLflow cannot use a database whose maker was killed before the last table.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    _opened(sqlite_uri(partial))
    try:
        os.link(partial, path)
    except FileExistsError:  # a driver of another home folder was faster
        pass
    except OSError:  # no hard links here
        partial.rename(path)
    partial.unlink(missing_ok=True)


def _opened(uri: str) -> MlflowClient:
    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    client.search_experiments(max_results=1)
    return client


def exists(uri: str) -> bool:
    """Return whether something may have been recorded at an address."""
    file = database_file(uri)
    return file is None or file.exists()


@contextmanager
def translate_errors(uri: str, advice: str = LATER) -> Iterator[None]:
    """Convert MLflow, SQL and OS errors to TrackingError."""
    try:
        yield
    except (MlflowException, SQLAlchemyError, OSError) as error:
        message = _message(error)
        if DAMAGE.search(message) and database_file(uri) is not None:
            advice = REBUILD
        raise TrackingError(redacted(f"MLflow at {uri}: {message}; {advice}")) from error


def _message(error: Exception) -> str:
    """Return the first line of an error, cut at a word where it is very long."""
    lines = [line for line in str(error).strip().splitlines() if not line.startswith("(raised as a result of")]
    first = " ".join(lines[0].split()) if lines else type(error).__name__
    return shorten(first, MESSAGE_LENGTH, placeholder=" ...")


def experiment_named(client: MlflowClient, name: str, artifacts: Path) -> Experiment:
    """Return the experiment of that name, created if missing; a server has its own folder of artifacts."""
    experiment = client.get_experiment_by_name(name)
    if experiment is not None:
        return experiment
    on_server = client.tracking_uri.startswith(("http:", "https:"))
    try:
        client.create_experiment(name, artifact_location=None if on_server else artifacts.as_uri())
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":  # a driver of another home folder was faster
            raise
    return client.get_experiment_by_name(name)


def tag_experiment(client: MlflowClient, experiment_id: str, tags: Mapping[str, str]) -> None:
    """Write tags of an experiment; another driver may be writing the same."""
    for key, value in tags.items():
        try:
            client.set_experiment_tag(experiment_id, key, value)
        except MlflowException:  # as if it existed, if two drivers write a new tag at once
            if client.get_experiment(experiment_id).tags.get(key) != value:
                raise


def experiments_named(client: MlflowClient, prefix: str) -> list[Experiment]:
    """Return all experiments whose names have a prefix."""
    wanted = f"name LIKE '{prefix}%'"
    return list(_pages(lambda token: client.search_experiments(filter_string=wanted, page_token=token)))


def tagged(tags: Mapping[str, str]) -> str:
    """Return the query for runs with these tags."""
    return " and ".join(f"tags.`{key}` = {_quoted(value)}" for key, value in tags.items())


def runs_where(client: MlflowClient, experiment_ids: list[str], query: str = "") -> Iterator[Run]:
    """Return all runs that match a query, in the order of their start."""
    order = ["attributes.start_time ASC", "attributes.run_id ASC"]
    return _pages(lambda token: client.search_runs(experiment_ids, query, order_by=order, page_token=token))


def runs_of_ids(client: MlflowClient, experiment_id: str, ids: Sequence[str]) -> Iterator[Run]:
    """Return the runs with these ids, without those that are missing or deleted."""
    for first in range(0, len(ids), IDS_AT_ONCE):
        some = ", ".join(map(_quoted, ids[first : first + IDS_AT_ONCE]))
        yield from runs_where(client, [experiment_id], f"attributes.run_id IN ({some})")


def artifact(client: MlflowClient, run_id: str, artifacts: str, name: str) -> bytes:
    """Return the content of a file below `artifacts`, the address of a run's files; a local one is read directly."""
    address = urlsplit(artifacts)
    if address.scheme in ("", "file"):
        return Path(unquote(address.path), name).read_bytes()
    with TemporaryDirectory() as folder:
        return Path(client.download_artifacts(run_id, name, folder)).read_bytes()


def write_files(client: MlflowClient, run_id: str, files: Mapping[str, bytes]) -> None:
    """Write files of a run by their paths in it; those that exist are replaced."""
    for name, content in files.items():
        within, _, own = name.rpartition("/")
        with TemporaryDirectory() as folder:
            path = Path(folder, own)
            path.write_bytes(content)
            client.log_artifact(run_id, str(path), within or None)


def metric(name: str, value: float, at: int, step: int) -> Metric:
    """Return a point of a curve, or a number with step 0; `at`: milliseconds since 1970."""
    if not re.fullmatch(r"[\w\-. /:]+", name, re.ASCII):
        raise TrackingError(f"metric {name!r}: MLflow allows letters, digits, _ - . / : and space; rename it")
    return Metric(name, value, at, step)


def write(
    client: MlflowClient, run_id: str, metrics: list[Metric], params: dict[str, str], tags: dict[str, str]
) -> None:
    """Add to a run, in as few calls as MLflow allows; the tags last, when the rest is written."""
    entries = [Param(key, value) for key, value in params.items()]
    while len(metrics) > METRICS_AT_ONCE or len(entries) > PARAMS_AT_ONCE:
        client.log_batch(run_id, metrics[:METRICS_AT_ONCE], entries[:PARAMS_AT_ONCE])
        metrics, entries = metrics[METRICS_AT_ONCE:], entries[PARAMS_AT_ONCE:]
    client.log_batch(run_id, metrics, entries, [RunTag(key, value) for key, value in tags.items()])


def _pages(query: Callable[[str | None], Any]) -> Iterator[Any]:
    """Yield the results of all pages; `query` takes the token of a page."""
    page = query(None)
    yield from page
    while page.token:
        page = query(page.token)
        yield from page


def _quoted(value: str) -> str:
    return f'"{value}"' if "'" in value else f"'{value}'"
