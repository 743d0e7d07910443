"""What a stage printed and how it ended, from real attempts."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from experiments.maintenance.logs import follow, heading, read_log
from experiments.stages.stage import Stage
from experiments.store.attempt import read_attempts
from experiments.store.store import Store
from smaug_core.errors import SmaugError
from tests.experiments.smoke import ROOT
from tests.quick_stage import quick_stage


def work(home: Path, stage: Stage) -> Path:
    """Run a worker to its end; gives the stage's folder."""
    directory = Store(home).prepare(stage)
    command = [sys.executable, "-m", "experiments.worker", str(directory), "--parent", str(os.getpid())]
    subprocess.run(command, cwd=ROOT, timeout=120)
    return directory


def followed(directory: Path, **options) -> tuple[str, list[str]]:
    text, headings = [], []
    follow(directory, text.append, headings.append, **options)
    return "".join(text), headings


def test_a_log_ends_with_the_end_of_the_attempt_once(tmp_path):
    log = read_log(work(tmp_path, quick_stage(fail_at=2)))
    assert log.text.startswith("Traceback") and log.text.endswith("failed: RuntimeError: told to fail at step 2\n")
    assert log.ending() == ""
    document = log.to_json()
    assert (document["attempt"], document["state"], document["log"]) == (1, "failed", log.text)
    assert document["end"]["message"] == "RuntimeError: told to fail at step 2"


def test_without_a_log_the_recorded_end_is_shown(tmp_path):
    directory = work(tmp_path, quick_stage(fail_at=2))
    (directory / "attempts" / "0001" / "log.txt").unlink()  # as in the engine that runs stages in its own process
    log = read_log(directory)
    assert log.text == ""
    assert log.ending().startswith("Traceback")
    assert log.ending().endswith("failed: RuntimeError: told to fail at step 2\n")


def test_the_end_of_a_killed_attempt_is_its_death(tmp_path):
    log = read_log(work(tmp_path, quick_stage(kill_at=2)))
    assert log.attempt is not None
    assert log.ending() == f"died without a final record (process {log.attempt.owner.pid})\n"


def test_each_attempt_has_its_own_log_and_the_newest_comes_first(tmp_path):
    stage = quick_stage(kill_at=2)
    directory = work(tmp_path, stage)
    work(tmp_path, stage)
    assert [attempt.state for attempt in read_attempts(directory)] == ["dead", "done"]
    assert read_log(directory).text.endswith("done: published\n")
    assert read_log(directory, 1).text == ""
    with pytest.raises(SmaugError, match=r"--attempt 3: expected an attempt at .* \(1, 2\)"):
        read_log(directory, 3)


def test_before_the_first_attempt_there_is_the_output_of_the_launch(tmp_path):
    directory = Store(tmp_path).prepare(quick_stage())
    (directory / "launch.txt").write_text("no such module\n")
    log = read_log(directory)
    assert (log.text, log.ending(), heading(log)) == ("no such module\n", "", "no attempt yet")
    assert log.to_json()["attempt"] is None
    assert followed(directory) == ("no such module\n", [])


def test_following_prints_all_attempts_from_the_newest_on_and_each_piece_once(tmp_path):
    stage = quick_stage(steps=3, hold_at=2)
    directory = Store(tmp_path).prepare(stage)
    command = [sys.executable, "-m", "experiments.worker", str(directory), "--parent", str(os.getpid())]
    workers = [subprocess.Popen(command, cwd=ROOT)]
    pieces = [b"half of \xc3", b"\xbc\n"]

    def sleep(_: float) -> None:
        """One letter in two pieces, then a kill, then another worker."""
        time.sleep(0.02)
        first = next(iter(read_attempts(directory)), None)
        if first is None or first.progress.step == 0 or len(workers) == 2:
            return
        if first.state == "dead":
            (directory / "go").touch()
            workers.append(subprocess.Popen(command, cwd=ROOT))
        elif pieces:
            with (first.directory / "log.txt").open("ab") as file:
                file.write(pieces.pop(0))
        else:
            workers[0].kill()
            workers[0].wait()

    text, headings = followed(directory, may_start=lambda: not (directory / "result.json").exists(), sleep=sleep)
    workers[-1].wait()
    assert text.startswith("half of ü\ndied without a final record") and text.endswith("done: published\n")
    assert text.count("done: published") == 1
    assert [line.split(",")[0] for line in headings] == ["attempt 1", "attempt 2"]
    assert followed(directory, number=1)[1] == headings[:1]
