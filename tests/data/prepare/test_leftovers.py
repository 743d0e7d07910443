"""What dead processes left aside is deleted, and nothing else."""

import os
import subprocess
import sys

from smaug_core.data.prepare.leftovers import name_aside, remove_leftovers


def written_by(pid: int, name: str = "sentence-0123456789ab") -> str:
    """The name that this host's process `pid` would have given."""
    return name_aside(name).replace(f".{os.getpid()}.", f".{pid}.")


def dead_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_what_a_dead_process_left_is_deleted_with_all_it_holds(tmp_path):
    for name in ("sentence-0123456789ab", "brief-0123456789ab"):
        left = tmp_path / written_by(dead_pid(), name)
        (left / "clips" / "train").mkdir(parents=True)
        (left / "clips" / "train" / "000000.mp4").write_bytes(b"half")
    remove_leftovers(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_what_living_processes_write_stays(tmp_path):
    sleeper = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    kept = [tmp_path / written_by(pid) for pid in (os.getpid(), sleeper.pid, 1)]
    for folder in kept:
        folder.mkdir()
    remove_leftovers(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted(kept)
    sleeper.communicate(b"\n")
    remove_leftovers(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted([kept[0], kept[2]])


def test_what_another_host_or_anyone_else_wrote_stays(tmp_path):
    gone = dead_pid()
    mine = written_by(gone)
    host = mine.split(".")[-3]
    others = [
        mine.replace(host, "00000000"),  # another host's
        mine[1:],  # not hidden
        f".sentence-0123456789ab.{gone}.0a1b2c3d",  # says no host
        mine[:-1],
        f"{mine}.old",
        f".{host}.{gone}.0a1b2c3d",
        mine.replace(f".{gone}.", ".0."),
        ".git",
    ]
    assert mine.count(host) == 1
    for name in others:
        (tmp_path / name).mkdir()
    remove_leftovers(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == set(others)


def test_names_are_used_once():
    assert name_aside("x") != name_aside("x")


def test_a_folder_that_is_not_there_has_no_leftovers(tmp_path):
    remove_leftovers(tmp_path / "none")
    assert list(tmp_path.iterdir()) == []
