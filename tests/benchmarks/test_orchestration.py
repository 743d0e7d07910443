"""The benchmark of the platform runs, does what it says, and tells what it measured; never how fast that was."""

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from experiments.engines.base import local_cpus
from tests.benchmarks.made_store import STAGES_OF_A_SEED, request
from tests.benchmarks.one_second import SLOTS
from tests.benchmarks.orchestration import FULL, Finding

ROOT = Path(__file__).resolve().parents[2]


def measure(folder: Path, *parts: str) -> dict[str, dict[str, Any]]:
    """What some parts find when they are quick, by what it is."""
    out = folder / "orchestration.json"
    command = [sys.executable, "-m", "tests.benchmarks.orchestration", "--quick", "--json", str(out), "--parts", *parts]
    ran = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=600)
    assert ran.returncode == 0, ran.stderr
    text = out.read_text(encoding="utf-8")
    assert str(folder) not in text and str(ROOT) not in text and "/tmp" not in text
    document = json.loads(text)
    assert document.keys() >= {"date", "device", "python", "ray", "optuna", "mlflow", "size"}
    lines = [[cell.strip() for cell in line.split(" | ")] for line in ran.stdout.splitlines()]
    assert lines[0] == ["what", "measured", "aim"]
    assert [line[0] for line in lines[1:]] == [found["what"].strip() for found in document["findings"]]
    findings = {found["what"]: found for found in document["findings"]}
    assert len(findings) == len(document["findings"]), "two lines with one name"
    assert all(math.isfinite(found["measured"]) for found in findings.values())
    return findings


def test_plans_and_attempts(tmp_path: Path) -> None:
    """That all stages of the second plan are cached is the benchmark's own condition."""
    found = measure(tmp_path, "plan", "replan", "inline")
    assert list(found) == [
        "plan of 8 trials",
        "  libraries it loads, of torch, ray, mlflow",
        "plan of 20 stages, all cached",
        "overhead of an attempt on inline, of 2",
    ]
    assert found["  libraries it loads, of torch, ray, mlflow"]["measured"] == 0
    assert found["plan of 8 trials"]["samples"] == [found["plan of 8 trials"]["measured"]]


@pytest.mark.nightly
@pytest.mark.skipif(local_cpus() < SLOTS, reason="two slots need two CPUs")
def test_slots_and_drivers(tmp_path: Path) -> None:
    """That every stage has its result, or is cached or done, is the benchmark's own condition."""
    found = measure(tmp_path, "blocks", "drivers")
    whole = "2 one-second stages on 2 slots, 1 whole commands: "
    seconds = {way: found[whole + way]["measured"] for way in ("our driver on Ray", "plain Ray Tune")}
    assert min(seconds.values()) > 1.0
    ratio = found[whole + "ours / plain Ray Tune"]["measured"]
    assert ratio == pytest.approx(seconds["our driver on Ray"] / seconds["plain Ray Tune"])
    for state in ("cached", "pending"):
        held = [found[f"driver of {num} {state} stages: memory at most"]["measured"] for num in (20, 40)]
        each = found[f"driver, each further {state} stage: memory"]["measured"]
        assert each == pytest.approx((held[1] - held[0]) * 1000 / 20)
    assert found["driver of 40 pending stages: CPU time of each look, ten a second"]["measured"] > 0


@pytest.mark.parametrize(
    ("measured", "below", "met", "aim"),
    [(1.29, 1.3, True, "1.3 s"), (1.31, 1.3, False, "1.3 s MISSED"), (9.0, None, None, "")],
)
def test_a_missed_aim_is_told(measured: float, below: float | None, met: bool | None, aim: str) -> None:
    finding = Finding(what="a plan", measured=measured, unit="s", below=below)
    assert (finding.met, finding.line()[2]) == (met, aim)


def test_the_full_sizes_are_those_of_the_aims() -> None:
    assert (FULL.trials, FULL.cached, FULL.blocks * FULL.stages_of_a_block, max(FULL.drivers)) == (
        200,
        1000,
        200,
        10000,
    )
    asked = request(Path("none"), 2 * STAGES_OF_A_SEED)
    stages = {stage.fingerprint for trial in asked.trials(*asked.read(), Path("none")) for stage in trial.stages}
    assert len(stages) == 40
    with pytest.raises(ValueError, match="num_stages must be a multiple of 20, got 30"):
        request(Path("none"), 30)
