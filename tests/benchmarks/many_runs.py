"""A ledger of many runs: copies of the runs that another one holds, each with files of its own."""

import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

TABLES = ("runs", "tags", "params", "latest_metrics")
"""Of MLflow's database, what makes a run."""

Row = tuple[Any, ...]


def multiply(home: Path, copy: Path, runs: int, *, stages: bool = True) -> int:
    """Make `copy` a home folder whose ledger holds `runs` runs; gives how many of them are trials.

    Every trial gets seeds that nobody else has, every stage a fingerprint.

    Args:
        home: its ledger, in SQLite, is copied and stays as it is.
        copy: a folder that is not there yet.
        runs: at least as many as there are.
        stages: copy those too, not trials alone.
    """
    shutil.copytree(home, copy)
    with sqlite3.connect(copy / "mlflow.db") as database:
        rows = {table: _by_run(database, table) for table in TABLES}
        kept = set(_trials(database)) if not stages else set(rows["runs"])
        number = len(rows["runs"])
        for round_, run in _endlessly(sorted(kept)):
            if number >= runs:
                break
            _copy_run(database, rows, run, round_, home, copy)
            number += 1
        return len(_trials(database))


def _copy_run(
    database: sqlite3.Connection, rows: dict[str, dict[str, list[Row]]], run: str, round_: int, home: Path, copy: Path
) -> None:
    new = uuid4().hex
    for table in TABLES:
        names = _columns(database, table)
        for row in rows[table].get(run, []):
            told = dict(zip(names, row, strict=True)) | {"run_uuid": new}
            if table == "runs":
                told["artifact_uri"] = told["artifact_uri"].replace(run, new).replace(str(home), str(copy))
            elif table == "tags" and told["key"] == "smaug.seed":
                told["value"] = str(round_)
            elif table == "tags" and told["key"] == "smaug.fingerprint":
                told["value"] = f"{round_:06d}{told['value'][6:]}"
            marks = ",".join("?" * len(names))
            database.execute(f"INSERT INTO {table} VALUES ({marks})", [told[name] for name in names])
    files = home / "artifacts" / run
    if files.exists():
        shutil.copytree(files, copy / "artifacts" / new)


def _by_run(database: sqlite3.Connection, table: str) -> dict[str, list[Row]]:
    place = _columns(database, table).index("run_uuid")
    found: dict[str, list[Row]] = {}
    for row in database.execute(f"SELECT * FROM {table}"):
        found.setdefault(row[place], []).append(row)
    return found


def _columns(database: sqlite3.Connection, table: str) -> list[str]:
    return [column[1] for column in database.execute(f"PRAGMA table_info({table})")]


def _trials(database: sqlite3.Connection) -> list[str]:
    of_sweeps = "SELECT experiment_id FROM experiments WHERE name != 'smaug/stages'"
    return [run for (run,) in database.execute(f"SELECT run_uuid FROM runs WHERE experiment_id IN ({of_sweeps})")]


def _endlessly(runs: list[str]) -> Iterator[tuple[int, str]]:
    round_ = 0
    while True:
        round_ += 1
        yield from ((round_, run) for run in runs)
