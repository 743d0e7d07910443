"""A ledger's SQLite file: odd paths, passwords, damage and its repair, a home folder that was moved or copied."""

import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

from experiments.maintenance.doctor import home as inspection
from experiments.store.drivers import driver_at_work
from experiments.store.trials import write_trial
from experiments.tracking import client as connection
from experiments.tracking.database import REBUILD, TrackingError, damage_of, database_file, redacted, sqlite_uri
from experiments.tracking.location import tracking_uri
from experiments.tracking.reader import MlflowReader, read_trials
from experiments.tracking.sync import sync
from experiments.tracking.writer import MlflowWriter
from reports.render.markdown import pages_of, place_of
from tests.experiments.made_trials import execute, ranks_of, trial

ODD = "a b?c%20d#é"
"""A folder's name that ends an address, or changes in it, where it is not quoted."""


@pytest.mark.parametrize("name", ["plain", "a b", "é", ODD, "%", "??", "x#y"])
def test_the_address_of_a_file_names_that_file_to_us_and_to_sqlalchemy(tmp_path, name):
    from sqlalchemy import make_url

    path = tmp_path / name / "mlflow.db"
    uri = sqlite_uri(path)
    assert database_file(uri) == path and make_url(uri).database == str(path)
    assert uri.startswith("sqlite:///") == (name in ("plain", "a b", "é"))
    assert database_file(f"{uri}?timeout=60") == path


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://ann:s3cret@host:5000/x", "http://***@host:5000/x"),
        ("postgresql+psycopg2://ann:p@ss@db/mlflow", "postgresql+psycopg2://***@db/mlflow"),
        ("https://t0ken@host", "https://***@host"),
        ("postgresql://db/mlflow?user=ann&password=s3cret&x=1", "postgresql://db/mlflow?user=ann&password=***&x=1"),
        ("API request to http://a:b@h/api failed; mail x@y", "API request to http://***@h/api failed; mail x@y"),
        ("http://host:5000/a@b", "http://host:5000/a@b"),
        ("sqlite:////home/a@b/mlflow.db", "sqlite:////home/a@b/mlflow.db"),
    ],
)
def test_passwords_are_left_out(text, shown):
    assert redacted(text) == shown


@pytest.mark.parametrize("name", ["plain", ODD])
def test_a_report_names_the_ledger_without_folders_of_the_machine_and_passwords(tmp_path, name):
    assert place_of(sqlite_uri(tmp_path / name / "mlflow.db")) == "the SQLite file mlflow.db of the home folder"
    assert place_of("http://ann:s3cret@host:5000/x") == pages_of("http://ann:s3cret@host:5000/x")
    assert place_of("http://ann:s3cret@host:5000/x") == "http://host:5000/x"


@pytest.fixture
def secret(monkeypatch) -> str:
    """A password in the address of a server that is not there."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://ann:s3cret@127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    return "s3cret"


@pytest.mark.parametrize(
    ("verb", "names_it"),
    [
        ("sync", True),
        ("sync --rebuild", True),
        ("ui", True),
        ("gc --yes", True),
        ("report tables 4 --out OUT", True),
        ("report page --out OUT", True),
        ("status", False),
    ],
)
def test_no_verb_shows_the_password_of_a_server(smaug, tmp_path, secret, verb, names_it):
    old, new = trial(r1=25.0), trial(r1=26.0)
    for made in (old, new):  # so that something could go
        write_trial(tmp_path, made)
        execute(tmp_path, made)
    code, out, err = smaug(*verb.replace("OUT", str(tmp_path / "out")).split())
    assert ("http://***@127.0.0.1:9" in err) == names_it and (code != 0) == names_it
    assert secret not in out + err
    assert not [path for path, held in contents(tmp_path).items() if secret.encode() in held]


def test_doctor_does_not_show_the_password_of_a_server(tmp_path, secret):
    (found,) = inspection.check_mlflow(tmp_path)
    assert found.level == "fault" and "http://***@127.0.0.1:9" in found.message and secret not in str(found)


@pytest.fixture
def recorded(new_home) -> Path:
    """A home folder with a trial, all of it recorded."""
    home, made = new_home("original"), trial()
    write_trial(home, made)
    execute(home, made)
    sync(home)
    return home


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def addresses(home: Path) -> set[str]:
    """What the ledger says of where files are, without its experiments' and runs' names."""
    with closing(sqlite3.connect(home / "mlflow.db")) as database:
        found = database.execute("SELECT artifact_location FROM experiments WHERE name LIKE 'smaug/%'").fetchall()
        for run_id, uri in database.execute("SELECT run_uuid, artifact_uri FROM runs"):
            assert uri.endswith(f"/{run_id}/artifacts")
            found.append((uri.removesuffix(f"/{run_id}/artifacts"),))
    return {uri for (uri,) in found}


@pytest.mark.parametrize("name", ["copy", ODD])
def test_a_copied_home_names_its_own_files_and_leaves_the_original_alone(recorded, tmp_path, name, capsys):
    copy = tmp_path / name
    shutil.copytree(recorded, copy)
    before, uri = contents(recorded), (copy / "artifacts").as_uri()
    other = trial("65%", r1=30.0)
    write_trial(copy, other)
    execute(copy, other)
    capsys.readouterr()
    assert sync(copy) == (6, 2)
    said = capsys.readouterr().err
    assert said == (
        f"{copy}/mlflow.db: was moved or copied; 2 experiments and 4 runs named files in {recorded}/artifacts,"
        " and now those here\n"
    )
    assert addresses(copy) == {uri}
    assert contents(recorded) == before
    shutil.rmtree(recorded)
    rows = read_trials(copy)
    assert [MlflowReader(copy).ranks(row, "msrvtt") for row in rows] == [ranks_of(25.0), ranks_of(30.0)]
    sync(copy)
    assert capsys.readouterr().err == ""


def test_a_report_of_a_moved_home_finds_its_files(recorded, tmp_path, capsys):
    moved = recorded.rename(tmp_path / "moved")
    (row,) = read_trials(moved)
    assert MlflowReader(moved).ranks(row, "msrvtt") == ranks_of(25.0)
    assert addresses(moved) == {(moved / "artifacts").as_uri()}
    assert capsys.readouterr().err.count("was moved or copied") == 1


def test_doctor_says_that_a_home_was_moved(recorded, tmp_path):
    moved = recorded.rename(tmp_path / "moved")
    first, second = inspection.check_mlflow(moved)
    assert (first.level, second.level) == ("ok", "ok") and "was moved or copied" in first.message


def test_runs_that_another_home_wrote_into_this_database_keep_their_files(new_home, tmp_path, monkeypatch, capsys):
    owner, guest, made = new_home("owner"), tmp_path / "guest", trial()
    write_trial(guest, made)
    execute(guest, made)
    with monkeypatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", tracking_uri(owner))
        sync(guest)
    before = addresses(owner)
    assert before == {(guest / "artifacts").as_uri()}
    (row,) = read_trials(owner)
    assert MlflowReader(owner).ranks(row, "msrvtt") == ranks_of(25.0)
    assert [stage.kind for stage in MlflowReader(owner).stages()] == ["evaluate", "finetune", "pretrain"]
    with closing(sqlite3.connect(owner / "mlflow.db")) as database:
        kept = database.execute("SELECT artifact_uri FROM runs JOIN tags USING (run_uuid) WHERE key = 'smaug.row'")
        assert kept.fetchone()[0].startswith(guest.as_uri())


def broken(path: Path, how: str) -> None:
    """Damage a whole database."""
    whole = path.read_bytes()
    if how == "empty":
        path.write_bytes(b"")
    elif how == "garbage":
        path.write_bytes(b"x" * 4096)
    elif how == "truncated":
        path.write_bytes(whole[: len(whole) // 2])
    elif how == "a header":
        path.write_bytes(whole[:50])
    elif how == "holes":
        path.write_bytes(whole[:8192] + b"\0" * 65536 + whole[8192 + 65536 :])
    elif how == "a folder":
        path.unlink()
        path.mkdir()
    else:
        with closing(sqlite3.connect(path)) as database:
            database.execute(f"DROP TABLE {how}")


DAMAGES = ["empty", "garbage", "truncated", "a header", "holes", "a folder", "tags", "experiments", "alembic_version"]


@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_database_gets_one_advice_and_it_works(smaug, home, tmp_path, empty_ledger, monkeypatch, how):
    monkeypatch.setattr(connection, "_make_database", lambda path: shutil.copy(empty_ledger, path))  # 2 s less
    file = tmp_path / "mlflow.db"
    write_trial(tmp_path, trial())
    broken(file, how)
    damaged = None if file.is_dir() else file.read_bytes()
    for write in (lambda: MlflowWriter(tmp_path).prepare("masking_ratio"), lambda: read_trials(tmp_path)):
        with pytest.raises(TrackingError) as met:
            write()
        assert str(met.value).endswith(f"; {REBUILD}")
    code, _, err = smaug("sync")
    assert code == 2 and "`smaug sync --rebuild`" in err
    if (engine := SqlAlchemyStore._engine_map.pop(tracking_uri(tmp_path), None)) is not None:
        engine.dispose()  # as if it were another process: no connection to the damaged file is open
    (file.with_name("mlflow.db-wal")).write_bytes(b"what it did not take")
    code, out, err = smaug("sync", "--rebuild")
    assert code == 0 and out == "0 stages and 1 trials are recorded\n"
    (aside,) = tmp_path.glob("mlflow.db.damaged-*[0-9]")
    assert err == f"MLflow's database was archived as {aside}\n"
    assert damaged is None or aside.read_bytes() == damaged
    assert aside.with_name(aside.name + "-wal").read_bytes() == b"what it did not take"
    assert [row.variant for row in read_trials(tmp_path)] == ["50%"]


@pytest.mark.parametrize("how", ["empty", "tags", "holes"])
def test_doctor_gives_the_same_advice(home, how):
    broken(home / "mlflow.db", how)
    (found,) = inspection.check_mlflow(home)
    assert (found.level, found.fix) == ("fault", REBUILD)


def changed(file: Path, statement: str) -> None:
    with closing(sqlite3.connect(file)) as database:
        database.execute(statement)
        database.commit()


ROW_DAMAGE = {
    "UPDATE runs SET artifact_uri = NULL": "runs.artifact_uri of run {run} is NULL; expected text",
    "UPDATE runs SET artifact_uri = 'file:///x'": "run {run} is of no experiment, or its files are nowhere",
    "UPDATE runs SET start_time = 'abc'": "runs.start_time of run {run} is 'abc'; expected integer",
    "UPDATE runs SET end_time = 1.5": "runs.end_time of run {run} is 1.5; expected integer or null",
    "UPDATE runs SET experiment_id = 77": "run {run} is of no experiment, or its files are nowhere",
    "UPDATE tags SET value = NULL WHERE key = 'smaug.columns'": "tags.value of run {run} is NULL; expected text",
    "UPDATE latest_metrics SET value = 'abc'": "latest_metrics.value of run {run} is 'abc'; expected real",
    "UPDATE metrics SET step = 'x' WHERE key = 'loss'": "metrics.step of run {run} is 'x'; expected integer",
    "UPDATE experiments SET artifact_location = NULL": "artifact_location of experiment smaug/stages is None",
}


def test_damaged_rows_are_named_with_the_advice_in_a_home_that_was_moved_too(recorded, tmp_path, capsys):
    moved = recorded.rename(tmp_path / "moved")
    file = moved / "mlflow.db"
    whole = file.read_bytes()
    for statement, expected in ROW_DAMAGE.items():
        file.write_bytes(whole)
        changed(file, statement)
        damaged = file.read_bytes()
        for use in (lambda: MlflowWriter(moved).prepare(), lambda: read_trials(moved)):
            with pytest.raises(
                TrackingError, match=rf"^MLflow at .*/moved/mlflow\.db: the database .*; {REBUILD}$"
            ) as met:
                use()
            assert re.search(re.escape(expected).replace(r"\{run\}", "[0-9a-f]{32}"), str(met.value)), statement
        (found,) = inspection.check_mlflow(moved)
        assert (found.level, found.fix) == ("fault", REBUILD), statement
        assert file.read_bytes() == damaged, statement
    assert capsys.readouterr() == ("", "")


def test_a_moved_home_without_a_table_gets_the_diagnosis_of_one_that_was_not_moved(recorded, tmp_path):
    moved = recorded.rename(tmp_path / "moved")
    changed(moved / "mlflow.db", "DROP TABLE runs")
    with pytest.raises(TrackingError) as met:
        sync(moved)
    assert str(met.value).endswith(f"/moved/mlflow.db: the database lacks the table runs; {REBUILD}")


def test_the_repair_of_a_moved_home_tells_a_lock_from_a_file_that_may_not_be_written(recorded, tmp_path, monkeypatch):
    monkeypatch.setattr("experiments.tracking.database.BUSY_S", 0.05)
    moved = recorded.rename(tmp_path / "moved")
    with closing(sqlite3.connect(moved / "mlflow.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(TrackingError, match=r"could not be changed \(database is locked\); another process writes"):
            read_trials(moved)


def test_a_writer_that_was_killed_leaves_no_damage(home):
    code = (
        "import os, sqlite3, sys\n"
        "database = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "database.execute('PRAGMA cache_size = 1')\n"
        "database.execute('BEGIN')\n"
        "database.execute('CREATE TABLE t (x)')\n"
        "database.executemany('INSERT INTO t VALUES (?)', [('x' * 4000,)] * 500)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    killed = subprocess.run([sys.executable, "-c", code, str(home / "mlflow.db")])
    assert killed.returncode == -signal.SIGKILL and (home / "mlflow.db-journal").exists()
    assert damage_of(home / "mlflow.db") is None


def test_a_locked_database_is_not_damaged(home, monkeypatch):
    monkeypatch.setattr("experiments.tracking.database.BUSY_S", 0.05)
    with closing(sqlite3.connect(home / "mlflow.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        assert damage_of(home / "mlflow.db") is None


def test_rebuild_is_refused_while_a_driver_writes_and_on_a_server(smaug, home, monkeypatch):
    before = (home / "mlflow.db").read_bytes()
    with driver_at_work(home):
        code, _, err = smaug("sync", "--rebuild")
    assert code == 2 and f"process {os.getpid()} on " in err and (home / "mlflow.db").read_bytes() == before
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://ann:s3cret@127.0.0.1:9")
    code, _, err = smaug("sync", "--rebuild")
    assert code == 2 and "expected an SQLite file" in err and "s3cret" not in err


def test_rebuild_and_records_to_write_exclude_each_other(smaug, tmp_path):
    assert smaug("sync", "--rebuild", "--to", str(tmp_path / "x"))[0] == 2
