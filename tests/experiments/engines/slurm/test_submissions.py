"""Folders of Slurm's jobs: `gc` deletes those of which every job was over an hour ago, by their files alone."""

import json
import os
import time
from pathlib import Path

import pytest

from experiments.engines.slurm.submissions import SUBMISSION, exit_file, new_folder
from experiments.maintenance.gc import Garbage, find_garbage
from experiments.maintenance.removal import remove
from experiments.store.documents import write_json
from experiments.store.drivers import driver_at_work
from tests.experiments.engines.slurm.test_engine import Commands

ONE = "printf 'ClusterName             = one\\nSlurmctldHost[0]        = here\\n'"
A, B = "a" * 64, "b" * 64


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Commands:
    made = Commands(tmp_path, monkeypatch)
    made.say("scontrol", ONE)
    return made


def submission(home: Path, jobs: dict[str, str | None], words: dict[str, int], age_s: float = 7200.0) -> Path:
    """A folder with jobs (their ids by name; None: no driver recorded it) and the codes that they ended with."""
    folder = new_folder(home / "slurm", "mine", "smaug-1")
    assert SUBMISSION.fullmatch(folder.name)
    for name in jobs:
        write_json(folder / "jobs" / f"{name[:12]}.json", {"name": name, "command": [], "env": {}})
    ids = {name: job for name, job in jobs.items() if job is not None}
    if ids:
        write_json(folder / "placed-000001.json", ids)
    for name, code in words.items():
        write_json(exit_file(folder, ids[name], name), {"exit_code": code, "reason": None, "time": 0.0})
    for path in (*folder.rglob("*"), folder):
        os.utime(path, (time.time() - age_s,) * 2)
    return folder


def judged(home: Path) -> str:
    """Why the one folder stays; `goes` if it does not, and then it is really deleted."""
    found = find_garbage(home)
    assert len(found.garbage) + len(found.kept) == 1
    if found.kept:
        return found.kept[0].why
    (each,) = found.garbage
    assert each.kind == "slurm" and each.size > 40
    assert remove(home, [each], lambda facts: None).deleted == [each]
    assert not list((home / "slurm").iterdir())
    return "goes"


def test_where_every_job_recorded_its_end_an_hour_ago_the_folder_goes(tmp_path: Path, commands: Commands) -> None:
    submission(tmp_path, {A: "7_0", B: "7_1"}, {A: 0, B: 1})
    assert judged(tmp_path) == "goes"
    assert commands.calls("squeue") == commands.calls("scontrol")[1:] == []  # gc itself does not query Slurm


@pytest.mark.parametrize("words", [{A: 0, B: 75}, {A: 0, B: -9}, {A: 0}])
def test_a_job_without_a_final_record_keeps_its_folder_with_advice(
    tmp_path: Path, commands: Commands, words: dict[str, int]
) -> None:
    """Interrupted, killed, without a record: it may be in the queue again."""
    submission(tmp_path, {A: "7_0", B: "7_1"}, words)
    advice = "if `squeue --name=smaug-1` shows no job of them, delete it"
    assert judged(tmp_path) == f"1 of its 2 jobs have no final exit record that is an hour old; {advice}"


def test_a_record_that_is_less_than_an_hour_old_keeps_its_folder(tmp_path: Path, commands: Commands) -> None:
    submission(tmp_path, {A: "7_0"}, {A: 0}, age_s=3500.0)
    assert judged(tmp_path).startswith("1 of its 1 jobs have no final exit record that is an hour old; ")


def test_a_job_that_no_driver_recorded_keeps_its_folder(tmp_path: Path, commands: Commands) -> None:
    """Its driver was killed between sbatch's answer and the record."""
    folder = submission(tmp_path, {A: None}, {})
    assert judged(tmp_path).startswith("1 of its 1 jobs have no final exit record")
    (folder / "slurm.json").unlink()
    assert judged(tmp_path).endswith("if `squeue` shows no job of them, delete it")


def test_a_stage_that_was_submitted_again_after_its_record_keeps_the_folder(tmp_path: Path, commands: Commands) -> None:
    """The new job has another id, or none if its driver was killed before it could record it."""
    folder = submission(tmp_path, {A: "7"}, {A: 1})
    os.utime(folder / "jobs" / f"{A[:12]}.json", (time.time() - 7000.0,) * 2)
    assert judged(tmp_path).startswith("1 of its 1 jobs have no final exit record")
    os.utime(folder / "jobs" / f"{A[:12]}.json", (time.time() - 7300.0,) * 2)
    write_json(folder / "placed-000002.json", {A: "8"})
    assert judged(tmp_path).startswith("1 of its 1 jobs have no final exit record")
    record = exit_file(folder, "8", A)
    write_json(record, {"exit_code": 0, "reason": None, "time": 0.0})
    os.utime(record, (time.time() - 7000.0,) * 2)
    assert judged(tmp_path) == "goes"


def test_a_folder_without_jobs_goes_after_an_hour(tmp_path: Path, commands: Commands) -> None:
    folder = submission(tmp_path, {}, {}, age_s=60.0)
    assert judged(tmp_path) == "was made just now"
    os.utime(folder, (time.time() - 7200.0,) * 2)
    assert judged(tmp_path) == "goes"


def test_a_driver_that_starts_after_the_report_keeps_all_folders(tmp_path: Path, commands: Commands) -> None:
    folder = submission(tmp_path, {A: "7"}, {A: 0})
    found = find_garbage(tmp_path).garbage
    with driver_at_work(tmp_path, [B]):
        ((_, why),) = remove(tmp_path, found, lambda facts: None).left
    assert why.startswith(f"a driver has started: process {os.getpid()} on ") and folder.exists()


def test_a_driver_that_comes_at_the_last_moment_gets_its_folder_back(
    tmp_path: Path, commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = submission(tmp_path, {A: "7"}, {A: 0})
    found, rename, came = find_garbage(tmp_path).garbage, Path.rename, driver_at_work(tmp_path, [A])

    def late(path: Path, target: Path) -> Path:
        if path == folder:
            came.__enter__()
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", late)
    ((_, why),) = remove(tmp_path, found, lambda facts: None).left
    came.__exit__(None, None, None)
    assert "a driver has started" in why and (folder / "placed-000001.json").exists()


def test_a_damaged_folder_and_what_is_none_of_ours_stay(tmp_path: Path, commands: Commands) -> None:
    folder = submission(tmp_path, {A: "7"}, {A: 0})
    (folder / "placed-000001.json").write_text("{")
    assert "is damaged, so it may be in use" in judged(tmp_path)
    (tmp_path / "slurm" / "notes").mkdir()
    assert "is damaged" in judged(tmp_path)


@pytest.mark.skipif(os.getuid() != 0, reason="only root may give a folder away")
def test_another_users_folder_stays(tmp_path: Path, commands: Commands) -> None:
    folder = submission(tmp_path, {A: "7"}, {A: 0})
    os.chown(folder, 65534, 65534)
    assert judged(tmp_path) == "belongs to user 65534"


def test_no_link_is_followed_and_a_deletion_that_was_interrupted_is_ended(tmp_path: Path, commands: Commands) -> None:
    home, outside = tmp_path / "home", tmp_path / "outside"
    folder = submission(home, {A: "7"}, {A: 0})
    folder.rename(outside)
    folder.symlink_to(outside)
    (home / "slurm" / f".gc-01234567-{folder.name}").mkdir()
    found = find_garbage(home)
    assert [each.kind for each in found.garbage] == ["trash"] and [kept.path for kept in found.kept] == [folder]
    fake = Garbage(path=folder, kind="slurm", why="", size=0)
    assert remove(home, [*found.garbage, fake], lambda facts: None).left[0][0] == fake
    assert json.loads((outside / "placed-000001.json").read_text()) == {A: "7"}
    assert os.listdir(home / "slurm") == [folder.name]
