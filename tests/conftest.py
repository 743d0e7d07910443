"""Fixtures that many tests share."""

import pytest

from smaug_core.config import ModelConfig
from tests.small import CONFIG


@pytest.fixture
def config() -> ModelConfig:
    """A model small enough for tests, with twelve layers so that 4, 7 and 10 sparsify."""
    return CONFIG
