"""What a cluster does to jobs, on a real Slurm: nothing is lost, nothing runs twice, nothing is submitted twice."""

import os
import stat
from collections.abc import Callable
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest

from experiments.maintenance.gc import find_garbage
from experiments.maintenance.logs import read_log
from experiments.maintenance.removal import remove
from experiments.stages.stage import Stage
from experiments.store.attempt import read_attempts
from experiments.store.store import Store
from tests.conformance.drivers import Driver, Site, states, trail, wait_until
from tests.conformance.test_engines import assert_every_attempt_is_billed_once
from tests.quick_driver import make_stages
from tests.slurm_cluster import PROFILE, OneMachine

pytestmark = pytest.mark.slurm

Start = Callable[[Site, list[Any]], Driver]
LONG: dict[str, Any] = {"steps": 4, "hold_at": 2}


def begin(one_machine: OneMachine, drive: Start, store: Store, **own: Any) -> tuple[Driver, Stage, list[Any]]:
    """A driver whose one stage has come to where it holds."""
    chains = [[("pretrain", LONG | own)]]
    (stage,) = make_stages(chains)
    driver = drive(one_machine.site, chains)
    driver.wait_until(lambda: trail(store, stage) == [1, 2])
    return driver, stage, chains


def let_go(store: Store, stage: Stage) -> None:
    (store.directory(stage) / "go").touch()


def assert_done(driver: Driver, store: Store, stage: Stage, attempts: list[str]) -> None:
    ended = driver.finish()
    assert (ended["done"], ended["failed"]) == ([stage.fingerprint], [])
    assert trail(store, stage) == [1, 2, 3, 4], "each step was taken once"
    assert states(store, stage) == attempts
    assert_every_attempt_is_billed_once(store, stage)


def test_a_job_that_is_queued_again_goes_on(whole: OneMachine, drive: Start, store: Store) -> None:
    driver, stage, _ = begin(whole, drive, store)
    whole.ask("scontrol", "requeue", whole.job_of(store, stage))
    wait_until(lambda: states(store, stage) == ["interrupted"])
    let_go(store, stage)
    assert_done(driver, store, stage, ["interrupted", "done"])
    whole.job_of(store, stage)


def test_near_the_time_limit_a_job_saves_and_queues_itself_again(whole: OneMachine, drive: Start, store: Store) -> None:
    driver, stage, _ = begin(whole, drive, store)
    whole.ask("scancel", "--signal=USR2", whole.job_of(store, stage))
    wait_until(lambda: states(store, stage) == ["interrupted"])
    let_go(store, stage)
    assert_done(driver, store, stage, ["interrupted", "done"])
    whole.job_of(store, stage)


@pytest.mark.nightly
def test_a_real_time_limit_ends_nothing(whole: OneMachine, drive: Start, store: Store, tmp_path: Path) -> None:
    """Two minutes or more: a profile takes no lower limit, and Slurm looks at it only twice a minute."""
    short = PROFILE.read_text().replace("time_minutes: 30", "time_minutes: 2").replace(": 60", ": 50")
    (tmp_path / "short.yaml").write_text(short)
    site = Site(name=f"slurm@{tmp_path / 'short.yaml'}", environment=whole.environment, cpus=8, outlives=True)
    chains = [[("pretrain", {"steps": 80, "step_s": 1.0})]]
    (stage,) = make_stages(chains)
    ended = drive(site, chains).finish(patience_s=400)
    assert (ended["done"], ended["failed"]) == ([stage.fingerprint], [])
    assert trail(store, stage) == list(range(1, 81))
    *limited, last = states(store, stage)
    assert (set(limited), last) == ({"interrupted"}, "done")
    whole.job_of(store, stage)


def test_scancel_saves_and_cancels_and_the_same_command_continues(
    whole: OneMachine, drive: Start, store: Store
) -> None:
    driver, stage, chains = begin(whole, drive, store)
    job = whole.job_of(store, stage)
    whole.ask("scancel", job)
    ended = driver.finish()
    assert (ended["done"], ended["failed"], states(store, stage)) == ([], [], ["interrupted"])
    ((_, why),) = ended["cancelled"]
    assert why.startswith(f"Slurm ended job {job}: CANCELLED") and why.endswith("; the same command continues")
    let_go(store, stage)
    assert_done(drive(whole.site, chains), store, stage, ["interrupted", "done"])


@pytest.mark.slow
def test_a_node_whose_slurmd_dies(whole: OneMachine, drive: Start, store: Store) -> None:
    """Slurm gives the job to the other node, where it finds that the first one still runs, and leaves it alone."""
    driver, stage, _ = begin(whole, drive, store)
    job = whole.job_of(store, stage)
    node = whole.ask("squeue", "--noheader", f"--jobs={job}", "--format=%N").strip()
    whole.end_daemon(node)
    wait_until(lambda: whole.ask("squeue", "--noheader", f"--jobs={job}", "--format=%N").strip() != node)
    let_go(store, stage)
    assert_done(driver, store, stage, ["done"])


def test_a_controller_that_is_started_anew(whole: OneMachine, drive: Start, store: Store) -> None:
    """The job that runs is told to be done by its files; what builds on it waits for the controller."""
    chains = [[("pretrain", LONG), ("finetune", {})]]
    first, second = make_stages(chains)
    driver = drive(whole.site, chains)
    driver.wait_until(lambda: trail(store, first) == [1, 2])
    whole.end_daemon("slurmctld")
    let_go(store, first)
    driver.wait_until(lambda: store.record(first).state == "done")
    whole.start_daemon("slurmctld")
    ended = driver.finish()
    assert (ended["done"], ended["failed"]) == ([first.fingerprint, second.fingerprint], [])
    assert (trail(store, first), trail(store, second)) == ([1, 2, 3, 4], [1, 2, 3])


def test_jobs_of_a_killed_driver_are_taken_over_by_the_next(whole: OneMachine, drive: Start, store: Store) -> None:
    """Three stages as large as a node: two run, one waits. All go on, and none is submitted again."""
    chains = [[("pretrain", LONG | {"cpus": 8, "seed": seed})] for seed in range(3)]
    stages = make_stages(chains)
    driver = drive(whole.site, chains)
    driver.wait_until(lambda: sum(trail(store, stage) == [1, 2] for stage in stages) == 2)
    driver.process.kill()
    driver.process.wait()
    before = whole.jobs()
    assert sorted(before.values()) == ["PENDING", "RUNNING", "RUNNING"]
    driver = drive(whole.site, chains)
    driver.read_until('"waiting"')  # it has seen those that run
    for stage in stages:
        store.prepare(stage)
        let_go(store, stage)
    ended = driver.finish()
    assert sorted(ended["done"]) == sorted(stage.fingerprint for stage in stages)
    for stage in stages:
        assert whole.job_of(store, stage) in before
        assert (trail(store, stage), states(store, stage)) == ([1, 2, 3, 4], ["done"])


def test_a_stop_reaches_what_runs_since_a_driver_that_was_killed(whole: OneMachine, drive: Start, store: Store) -> None:
    driver, stage, chains = begin(whole, drive, store)
    driver.process.kill()
    driver.process.wait()
    driver = drive(whole.site, chains)
    driver.read_until('"waiting"')
    driver.ctrl_c()
    assert driver.finish()["interrupted"]
    wait_until(lambda: states(store, stage) == ["interrupted"])
    let_go(store, stage)
    assert_done(drive(whole.site, chains), store, stage, ["interrupted", "done"])


ELSEWHERE = ("unshare", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c")
"""With what follows on a machine of another name, which sees no process of this one."""


def test_a_driver_that_is_killed_and_started_elsewhere(whole: OneMachine, drive: Start, store: Store) -> None:
    """The first stage runs when its driver dies; the next driver can only tell by its signs of life."""
    elsewhere = replace(whole.site, under=(*ELSEWHERE, 'hostname elsewhere && exec "$@"', "sh"))
    chains = [[("pretrain", LONG), ("finetune", {})]]
    first, second = make_stages(chains)
    driver = drive(whole.site, chains)
    driver.wait_until(lambda: trail(store, first) == [1, 2])
    driver.process.kill()
    driver.process.wait()
    driver = drive(elsewhere, chains)
    driver.read_until('"waiting"')
    let_go(store, first)
    assert driver.finish()["done"] == [first.fingerprint, second.fingerprint]
    assert (trail(store, first), states(store, first)) == ([1, 2, 3, 4], ["done"])
    assert (trail(store, second), states(store, second)) == ([1, 2, 3], ["done"])
    for stage in (first, second):
        whole.job_of(store, stage)


def test_gc_takes_no_folder_that_a_job_may_still_come_to(
    whole: OneMachine, drive: Start, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once its driver was killed and jobs run and wait, when all is over, and an hour later."""
    monkeypatch.setenv("SLURM_CONF", whole.environment["SLURM_CONF"])
    chains = [[("pretrain", LONG | {"cpus": 8, "seed": seed})] for seed in range(3)]
    stages = make_stages(chains)
    driver = drive(whole.site, chains)
    driver.wait_until(lambda: sum(trail(store, stage) == [1, 2] for stage in stages) == 2)
    driver.process.kill()
    driver.process.wait()
    (folder,) = (store.home / "slurm").iterdir()
    (kept,) = [kept for kept in find_garbage(store.home).kept if kept.path == folder]
    assert kept.why.startswith("3 of its 3 jobs have no final exit record that is an hour old; if `squeue --name=smaug")
    for stage in stages:
        store.prepare(stage)
        let_go(store, stage)
    wait_until(lambda: all(store.result(stage) for stage in stages) and set(whole.jobs().values()) <= {"COMPLETED"})
    assert folder in [kept.path for kept in find_garbage(store.home).kept]
    for path in folder.rglob("*"):
        os.utime(path, (path.stat().st_mtime - 4000.0,) * 2)
    (each,) = [each for each in find_garbage(store.home).garbage if each.kind == "slurm"]
    assert remove(store.home, [each], lambda facts: None).deleted == [each] and not folder.exists()
    assert sorted(drive(whole.site, chains).finish()["cached"]) == sorted(stage.fingerprint for stage in stages)


def test_gpus_that_are_all_busy_are_waited_for_and_each_is_given_once(
    whole: OneMachine, drive: Start, store: Store
) -> None:
    chains = [[("pretrain", LONG | {"gpus": 1, "accelerator": "A6000", "seed": seed})] for seed in range(9)]
    stages = make_stages(chains)
    driver = drive(whole.site, chains)
    driver.wait_until(lambda: sum(trail(store, stage) == [1, 2] for stage in stages) == 8)
    assert sorted(whole.jobs().values()) == ["PENDING"] + ["RUNNING"] * 8
    given = whole.ask("scontrol", "show", "job", "--details")
    for stage in stages:
        store.prepare(stage)
        let_go(store, stage)
    assert len(driver.finish()["done"]) == 9
    assert given.count("GRES=gpu:a6000:1(IDX:") == 8
    assert {read_attempts(store.directory(stage))[0].owner.gpus for stage in stages} == {1}


def test_a_partition_that_is_down_is_told_and_waited_for(whole: OneMachine, drive: Start, store: Store) -> None:
    chains: list[Any] = [[("pretrain", {})]]
    (stage,) = make_stages(chains)
    whole.ask("scontrol", "update", "PartitionName=gpu", "State=DOWN")
    driver = drive(whole.site, chains)
    wait_until(lambda: "PENDING" in whole.jobs().values())
    assert "Slurm holds job" in driver.read_until("PartitionDown", of_errors=True)
    whole.ask("scontrol", "update", "PartitionName=gpu", "State=UP")
    assert driver.finish()["done"] == [stage.fingerprint]


def test_what_sbatch_refuses_for_good_is_told_in_its_words(
    whole: OneMachine, drive: Start, store: Store, tmp_path: Path
) -> None:
    (tmp_path / "wrong.yaml").write_text(PROFILE.read_text().replace("partition: gpu", "partition: cpu"))
    chains: list[Any] = [[("pretrain", {})]]
    (stage,) = make_stages(chains)
    site = Site(name=f"slurm@{tmp_path / 'wrong.yaml'}", environment=whole.environment, cpus=8)
    ((failed, why),) = drive(site, chains).finish()["failed"]
    assert failed == stage.fingerprint
    assert "invalid partition specified: cpu" in why


def test_a_home_of_any_other_name_will_do(whole: OneMachine, tmp_path: Path) -> None:
    """In a job's script, its directives for sbatch, and its command."""
    store = Store(tmp_path / 'it\'s a "$HOME" `id`; #*ü' / ("x" * 200) / ("y" * 200))
    store.home.mkdir(parents=True)
    chains: list[Any] = [[("pretrain", {})]]
    (stage,) = make_stages(chains)
    driver = Driver(store.home, whole.site, chains)
    try:
        assert driver.finish()["done"] == [stage.fingerprint]
    finally:
        driver.close()


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("echo no such module >&2; exit 3", "no such module"),
        ("source /nowhere/env.sh", "*: /nowhere/env.sh: No such file or directory"),
        ("[ -e /nowhere ]", "set-up line failed: [[] -e /nowhere ]"),
    ],
)
def test_set_up_lines_that_fail_are_told_and_not_tried_again(
    whole: OneMachine, drive: Start, store: Store, tmp_path: Path, line: str, told: str
) -> None:
    wrong = PROFILE.read_text() + f'setup: ["{line}", "true"]\n'
    (tmp_path / "wrong.yaml").write_text(wrong)
    chains: list[Any] = [[("pretrain", {})]]
    site = Site(name=f"slurm@{tmp_path / 'wrong.yaml'}", environment=whole.environment, cpus=8)
    ((_, why),) = drive(site, chains).finish()["failed"]
    began = "its job failed before the stage began"
    right = "expected set-up lines in the profile that succeed"
    assert fnmatchcase(why, f"{began}: {told} (*_log.out); {right}*"), why
    (stage,) = make_stages(chains)
    assert read_log(store.directory(stage)).ending() == f"error: {why}; not tried again\n"
    assert len(list(store.home.glob("slurm/*/placed-*.json"))) == 1


def test_a_home_that_no_node_sees_is_told(whole: OneMachine, drive: Start, tmp_path: Path) -> None:
    hides = ("unshare", "--mount", "sh", "-c", f'mount -t tmpfs none {tmp_path} && exec "$@"', "sh")
    ((_, why),) = drive(replace(whole.site, under=hides), [[("pretrain", {})]]).finish()["failed"]
    assert why.startswith("its job failed before the stage began: it left no log (")
    assert f"expected {tmp_path} and " in why


def test_several_processes_share_the_gpus_of_one_job(whole: OneMachine, drive: Start, store: Store) -> None:
    chains = [[("pretrain", {"gpus": 2, "cpus": 2, "accelerator": "A6000"})]]
    (stage,) = make_stages(chains)
    assert drive(whole.site, chains).finish()["done"] == [stage.fingerprint]
    assert (store.directory(stage) / "ranks.txt").read_text() == "1 of 2\n"


def test_folders_are_closed_and_hold_no_environment(
    whole: OneMachine, drive: Start, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "a-secret-5f2c")
    chains: list[Any] = [[("pretrain", {})]]
    (stage,) = make_stages(chains)
    driver = drive(whole.site, chains)
    assert driver.finish()["done"] == [stage.fingerprint]
    (folder,) = (store.home / "slurm").iterdir()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    kept = [path for root in (store.home, whole.base / "ctld") for path in root.rglob("*") if path.is_file()]
    assert len(kept) > 10
    assert not [path for path in kept if b"a-secret-5f2c" in path.read_bytes()]
    (pickle,) = folder.glob("slurm/*_submitted.pkl")
    assert len(pickle.read_bytes()) < 1000
