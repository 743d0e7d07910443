"""Policies that a user meets, through the whole command on every engine: a pause and its end, want of GPU memory."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from experiments.engines.base import local_cpus
from experiments.store.attempt import read_attempts
from experiments.store.records import RECOMPUTED
from tests.conformance.drivers import ROOT, wait_until
from tests.experiments.scheduler.test_notify import heard, script  # noqa: F401
from tests.experiments.smoke import SCALE, Smoke
from tests.faulty import Faults
from tests.slurm_cluster import PROFILE, OneMachine

pytestmark = pytest.mark.slow  # up to a minute each: every stage is a process that loads torch
RAY = pytest.param("ray", marks=pytest.mark.nightly)
SLURM = pytest.param("slurm", marks=pytest.mark.slurm)
NIGHTLY_SLURM = pytest.param("slurm", marks=[pytest.mark.slurm, pytest.mark.nightly])


@dataclass
class WholeRun:
    """`smaug run` on an engine that runs one pre-training at a time, in a home of its own."""

    smoke: Smoke
    faults: Faults
    arguments: list[str]
    environment: dict[str, str]
    cpus: int

    def __call__(self, *more: str) -> tuple[int, str, str]:
        wide = SCALE.replace("pretrain: {cpus: 1, gpus: 0}", f"pretrain: {{cpus: {self.cpus}, gpus: 0}}", 1)
        self.smoke.scale.write_text(wide)
        command = ["run", str(ROOT / "sweeps" / "masking_ratio.yaml"), "--scale", str(self.smoke.scale)]
        python_path = {"PYTHONPATH": f"{self.faults.environment['PYTHONPATH']}:{ROOT}"}
        ran = self.smoke(*command, *self.arguments, *more, **self.environment | python_path)
        assert "Traceback" not in ran.stderr
        return ran.returncode, ran.stdout, ran.stderr

    def attempts(self) -> list[list[tuple[str, str]]]:
        """How each attempt at each pre-training that was begun ended, and what was done about it."""
        folders = sorted((self.smoke.home / "store" / "pretrain").iterdir())
        told = [
            [(a.state, "" if a.failure is None else a.failure.done) for a in read_attempts(folder)]
            for folder in folders
        ]
        return sorted(attempts for attempts in told if attempts)


@pytest.fixture
def whole_run(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[WholeRun]:
    arguments, environment, cpus = ["--engine", request.param], {}, local_cpus()
    machine: OneMachine | None = None
    if request.param == "slurm":
        machine = request.getfixturevalue("one_machine")
        arguments, environment, cpus = [*arguments, "--cluster", str(PROFILE)], machine.environment, 8
        machine.ask("sbatch", "--job-name=other", "--cpus-per-task=8", "--output=/dev/null", "--wrap", "sleep 600")
        wait_until(lambda: "RUNNING" in machine.jobs().values())
    yield WholeRun(Smoke(tmp_path), Faults(tmp_path / "faults"), arguments, environment, cpus)
    if machine is not None:
        machine.ask("scancel", "--name=other")
        wait_until(lambda: not machine.jobs())


@pytest.mark.parametrize("whole_run", ["inline", RAY, SLURM], indirect=True)
def test_the_same_error_in_two_rows_pauses_the_run_and_it_goes_on_when_it_is_mended(
    whole_run: WholeRun,
    tmp_path: Path,
    script: list[str],  # noqa: F811
) -> None:
    """Of four rows one at a time two fail; the third may have begun before that was seen, the fourth must not."""
    whole_run.faults.set("error", comers=2)
    notify = ["--notify", shlex.join(script)]
    code, _, complaints = whole_run(*notify)
    assert code == 1
    said = re.search(r"paused: (.*)", complaints)
    assert said is not None
    assert re.match(r"pretrain [0-9a-f]{12} and pretrain [0-9a-f]{12} failed with the same error: KeyError: ", said[1])
    assert 'sitecustomize.py", line' in said[1], "where in the code"
    assert "Fix it, then give the same command with --retry-failed; without that, it goes on with the other" in said[1]
    attempts = whole_run.attempts()
    failed = [("failed", "not tried again")]
    assert attempts.count(failed) == 2
    others = [each for each in attempts if each != failed]
    begun = () if whole_run.arguments == ["--engine", "inline"] else ("done", "interrupted")
    assert len(others) <= 1 and all(each[0][0] in begun for each in others)
    paused, ended = heard(tmp_path)
    assert (paused["event"], ended["event"], ended["complete"]) == ("paused", "end", False)
    assert paused["message"] == said[1] and ended["message"].startswith("the run ended, paused: ")
    whole_run.faults.mend()
    code, _, complaints = whole_run("--retry-failed", "--only", "10%", "--only", "25%", *notify)
    assert (code, complaints) == (0, "")
    assert whole_run.attempts().count([*failed, ("done", "")]) == 2
    assert heard(tmp_path)[-1]["complete"] is True


@pytest.mark.parametrize("whole_run", ["inline", RAY, NIGHTLY_SLURM], indirect=True)
def test_without_gpu_memory_layers_are_recomputed_once_and_then_the_batch_that_fits_is_named(
    whole_run: WholeRun,
) -> None:
    whole_run.faults.set("gpu memory", until_recomputed=True)
    code, shown, complaints = whole_run(
        "--only", "50%", "--set", "pretrain.batch_size=8", "--set", "pretrain.negatives_group=8"
    )
    assert code == 0, complaints
    done = "tried again with layers computed again in the backward pass"
    assert f"GPU out of memory: OutOfMemoryError: CUDA out of memory. Tried to allocate 1.00 GiB; {done}" in shown
    assert RECOMPUTED in shown.partition("Table 4")[2], "the row is marked"
    assert whole_run.attempts() == [[("failed", done), ("done", "")]]
    whole_run.faults.set("gpu memory", until_recomputed=False)
    code, shown, complaints = whole_run("--only", "50%")
    assert code == 1
    assert re.search(
        r"50% failed: GPU out of memory: .*; pretrain\.batch_size 16 does not fit on 0 x .*\n",
        complaints,
    )
    assert [("failed", done), ("failed", "not tried again")] in whole_run.attempts()
