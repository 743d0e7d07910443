"""Status of real stages, and the lines and JSON that `status` prints of it."""

import io
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from experiments.cli import status_view as overview
from experiments.console import Console
from experiments.maintenance.status import HomeStatus, Observer, recent_rate
from experiments.store.attempt import read_attempts
from experiments.store.documents import write_json
from experiments.store.drivers import driver_at_work, request_cancel
from experiments.store.store import Store
from experiments.store.trials import write_trial
from tests.documents import read_json
from tests.experiments.made_trials import execute, trial
from tests.experiments.smoke import ROOT


@contextmanager
def working(directory: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A real worker in its first step."""
    command = [sys.executable, "-m", "experiments.worker", str(directory), "--parent", str(os.getpid())]
    process = subprocess.Popen(command, cwd=ROOT)
    try:
        until = time.monotonic() + 120
        while not any(attempt.progress.step for attempt in read_attempts(directory)):
            assert process.poll() is None and time.monotonic() < until
            time.sleep(0.02)
        yield process
    finally:
        process.kill()
        process.wait()


def shown(home: Path, standing: HomeStatus | None = None) -> str:
    text = io.StringIO()
    overview.show(standing or Observer(home).poll(), Console(file=text), home)
    return text.getvalue()


def states(home: Path) -> list[tuple[str, dict[str, str]]]:
    document = [one.to_json() for one in Observer(home).poll().trials]
    return [(one["state"], one["stages"]) for one in document]


def test_a_trial_is_new_then_stopped_then_done(tmp_path):
    made = trial()
    write_trial(tmp_path, made)
    names = ("pretrain", "finetune.msrvtt", "evaluate.msrvtt")
    for done, state in ((0, "new"), (1, "stopped"), (3, "done")):
        execute(tmp_path, made, stages=done)
        expected = {name: "done" if number < done else "new" for number, name in enumerate(names)}
        assert states(tmp_path) == [(state, expected)]
    assert "masking_ratio at tiny: 1 trials: 1 done\n" in shown(tmp_path)
    assert re.search(
        r"\n  [\d.e-]+ CPU h billed at 3 stages: [\d.e-]+ useful, 0 lost, [\d.e-]+ overhead\n", shown(tmp_path)
    )
    assert "  50% seed 0:  pretrain done  finetune.msrvtt done  evaluate.msrvtt done\n" in shown(tmp_path)


def test_with_a_driver_what_is_not_done_waits(tmp_path):
    made = trial()
    write_trial(tmp_path, made)
    execute(tmp_path, made, stages=1)
    with driver_at_work(tmp_path, [stage.fingerprint for stage in made.stages]):
        ((state, _),) = states(tmp_path)
        assert state == "waiting"
        text = shown(tmp_path)
        assert "pretrain done  finetune.msrvtt waiting  evaluate.msrvtt waiting" in text
        assert f"driver: process {os.getpid()} on " in text
        request_cancel(tmp_path, [made.stages[1].fingerprint])
        assert "finetune.msrvtt cancelling" in shown(tmp_path)
    assert "cancelling" not in shown(tmp_path)  # no driver is there to end it


def test_a_running_stage_has_its_steps_place_and_rate(tmp_path):
    made = trial(pretrain={"steps": 8, "hold_at": 6})
    write_trial(tmp_path, made)
    directory = Store(tmp_path).prepare(made.stages[0])
    with working(directory) as process:
        curve = directory / "attempts" / "0001" / "metrics.jsonl"
        until = time.monotonic() + 60
        while len(curve.read_text().splitlines()) < 6:
            assert time.monotonic() < until
            time.sleep(0.02)
        document = Observer(tmp_path).poll().trials[0].to_json()
        found = document["detail"]["pretrain"]
        assert document["state"] == found["state"] == "running"
        assert (found["total"], found["attempt"], found["pid"]) == (8, 1, process.pid)
        assert 1 <= found["step"] <= 6  # progress is written once a second at most
        assert found["steps_per_s"] > 0 and found["left_s"] == pytest.approx((8 - found["step"]) / found["steps_per_s"])
        text = shown(tmp_path)
        assert "1 running" in text and f"pretrain running {100 * found['step'] // 8}%" in text
        assert f"  pretrain 50%: step {found['step']} of 8, " in text
        assert f"process {process.pid} on {found['host']}, attempt 1" in text
    assert states(tmp_path)[0][0] == "stopped"


def test_a_failed_stage_is_shown_with_its_message_and_folder(tmp_path):
    made = trial(pretrain={"refuse_at": 2})
    write_trial(tmp_path, made)
    execute(tmp_path, made, stages=1)
    text, folder = shown(tmp_path), Store(tmp_path).directory(made.stages[0])
    assert "1 trials: 1 failed" in text
    assert f"failed\n  pretrain 50%: clip 000007.mp4: told to refuse at step 2\n    {folder}\n" in text


def test_a_damaged_folder_is_shown_and_hides_nothing_else(tmp_path):
    broken, fine = trial("10%"), trial("50%")
    for made in (broken, fine):
        write_trial(tmp_path, made)
        execute(tmp_path, made, stages=1)
    (Store(tmp_path).directory(broken.stages[0]) / "attempts" / "0001" / "owner.json").unlink()
    assert [state for state, _ in states(tmp_path)] == ["failed", "stopped"]
    text = shown(tmp_path)
    assert "pretrain unreadable" in text and "owner.json: is missing" in text
    assert "50% seed 0:  pretrain done" in text


def test_two_names_of_one_stage_are_both_shown(tmp_path):
    made = trial()
    path = write_trial(tmp_path, made)
    document = json.loads(path.read_text())
    document["stages"].insert(2, document["stages"][1] | {"name": "finetune.anet", "task": "anet"})
    path.write_text(json.dumps(document))
    execute(tmp_path, made, stages=2)
    assert states(tmp_path)[0][1] == {
        "pretrain": "done",
        "finetune.msrvtt": "done",
        "finetune.anet": "done",
        "evaluate.msrvtt": "new",
    }


def test_what_looks_like_markup_is_shown_as_it_is(tmp_path):
    made = trial(pretrain={"refuse_at": 1})
    path = write_trial(tmp_path, made)
    path.write_text(path.read_text().replace('"50%"', '"[bold]x[/]"'))
    execute(tmp_path, made, stages=1)
    assert "  [bold]x[/] seed 0:  pretrain failed" in shown(tmp_path)


def test_a_done_stage_is_read_once_and_an_archived_one_is_new(tmp_path):
    made = trial()
    write_trial(tmp_path, made)
    execute(tmp_path, made)
    observer = Observer(tmp_path)
    before = observer.poll().stages[made.stages[0].fingerprint]
    assert observer.poll().stages[made.stages[0].fingerprint] is before
    Store(tmp_path).archive(made.stages[0])
    assert observer.poll().stages[made.stages[0].fingerprint].state == "new"


def test_the_rate_is_of_the_last_steps_and_no_half_line_counts(tmp_path):
    made = trial()
    execute(tmp_path, made, stages=1)
    (attempt,) = read_attempts(Store(tmp_path).directory(made.stages[0]))
    curve = attempt.directory / "metrics.jsonl"

    def write(points: list[tuple[float, int]], more: str = "") -> None:
        lines = [json.dumps({"time": at, "step": step, "values": {"loss": 1.0}}) for at, step in points]
        curve.write_text("".join(line + "\n" for line in lines) + more)

    write([(100.0, 1), (101.0, 3), (104.0, 9)], more='{"time": 900, "st')
    assert recent_rate(attempt) == 2.0
    write([(100.0, 1)])
    assert recent_rate(attempt) is None
    slow = [(float(step), step) for step in range(1000)]
    write(slow + [(1000 + step / 10, 1000 + step) for step in range(2000)])
    assert recent_rate(attempt) == pytest.approx(10.0)
    curve.unlink()
    assert recent_rate(attempt) is None


class Steps:
    """A clock for `follow`: each sleep is the next thing that happens."""

    def __init__(self, *happenings) -> None:
        self._happenings = list(happenings)

    def __call__(self, seconds: float) -> None:
        if not self._happenings:
            raise AssertionError("it goes on, though nothing runs")
        self._happenings.pop(0)()


@pytest.mark.parametrize("how", ["lines", "json", "terminal"])
def test_following_shows_changes_and_ends_when_nothing_runs(tmp_path, how):
    made = trial()
    write_trial(tmp_path, made)
    driver = driver_at_work(tmp_path, [stage.fingerprint for stage in made.stages])
    driver.__enter__()
    steps = Steps(
        lambda: execute(tmp_path, made, stages=1),
        lambda: None,
        lambda: execute(tmp_path, made),
        lambda: driver.__exit__(None, None, None),
    )
    printed = io.StringIO()
    console = Console(file=printed, width=80, terminal=how == "terminal")
    overview.follow(Observer(tmp_path), console, tmp_path, as_json=how == "json", sleep=steps)
    text = printed.getvalue()
    if how == "lines":
        changes = [line.split(" ", 1)[1] for line in text.splitlines() if line[2:3] == ":"]
        assert changes == [f"{name} 50% done" for name in ("pretrain", "finetune.msrvtt", "evaluate.msrvtt")]
    elif how == "json":
        document = [json.loads(line)[0]["state"] for line in text.splitlines()]
        assert document == ["waiting", "waiting", "done"]
    else:
        assert "waiting" in text and "1 trials: \x1b[32m1 done" not in text
        assert text.rstrip().endswith("evaluate.msrvtt \x1b[32mdone\x1b[0m")


def test_following_where_nothing_runs_shows_it_once(tmp_path):
    printed = io.StringIO()
    overview.follow(Observer(tmp_path), Console(file=printed), tmp_path, sleep=Steps())
    assert printed.getvalue() == f"no runs in {tmp_path}\n"


@pytest.mark.parametrize(("seconds", "expected"), [(0, "0:00"), (125.4, "2:05"), (46841, "13:00:41")])
def test_durations(seconds, expected):
    assert overview.duration(seconds) == expected


def test_the_hours_of_a_done_stage_are_read_until_they_are_final(tmp_path):
    made = trial()
    write_trial(tmp_path, made)
    execute(tmp_path, made, stages=1)
    name, attempt = made.stages[0].fingerprint, Store(tmp_path).directory(made.stages[0]) / "attempts" / "0001"
    end, owner = read_json(attempt / "end.json"), read_json(attempt / "owner.json")
    (attempt / "end.json").unlink()
    observer = Observer(tmp_path)

    def billed() -> float:
        seen = observer.poll().stages[name]
        assert seen.state == "done"
        return seen.record.hours.billed

    billed()  # the result is there, its attempt has not ended
    write_json(attempt / "owner.json", owner | {"gpus": 4, "slurm": {"job": "7_1", "restart": 0}})
    write_json(attempt / "end.json", end | {"spent_s": 3600.0})
    assert billed() == 1.0
    write_json(attempt / "end.json", end | {"spent_s": 7200.0})
    assert billed() == 2.0  # Slurm's accounting may yet tell more
    document = {"source": "sacct", "state": "COMPLETED", "start": end["time"] - 1, "end": end["time"], "cpu_s": None}
    write_json(attempt / "accounting.json", document)
    billed()
    write_json(attempt / "end.json", end | {"spent_s": 10800.0})
    before = billed()
    write_json(attempt / "end.json", end | {"spent_s": 14400.0})
    assert billed() == before


def test_steps_that_a_running_stage_has_not_saved_are_not_lost(tmp_path):
    made = trial(pretrain={"steps": 8, "hold_at": 6})
    write_trial(tmp_path, made)
    directory = Store(tmp_path).prepare(made.stages[0])
    with working(directory):
        progress = directory / "attempts" / "0001" / "progress.json"
        document = json.loads(progress.read_text())
        write_json(progress, document | {"train_s": 3600.0, "useful_s": 1800.0, "spent_s": 7200.0})
        seen = Observer(tmp_path).poll()
        hours = seen.trials[0].to_json()["detail"]["pretrain"]["hours"]
        if hours["billed"] == 2.0:  # unless the worker has written its own again
            assert (hours["useful"], hours["lost"], hours["unsaved"], hours["overhead"]) == (0.5, 0.0, 0.5, 1.0)
            assert " 0.5 useful, 0 lost, 1 overhead, 0.5 unsaved" in shown(tmp_path, seen)
