"""Several sweep files asked for together."""

from pathlib import Path

import pytest

from experiments.config.yaml_source import SweepError
from experiments.planning.request import Request

SWEEPS = Path(__file__).parents[3] / "sweeps"


def request(tmp_path: Path, *names: str, **options) -> Request:
    return Request(files=[SWEEPS / f"{name}.yaml" for name in names], scale="tiny", home=tmp_path, **options)


def test_trials_come_sweep_by_sweep_and_share_their_stages(tmp_path):
    plan, _ = request(tmp_path, "masking_ratio", "keeping_rate").plan(None, None)
    assert [trial.variant for trial in plan.trials] == ["10%", "25%", "50%", "65%", "0.6", "0.7", "0.8", "0.9"]
    assert len(plan.stages) == 21, "the default row is one and the same"


def test_only_takes_rows_of_whichever_sweep_has_them(tmp_path):
    asked = request(tmp_path, "masking_ratio", "keeping_rate", only=["50%", "0.6"])
    plan, _ = asked.plan(None, None)
    assert [(trial.sweep.name, trial.variant) for trial in plan.trials] == [
        ("masking_ratio", "50%"),
        ("keeping_rate", "0.6"),
    ]
    with pytest.raises(SweepError, match=r"--only 0.66: variant '0.66' is unknown; did you mean '0.6'"):
        request(tmp_path, "masking_ratio", "keeping_rate", only=["0.66"]).plan(None, None)


def test_every_fault_of_every_file_is_told_at_once(tmp_path):
    for name in ("one", "two"):
        text = (SWEEPS / "masking_ratio.yaml").read_text().replace("baseline", f"base_{name}")
        (tmp_path / f"{name}.yaml").write_text(text)
    with pytest.raises(SweepError) as caught:
        Request(files=[tmp_path / "one.yaml", tmp_path / "two.yaml"], scale="tiny", home=tmp_path).read()
    assert "one.yaml" in str(caught.value) and "two.yaml" in str(caught.value)


def test_a_sweep_is_given_once(tmp_path):
    with pytest.raises(SweepError, match="two of the files hold a sweep 'masking_ratio'; give each sweep once"):
        request(tmp_path, "masking_ratio", "masking_ratio").read()


def test_the_budgets_add_up_and_the_command_line_replaces_them(tmp_path):
    assert request(tmp_path, "masking_ratio", "frame_selection").plan(None, None)[1] == 2 + 4
    assert request(tmp_path, "masking_ratio", max_hours=0.5).plan(None, None)[1] == 0.5
    own = tmp_path / "own.yaml"
    own.write_text((SWEEPS / "keeping_rate.yaml").read_text().replace("budget: {tiny: 2}", "budget: {paper: 2}"))
    both = Request(files=[SWEEPS / "masking_ratio.yaml", own], scale="tiny", home=tmp_path)
    assert both.plan(None, None)[1] is None
