"""What `gc` finds and deletes, and what it never touches: real stages, workers, kills and links."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from experiments.maintenance.gc import Garbage, find_garbage, refuse_active_driver
from experiments.maintenance.removal import remove
from experiments.stages.trial import Trial
from experiments.store.drivers import cancel_requests, driver_at_work, request_cancel
from experiments.store.records import StageRecord
from experiments.store.store import Store, all_stages
from experiments.store.trials import write_trial
from smaug_core.errors import SmaugError
from tests.experiments.made_trials import execute, trial
from tests.experiments.maintenance.test_status import working
from tests.experiments.smoke import ROOT


class Ledger:
    """Records stages, or fails."""

    def __init__(self, fault: str = "") -> None:
        self.recorded: list[str] = []
        self._fault = fault

    def __call__(self, facts: StageRecord) -> None:
        if self._fault:
            raise SmaugError(self._fault)
        assert facts.details.directory.exists()
        self.recorded.append(facts.fingerprint)


def paths(home: Path, **options) -> dict[str, str]:
    """What is garbage: kinds by path."""
    return {os.path.relpath(g.path, home): g.kind for g in find_garbage(home, **options).garbage}


def collect(home: Path, record: Callable[[StageRecord], None] | None = None) -> tuple[list[str], list[str]]:
    """Delete what there is; gives the paths of what went, and why the rest did not."""
    removed = remove(home, find_garbage(home).garbage, record or Ledger())
    return [os.path.relpath(g.path, home) for g in removed.deleted], [why for _, why in removed.left]


def folder(home: Path, made: Trial, number: int = 0) -> Path:
    return Store(home).directory(made.stages[number])


def name(home: Path, made: Trial, number: int = 0) -> str:
    return os.path.relpath(folder(home, made, number), home)


def grow_old(path: Path, seconds: float = 4000.0) -> None:
    os.utime(path, (time.time() - seconds,) * 2)


@pytest.fixture
def replaced(tmp_path) -> tuple[Trial, Trial]:
    """A trial that was requested with other settings later: the last of its stages is not needed any more."""
    old, new = trial(r1=25.0), trial(r1=26.0)
    for made in (old, new):
        write_trial(tmp_path, made)
        execute(tmp_path, made)
    assert old.stages[:2] == new.stages[:2]
    return old, new


def test_a_home_in_which_everything_is_needed_has_no_garbage(tmp_path):
    assert find_garbage(tmp_path).garbage == []
    made = trial()
    write_trial(tmp_path, made)
    execute(tmp_path, made)
    found = find_garbage(tmp_path)
    assert found.garbage == found.kept == []


def test_a_stage_that_no_valid_trial_asks_for_goes_and_its_hours_are_recorded_first(tmp_path, replaced):
    old, new = replaced
    (found,) = find_garbage(tmp_path).garbage
    assert found.path == folder(tmp_path, old, 2) and found.kind == "stage" and found.size > 500
    assert found.why == "evaluate.msrvtt, done: no valid trial needs it"
    ledger = Ledger()
    assert collect(tmp_path, ledger) == ([name(tmp_path, old, 2)], [])
    assert ledger.recorded == [old.stages[2].fingerprint]
    assert {facts.fingerprint for facts in all_stages(tmp_path)} == {stage.fingerprint for stage in new.stages}
    assert not list((tmp_path / "store").glob(".gc-*"))


def test_a_stage_whose_hours_cannot_be_recorded_stays(tmp_path, replaced):
    old, _ = replaced
    assert collect(tmp_path, Ledger("MLflow is down")) == ([], ["MLflow is down"])
    assert (folder(tmp_path, old, 2) / "result.json").exists()


def test_a_stage_without_attempts_needs_no_ledger(tmp_path):
    old, new = trial(pretrain={"steps": 4}), trial()
    write_trial(tmp_path, old)
    Store(tmp_path).prepare(old.stages[0])
    write_trial(tmp_path, new)
    assert collect(tmp_path, Ledger("MLflow is down")) == ([name(tmp_path, old)], [])


def test_archived_stages_go(tmp_path):
    made = trial()
    write_trial(tmp_path, made)
    execute(tmp_path, made)
    archived = Store(tmp_path).archive(made.stages[0])
    assert paths(tmp_path) == {os.path.relpath(archived, tmp_path): "aside"}
    collect(tmp_path)
    assert not archived.exists() and folder(tmp_path, made, 1).exists()


def test_checkpoints_go_where_the_stage_is_done_only(tmp_path):
    done, stopped = trial("50%"), trial("10%", pretrain={"checkpoint_every": 1, "fail_at": 3})
    for made in (done, stopped):
        write_trial(tmp_path, made)
        execute(tmp_path, made, stages=1)
        (folder(tmp_path, made) / "checkpoints" / "step-00000009").mkdir(parents=True, exist_ok=True)
    assert collect(tmp_path) == ([f"{name(tmp_path, done)}/checkpoints"], [])
    assert (folder(tmp_path, done) / "result.json").exists()
    assert len(list((folder(tmp_path, stopped) / "checkpoints").iterdir())) == 3


def test_what_dead_writers_left_goes_after_an_hour(tmp_path):
    made = trial(pretrain={"checkpoint_every": 1, "fail_at": 3})
    write_trial(tmp_path, made)
    execute(tmp_path, made, stages=1)
    stage = folder(tmp_path, made)
    files = [stage / ".result.json.0123abcd.partial", stage / "attempts" / "0001" / ".end.json.0123abcd.partial"]
    folders = [
        stage / "attempts" / ".claim-0123",
        stage / ".partial-model-7",
        stage / "checkpoints" / ".partial-step-7",
    ]
    for path in files:
        path.write_text("{")
    for path in folders:
        path.mkdir()
    assert paths(tmp_path) == {}
    for path in files + folders:
        grow_old(path)
    expected = {os.path.relpath(path, tmp_path): "leftover" for path in files + folders}
    assert paths(tmp_path) == expected
    assert sorted(collect(tmp_path)[0]) == sorted(expected)
    assert not any(path.exists() for path in files + folders)
    assert Store(tmp_path).record(made.stages[0]).state == "failed"


def test_a_folder_whose_maker_died_before_its_first_file_goes_after_an_hour(tmp_path):
    write_trial(tmp_path, trial())
    half = tmp_path / "store" / "pretrain" / "0123456789ab"
    half.mkdir(parents=True)
    assert paths(tmp_path) == {}
    grow_old(half)
    assert collect(tmp_path) == (["store/pretrain/0123456789ab"], [])


def test_a_stage_that_runs_is_never_touched(tmp_path):
    old, new = trial(pretrain={"steps": 8, "hold_at": 2}), trial()
    write_trial(tmp_path, old)
    directory = Store(tmp_path).prepare(old.stages[0])
    write_trial(tmp_path, new)
    (before,) = find_garbage(tmp_path).garbage
    with working(directory) as worker:
        found = find_garbage(tmp_path)
        assert found.garbage == []
        assert [kept.path for kept in found.kept] == [directory]
        assert f"attempt 1 is running: process {worker.pid} on " in found.kept[0].why
        ((left, why),) = remove(tmp_path, [before], Ledger()).left  # the worker came after the report
        assert left is before and "attempt 1 is running" in why
        assert (directory / "stage.json").exists() and not list((tmp_path / "store").glob(".gc-*"))
    assert collect(tmp_path)[0] == [name(tmp_path, old)]


def test_a_worker_that_comes_at_the_last_moment_gets_its_stage_back(tmp_path, monkeypatch):
    """Between the last check and the rename."""
    old, new = trial(pretrain={"steps": 8, "hold_at": 2}), trial()
    write_trial(tmp_path, old)
    directory = Store(tmp_path).prepare(old.stages[0])
    write_trial(tmp_path, new)
    rename = Path.rename

    def late(path: Path, target: Path) -> Path:
        if path == directory and not claimed:
            claimed.append(working(directory))
            claimed[0].__enter__()
        return rename(path, target)

    claimed: list = []
    monkeypatch.setattr(Path, "rename", late)
    try:
        ((_, why),) = remove(tmp_path, find_garbage(tmp_path).garbage, Ledger()).left
    finally:
        claimed[0].__exit__(None, None, None)
    assert "attempt 1 is running" in why and (directory / "stage.json").exists()


def test_gc_refuses_beside_an_active_driver_and_names_its_sweep(tmp_path, replaced):
    _, new = replaced
    host = socket.gethostname()
    with driver_at_work(tmp_path, [stage.fingerprint for stage in new.stages]):
        with pytest.raises(SmaugError) as refused:
            refuse_active_driver(tmp_path)
        assert str(refused.value) == (
            f"{tmp_path}: expected no active driver, got PID {os.getpid()} on {host} (sweep masking_ratio);"
            " wait for it or cancel it (`smaug cancel masking_ratio`)"
        )
    with driver_at_work(tmp_path, ["a" * 64]), pytest.raises(SmaugError, match=r"cancel it \(`smaug cancel --all`\)"):
        refuse_active_driver(tmp_path)
    refuse_active_driver(tmp_path)


def test_a_driver_that_starts_after_the_report_keeps_everything(tmp_path, replaced):
    _, new = replaced
    (folder(tmp_path, new) / "checkpoints").mkdir()
    request_cancel(tmp_path, ["b" * 64])
    before = find_garbage(tmp_path).garbage
    assert [item.kind for item in before] == ["stage", "checkpoints", "mark"]
    with driver_at_work(tmp_path, [stage.fingerprint for stage in new.stages]):
        removal = remove(tmp_path, before, Ledger())
    why = f"a driver has started: process {os.getpid()} on {socket.gethostname()}"
    assert not removal.deleted and [reason for _, reason in removal.left] == [why] * 3
    assert find_garbage(tmp_path).garbage == before
    assert len(collect(tmp_path)[0]) == 3


@pytest.mark.parametrize("damaged", [False, True])
def test_a_driver_that_comes_at_the_last_moment_gets_its_stage_back(tmp_path, replaced, monkeypatch, damaged):
    old, _ = replaced
    found, rename, came = find_garbage(tmp_path).garbage, Path.rename, driver_at_work(tmp_path)

    def late(path: Path, target: Path) -> Path:
        if path == folder(tmp_path, old, 2):
            came.__enter__()
            if damaged:
                next((tmp_path / "drivers").glob("*.json")).write_text("{")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", late)
    ((_, why),) = remove(tmp_path, found, Ledger()).left
    came.__exit__(None, None, None)
    assert ("cannot be read" if damaged else "a driver has started") in why
    assert (folder(tmp_path, old, 2) / "result.json").exists()


def test_a_stage_that_is_requested_again_meanwhile_stays(tmp_path, replaced):
    old, _ = replaced
    before = find_garbage(tmp_path).garbage
    write_trial(tmp_path, old)
    assert [why for _, why in remove(tmp_path, before, Ledger()).left] == ["a valid trial needs it now"]
    assert folder(tmp_path, old, 2).exists()


def test_without_any_trial_it_is_unknown_what_is_needed(tmp_path):
    execute(tmp_path, trial())
    found = find_garbage(tmp_path)
    assert found.garbage == [] and len(found.kept) == 3 and "no trial was ever requested" in found.kept[0].why


def test_a_damaged_stage_is_named_and_stays(tmp_path, replaced):
    old, _ = replaced
    (folder(tmp_path, old, 2) / "attempts" / "0001" / "owner.json").unlink()
    found = find_garbage(tmp_path)
    assert found.garbage == [] and "is damaged, so it may be in use" in found.kept[0].why


def test_a_damaged_trial_stops_everything(tmp_path, replaced):
    before = find_garbage(tmp_path).garbage
    next((tmp_path / "trials").glob("*/*.json")).write_text("{")
    with pytest.raises(SmaugError, match="cannot be read"):
        find_garbage(tmp_path)
    assert "cannot be read" in remove(tmp_path, before, Ledger()).left[0][1]


@pytest.mark.parametrize("where", ["stage", "kind", "store", "checkpoints", "ray"])
def test_no_link_leads_out_of_the_home(tmp_path, where):
    home, outside = tmp_path / "home", tmp_path / "outside"
    made, old = trial(), trial(pretrain={"steps": 4})
    for one in (old, made):
        write_trial(home, one)
        execute(home, one, stages=1)
    precious = {"stage": folder(home, old), "kind": home / "store" / "pretrain", "store": home / "store"}
    precious |= {"checkpoints": folder(home, made) / "checkpoints", "ray": home / "ray"}
    source = precious[where]
    if where == "checkpoints":
        source.mkdir()
    if where == "ray":
        (source / "20200101-000000-1").mkdir(parents=True)
    source.rename(outside)
    source.symlink_to(outside)
    before = sorted(path for path in outside.rglob("*"))
    fake = Garbage(path=source / "x" if where == "ray" else source, kind="stage", why="", size=0, stage=source)
    removed = remove(home, [*find_garbage(home).garbage, fake], Ledger())
    assert sorted(path for path in outside.rglob("*")) == before
    assert fake in [each for each, _ in removed.left]
    assert source.is_symlink()


def test_nothing_but_its_own_folders_is_deleted(tmp_path):
    made = trial()
    path = write_trial(tmp_path, made)
    for folder_name in ("data", "store"):
        (tmp_path / folder_name).mkdir()
    for wrong in (path, tmp_path / "data", tmp_path / "store", tmp_path, tmp_path / "store" / ".." / "data"):
        fake = Garbage(path=wrong, kind="trash", why="", size=0)
        assert remove(tmp_path, [fake], Ledger()).left == [(fake, "is a link, or leads outside of this home's folders")]
        assert wrong.exists()


def test_ray_s_folders_of_dead_drivers_go(tmp_path):
    mine = time.strftime("%Y%m%d-%H%M%S")
    names = {"dead": f"{mine}-99999999", "ours": f"20200101-000000-{os.getpid()}"}  # made before the clock was set
    for folder_name in names.values():
        (tmp_path / "ray" / folder_name / "cancel").mkdir(parents=True)
    (tmp_path / "ray" / "notes").mkdir()
    assert paths(tmp_path) == {f"ray/{names['dead']}": "ray"}
    collect(tmp_path)
    assert sorted(path.name for path in (tmp_path / "ray").iterdir()) == sorted([names["ours"], "notes"])


def test_what_a_ray_cluster_in_slurm_left_is_named_and_stays(tmp_path):
    left = tmp_path / "ray-clusters" / "a-site-71-Xy01ab"
    left.mkdir(parents=True)
    (tmp_path / "ray-clusters" / "notes").mkdir()
    found = find_garbage(tmp_path)
    assert not found.garbage and [each.path for each in found.kept] == [left]
    assert "`squeue --jobs=71`" in found.kept[0].why


def test_cancel_requests_without_a_driver_go(tmp_path):
    request_cancel(tmp_path, ["a" * 64, "b" * 64])
    assert collect(tmp_path) == ([f"cancel/{'a' * 64}", f"cancel/{'b' * 64}"], [])
    assert cancel_requests(tmp_path) == {}


KILLED = """
import os, shutil, signal, sys
from pathlib import Path
from experiments.maintenance.gc import find_garbage
from experiments.maintenance.removal import remove
left = int(sys.argv[2])
unlink = os.unlink
def unlink_some(*arguments, **options):
    global left
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    left -= 1
    unlink(*arguments, **options)
os.unlink = unlink_some
home = Path(sys.argv[1])
remove(home, find_garbage(home).garbage, lambda facts: None)
"""


@pytest.mark.parametrize("files", [0, 1, 4])
def test_a_kill_in_the_middle_leaves_no_half_stage_and_the_next_gc_ends_it(tmp_path, replaced, files):
    old, new = replaced
    ran = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path), str(files)], cwd=ROOT)
    assert ran.returncode == -signal.SIGKILL
    assert not folder(tmp_path, old, 2).exists()
    assert {facts.fingerprint for facts in all_stages(tmp_path)} == {stage.fingerprint for stage in new.stages}
    assert [record.directory for record in Store(tmp_path).done("evaluate")] == [folder(tmp_path, new, 2)]
    ((path, kind),) = paths(tmp_path).items()
    assert kind == "trash" and path.startswith("store/.gc-")
    assert collect(tmp_path) == ([path], [])
    assert paths(tmp_path) == {}


def test_what_cannot_be_deleted_is_reported_and_the_rest_goes_on(tmp_path, replaced, monkeypatch):
    old, new = replaced
    (folder(tmp_path, new) / "checkpoints").mkdir()
    real = shutil.rmtree

    def refuse(path, *arguments, **options):
        if "checkpoints" in str(path):
            raise PermissionError(13, "Permission denied", str(path))
        real(path, *arguments, **options)

    monkeypatch.setattr(shutil, "rmtree", refuse)
    gone, reasons = collect(tmp_path)
    assert gone == [name(tmp_path, old, 2)] and "Permission denied" in reasons[0]
