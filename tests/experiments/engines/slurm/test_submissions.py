"""Which folders of Slurm's jobs `gc` takes: none of which a job may still come, as far as files and Slurm can tell."""

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
    """A folder with jobs (their ids by name; none: nobody wrote it down) and the codes that they ended with."""
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
    assert each.kind == "slurm" and each.size > 100
    assert remove(home, [each], lambda facts: None).deleted == [each]
    assert not list((home / "slurm").iterdir())
    return "goes"


def test_where_every_job_said_its_last_word_slurm_is_not_even_asked(tmp_path: Path, commands: Commands) -> None:
    submission(tmp_path, {A: "7_0", B: "7_1"}, {A: 0, B: 1})
    assert judged(tmp_path) == "goes"
    assert commands.calls("squeue") == []


def test_a_word_that_may_not_be_the_last_is_no_end_until_slurm_says_so(tmp_path: Path, commands: Commands) -> None:
    """Interrupted, killed, of no word, of a word that was said just now: it may be in the queue again."""
    commands.say("squeue", "echo '7_1|PENDING|Resources'")
    for words in ({A: 0, B: 75}, {A: 0, B: -9}, {A: 0}):
        folder = submission(tmp_path, {A: "7_0", B: "7_1"}, words)
        assert judged(tmp_path) == f"Slurm lists its job 7_1, for {B[:12]}, as PENDING"
        commands.say("squeue", "echo '7_1|CANCELLED|None'")
        assert judged(tmp_path) == "goes"
        assert not folder.exists()
        commands.say("squeue", "echo '7_1|PENDING|Resources'")
    submission(tmp_path, {A: "7_0"}, {A: 0}, age_s=100.0)
    commands.say("squeue", "echo '7_0|COMPLETING|None'")
    assert judged(tmp_path) == f"Slurm lists its job 7_0, for {A[:12]}, as COMPLETING"
    commands.say("squeue", "true")  # it has forgotten the job
    assert judged(tmp_path) == "goes"


def test_without_slurm_what_cannot_be_known_stays(tmp_path: Path, commands: Commands) -> None:
    folder = submission(tmp_path, {A: "7_0", B: "7_1"}, {A: 0})
    words = "1 of its jobs have no exit record that is an hour old, and "
    commands.say("squeue", "echo 'slurm_load_jobs error: Unable to contact' >&2; exit 1")
    assert judged(tmp_path) == f"{words}Slurm does not answer (slurm_load_jobs error: Unable to contact)"
    commands.say("scontrol", "exit 1")
    assert judged(tmp_path) == f"{words}the Slurm that has them is one@here; no Slurm answers here"
    commands.say("scontrol", ONE.replace("one", "other"))
    assert judged(tmp_path) == f"{words}the Slurm that has them is one@here; here is other@here"
    (folder / "slurm.json").unlink()
    assert judged(tmp_path) == f"{words}it does not name the Slurm that has them"


def test_a_job_that_slurm_may_not_list_yet_stays(tmp_path: Path, commands: Commands) -> None:
    submission(tmp_path, {A: "7"}, {}, age_s=5.0)
    assert judged(tmp_path) == "its job 7 was submitted just now"


def test_a_job_that_nobody_could_note_keeps_what_may_be_its_folder(tmp_path: Path, commands: Commands) -> None:
    """Its driver was killed between sbatch's answer and writing it down; another folder's jobs are noted."""
    submission(tmp_path, {A: None}, {})
    commands.say("squeue", "echo '8|RUNNING|None'")
    assert judged(tmp_path) == "Slurm has job 8 (RUNNING) that no driver has recorded; it may be of this folder"
    other = submission(tmp_path, {B: "8"}, {})
    found = find_garbage(tmp_path)
    assert [kept.path for kept in found.kept] == [other]
    assert [each.path for each in found.garbage] == [path for path in (tmp_path / "slurm").iterdir() if path != other]


def test_slurm_is_asked_once_for_all_folders(tmp_path: Path, commands: Commands) -> None:
    for _ in range(5):
        submission(tmp_path, {A: "7"}, {})
    assert len(find_garbage(tmp_path).garbage) == 5
    assert len(commands.calls("squeue")) == len(commands.calls("scontrol")) - 5 == 1
    (call,) = commands.calls("squeue")
    assert "--name=smaug-1" in call


def test_a_living_driver_keeps_the_folders_of_its_stages_and_those_without_any(
    tmp_path: Path, commands: Commands
) -> None:
    of_a, of_b, empty = (submission(tmp_path, jobs, {}) for jobs in ({A: "7"}, {B: "8"}, {}))
    before = find_garbage(tmp_path).garbage
    assert {each.path for each in before} == {of_a, of_b, empty}
    with driver_at_work(tmp_path, [A]):
        found = find_garbage(tmp_path)
        assert {kept.path for kept in found.kept} == {of_a, empty}
        assert f"process {os.getpid()} on " in found.kept[0].why
        removed = remove(tmp_path, before, lambda facts: None)
        assert {each.path for each, _ in removed.left} == {of_a, empty}
    assert of_a.exists() and empty.exists() and not of_b.exists()


def test_a_driver_that_comes_at_the_last_moment_gets_its_folder_back(
    tmp_path: Path, commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = submission(tmp_path, {A: "7"}, {})
    found, rename, came = find_garbage(tmp_path).garbage, Path.rename, driver_at_work(tmp_path, [A])

    def late(path: Path, target: Path) -> Path:
        if path == folder:
            came.__enter__()
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", late)
    ((_, why),) = remove(tmp_path, found, lambda facts: None).left
    came.__exit__(None, None, None)
    assert "may use its jobs" in why and (folder / "placed-000001.json").exists()


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
    assert judged(tmp_path) == "belongs to user 65534; Slurm shows its jobs only to them"


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
