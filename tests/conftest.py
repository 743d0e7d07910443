"""Fixtures that many tests share."""

import os
from pathlib import Path

import pytest

from smaug_core.config import ModelConfig
from tests.small import CONFIG

# The stages of `tests.quick_stage` run in processes that import no more from the working directory.
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH")]))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What is for the night is slow too: `make test` leaves both out."""
    for item in items:
        if item.get_closest_marker("nightly") is not None:
            item.add_marker("slow")


@pytest.fixture
def config() -> ModelConfig:
    """A model small enough for tests, with twelve layers so that 4, 7 and 10 sparsify."""
    return CONFIG
