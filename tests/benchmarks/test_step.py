"""The benchmark runs where only the model's libraries are, and tells what it measured."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.benchmarks.rows import ROWS, SIZES
from tests.benchmarks.step import chosen_rows, forward_macs, weights_of

ROOT = Path(__file__).resolve().parents[2]
ABSENT = ("experiments", "reports", "ray", "mlflow", "pydantic", "ruamel", "av", "typer", "beartype")
"""What the benchmark machine may lack."""


@pytest.fixture(scope="module")
def told(tmp_path_factory) -> dict:
    out = tmp_path_factory.mktemp("bench") / "step.json"
    code = f"""
import sys
for name in {ABSENT!r}:
    sys.modules[name] = None  # an import of it raises
from tests.benchmarks.step import main
main(["--rows", "4:10%", "6:4→2", "--repeats", "1", "--batch", "8", "--out", {str(out)!r}])
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=300)
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout) == json.loads(out.read_text(encoding="utf-8"))
    return json.loads(ran.stdout)


def test_it_tells_rows_and_their_steps(told):
    rows = {(row["table"], row["row"]): row for row in told["rows"]}
    assert list(rows) == [("4", "10%"), ("4", "50%"), ("6", "4→2")]
    assert [case["samples"] for case in told["cases"]] == [8, 8, 2]
    assert rows["6", "4→2"]["cases"] == [case["case"] for case in told["cases"][1:]]
    assert rows["4", "50%"]["measured_ratio"] == rows["4", "50%"]["closed_form_ratio"] == 1.0
    assert rows["4", "10%"]["published_ratio"] == round(70.8 / 50.4, 3)


def test_ratios_and_rates_follow_from_the_times(told):
    ten, default, clips = told["cases"]
    rows = {row["row"]: row for row in told["rows"]}
    seconds = {case["case"]: case["ms_per_step"] / case["samples"] for case in told["cases"]}
    assert rows["10%"]["measured_ratio"] == pytest.approx(seconds[ten["case"]] / seconds[default["case"]], abs=2e-3)
    both = 54.4 * seconds[default["case"]] + 12.45 * seconds[clips["case"]]
    assert rows["4→2"]["measured_ratio"] == pytest.approx(both / (54.4 * seconds[default["case"]]), abs=2e-3)
    for case in told["cases"]:
        flops = 6e6 * case["forward_mmac"] * case["samples"] / (case["ms_per_step"] / 1000)
        assert case["tflops"] == pytest.approx(flops / 1e12, abs=2e-4)
        assert case["share_of_matmul"] == pytest.approx(case["tflops"] / told["matmul_tflops"], rel=0.02)


def test_the_closed_form_of_the_mask_ratios_at_the_tiny_scale():
    ten, default = (ROWS["4", row].stages(SIZES["tiny"])[0][0] for row in ("10%", "50%"))
    assert forward_macs(ten, SIZES["tiny"]) / forward_macs(default, SIZES["tiny"]) == pytest.approx(1.27, abs=0.005)


def test_cases_share_a_model_where_their_weights_have_the_same_shapes():
    cases = list(dict.fromkeys(case for row in ROWS.values() for case, _ in row.stages(SIZES["paper"])))
    assert (len(cases), len({weights_of(case) for case in cases})) == (20, 10)


def test_an_unknown_row_is_refused_with_those_there_are():
    assert chosen_rows([]) == list(ROWS)
    with pytest.raises(SystemExit, match="--rows 12: is unknown; expected some of 4, 5, 6, 7, 8, 11, 4:10%"):
        chosen_rows(["12"])
