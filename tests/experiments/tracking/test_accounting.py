"""Attempts of Slurm's jobs get what its accounting says, from a sacct that answers as told."""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow.tracking import MlflowClient

from experiments.scheduler.events import Event
from experiments.stages.stage import Stage
from experiments.store.attempt import ACCOUNTING, NOTHING_SPENT, read_attempts
from experiments.store.documents import write_json
from experiments.store.process import this_process
from experiments.store.store import Store, stage_record
from experiments.store.trials import write_trial
from experiments.tracking.accounting import Accountant, account_all, unaccounted
from experiments.tracking.live_recorder import Recorder
from experiments.tracking.run_content import STAGES
from tests.conformance.drivers import wait_until
from tests.documents import read_json
from tests.experiments.engines.slurm.test_accounting import answers
from tests.experiments.finished import HOST
from tests.experiments.made_trials import trial
from tests.quick_stage import quick_stage

GONE = {"pid": 2**22 + 1}
ANSWER = "echo '7_1|NODE_FAIL|1000|1150|00:00:00'"
OFF = "echo 'Slurm accounting storage is disabled' >&2; exit 1"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    (tmp_path / "home" / "slurm").mkdir(parents=True)
    return Store(tmp_path / "home")


@pytest.fixture
def sacct(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    monkeypatch.setattr("experiments.engines.slurm.queue.QUERY_EVERY_S", 0.05)
    return lambda script: answers(tmp_path, monkeypatch, script)


def attempted(
    store: Store,
    *,
    gpus: int = 4,
    ended: bool = False,
    job: str | None = "7_1",
    seed: int = 0,
    began: float = 1000.0,
    stage: Stage | None = None,
) -> Stage:
    """A stage with an attempt of a job that `began`: seen alive from 10 s on for 100 s, then dead unless it `ended`."""
    stage = stage or quick_stage(gpus=gpus, seed=seed)
    store.prepare(stage)
    told = {**NOTHING_SPENT, "time": began + 110, "spent_s": 100.0 * (gpus or 1), "cpu_s": 100.0}
    owner = this_process().raw | GONE | HOST | {"gpus": gpus, "started": began + 10, "unit": "h"}
    slurm = {} if job is None else {"slurm": {"job": job, "restart": 0}}
    folder = store.directory(stage) / "attempts" / "0001"
    folder.mkdir(parents=True)
    write_json(folder / "owner.json", owner | slurm)
    write_json(folder / "progress.json", told)
    if ended:
        write_json(folder / "end.json", told | {"class": "failed", "message": "", "traceback": ""})
    return stage


def accounted(store: Store, stage: Stage) -> dict[str, Any] | None:
    return read_json(store.directory(stage) / "attempts" / "0001" / ACCOUNTING)


@pytest.mark.parametrize(
    ("made", "asked"),
    [
        ({"gpus": 4}, True),
        ({"gpus": 4, "ended": True}, True),
        ({"gpus": 0}, True),
        ({"gpus": 0, "ended": True}, False),
        ({"gpus": 4, "job": None}, False),
    ],
)
def test_which_attempts_slurm_could_tell_more_of(store: Store, made: dict[str, Any], asked: bool) -> None:
    directory = store.directory(attempted(store, **made))
    assert bool(unaccounted(read_attempts(directory))) is asked
    write_json(
        directory / "attempts" / "0001" / ACCOUNTING, {"start": 1.0, "end": 2.0, "state": "FAILED", "cpu_s": None}
    )
    assert not unaccounted(read_attempts(directory))


def test_an_attempt_that_runs_is_not_asked_about(store: Store) -> None:
    directory = store.directory(attempted(store))
    owner = read_json(directory / "attempts" / "0001" / "owner.json")
    assert owner is not None
    write_json(directory / "attempts" / "0001" / "owner.json", owner | this_process().raw)
    assert not unaccounted(read_attempts(directory))


def test_sync_corrects_what_a_driver_left_behind(store: Store, sacct: Callable[[str], None], tmp_path: Path) -> None:
    sacct(ANSWER)
    stage, other = attempted(store), attempted(store, job="8", seed=1)
    assert account_all(store.home) == 1
    told = accounted(store, stage)
    assert told is not None
    assert (told["source"], told["start"], told["end"], told["state"]) == ("sacct", 1000.0, 1150.0, "NODE_FAIL")
    assert accounted(store, other) is None, "Slurm knows nothing of it"
    hours = store.record(stage).hours
    assert (hours.billed * 3600, hours.estimated) == (pytest.approx(600.0), False)
    assert store.record(other).hours.estimated
    facts = stage_record(store.home, stage.kind, stage.fingerprint)
    assert facts is not None and facts.account()[0]["accounting"] == told
    assert account_all(store.home) == 0
    assert (tmp_path / "asked").read_text().count("--jobs=8 ") == 1, "what is known is not asked about again"


def test_sync_says_what_slurm_told_and_mlflow_gets_it(
    home: Path, client: MlflowClient, sacct: Callable[[str], None], smaug: Callable[..., tuple[int, str, str]]
) -> None:
    owner, device = {"host": "node-1", "boot": "", "versions": {}}, {"device": "cuda", "device_name": "A6000"}
    stage = attempted(Store(home))
    file = Store(home).directory(stage) / "attempts" / "0001" / "owner.json"
    write_json(file, (read_json(file) or {}) | owner | device)
    sacct(ANSWER)
    for said in (
        "1 stages and 0 trials are recorded\nSlurm's accounting gave the time of 1 attempts\n",
        "1 stages",
    ):
        assert smaug("sync")[1].startswith(said)
        (run,) = client.search_runs([client.get_experiment_by_name(STAGES).experiment_id])
        assert run.data.metrics["hours.billed"] * 3600 == pytest.approx(600.0)
        assert (run.data.tags["smaug.hours_estimated"], run.data.tags["smaug.hours_corrected"]) == ("false", "1")


def test_what_still_runs_for_slurm_is_asked_about_later(store: Store, sacct: Callable[[str], None]) -> None:
    sacct("echo '7_1|COMPLETING|1000|Unknown|00:00:00'")
    attempted(store)
    assert account_all(store.home) == 0
    sacct(ANSWER)
    assert account_all(store.home) == 1


@pytest.mark.parametrize("script", [OFF, "exit 1"])
def test_without_an_answer_nothing_changes(store: Store, sacct: Callable[[str], None], script: str) -> None:
    sacct(script)
    stage = attempted(store)
    before = store.record(stage).hours
    assert account_all(store.home) == 0
    assert (store.record(stage).hours, before.estimated, accounted(store, stage)) == (before, True, None)


def test_a_driver_asks_about_what_an_earlier_one_left_and_what_ended_meanwhile(
    store: Store, sacct: Callable[[str], None]
) -> None:
    sacct("echo '7_1|NODE_FAIL|1000|1150|00:00:00'; echo '9|FAILED|1000|1150|00:00:00'")
    first, second = attempted(store), quick_stage(gpus=4, seed=1)
    accountant = Accountant(store, [first, second])
    assert accountant.query() == [first] and accounted(store, first)
    assert attempted(store, job="9", seed=1).fingerprint == second.fingerprint
    assert accountant.query() == []
    accountant(Event(kind="failed", stage=second))
    assert accountant.query() == [second] and accounted(store, second)
    assert accountant.finish() == []


def test_a_run_records_the_hours_that_slurm_corrected_and_waits_for_them_at_its_end(
    home: Path, client: MlflowClient, sacct: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first stage's attempt is known to Slurm at the start, the second's only when the run has ended."""
    monkeypatch.setattr("experiments.tracking.live_recorder.ACCOUNT_EVERY_S", 0.1)
    monkeypatch.setattr("experiments.tracking.live_recorder.REST", 0.0)
    (home / "slurm").mkdir()
    began = round(time.time()) - 300
    sacct(f"echo '7_1|NODE_FAIL|1000|1150|00:00:00'; echo '9|COMPLETING|{began}|Unknown|00:00:00'")
    store, made = Store(home), trial()
    owner, device = {"host": "node-1", "boot": "", "versions": {}}, {"device": "cuda", "device_name": "A6000"}
    for stage, job, start in zip(made.stages[:2], ("7_1", "9"), (1000.0, float(began)), strict=True):
        folder = store.directory(attempted(store, stage=stage, job=job, began=start)) / "attempts" / "0001"
        write_json(folder / "owner.json", (read_json(folder / "owner.json") or {}) | owner | device)
    write_trial(home, made)
    with Recorder(home, [made], lambda _: None) as recorder:
        wait_until(lambda: accounted(store, made.stages[0]))
        threading.Timer(0.3, sacct, [f"echo '9|FAILED|{began}|{began + 150}|00:00:00'"]).start()
    assert recorder.error is None
    runs = client.search_runs([client.get_experiment_by_name(STAGES).experiment_id])
    assert sorted(run.data.tags["smaug.hours_corrected"] for run in runs) == ["1", "1"]


@pytest.fixture
def lately() -> tuple[float, str]:
    """When a job began that has just ended, and what sacct will say of it."""
    began = round(time.time()) - 150.0
    return began, f"echo '7_1|NODE_FAIL|{began:.0f}|{began + 150:.0f}|00:00:00'"


def test_the_end_of_a_run_waits_for_slurms_database_but_not_long(
    store: Store, sacct: Callable[[str], None], monkeypatch: pytest.MonkeyPatch, lately: tuple[float, str]
) -> None:
    began, answer = lately
    unknown = answer.replace(f"{began + 150:.0f}", "Unknown")
    sacct(unknown)
    stage = attempted(store, began=began)
    accountant = Accountant(store, [stage])
    assert accountant.query() == []
    threading.Timer(0.2, sacct, [f"sleep 0.3; {answer}"]).start()
    assert accountant.finish() == [stage]
    monkeypatch.setattr("experiments.tracking.accounting.PATIENCE_S", 0.4)
    sacct(unknown)
    other, since = attempted(store, seed=1, began=began), time.monotonic()
    assert Accountant(store, [other]).finish() == []
    assert 0.4 <= time.monotonic() - since < 1.0


def test_the_end_of_a_run_waits_for_a_sacct_that_hangs_but_not_long_and_says_so(
    home: Path, client: MlflowClient, sacct: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("experiments.tracking.accounting.DRIVER_LIMIT_S", 0.5)
    monkeypatch.setattr("experiments.tracking.accounting.PATIENCE_S", 0.4)
    monkeypatch.setattr("experiments.tracking.live_recorder.MESSAGE_EVERY_S", 0.1)
    (home / "slurm").mkdir()
    sacct("sleep 60")
    store, made, messages = Store(home), trial(), list[str]()
    attempted(store, stage=made.stages[0], began=round(time.time()) - 150.0)
    write_trial(home, made)
    since = time.monotonic()
    with Recorder(home, [made], messages.append) as recorder:
        pass
    assert recorder.error is None and time.monotonic() - since < 30
    waits = "waiting for Slurm's accounting: 0 of 3 stages are recorded; Ctrl-C ends the wait, and `smaug sync`"
    assert any(message.startswith(waits) for message in messages)


def test_what_slurms_database_will_never_know_is_asked_about_once_and_waited_for_by_nobody(
    store: Store, sacct: Callable[[str], None], tmp_path: Path
) -> None:
    sacct("true")
    since, accountant = time.monotonic(), Accountant(store, [attempted(store)])
    assert accountant.query() == accountant.query() == accountant.finish() == []
    assert time.monotonic() - since < 2.0
    assert len((tmp_path / "asked").read_text().splitlines()) == 1


def test_a_driver_without_slurm_asks_nothing(store: Store, sacct: Callable[[str], None], tmp_path: Path) -> None:
    sacct(ANSWER)
    (store.home / "slurm").rmdir()
    assert Accountant(store, [attempted(store)]).finish() == []
    assert not (tmp_path / "asked").exists()
