"""Every row of every sweep that comes with the project, trained and evaluated for real at a size of seconds."""

import json
import math

import pytest

from experiments.config.scale import FOLDER
from tests.experiments.smoke import SCALE, Smoke

SWEEPS = sorted(FOLDER.parent.glob("*.yaml"))
DIFFERENT = ("components", "frame_selection", "retrieval")
"""These together use every part of the model, several frames, and every task."""
WHOLE = (
    SCALE.replace("paragraph_train_clips: 1", "paragraph_train_clips: 32")
    .replace("more_stills: 1", "more_stills: 16")
    .replace(
        "corpora: {5M: [moving_shapes/sentence],",
        "corpora: {5M: [moving_shapes/sentence], 17M: [moving_shapes/sentence, moving_shapes/more_stills],",
    )
    .replace(
        "tasks:\n",
        "tasks:\n  didemo: {dataset: moving_shapes/paragraph}\n"
        "  anet: {dataset: moving_shapes/paragraph, evaluate: {frames: 10, selected: all}}\n",
    )
)


@pytest.fixture(scope="module")
def smoke(tmp_path_factory) -> Smoke:
    made = Smoke(tmp_path_factory.mktemp("every"))
    assert WHOLE.count("didemo") == WHOLE.count("17M") == 1
    made.scale.write_text(WHOLE)
    return made


@pytest.mark.slow
@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, id=path.stem, marks=[] if path.stem in DIFFERENT else [pytest.mark.nightly])
        for path in SWEEPS
    ],
)
def test_every_row_is_measured(smoke, path):
    """One store for all: what two sweeps share is trained once."""
    ran = smoke("run", str(path), "--scale", str(smoke.scale), "--engine", "inline", "--max-hours", "100")
    assert ran.returncode == 0, ran.stderr
    again = smoke("plan", str(path), "--scale", str(smoke.scale), "--json")
    plan = json.loads(again.stdout)
    assert plan["stages"]["new"] == 0
    for result in smoke.home.glob("store/evaluate/*/result.json"):
        metrics = json.loads(result.read_text())["metrics"]
        assert all(math.isfinite(value) for value in metrics.values())
        assert 0 < metrics["t2v.r10"] <= 100
