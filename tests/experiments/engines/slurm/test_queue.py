"""Slurm's answers: read, asked for seldom, and waited for by nobody."""

import time
from pathlib import Path

import pytest

from experiments.engines.slurm.queue import QUERY_EVERY_S, QueueStatus, SlurmQueue, read_squeue, status_of
from tests.conformance.drivers import wait_until


def answers(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    written = folder / "squeue.new"
    written.write_text(f"#!/bin/sh\necho . >>{folder}/asked\n{script}\n")
    written.chmod(0o755)
    written.rename(folder / "squeue")  # a query may run at this moment
    monkeypatch.setenv("PATH", str(folder), prepend=":")


def test_squeues_answer() -> None:
    text = "7_1|RUNNING|None\n7_12|PENDING|Resources\n9|CANCELLED|A | b\nsqueue: error: what\n"
    assert read_squeue(text) == {
        "7_1": QueueStatus("RUNNING", "None"),
        "7_12": QueueStatus("PENDING", "Resources"),
        "9": QueueStatus("CANCELLED", "A | b"),
    }


@pytest.mark.parametrize(
    ("state", "ended"),
    [("RUNNING", False), ("COMPLETING", False), ("REQUEUED", False), ("TIMEOUT", True), ("NODE_FAIL", True)],
)
def test_what_is_over(state: str, ended: bool) -> None:
    assert QueueStatus(state, "").ended is ended


def test_tasks_of_an_array_that_were_cancelled_together_stand_where_their_array_does() -> None:
    jobs = {
        "7_0": QueueStatus("RUNNING", "None"),
        "7": QueueStatus("CANCELLED", "None"),
        "9": QueueStatus("PENDING", "None"),
    }
    assert [status_of(jobs, job) for job in ("7_0", "7_1", "9", "8_1")] == [jobs["7_0"], jobs["7"], jobs["9"], None]


def test_one_question_for_many_looks_and_nobody_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers(tmp_path, monkeypatch, "sleep 0.5; echo '7|RUNNING|None'")
    queue = SlurmQueue("smaug-x")
    began = time.monotonic()
    assert (queue.snapshot().jobs, queue.snapshot().queried) == ({}, -1.0)
    assert time.monotonic() - began < 0.4
    wait_until(lambda: queue.snapshot().jobs == {"7": QueueStatus("RUNNING", "None")})
    assert began <= queue.snapshot().queried < began + QUERY_EVERY_S
    assert (queue.queries, (tmp_path / "asked").read_text()) == (1, ".\n")


def test_a_controller_that_is_away_is_told_once_and_the_last_answer_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("experiments.engines.slurm.queue.QUERY_EVERY_S", 0.05)
    answers(tmp_path, monkeypatch, "echo '7|RUNNING|None'")
    queue = SlurmQueue("smaug-x")
    wait_until(lambda: queue.snapshot().jobs)
    for silent in ("echo 'squeue: error: Unable to contact slurm controller' >&2; exit 1", "exit 1"):
        answers(tmp_path, monkeypatch, silent)
        before = queue.queries
        wait_until(lambda before=before: queue.snapshot() and queue.queries > before + 3)
    assert queue.snapshot().jobs == {"7": QueueStatus("RUNNING", "None")}
    answers(tmp_path, monkeypatch, "echo '7|COMPLETED|None'")
    wait_until(lambda: queue.snapshot().jobs == {"7": QueueStatus("COMPLETED", "None")})
    away, back = caplog.messages
    assert "does not answer (squeue: error: Unable to contact slurm controller)" in away
    assert "answers again" in back
