"""Who drives what in a home folder, told by files that outlive nobody."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from experiments.store import drivers
from experiments.store.documents import StoreError
from experiments.store.drivers import abandoned, driver_at_work, living
from tests.experiments.smoke import ROOT
from tests.faults import read_only_disk

DRIVER = """
import sys, time
from pathlib import Path
from experiments.store.drivers import driver_at_work
with driver_at_work(Path(sys.argv[1]), ["b" * 64]):
    print("at work", flush=True)
    time.sleep(60)
"""


def test_a_driver_is_told_while_it_lasts(tmp_path):
    assert living(tmp_path) == []
    with driver_at_work(tmp_path, ["a" * 64, "b" * 64, "a" * 64]):
        (driver,) = living(tmp_path)
        assert driver.fingerprints == {"a" * 64, "b" * 64}
        assert driver.owner.pid == os.getpid() and time.time() - driver.started < 60
        with driver_at_work(tmp_path, ["c" * 64]):
            assert len(living(tmp_path)) == 2
        assert living(tmp_path) == [driver]
    assert living(tmp_path) == [] and list((tmp_path / "drivers").iterdir()) == []


def test_a_driver_that_ends_by_an_error_leaves_nothing(tmp_path):
    with pytest.raises(ValueError), driver_at_work(tmp_path):
        raise ValueError
    assert list((tmp_path / "drivers").iterdir()) == []


def test_a_killed_driver_does_not_count_and_its_file_goes(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", DRIVER, tmp_path], cwd=ROOT, stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"at work\n"
    (driver,) = living(tmp_path)
    assert driver.owner.pid == process.pid
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert driver.path.exists()
    assert living(tmp_path) == []
    assert not driver.path.exists()


def test_what_another_living_driver_looks_after_is_not_abandoned(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", DRIVER, tmp_path], cwd=ROOT, stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"at work\n"
    with driver_at_work(tmp_path, ["a" * 64, "b" * 64]):
        assert abandoned(tmp_path, ["a" * 64, "b" * 64]) == ["a" * 64]
        process.kill()
        process.wait()
        assert abandoned(tmp_path, ["a" * 64, "b" * 64]) == ["a" * 64, "b" * 64]


def test_a_driver_of_another_host_is_judged_by_its_last_sign(tmp_path):
    with driver_at_work(tmp_path, ["a" * 64]):
        (path,) = (tmp_path / "drivers").iterdir()
        document = json.loads(path.read_text())
    document["owner"] |= {"host": "elsewhere", "pid": 1}
    path.write_text(json.dumps(document))
    os.utime(path, (time.time() - 100,) * 2)
    assert len(living(tmp_path)) == 1
    os.utime(path, (time.time() - 200,) * 2)
    assert living(tmp_path) == [] and not path.exists()


def test_signs_of_life_go_on_and_a_file_taken_away_comes_back(tmp_path, monkeypatch):
    monkeypatch.setattr(drivers, "HEARTBEAT_S", 0.02)
    with driver_at_work(tmp_path, ["a" * 64]):
        (path,) = (tmp_path / "drivers").iterdir()
        os.utime(path, (1.0, 1.0))
        wait_for(lambda: path.stat().st_mtime > 1.0)
        whole = path.read_text()
        path.unlink()
        wait_for(path.exists)
        assert path.read_text() == whole


def test_where_nothing_can_be_written_no_driver_starts():
    with read_only_disk() as disk, pytest.raises(StoreError, match="cannot be written"), driver_at_work(disk):
        pass


def wait_for(condition) -> None:
    until = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_a_driver_s_file_that_is_damaged_is_named(tmp_path: Path):
    (tmp_path / "drivers").mkdir()
    (tmp_path / "drivers" / "host-1.json").write_text("{")
    with pytest.raises(StoreError, match="host-1.json: cannot be read"):
        living(tmp_path)
