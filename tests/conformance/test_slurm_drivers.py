"""Jobs that wait or run while people cancel some of them, and drivers come and go, on a real Slurm."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from experiments.stages.stage import Stage
from experiments.store.attempt import read_attempts
from experiments.store.drivers import request_cancel
from experiments.store.store import Store
from tests.conformance.drivers import Driver, Site, states, trail, wait_until
from tests.conformance.test_slurm import assert_done, begin, let_go
from tests.quick_driver import make_stages
from tests.slurm_cluster import PROFILE, OneMachine

pytestmark = pytest.mark.slurm

Start = Callable[[Site, list[Any]], Driver]


def hold_back(cluster: OneMachine, drive: Start, count: int = 3) -> tuple[Driver, list[Stage], list[Any]]:
    """A driver whose stages wait as one array."""
    chains: list[Any] = [[("pretrain", {"seed": seed})] for seed in range(count)]
    cluster.ask("scontrol", "update", "PartitionName=gpu", "State=DOWN")
    driver = drive(cluster.site, chains)
    wait_until(lambda: list(cluster.jobs().values()) == ["PENDING"] * count)
    return driver, make_stages(chains), chains


def go_on(cluster: OneMachine) -> None:
    cluster.ask("scontrol", "update", "PartitionName=gpu", "State=UP")


def test_of_an_array_that_waits_one_stage_can_be_cancelled(whole: OneMachine, drive: Start, store: Store) -> None:
    driver, (first, second, third), _ = hold_back(whole, drive)
    request_cancel(store.home, [second.fingerprint])
    driver.read_until('"cancelled"')
    assert list(whole.jobs().values()) == ["PENDING"] * 2
    go_on(whole)
    ended = driver.finish()
    assert sorted(ended["done"]) == sorted([first.fingerprint, third.fingerprint])
    assert [name for name, _ in ended["cancelled"]] == [second.fingerprint]
    for stage in (first, third):
        whole.job_of(store, stage)


def test_an_array_that_somebody_takes_out_of_the_queue_is_cancelled(
    whole: OneMachine, drive: Start, store: Store
) -> None:
    """With --state Slurm then tells of the array only, and not of its tasks."""
    driver, stages, _ = hold_back(whole, drive)
    array = whole.job_of(store, stages[0]).partition("_")[0]
    whole.ask("scancel", "--state=PENDING", array)
    ended = driver.finish()
    assert sorted(name for name, _ in ended["cancelled"]) == sorted(stage.fingerprint for stage in stages)
    assert len(list(store.home.glob("slurm/*/placed-*.json"))) == 1


def test_a_second_driver_that_is_stopped_leaves_the_first_ones_jobs(
    whole: OneMachine, drive: Start, store: Store
) -> None:
    first, stages, chains = hold_back(whole, drive)
    second = drive(whole.site, chains)
    second.read_until("Slurm still has jobs of an earlier driver", of_errors=True)
    second.ctrl_c()
    assert second.finish().items() >= {"cancelled": [], "failed": [], "interrupted": True}.items()
    assert list(whole.jobs().values()) == ["PENDING"] * 3
    go_on(whole)
    ended = first.finish()
    assert (sorted(ended["done"]), ended["cancelled"]) == (sorted(stage.fingerprint for stage in stages), [])
    for stage in stages:
        whole.job_of(store, stage)


def test_what_was_asked_for_a_job_that_is_taken_over_is_not_told_from_another_profile(
    whole: OneMachine, drive: Start, tmp_path: Path
) -> None:
    driver, _, chains = hold_back(whole, drive, count=1)
    driver.close()
    (tmp_path / "other.yaml").write_text(PROFILE.read_text().replace("time_minutes: 30", "time_minutes: 10"))
    driver = drive(Site(name=f"slurm@{tmp_path / 'other.yaml'}", environment=whole.environment, cpus=8), chains)
    assert "(an earlier driver submitted it)" in driver.read_until("holds job", of_errors=True)
    go_on(whole)
    assert len(driver.finish()["done"]) == 1


@pytest.fixture
def inherited(whole: OneMachine, drive: Start, store: Store) -> tuple[Driver, Stage, list[Any]]:
    """A driver that looks after a job which runs since an earlier one."""
    driver, stage, chains = begin(whole, drive, store)
    driver.process.kill()
    driver.process.wait()
    driver = drive(whole.site, chains)
    driver.read_until('"waiting"')
    driver.read_until('"started"')
    return driver, stage, chains


def failure_of(store: Store, stage: Stage) -> tuple[str, str]:
    told = read_attempts(store.directory(stage))[0].failure
    assert told is not None
    return told.kind, told.done


def test_scancel_of_a_job_of_an_earlier_driver_cancels_it(
    inherited: tuple[Driver, Stage, list[Any]], whole: OneMachine, drive: Start, store: Store
) -> None:
    driver, stage, chains = inherited
    whole.ask("scancel", whole.job_of(store, stage))
    assert [name for name, _ in driver.finish()["cancelled"]] == [stage.fingerprint]
    assert failure_of(store, stage) == ("cancelled", "the same command continues")
    let_go(store, stage)
    assert_done(drive(whole.site, chains), store, stage, ["interrupted", "done"])


def test_a_job_of_an_earlier_driver_that_is_killed_is_tried_again_and_told(
    inherited: tuple[Driver, Stage, list[Any]], store: Store
) -> None:
    driver, stage, _ = inherited
    worker = psutil.Process(read_attempts(store.directory(stage))[0].owner.pid)
    supervisor = worker.parent()
    assert supervisor is not None
    worker.suspend()  # it would save once its supervisor is gone
    for process in (supervisor, worker):
        os.kill(process.pid, signal.SIGKILL)
    assert "Slurm ended job" in driver.read_until('"retry"')
    let_go(store, stage)
    assert driver.finish()["done"] == [stage.fingerprint]
    assert failure_of(store, stage) == ("killed", "tried again")
    assert (trail(store, stage), states(store, stage)) == ([1, 2, 1, 2, 3, 4], ["dead", "done"])
