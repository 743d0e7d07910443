"""Fixtures that many tests share."""

import os
from pathlib import Path
from typing import Final

import hypothesis
import pytest
import torch

from smaug_core.config import ModelConfig
from tests.small import CONFIG

ROOT: Final = Path(__file__).parents[1]

NOT_PURE: Final = {
    "tests/conformance": "engines: Ray, Slurm, drivers that are killed",
    "tests/browser": "Chromium and MLflow's pages",
    "tests/experiments/tracking/test_ui.py": "MLflow servers, which answer within 2 s",
    "tests/experiments/tracking/test_accounting.py": "waits between 0.4 and 1 s by the clock",
    "tests/experiments/engines/slurm/test_accounting.py": "waits between 0.3 and 0.5 s by the clock",
    "tests/experiments/engines/slurm/test_queue.py": "answers within 0.4 s by the clock",
    "tests/experiments/test_mirror_faults.py": "MLflow servers that are stopped and slowed",
    "tests/experiments/test_ledger_at_once.py": "MLflow servers and PostgreSQL, many writers at once",
    "tests/experiments/test_ranks_training.py": "every core: trainings in several processes",
    "tests/experiments/test_every_sweep.py": "every core: whole sweeps",
}
"""Folders and files whose tests run alone, one after another, and why. All other tests are pure: they share nothing
but the cores, so that several processes of pytest run them at once (`make test`)."""

PURE: Final = ("tests/conformance/test_damage.py",)
"""Files of those folders that start nothing but stages of their own."""
LONG: Final = (
    "tests/experiments/cli/test_app.py",
    "tests/experiments/cli/test_report_commands.py",
    "tests/reports/figures/test_build.py",
    "tests/experiments/worker/test_rank.py",
    "tests/experiments/scheduler/test_scheduler.py",
    "tests/experiments/stages/test_code_version.py",
    "tests/experiments/store/test_failures.py",
    "tests/experiments/worker/test_follower.py",
    "tests/experiments/tracking/test_writer.py",
    "tests/training/test_train.py",
    "tests/training/test_distributed.py",
    "tests/evaluation/test_distributed.py",
    "tests/experiments/worker/test_examples.py",
    "tests/data/moving_shapes/test_scenes.py",
    "tests/data/test_reader_fuzz.py",
    "tests/reports/html/test_page.py",
    "tests/experiments/tracking/test_database.py",
)
"""Files that take more than 14 s; they start first, so that no process waits at the end while another runs one."""

# One thread: a test's model is too small for more, and threads without a core each wait for one another. On two busy
# cores 300 steps of it take 6 s so, and 170 s with two threads.
os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)

# The stages of `tests.quick_stage` run in processes that import no more from the working directory.
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))


# A deadline would be an assertion of wall-clock time.
hypothesis.settings.register_profile("no deadline", deadline=None)
hypothesis.settings.load_profile("no deadline")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark pure tests, and nightly ones as slow; order the long files first."""
    for item in items:
        path = item.path.relative_to(ROOT)
        if path.as_posix() in PURE or not any(path.is_relative_to(place) for place in NOT_PURE):
            item.add_marker("pure")
        if item.get_closest_marker("nightly") is not None:
            item.add_marker("slow")
    items.sort(key=lambda item: item.path.relative_to(ROOT).as_posix() not in LONG)


@pytest.fixture
def config() -> ModelConfig:
    """A model small enough for tests, with twelve layers so that 4, 7 and 10 sparsify."""
    return CONFIG
