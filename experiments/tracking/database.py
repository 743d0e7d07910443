"""SQLite file of MLflow: address, damage, lock, and moves of its home folder. Imports no mlflow."""

import re
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import unquote, urlsplit

from filelock import FileLock, Timeout

from smaug_core.errors import SmaugError

DATABASE = "mlflow.db"
LATER = "results stay in the store, and `smaug sync` records them later"
"""Advice if MLflow cannot be written to."""
REBUILD = "`smaug sync --rebuild` archives it and makes a new one from what the home folder holds"
"""Advice about a damaged database."""
TABLES = frozenset(
    ("alembic_version", "experiments", "experiment_tags", "runs", "tags", "params", "metrics", "latest_metrics")
)
"""Required tables. MLflow makes missing ones in an old form, without their rows, and reports nothing."""
DAMAGE = re.compile(
    r"file is not a database|database disk image is malformed|no such (table|column):"
    r"|table \w+ already exists|duplicate column name|schema \(found version None|Could not decode to UTF-8"
)
"""Messages of SQLite and of MLflow's migrations about a database that they can neither use nor repair."""
_NUMBER = {"value": "real", "timestamp": "integer", "step": "integer"}
_TIMES = {"start_time": "integer", "end_time": "integer or null"}
COLUMNS = {
    "runs": {"name": "text", "status": "text", "lifecycle_stage": "text", "artifact_uri": "text", **_TIMES},
    "tags": {"key": "text", "value": "text"},
    "params": {"key": "text", "value": "text"},
    "latest_metrics": {"key": "text", **_NUMBER},
    "metrics": _NUMBER,
}
"""Types in the rows of our runs. SQLite accepts any type in any column, and MLflow fails later on a wrong one."""
SIDE_FILES = ("-wal", "-shm", "-journal")
LOCK_S = 120.0
"""Timeout of the lock between drivers of a home folder; a call to MLflow takes up to a minute."""
BUSY_S = 20.0
"""Timeout of a query while another process writes."""
_SQLITE = re.compile(r"sqlite(?:\+\w+)?:///([^?]*)")


class TrackingError(SmaugError):
    """MLflow cannot be reached, refuses, or holds something that contradicts itself."""


def sqlite_uri(path: Path) -> str:
    """Return the address of an SQLite file, as SQLAlchemy and MLflow read it.

    SQLAlchemy ends a path at `?` and decodes `%20`. For `sqlite:///` MLflow creates the folder as it is spelled there,
    so a path that has to be quoted is written with the driver's name.
    """
    quoted = re.sub("[%?#]", lambda match: f"%{ord(match[0]):02X}", str(path))
    return f"{'sqlite' if quoted == str(path) else 'sqlite+pysqlite'}:///{quoted}"


def database_file(uri: str) -> Path | None:
    """Return the file of an SQLite database; None if MLflow is elsewhere."""
    match = _SQLITE.match(uri)
    return None if match is None else Path(unquote(match[1])).resolve()


def redacted(text: str) -> str:
    """Remove the user, password and secret options of every address in a text."""
    text = re.sub(r"(\b[a-zA-Z][\w+.-]*://)[^/\s'\"]*@", r"\1***@", text)
    return re.sub(r"(?i)([?&](?:password|passwd|pwd|token|secret|sslpassword)=)[^&\s'\"]*", r"\1***", text)


def damage_of(file: Path) -> str | None:
    """Return the first damage of the file, or of our rows in it, in words; None if there is none.

    With 10,000 runs and a million points this takes under a second.

    Raises:
        TrackingError: it may not be opened.
    """
    if not file.is_file():
        return "is not a file; expected an SQLite database"
    if not file.stat().st_size:
        return "is empty (0 bytes); expected an SQLite database"
    try:
        with _opened(file) as database:
            tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            missing = sorted(TABLES - tables)
            plural = "s" if len(missing) > 1 else ""
            return f"lacks the table{plural} {', '.join(missing)}" if missing else _row_damage(database)
    except sqlite3.Error as error:
        if DAMAGE.search(str(error)):
            return f"cannot be read ({error})"
        if error.sqlite_errorcode == sqlite3.SQLITE_CANTOPEN:
            raise TrackingError(f"{file}: cannot be opened ({error}); see who may read and write it") from error
        return None  # e.g. locked: MLflow waits longer


def _row_damage(database: sqlite3.Connection) -> str | None:
    """Return the first row of our experiments and runs with a value that MLflow never writes, in words."""
    query = "SELECT name, artifact_location FROM experiments WHERE name LIKE 'smaug/%' AND"
    for name, location in database.execute(f"{query} typeof(artifact_location) <> 'text' LIMIT 1"):
        return f"holds a damaged row: artifact_location of experiment {name} is {location!r:.40}; expected text"
    for table, columns in COLUMNS.items():
        wrong = " OR ".join(f"instr('{types}', typeof({column})) = 0" for column, types in columns.items())
        fields = ", ".join(f"{column}, typeof({column})" for column in columns)
        query = f"SELECT run_uuid, {fields} FROM {table} WHERE ({wrong}) AND run_uuid IN ({_OUR_RUNS})"
        for run_id, *values in database.execute(f"{query} LIMIT 1"):
            for (column, types), value, held in zip(columns.items(), values[::2], values[1::2], strict=True):
                if held not in types:
                    shown = "NULL" if value is None else repr(value)[:40]
                    return f"holds a damaged row: {table}.{column} of run {run_id} is {shown}; expected {types}"
    for run_id, address in database.execute(f"SELECT run_uuid, artifact_uri {_LOST_RUNS} LIMIT 1"):
        return f"holds a damaged row: run {run_id} is of no experiment, or its files are nowhere ({address!r:.80})"
    return None


_OUR_RUNS = "SELECT run_uuid FROM runs JOIN experiments USING (experiment_id) WHERE experiments.name LIKE 'smaug/%'"
_LOST_RUNS = f"""
FROM runs WHERE experiment_id IS NULL OR experiment_id NOT IN (SELECT experiment_id FROM experiments)
OR (substr(artifact_uri, -length('/' || run_uuid || '/artifacts')) <> '/' || run_uuid || '/artifacts'
    AND run_uuid IN ({_OUR_RUNS}))
"""
"""Runs without an experiment, and runs of ours whose address is not one that MLflow makes."""


def archive(file: Path) -> Path | None:
    """Rename a database with SQLite's side files; return its new path, None if there is no file."""
    if not file.exists():
        return None
    stamp, number = time.strftime("%Y%m%d-%H%M%S"), 0
    while (archived := file.with_name(f"{file.name}.damaged-{stamp}{f'-{number}' if number else ''}")).exists():
        number += 1
    for end in SIDE_FILES:  # first: beside a new database they would damage it
        if (side := file.with_name(file.name + end)).exists():
            side.rename(archived.with_name(archived.name + end))
    file.rename(archived)
    return archived


@contextmanager
def lock(home: Path) -> Iterator[None]:
    """Exclude other drivers of this home folder while something is queried and created if missing."""
    home.mkdir(parents=True, exist_ok=True)
    path = home / "tracking.lock"
    try:
        with FileLock(path, timeout=LOCK_S, poll_interval=0.02):
            yield
    except Timeout as error:
        message = f"{path}: another process holds it for {LOCK_S:.0f} s; see whether it hangs"
        raise TrackingError(message) from error


def settle(home: Path, uri: str) -> str | None:
    """Point the runs of a home folder that was moved or copied to its own files; return a message if any changed.

    MLflow keeps the absolute address of each run's files, and offers no way to change it. A run whose files are
    still elsewhere, because another home folder wrote it into this database, is left alone, with its experiment.

    A damaged database is left as it is: opening it raises the error.

    Raises:
        TrackingError: the home folder was moved, and its database cannot be changed.
    """
    home = home.resolve()
    file, here = home / DATABASE, (home / "artifacts").as_uri()
    if database_file(uri) != file or not file.is_file():
        return None
    if not _names_others(file, here) or damage_of(file) is not None:
        return None
    try:
        with lock(home), _opened(file) as database:
            database.execute("BEGIN IMMEDIATE")
            runs = [run for run in database.execute(_RUNS, (here,)) if _is_ours(run, here)]
            database.executemany(
                "UPDATE runs SET artifact_uri = ? WHERE run_uuid = ?",
                [(f"{here}/{run_id}/artifacts", run_id) for run_id, _, _ in runs],
            )
            kept = {number for _, _, number in database.execute(_RUNS, (here,))}
            experiments = [each for each in database.execute(_EXPERIMENTS, (here,)) if each[0] not in kept]
            database.executemany(
                "UPDATE experiments SET artifact_location = ? WHERE experiment_id = ?",
                [(here, number) for number, _ in experiments],
            )
            database.commit()
    except (sqlite3.Error, OSError) as error:
        raise TrackingError(
            f"{file}: names files of another folder, since this home was moved or copied, and could not be changed"
            f" ({error}); {_advice(error)}"
        ) from error
    if not runs and not experiments:
        return None
    old = experiments[0][1] if experiments else runs[0][1].rsplit("/", 2)[0]
    counts = f"{len(experiments)} experiments and {len(runs)} runs"
    return f"{file}: was moved or copied; {counts} named files in {unquote(urlsplit(old).path)}, and now those here"


_EXPERIMENTS = """
SELECT experiment_id, artifact_location FROM experiments
WHERE name LIKE 'smaug/%' AND artifact_location LIKE 'file:///%' AND artifact_location <> ?
"""
_RUNS = """
SELECT run_uuid, artifact_uri, experiment_id FROM runs JOIN experiments USING (experiment_id)
WHERE experiments.name LIKE 'smaug/%' AND artifact_uri LIKE 'file:///%'
AND artifact_uri <> ? || '/' || run_uuid || '/artifacts'
"""
"""Experiments and runs of ours whose files are in a local folder other than the given one."""


def _advice(error: sqlite3.Error | OSError) -> str:
    """Return the advice about a database that could not be changed."""
    code = error.sqlite_errorcode & 0xFF if isinstance(error, sqlite3.Error) else sqlite3.SQLITE_READONLY
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return "another process writes to it; try again when that has ended"
    if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM):
        return "expected a home that may be written to"
    return REBUILD if DAMAGE.search(str(error)) else "see that message"


def _names_others(file: Path, here: str) -> bool:
    try:
        with _opened(file) as database:
            return any(database.execute(query, (here,)).fetchone() for query in (_EXPERIMENTS, _RUNS))
    except sqlite3.Error as error:
        if DAMAGE.search(str(error)) or error.sqlite_errorcode in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_CANTOPEN):
            return False  # reported when it is opened
        raise TrackingError(f"{file}: cannot be read ({error}); see that message") from error


def _is_ours(run: tuple[str, str, int], here: str) -> bool:
    """Return whether the files of a run came along with the home folder, or are nowhere."""
    run_id, address, _ = run
    if not address.endswith(f"/{run_id}/artifacts"):
        return False
    new, old = (Path(unquote(urlsplit(uri).path)) for uri in (f"{here}/{run_id}/artifacts", address))
    return new.exists() or not old.exists()


@contextmanager
def _opened(file: Path) -> Iterator[sqlite3.Connection]:
    """Open a file that exists, writable if possible, since the writes of a killed process are rolled back first."""
    with closing(sqlite3.connect(f"{file.as_uri()}?mode=rw", uri=True, timeout=BUSY_S)) as database:
        yield database
