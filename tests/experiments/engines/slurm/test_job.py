"""What runs in a job of Slurm's, without Slurm: signals reach the worker, and how it ended is told."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from experiments.engines.command import worker_job
from experiments.engines.slurm.job import FOLDER, slurm_id
from experiments.stages.stage import Stage
from experiments.store.attempt import read_attempts
from experiments.store.documents import write_json
from experiments.store.store import Store
from experiments.worker.outcome import DONE, FAILED, INTERRUPTED
from tests.conformance.drivers import states, trail, wait_until
from tests.quick_stage import quick_stage

JOB = "from experiments.engines.slurm import job; import sys; job.REQUEUE_LIMIT_S = 1.0; job.run(sys.argv[1])"
REFUSES, SILENT = "echo no such job >&2; exit 1", "exec sleep 60"
"""What `scontrol` may do."""
AGAIN = "queued again, to be resumed by the same job"
LEFT = "left to the driver, for Slurm did not queue it again"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


@pytest.fixture
def begin(store: Store, tmp_path: Path) -> Callable[..., subprocess.Popen[bytes]]:
    """Starts the job 12_3 for a stage; its `scontrol` notes what it is asked, and then does as told."""
    folder = tmp_path / "folder"
    for name in ("jobs", "cancel", "ended"):
        (folder / name).mkdir(parents=True)
    (tmp_path / "bin").mkdir()

    def start(stage: Stage, scontrol: str = "", command: Sequence[str] = ()) -> subprocess.Popen[bytes]:
        directory = store.prepare(stage)
        job = worker_job(stage, directory, tmp_path / "data")
        told = {"name": stage.fingerprint, "command": list(command or job.command), "env": dict(job.env)}
        (folder / "jobs" / f"{directory.name}.json").write_text(json.dumps(told))
        (tmp_path / "bin" / "scontrol").write_text(f'#!/bin/sh\necho "$*" >>{tmp_path}/asked\n{scontrol}\n')
        (tmp_path / "bin" / "scontrol").chmod(0o755)
        slurm = {"SLURM_JOB_ID": "15", "SLURM_ARRAY_JOB_ID": "12", "SLURM_ARRAY_TASK_ID": "3", FOLDER: str(folder)}
        environment = os.environ | slurm | {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}
        return subprocess.Popen([sys.executable, "-c", JOB, str(directory)], env=environment, stderr=subprocess.PIPE)

    return start


def ended(store: Store, stage: Stage) -> Any:
    """The exit code that was told; none if none was."""
    path = store.home / "folder" / "ended" / f"12_3-{store.directory(stage).name}.json"
    return json.loads(path.read_text())["exit_code"] if path.exists() else None


def failures(store: Store, stage: Stage) -> list[tuple[str, str, str] | None]:
    """What is written down of each attempt: class, what was seen, what was done."""
    told = [attempt.failure for attempt in read_attempts(store.directory(stage))]
    return [each and (each.kind, each.seen, each.done) for each in told]


def asked(store: Store) -> str:
    path = store.home / "asked"
    return path.read_text() if path.exists() else ""


def test_an_id_is_the_one_that_squeue_prints() -> None:
    assert slurm_id({"SLURM_JOB_ID": "15"}) == "15"
    assert slurm_id({"SLURM_JOB_ID": "15", "SLURM_ARRAY_JOB_ID": "12", "SLURM_ARRAY_TASK_ID": "0"}) == "12_0"


@pytest.mark.parametrize(("own", "code"), [({}, DONE), ({"fail_at": 2}, FAILED)], ids=["done", "failed"])
def test_how_a_worker_ended_is_told_and_is_the_jobs_end(store: Store, begin: Any, own: Any, code: int) -> None:
    stage = quick_stage(**own)
    assert begin(stage).wait(60) == code
    assert ended(store, stage) == code


def test_a_worker_that_was_killed(store: Store, begin: Any) -> None:
    stage = quick_stage(kill_at=2)
    assert begin(stage).wait(60) == 128 + signal.SIGKILL
    assert ended(store, stage) == -signal.SIGKILL


@pytest.mark.parametrize(
    ("number", "scontrol", "requests", "done"),
    [
        (signal.SIGUSR2, "", "requeue 12_3\n", AGAIN),
        (signal.SIGUSR2, REFUSES, "requeue 12_3\n", f"{LEFT} (no such job)"),
        (
            signal.SIGUSR2,
            SILENT,
            "requeue 12_3\n",
            f"{LEFT} (scontrol gives no answer within 1 s)",
        ),
        (signal.SIGTERM, "", "", ""),
    ],
    ids=["near the limit", "near the limit, and Slurm refuses", "near the limit, and Slurm says nothing", "ended"],
)
def test_a_signal_saves(
    store: Store, begin: Any, number: signal.Signals, scontrol: str, requests: str, done: str
) -> None:
    stage = quick_stage(hold_at=2)
    job = begin(stage, scontrol)
    wait_until(lambda: trail(store, stage) == [1, 2])
    job.send_signal(number)
    assert job.wait(60) == INTERRUPTED
    assert states(store, stage) == ["interrupted"]
    assert asked(store) == requests
    assert ended(store, stage) == (None if done == AGAIN else INTERRUPTED)
    if not done:
        assert failures(store, stage) == [None]
        return
    ((kind, seen, told),) = failures(store, stage)
    assert (kind, seen) == ("timeout", "the time limit of job 12_3 came near") and told.startswith(done)


def test_near_the_limit_before_the_stage_began_the_job_is_not_queued_again(store: Store, begin: Any) -> None:
    stage = quick_stage()
    waits = f"trap 'exit {INTERRUPTED}' TERM; touch {store.home}/here; while :; do sleep 0.1; done"
    job = begin(stage, command=["sh", "-c", waits, "worker"])
    wait_until(lambda: (store.home / "here").exists())
    job.send_signal(signal.SIGUSR2)
    assert job.wait(60) == INTERRUPTED
    assert (asked(store), ended(store, stage)) == ("", INTERRUPTED)


def test_a_job_that_slurm_queued_again_by_itself_notes_why_its_attempt_ended(store: Store, begin: Any) -> None:
    """No driver sees that: it was asked to end, or killed with its supervisor as on a node that is lost."""
    stage = quick_stage(steps=5, checkpoint_every=1, hold_at=2, kill_at=[0, 3])
    job = begin(stage)
    wait_until(lambda: trail(store, stage) == [1, 2])
    job.send_signal(signal.SIGTERM)
    assert job.wait(60) == INTERRUPTED
    assert begin(stage).wait(60) == 128 + signal.SIGKILL
    assert begin(stage).wait(60) == DONE
    assert failures(store, stage) == [
        ("preempted", "stopped after step 2 of 5; Slurm queued job 12_3 again", "resumed by the same job"),
        ("node_lost", "it left no word; Slurm queued job 12_3 again", "resumed by the same job"),
        None,
    ]


def test_a_stage_that_does_not_get_on_is_not_queued_again(store: Store, begin: Any) -> None:
    """It has lost its checkpoints, and comes no further before the limit than the first time."""
    stage = quick_stage(hold_at=2)
    for time in (1, 2):
        job = begin(stage)
        wait_until(lambda: trail(store, stage) == [1, 2] * time)  # noqa: B023
        job.send_signal(signal.SIGUSR2)
        assert job.wait(60) == INTERRUPTED
        shutil.rmtree(store.directory(stage) / "checkpoints")
    assert (asked(store), ended(store, stage)) == ("requeue 12_3\n", INTERRUPTED)


def test_a_stage_that_gets_on_is_queued_again_though_an_attempt_that_was_killed_had_taken_more_steps(
    store: Store, begin: Any
) -> None:
    stage = quick_stage(steps=5, hold_at=3, checkpoint_every=2)
    job = begin(stage)
    wait_until(lambda: trail(store, stage) == [1, 2, 3])
    (attempt,) = read_attempts(store.directory(stage))
    os.kill(attempt.owner.pid, signal.SIGKILL)
    assert job.wait(60) == 128 + signal.SIGKILL
    write_json(attempt.directory / "progress.json", attempt.progress.raw | {"step": 3})  # its last sign of life
    job = begin(stage)
    wait_until(lambda: trail(store, stage) == [1, 2, 3, 3])
    job.send_signal(signal.SIGUSR2)
    assert job.wait(60) == INTERRUPTED
    assert (asked(store), ended(store, stage)) == ("requeue 12_3\n", None)


def test_a_stage_that_saves_nothing_is_not_queued_again(store: Store, begin: Any) -> None:
    """As an evaluation, which would start over and come as far as before."""
    stage = quick_stage(stuck_at=3)
    job = begin(stage)
    wait_until(lambda: (store.directory(stage) / "stuck-1").exists())
    job.send_signal(signal.SIGUSR2)
    assert job.wait(60) == INTERRUPTED
    assert (asked(store), ended(store, stage)) == ("", INTERRUPTED)


def test_a_job_that_was_cancelled_starts_nothing(store: Store, begin: Any) -> None:
    stage = quick_stage()
    (store.home / "folder" / "cancel" / f"12_3-{store.directory(stage).name}.json").touch()
    assert begin(stage).wait(60) == INTERRUPTED
    assert (states(store, stage), ended(store, stage)) == ([], INTERRUPTED)
