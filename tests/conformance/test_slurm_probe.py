"""A probe as a job of a real Slurm: what stops it is told, and a stop takes it out of the queue."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conformance.drivers import wait_until
from tests.experiments.smoke import SWEEP, Smoke
from tests.slurm_cluster import PROFILE, OneMachine

pytestmark = pytest.mark.slurm

Smaug = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def smaug(tmp_path: Path, whole: OneMachine) -> Smaug:
    """Starts a verb on the one-machine Slurm, with the profile changed in one place."""
    smoke = Smoke(tmp_path)

    def start(verb: str, *arguments: str, old: str = "", new: str = "") -> "subprocess.Popen[str]":
        (tmp_path / "profile.yaml").write_text(PROFILE.read_text().replace(old, new))
        on = ("--scale", str(smoke.scale), "--only", "50%", "--engine", "slurm", "--cluster", "profile.yaml")
        return subprocess.Popen(
            [sys.executable, "-c", "from experiments.cli.app import main; main()", verb, SWEEP, *on, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
            env=smoke.environment(**whole.environment),
            start_new_session=True,
        )

    return start


def test_a_probe_that_slurm_refuses_is_told_in_its_words(smaug: Smaug) -> None:
    ran = smaug("plan", "--probe", "--json", old="partition: gpu", new="partition: cpu")
    told, said = ran.communicate(timeout=120)
    assert ran.returncode == 0 and told.startswith("{") and "Traceback" not in said
    announced = "--probe was given, and the hours of pretrain 50% are not known: a separate job times a few"
    assert [line for line in said.splitlines() if line.startswith(announced)]
    failed = said.splitlines()[-1]
    assert failed.startswith("no probe: pretrain could not be timed: sbatch: error: invalid partition specified: cpu;")


def test_a_probe_whose_set_up_lines_fail_is_told(smaug: Smaug) -> None:
    ran = smaug("plan", "--probe", old="cluster:", new='setup: ["echo no such module >&2; exit 3"]\ncluster:')
    _, said = ran.communicate(timeout=120)
    assert ran.returncode == 0 and "Traceback" not in said
    start = "no probe: pretrain could not be timed: its job failed before the stage began: no such module ("
    assert said.splitlines()[-1].startswith(start)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("verb", "asked", "number"),
    [("run", ["--max-hours", "1", "--json"], signal.SIGINT), ("plan", ["--probe"], signal.SIGTERM)],
)
def test_a_stop_takes_a_probe_out_of_the_queue(
    whole: OneMachine, smaug: Smaug, verb: str, asked: list[str], number: signal.Signals
) -> None:
    whole.ask("scontrol", "update", "PartitionName=gpu", "State=DOWN")
    ran = smaug(verb, *asked)
    wait_until(lambda: "PENDING" in whole.jobs().values() or ran.poll() is not None)
    os.killpg(ran.pid, number)
    told, said = ran.communicate(timeout=60)
    assert (ran.returncode, told) == (1, "")
    assert said.splitlines()[-1] == "stopped; the same command continues" and "Traceback" not in said
    assert said.count("and the hours of pretrain 50% are not known") == 1
    assert not {"PENDING", "RUNNING"} & set(whole.jobs().values())
