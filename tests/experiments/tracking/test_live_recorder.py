"""The mirror tells what an event concerns and no more, and says what MLflow did not take."""

import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from experiments.scheduler.scheduler import Event
from experiments.store.trials import trial_record, write_trials
from experiments.tracking import client as connection
from experiments.tracking import live_recorder as mirror
from experiments.tracking.client import TrackingError
from experiments.tracking.database import LATER
from experiments.tracking.live_recorder import Recorder
from experiments.tracking.reader import read_trials
from experiments.tracking.writer import MlflowWriter
from tests.experiments.made_trials import execute, trial


@pytest.fixture
def home(empty_ledger: Path, tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(mirror, "REST", 0.0)
    shutil.copy(empty_ledger, tmp_path / "mlflow.db")
    return tmp_path


@pytest.fixture
def looked_at(monkeypatch) -> list[str]:
    """The variant of every trial whose stages are read."""
    variants: list[str] = []

    def counted(home, document):
        variants.append(document.variant)
        return trial_record(home, document)

    monkeypatch.setattr(mirror, "trial_record", counted)
    return variants


def wait_until_told(told: Recorder) -> None:
    give_up = time.monotonic() + 120
    while told._due or told._touched or told._trials.due or not told._trials.documents:
        assert time.monotonic() < give_up
        time.sleep(0.01)


def test_an_event_tells_the_trials_that_hold_its_stage_and_a_curve_tells_none(home, looked_at):
    trials = [trial(variant) for variant in ("10%", "25%", "50%", "65%")]
    write_trials(home, [(one, []) for one in trials])
    execute(home, trials[2])
    with Recorder(home, trials, pytest.fail) as told:
        told(Event(kind="started", stage=trials[2].stages[0]))
        wait_until_told(told)
        assert sorted(looked_at) == ["10%", "25%", "50%", "65%"]
        looked_at.clear()
        told(Event(kind="done", stage=trials[2].stages[1]))
        wait_until_told(told)
        assert looked_at == ["50%"]
        looked_at.clear()
        told._read_at.clear()
        told(Event(kind="progress", stage=trials[2].stages[0]))
        wait_until_told(told)
        assert looked_at == []
    assert told.error is None
    assert {row.variant: row.status for row in read_trials(home)} == {
        **{one.variant: "KILLED" for one in trials},
        "50%": "FINISHED",
    }


def test_a_failure_is_tried_again_and_leaves_no_fault(home, monkeypatch):
    monkeypatch.setattr(mirror, "RETRY_S", 0.05)
    made, real, fails = trial(), MlflowWriter.record_stage, [TrackingError("MLflow at x: gone")] * 3

    def record_stage(self, facts):
        if fails:
            raise fails.pop()
        return real(self, facts)

    monkeypatch.setattr(MlflowWriter, "record_stage", record_stage)
    write_trials(home, [(made, [])])
    execute(home, made)
    with Recorder(home, [made], pytest.fail) as told:
        for stage in made.stages:
            told(Event(kind="done", stage=stage))
        wait_until_told(told)
    assert told.error is None and not fails
    assert [row.status for row in read_trials(home)] == ["FINISHED"]


def test_what_is_missing_at_the_end_is_counted(home, monkeypatch):
    made, real = trial(), MlflowWriter.record_stage

    def record_stage(self, facts):
        if facts.document.kind == "evaluate":
            raise TrackingError(f"MLflow at x: gone; {LATER}")
        return real(self, facts)

    monkeypatch.setattr(MlflowWriter, "record_stage", record_stage)
    write_trials(home, [(made, [])])
    execute(home, made)
    with Recorder(home, [made], pytest.fail) as told:
        for stage in made.stages:
            told(Event(kind="done", stage=stage))
    assert str(told.error) == f"1 of 3 stages: MLflow at x: gone; {LATER}"


class Clock:
    """A clock that stands still until it is moved, and counts how often the waiting main thread looks at it."""

    def __init__(self) -> None:
        self.now, self.looks = 0.0, 0

    def monotonic(self) -> float:
        self.looks += threading.current_thread() is threading.main_thread()
        return self.now


class SlowClient:
    """A real client, each of whose calls first does `before`."""

    def __init__(self, client, before: Callable[[], None]) -> None:
        self._client, self._before = client, before

    def __getattr__(self, name):
        found = getattr(self._client, name)
        if not callable(found):
            return found

        def call(*given, **named):
            self._before()
            return found(*given, **named)

        return call


@pytest.fixture
def slow(home, monkeypatch):
    """Have every call to MLflow do something first, on a clock that only that moves; gives the clock."""
    clock, real = Clock(), connection._opened
    monkeypatch.setattr(mirror, "POLL_S", 0.001)
    monkeypatch.setattr(mirror, "time", clock)

    def set_up(before: Callable[[], None]) -> Clock:
        monkeypatch.setattr(connection, "_opened", lambda uri: SlowClient(real(uri), before))
        return clock

    return set_up


def test_the_end_of_a_run_of_cached_stages_waits_for_a_slow_mlflow_as_long_as_it_answers(home, slow):
    made, said = trial(), []
    write_trials(home, [(made, [])])
    execute(home, made)

    def take_40_s():
        clock.now += 40.0
        if threading.current_thread() is threading.main_thread():
            return
        seen, give_up = clock.looks, time.monotonic() + 2
        while clock.looks < seen + 4 and time.monotonic() < give_up:
            time.sleep(0.001)

    clock = slow(take_40_s)
    with Recorder(home, [made], said.append) as told:
        pass
    assert told.error is None and clock.now > 20 * mirror.PATIENCE_S / 3
    assert [row.status for row in read_trials(home)] == ["FINISHED"]
    where = f"waiting for MLflow at sqlite:///{home}/mlflow.db: "
    assert said[0] == (f"{where}0 of 3 stages are recorded; Ctrl-C ends the wait, and `smaug sync` records the rest")
    counts = [int(words.removeprefix(where)[0]) for words in said]
    assert counts == sorted(counts) and counts[-1] == 3


@pytest.mark.parametrize("by_hand", [False, True])
def test_the_end_of_a_run_leaves_an_mlflow_that_does_not_answer(home, slow, by_hand):
    made, answer = trial(), threading.Event()
    write_trials(home, [(made, [])])
    execute(home, made)

    def hang():
        clock.now += mirror.MESSAGE_EVERY_S + 1 if by_hand else mirror.PATIENCE_S + 1
        answer.wait()

    def say(words):
        if by_hand:
            raise KeyboardInterrupt

    clock = slow(hang)
    with Recorder(home, [made], say) as told:
        pass
    why = "the wait for MLflow was ended by Ctrl-C" if by_hand else "MLflow did not answer for 60 s"
    assert str(told.error) == f"3 of 3 stages: {why}; {LATER}"
    answer.set()
    told._thread.join()


def test_the_end_of_a_run_does_not_show_the_password_of_a_server(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://ann:s3cret@127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr(mirror, "MESSAGE_EVERY_S", 0.0)
    made, said = trial(), []
    write_trials(tmp_path, [(made, [])])
    execute(tmp_path, made)
    with Recorder(tmp_path, [made], said.append) as told:
        pass
    assert "http://***@127.0.0.1:9" in str(told.error) and "s3cret" not in str(told.error) + "".join(said)
