"""A few steps that are timed: how it is told that they were not, and how they are stopped."""

import os
import signal
import threading
import time
from collections.abc import Mapping
from pathlib import Path

import psutil
import pytest

from experiments.config.scale import load_scale
from experiments.config.sweep import load_sweep
from experiments.engines.base import Job, JobState
from experiments.planning.cost_model import rate_file
from experiments.scheduler.calibration import ProbeStopped, find_rate
from experiments.stages.stage import Stage
from experiments.stages.trial import expand
from experiments.store.documents import StageDocument
from experiments.store.store import Store
from smaug_core.errors import SmaugError
from tests.experiments.smoke import ROOT, SWEEP
from tests.process_engine import ProcessEngine

NO_SUCH = "its job failed before the stage began: no such module (7_0_log.out)"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


@pytest.fixture(scope="module")
def stage() -> Stage:
    tiny = load_scale("tiny")
    return expand(load_sweep(ROOT / SWEEP, tiny), tiny)[0].stages[0]


class Ending(ProcessEngine):
    """Ends a job at once, maybe after its worker has said something."""

    def __init__(self, state: JobState, said: str | None) -> None:
        super().__init__()
        self.state, self.said = state, said

    def submit(self, job: Job) -> None:
        self.submitted.append(job.name)
        if self.said is not None:
            (job.directory / "launch.txt").write_text(self.said)

    def poll(self) -> Mapping[str, JobState]:
        return dict.fromkeys(self.submitted, self.state)


@pytest.mark.parametrize(
    ("state", "said", "told"),
    [
        (JobState(True, None, NO_SUCH, "user_error"), None, NO_SUCH),
        (JobState(True, None, NO_SUCH, "user_error"), "a warning\n", NO_SUCH),
        (JobState(True, 2), "No module named torch\n", "No module named torch"),
        (JobState(True, 2), "", "the worker ended with exit code 2 and said nothing"),
        (JobState(True, -9), None, "the worker ended with exit code -9 and said nothing"),
        (JobState(True, 0), None, "the worker ended with exit code 0 and said nothing"),
    ],
)
def test_a_probe_that_fails_says_what_its_engine_or_its_worker_said(
    store: Store, stage: Stage, state: JobState, said: str | None, told: str
) -> None:
    folder = rate_file(store, StageDocument.of(stage.document())).parent
    folder.mkdir(parents=True)
    (folder / "launch.txt").write_text("of an earlier probe\n")
    with pytest.raises(SmaugError) as failed:
        find_rate(stage, store, Ending(state, said), store.home / "data")
    assert str(failed.value) == f"pretrain could not be timed: {told}"


def test_a_folder_that_cannot_be_written_is_named(store: Store, stage: Stage) -> None:
    (store.home / "probes").write_text("in the way")
    with pytest.raises(SmaugError, match=r"probes/cpu-width\d+: cannot be written \((File exists|Not a directory)\)"):
        find_rate(stage, store, ProcessEngine(), store.home / "data")


def test_a_folder_that_goes_meanwhile_is_no_traceback(store: Store, stage: Stage) -> None:
    class Removing(Ending):
        def submit(self, job: Job) -> None:
            super().submit(job)
            (job.directory / "stage.json").unlink()
            job.directory.rmdir()

    with pytest.raises(SmaugError, match="pretrain could not be timed: the worker ended with exit code 2"):
        find_rate(stage, store, Removing(JobState(True, 2), None), store.home / "data")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_probe_that_is_stopped_leaves_no_process(store: Store, stage: Stage, number: signal.Signals) -> None:
    engine = ProcessEngine()

    def stop_it() -> None:
        while not engine.processes:
            time.sleep(0.01)
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=stop_it)
    thread.start()
    with pytest.raises(ProbeStopped):
        find_rate(stage, store, engine, store.home / "data")
    thread.join()
    (process,) = engine.processes.values()
    assert process.returncode is not None and not psutil.pid_exists(process.pid)


def test_a_second_ctrl_c_does_not_wait(store: Store, stage: Stage) -> None:
    class Deaf(Ending):
        def submit(self, job: Job) -> None:
            super().submit(job)
            os.kill(os.getpid(), signal.SIGINT)

        def cancel(self, name: str) -> None:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        find_rate(stage, store, Deaf(JobState(False), None), store.home / "data")
