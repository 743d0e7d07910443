"""A stage that several processes share under torchrun: one account, one result, stopped and killed together."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from experiments.stages.stage import Stage
from experiments.store.attempt import read_attempts
from experiments.store.store import Store, read_curve
from experiments.worker.launcher import ended_as
from experiments.worker.outcome import BAD_INPUT, DIVERGED, DONE, FAILED, INTERRUPTED, Ending
from tests.quick_stage import quick_stage

ROOT = Path(__file__).parents[3]
PATIENCE_S = 180.0


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def start(directory: Path, processes: int = 2) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "experiments.worker", str(directory), "--processes", str(processes)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=ROOT)


def run(directory: Path, processes: int = 2) -> int:
    worker = start(directory, processes)
    worker.communicate(timeout=PATIENCE_S)
    return worker.returncode


def wait_until(holds: Callable[[], Any]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.01)


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def last_end(directory: Path) -> dict[str, Any]:
    end = read_attempts(directory)[-1].end
    assert end is not None, (read_attempts(directory)[-1].directory / "log.txt").read_text()
    return end


def descendants(worker: "subprocess.Popen[str]") -> list[psutil.Process]:
    return psutil.Process(worker.pid).children(recursive=True)


def ranks_of(directory: Path) -> list[psutil.Process]:
    notes = sorted((read_attempts(directory)[-1].directory / "ranks").glob("*.json"))
    return [psutil.Process(json.loads(path.read_text())["pid"]) for path in notes]


def assert_billed_once(store: Store, stage: Stage) -> None:
    record = store.record(stage)
    spent_s = sum(attempt.last.spent_s for attempt in record.attempts)
    assert record.hours.billed * 3600 == pytest.approx(max(spent_s, record.hours.useful * 3600))
    assert spent_s > 0


def test_two_processes_publish_one_result(store: Store) -> None:
    stage = quick_stage(hold_mib=300)
    directory = store.prepare(stage)
    assert run(directory) == DONE, last_end(directory)
    result = store.result(stage)
    assert result is not None
    assert result.raw.items() >= {"processes": 2, "threads": 1, "attempt": 1, "metrics": {"train.loss": 1 / 3}}.items()
    assert lines(directory / "trail.txt") == ["1", "2", "3"]
    assert lines(directory / "ranks.txt") == ["1 of 2"]
    assert [point.step for point in read_curve(directory)] == [1, 2, 3]
    (attempt,) = read_attempts(directory)
    assert (attempt.state, attempt.last.step, attempt.last.total) == ("done", 3, 3)
    # Two interpreters that load torch take seconds of CPU time, the worker alone takes none.
    assert attempt.last.spent_s > 0.4
    assert attempt.last.peak_memory_bytes > 2 * 300 * 2**20, "the ranks have ended, and still count"
    assert_billed_once(store, stage)
    assert run(directory) == DONE
    assert len(read_attempts(directory)) == 1


@pytest.mark.parametrize(
    ("own", "code", "ended", "message"),
    [
        ({"fail_at": 2}, FAILED, "failed", "RuntimeError: told to fail at step 2"),
        ({"fail_at": 2, "rank": 1, "hold_at": 2}, FAILED, "failed", "RuntimeError: told to fail at step 2"),
        ({"refuse_at": 2}, BAD_INPUT, "failed", "clip 000007.mp4: told to refuse at step 2"),
        ({"diverge_at": 2}, DIVERGED, "diverged", "step 2: the loss is not finite"),
    ],
)
def test_a_process_that_fails_fails_the_stage_as_one_alone_would(
    store: Store, own: dict[str, Any], code: int, ended: str, message: str
) -> None:
    directory = store.prepare(quick_stage(**own))
    assert run(directory) == code
    end = last_end(directory)
    assert (end.outcome, end.message) == (ended, message)
    assert ("Traceback" in end.traceback) == (code == FAILED)


def test_a_stop_reaches_every_process_and_the_next_one_continues(store: Store) -> None:
    stage = quick_stage(steps=4, hold_at=2)
    directory = store.prepare(stage)
    worker = start(directory)
    wait_until(lambda: lines(directory / "trail.txt") == ["1", "2"] and lines(directory / "ranks.txt"))
    family = descendants(worker)
    assert len(family) >= 3
    asked_at = time.monotonic()
    worker.terminate()
    worker.communicate(timeout=PATIENCE_S)
    assert worker.returncode == INTERRUPTED
    assert time.monotonic() - asked_at < 25, "torchrun was not asked to kill them"
    assert not any(process.is_running() for process in family)
    assert last_end(directory).raw.items() >= {"class": "interrupted", "step": 2, "total": 4}.items()
    assert store.record(stage).state == "resume"
    assert run(directory, 1) == DONE
    assert lines(directory / "trail.txt") == ["1", "2", "3", "4"]
    assert_billed_once(store, stage)


SLOW_VICTIMS = [pytest.param(name, marks=pytest.mark.slow) for name in ("torchrun", "other")]


@pytest.mark.parametrize("victim", ["worker", "first", *SLOW_VICTIMS])
def test_a_kill_leaves_no_process_and_another_try_goes_on(store: Store, victim: str) -> None:
    stage = quick_stage(steps=5, checkpoint_every=2, hold_at=3)
    directory = store.prepare(stage)
    worker = start(directory)
    wait_until(lambda: lines(directory / "trail.txt") == ["1", "2", "3"] and lines(directory / "ranks.txt"))
    family = descendants(worker)
    ranks = ranks_of(directory)
    assert len(ranks) == 2
    torchrun = ranks[0].parent()
    assert torchrun is not None and torchrun.parent() == psutil.Process(worker.pid)
    dies = {"worker": psutil.Process(worker.pid), "torchrun": torchrun, "first": ranks[0], "other": ranks[1]}
    dies[victim].kill()
    worker.communicate(timeout=PATIENCE_S)
    assert psutil.wait_procs(family, timeout=5)[1] == []
    (attempt,) = read_attempts(directory)
    if victim == "worker":
        assert (worker.returncode, attempt.state) == (-signal.SIGKILL, "dead")
    else:
        assert (worker.returncode, attempt.state) == (INTERRUPTED, "interrupted")
        if victim != "torchrun":
            assert f"killed without a word: process {'01'[victim == 'other']}" in last_end(directory).message
        assert last_end(directory).spent_s > 0.4
    assert store.record(stage).state == "resume"
    (directory / "go").touch()
    assert run(directory) == DONE
    assert lines(directory / "trail.txt")[-2:] == ["4", "5"]
    assert [point.step for point in read_curve(directory)] == [1, 2, 3, 4, 5]
    assert_billed_once(store, stage)


def note(rank: int, ending: Ending | None, time_: float = 0.0, *, bereft: bool = False) -> dict[str, Any]:
    if ending is None:
        return {"pid": rank}
    told = {"code": ending.code, "state": ending.state, "message": ending.message, "details": ending.details}
    return {"pid": rank, "end": {"time": time_, "ending": told, "bereft": bereft}}


BUG, STOP = Ending(FAILED, "failed", "KeyError: 'x'"), Ending(INTERRUPTED, "interrupted", "stopped after step 2 of 4")
CUT_OFF, FINE = Ending(FAILED, "failed", "RuntimeError: Connection closed by peer"), Ending(DONE, "done")


@pytest.mark.parametrize(
    ("notes", "code", "state", "message"),
    [
        # A bug in one: torchrun ended the other, which had no time for a word.
        ([note(0, None), note(1, BUG)], 1, "failed", "KeyError: 'x'"),
        ([note(0, CUT_OFF, 2.0, bereft=True), note(1, BUG, 1.0)], 1, "failed", "KeyError: 'x'"),
        # One was killed: what the other met is no fault of the stage.
        ([note(0, CUT_OFF, bereft=True), note(1, None)], 1, "interrupted", "killed without a word: process 1"),
        ([note(0, STOP), note(1, None)], 1, "interrupted", "killed without a word: process 1"),
        (
            [note(0, None), note(1, None)],
            -9,
            "interrupted",
            "killed without a word: processes 0, 1 of 2, torchrun by SIGKILL",
        ),
        ([{}, {}], 1, "interrupted", "killed without a word: processes 0, 1 of 2"),
        ([note(0, STOP), note(1, STOP)], 0, "interrupted", "stopped after step 2 of 4"),
        ([note(0, STOP), note(1, FINE)], 0, "interrupted", "stopped after step 2 of 4"),
    ],
)
def test_an_attempt_ended_as_the_first_cause_says(
    notes: list[dict[str, Any]], code: int, state: str, message: str
) -> None:
    ending = ended_as(notes, code)
    assert (ending.state, ending.message) == (state, message)
