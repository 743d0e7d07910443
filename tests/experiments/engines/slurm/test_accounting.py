"""What sacct prints, read and matched with attempts by hand; sacct asked seldom, and not at all where it is off."""

import time
from pathlib import Path

import pytest

from experiments.engines.slurm.accounting import JobRun, Sacct, by_job, read_sacct, run_at, seconds_of
from experiments.engines.slurm.queue import Pace

REQUEUED = """\
7_1|NODE_FAIL|1000|1100|00:00:00
7_1.batch|CANCELLED|1000|1100|00:00.500
7_1.0|FAILED|1001|1100|01:05.250
7_1.1|FAILED|1002|1100|00:01
7_1|CANCELLED by 0|1120|1300|00:00:00
7_1.batch|COMPLETED|1120|1300|00:00:01
7_1.extern|COMPLETED|1120|1300|00:00:01
7_1|PENDING|Unknown|Unknown|00:00:00
7_2|RUNNING|1005|Unknown|00:00:00
7_2.0|RUNNING|1006|Unknown|00:00:00
9|CANCELLED by 0|None|1200|00:00:00
sacct: error: something else
"""
FIRST, SECOND = JobRun("7_1", "NODE_FAIL", 1000.0, 1100.0, 66.25), JobRun("7_1", "CANCELLED", 1120.0, 1300.0, None)


def test_the_runs_of_a_job_that_was_queued_again() -> None:
    """What waits, or never began, is no run; the batch script's own steps are not the worker."""
    running = JobRun("7_2", "RUNNING", 1005.0, None, None)
    assert read_sacct(REQUEUED) == [FIRST, SECOND, running]
    assert by_job(reversed(read_sacct(REQUEUED))) == {"7_1": [FIRST, SECOND], "7_2": [running]}


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("00:01.500", 1.5), ("02:03", 123.0), ("01:02:03", 3723.0), ("2-01:00:00", 176400.0), ("", 0.0), ("INVALID", 0.0)],
)
def test_times_as_sacct_prints_them(text: str, seconds: float) -> None:
    assert seconds_of(text) == seconds


@pytest.mark.parametrize(
    ("moment", "restart", "run"),
    [
        (1003.0, 0, FIRST),
        (1003.0, 1, FIRST),  # Slurm has queued it again for want of a node before it ever began
        (1123.0, 1, SECOND),
        (1095.0, 1, SECOND),  # the node's clock is behind
        (1115.0, 0, SECOND),  # nearer to its start than to the other's end
        (1050.0, 0, FIRST),
        (1350.0, 1, SECOND),
        (1400.0, 1, None),
        (900.0, 0, None),
    ],
)
def test_the_run_of_an_attempt(moment: float, restart: int, run: JobRun | None) -> None:
    assert run_at([FIRST, SECOND], moment, restart) == run


def test_an_id_that_was_given_twice() -> None:
    old, new = JobRun("7", "COMPLETED", 10.0, 20.0, None), JobRun("7", "RUNNING", 5000.0, None, None)
    assert run_at([old, new], 5003.0, 0) == new
    assert run_at([old, new], 15.0, 0) == old
    assert run_at([old, new], 1e6, 0) == new


def answers(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    written = folder / "sacct.new"
    written.write_text(f'#!/bin/sh\necho "$SLURM_TIME_FORMAT $*" >>{folder}/asked\n{script}\n')
    written.chmod(0o755)
    written.rename(folder / "sacct")  # a query may run at this moment
    monkeypatch.setenv("PATH", str(folder), prepend=":")


def test_one_question_for_all_jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers(tmp_path, monkeypatch, "echo '7_1|FAILED|1000|1100|00:01'")
    sacct = Sacct()
    assert sacct.query([]) == [] and sacct.queries == 0
    assert sacct.query(["7_1", "12", "7_2"]) == [JobRun("7_1", "FAILED", 1000.0, 1100.0, None)]
    assert sacct.queries == 1
    assert (tmp_path / "asked").read_text() == (
        "%s --noheader --parsable2 --duplicates --jobs=7,12 --format=JobID,State,Start,End,TotalCPU\n"
    )


def test_very_many_jobs_are_asked_about_in_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("experiments.engines.slurm.queue.QUERY_EVERY_S", 0.0)
    answers(tmp_path, monkeypatch, "")
    sacct = Sacct()
    sacct.query([str(number) for number in range(1, 2501)])
    lines = (tmp_path / "asked").read_text().splitlines()
    assert [line.count(",") - 4 + 1 for line in lines] == [1000, 1000, 500]


@pytest.mark.parametrize("script", ["echo 'Slurm accounting storage is disabled' >&2; exit 1", None])
def test_without_accounting_nothing_is_said_and_nothing_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, script: str | None
) -> None:
    if script is None:
        monkeypatch.setenv("PATH", str(tmp_path))
    else:
        answers(tmp_path, monkeypatch, script)
    sacct = Sacct()
    assert (sacct.query(["7"]), sacct.query(["7"])) == ([], [])
    assert sacct.is_off and sacct.queries == 1 and caplog.messages == []


def test_a_database_that_is_away_is_told_once_and_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("experiments.engines.slurm.queue.QUERY_EVERY_S", 0.0)
    answers(tmp_path, monkeypatch, "echo 'sacct: error: Connection refused' >&2; exit 1")
    sacct = Sacct()
    assert (sacct.query(["7"]), sacct.query(["7"])) == ([], [])
    (told,) = caplog.messages
    assert "does not answer (sacct: error: Connection refused)" in told
    answers(tmp_path, monkeypatch, "echo '7|FAILED|1000|1100|00:01'")
    assert sacct.query(["7"])


def test_who_waits_for_a_turn_keeps_the_next_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("experiments.engines.slurm.queue.QUERY_EVERY_S", 0.3)
    pace, began = Pace(), time.monotonic()
    assert pace.take() and not pace.take()
    pace.wait()
    assert 0.3 <= time.monotonic() - began < 0.5
    assert not pace.take()
    pace.wait()
    pace.wait()
    assert 0.9 <= time.monotonic() - began < 1.2
