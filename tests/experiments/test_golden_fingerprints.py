"""Fingerprints of every stage of the project's sweeps: a change here would train paid-for results again.

The golden file was made at commit 487da61. Write it again only where the `version` of a kind was raised, and say so
in the commit: `python -m tests.experiments.test_golden_fingerprints`.
"""

import json
from pathlib import Path

import pytest

from experiments.config.scale import FOLDER, load_scale
from experiments.config.sweep import load_sweep
from experiments.stages.trial import expand

GOLDEN = Path(__file__).with_name("golden_fingerprints.json")
SWEEPS = sorted(path.stem for path in FOLDER.parent.glob("*.yaml"))
SCALES = ("tiny", "paper")


def fingerprints(sweep: str, scale_name: str) -> dict[str, dict[str, str]]:
    """Fingerprint of each stage by its name, for each trial by its label."""
    scale = load_scale(scale_name)
    trials = expand(load_sweep(FOLDER.parent / f"{sweep}.yaml", scale), scale)
    return {trial.label: {stage.name: stage.fingerprint for stage in trial.stages} for trial in trials}


@pytest.fixture(autouse=True)
def no_hub(monkeypatch, tmp_path):
    """Weights in a cache of the user's would enter by their digest."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("sweep", SWEEPS)
def test_fingerprints_are_the_golden_ones(sweep, scale):
    golden = json.loads(GOLDEN.read_text())
    assert fingerprints(sweep, scale) == golden[scale][sweep]


def test_no_golden_sweep_is_gone():
    golden = json.loads(GOLDEN.read_text())
    assert {scale: sorted(rows) for scale, rows in golden.items()} == {scale: SWEEPS for scale in SCALES}


if __name__ == "__main__":
    made = {scale: {sweep: fingerprints(sweep, scale) for sweep in SWEEPS} for scale in SCALES}
    GOLDEN.write_text(json.dumps(made, indent=1, ensure_ascii=False) + "\n")
