"""What jobs took, by the accounts of a real Slurm: killed whole, and queued again; and where none are kept."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from experiments.engines.slurm.job import slurm_id
from experiments.scheduler.events import Event
from experiments.stages.stage import Stage
from experiments.store.attempt import Attempt, read_attempts
from experiments.store.store import Store
from experiments.tracking.accounting import Accountant, account_all, unaccounted
from tests.conformance.drivers import Driver, Site, states, wait_until
from tests.conformance.test_slurm import begin, let_go
from tests.slurm_cluster import OneMachine

pytestmark = pytest.mark.slurm

Start = Callable[[Site, list[Any]], Driver]
ON_GPUS: dict[str, Any] = {"gpus": 1, "accelerator": "A6000"}
ROUNDED_S = 1.0
"""Slurm tells whole seconds."""


@pytest.fixture
def emptied(one_machine: OneMachine, monkeypatch: pytest.MonkeyPatch) -> Iterator[OneMachine]:
    """A cluster without jobs before and after."""
    monkeypatch.setenv("SLURM_CONF", one_machine.environment["SLURM_CONF"])
    monkeypatch.setattr("experiments.engines.slurm.queue.QUERY_EVERY_S", 0.5)
    yield one_machine
    one_machine.ask("scancel", f"--user={os.getuid()}")
    wait_until(lambda: not one_machine.jobs())


@pytest.fixture
def keeping_accounts(emptied: OneMachine) -> OneMachine:
    """One that keeps accounts."""
    if (why := emptied.missing_accounts()) is not None:
        pytest.skip(why)
    return emptied


def kill_whole_job(attempt: Attempt) -> float:
    """Kill the worker and all else that Slurm started for its job, without a word; gives when."""
    at, job = time.time(), attempt.owner.slurm.job
    doomed = [process for process in psutil.process_iter() if _job_of(process) == job]
    assert attempt.owner.pid in {process.pid for process in doomed}
    for process in doomed:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    return at


def _job_of(process: psutil.Process) -> str | None:
    try:
        environment = process.environ()
    except psutil.Error:
        return None
    return slurm_id(environment) if "SLURM_JOB_ID" in environment else None


def finish(driver: Driver, store: Store, stage: Stage) -> list[Attempt]:
    """Let the stage end, and have all its attempts accounted for."""
    let_go(store, stage)
    assert driver.finish()["done"] == [stage.fingerprint]

    def attempts() -> list[Attempt]:
        account_all(store.home)
        return read_attempts(store.directory(stage))

    wait_until(lambda: not unaccounted(attempts()))
    return attempts()


def held_s(attempt: Attempt) -> float:
    assert attempt.accounting is not None
    return float(attempt.accounting.end - attempt.accounting.start)


def test_a_job_that_was_killed_whole_is_billed_until_slurm_saw_its_end(
    keeping_accounts: OneMachine, drive: Start, store: Store
) -> None:
    driver, stage, _ = begin(keeping_accounts, drive, store, **ON_GPUS)
    (running,) = read_attempts(store.directory(stage))
    time.sleep(6)
    killed_at = kill_whole_job(running)
    wait_until(lambda: states(store, stage)[0] == "dead")
    before = store.record(stage).hours
    assert before.estimated
    killed, done = finish(driver, store, stage)
    assert (killed.state, done.state) == ("dead", "done")
    assert killed.accounting is not None and killed.accounting.end == pytest.approx(killed_at, abs=3)
    seen_s, hours = killed.last.wall_s, store.record(stage).hours
    assert held_s(killed) > seen_s + 4, "the heartbeat knew less"
    assert hours.billed * 3600 == pytest.approx(held_s(killed) + held_s(done), abs=2 * ROUNDED_S)
    assert not hours.estimated
    assert hours.billed == pytest.approx(hours.useful + hours.lost + hours.overhead)


@pytest.mark.slow
def test_the_two_runs_of_a_job_that_was_queued_again_are_billed_once_each(
    keeping_accounts: OneMachine, drive: Start, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the driver's own accountant, which waits a little for what Slurm's database does not know yet."""
    monkeypatch.setattr("experiments.tracking.accounting.PATIENCE_S", 120.0)  # a slow machine's database takes its time
    driver, stage, _ = begin(keeping_accounts, drive, store, **ON_GPUS | {"gpus": 2, "cpus": 2})
    job, accountant = keeping_accounts.job_of(store, stage), Accountant(store, [stage])
    keeping_accounts.ask("scontrol", "requeue", job)
    wait_until(lambda: states(store, stage) == ["interrupted"])
    let_go(store, stage)
    assert driver.finish()["done"] == [stage.fingerprint]
    accountant(Event(kind="done", stage=stage))
    assert {one.fingerprint for one in accountant.finish()} == {stage.fingerprint}
    first, second = read_attempts(store.directory(stage))
    runs = [one.owner.slurm for one in (first, second)]
    assert [(run.job, run.restart) for run in runs if run is not None] == [(job, 0), (job, 1)]
    assert first.accounting is not None and second.accounting is not None
    assert first.accounting.state == "REQUEUED" and second.accounting.state == "COMPLETED"
    assert first.accounting.end <= second.accounting.start
    for one in (first, second):
        assert one.accounting.start <= one.owner.started <= one.accounting.end + ROUNDED_S
    billed = store.record(stage).hours.billed * 3600
    assert billed == pytest.approx(2 * (held_s(first) + held_s(second)), abs=4 * ROUNDED_S)


def test_processor_time_is_corrected_only_upwards(keeping_accounts: OneMachine, drive: Start, store: Store) -> None:
    driver, stage, _ = begin(keeping_accounts, drive, store)
    time.sleep(4)  # Slurm looks at processor time every 2 s
    kill_whole_job(read_attempts(store.directory(stage))[0])
    wait_until(lambda: states(store, stage)[0] == "dead")
    killed, done = finish(driver, store, stage)
    assert killed.accounting is not None and done.accounting is None
    told, hours = killed.accounting.cpu_s or 0.0, store.record(stage).hours
    assert hours.estimated is (told <= killed.last.cpu_s)
    expected = max(told, killed.last.spent_s) + done.last.spent_s
    assert hours.billed * 3600 == pytest.approx(expected)


def test_where_no_accounts_are_kept_nothing_changes(
    emptied: OneMachine, drive: Start, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    """The same Slurm, to a sacct whose settings name no accounts."""
    driver, stage, _ = begin(emptied, drive, store, **ON_GPUS)
    kill_whole_job(read_attempts(store.directory(stage))[0])
    wait_until(lambda: states(store, stage)[0] == "dead")
    let_go(store, stage)
    driver.finish()
    settings = (emptied.base / "slurm.conf").read_text().splitlines()
    plain = tmp_path / "plain" / "slurm.conf"
    plain.parent.mkdir()
    plain.write_text("\n".join(line for line in settings if not line.startswith("AccountingStorage")) + "\n")
    monkeypatch.setenv("SLURM_CONF", str(plain))
    before = store.record(stage).hours
    assert account_all(store.home) == 0
    assert store.record(stage).hours == before and before.estimated
    assert caplog.messages == []
