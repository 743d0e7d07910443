"""Shares of hours by hand, and of a step against the counts of docs/model.md."""

from dataclasses import replace

import pytest

from experiments.config.scale import load_scale
from experiments.planning.model_summary import pretraining_step
from experiments.stages.workload import vocabulary_size
from reports.analysis.build_tables import build_tables
from reports.figures.shares import hours_by_use, hours_figures, step_figure
from reports.paper.tables import load_published
from smaug_core.cost.flops import published_accounting, step_cost, step_of
from tests.reports.rows import made_ranks, row
from tests.reports.stage_rows import stage

STAGES = {
    "p": stage("p", hours={"useful": 0.5, "lost": 0.1, "overhead": 0.02}),
    "v": stage("v", "pretrain_video", hours={"useful": 0.25, "lost": 0.0, "overhead": 0.01}),
    "f": stage("f", "finetune", hours={"useful": 0.125, "lost": 0.05, "overhead": 0.01}),
    "e": stage("e", "evaluate", hours={"useful": 0.0, "lost": 0.03, "overhead": 0.0625}),
}
RUNS = {"pretrain": "p", "pretrain_video": "v", "finetune.msrvtt": "f", "evaluate.msrvtt": "e"}
TRIAL = row("50%", hours=0.02, r1=20.0, stage_runs=RUNS)


def figures(*trials, stages=STAGES):
    (table,) = (t for t in build_tables(load_published(), trials, made_ranks) if t.name == "4")
    return list(hours_figures(table, stages))


def test_hours_by_use_by_hand():
    assert hours_by_use(TRIAL, STAGES) == pytest.approx(
        {
            "pre-training, single frames": 0.5,
            "pre-training, several frames": 0.25,
            "fine-tuning": 0.125,
            "evaluation": 0.0625,
            "overhead": 0.04,
            "lost": 0.18,
        }
    )
    everything = sum(sum(one.hours.values()) for one in STAGES.values())
    assert sum(hours_by_use(TRIAL, STAGES).values()) == pytest.approx(everything)


def test_the_figure_has_every_use_and_the_sum():
    (shown,) = figures(TRIAL)
    assert shown.name == "hours-4-tiny-cpu"
    assert shown.data.rows == (("50%", "0.500", "0.250", "0.125", "0.0625", "0.0400", "0.180", "1.16"),)
    assert "as if each row had been trained alone" in shown.caption and "Nothing was lost" not in shown.caption
    assert ">lost<" in shown.svg and ">1.16<" in shown.svg


def test_what_no_row_spent_is_left_out():
    stages = {run: replace(one, hours=one.hours | {"lost": 0.0}) for run, one in STAGES.items()}
    (shown,) = figures(TRIAL, stages=stages)
    assert "lost (CPU h)" not in shown.data.header and "Nothing was lost." in shown.caption


def test_seeds_are_averaged():
    second = STAGES | {"p2": stage("p2", hours={"useful": 0.7, "lost": 0.1, "overhead": 0.02})}
    other = replace(TRIAL, seed="1", run_id="other", stage_runs=RUNS | {"pretrain": "p2"})
    (shown,) = figures(TRIAL, other, stages=second)
    assert shown.data.rows[0][1] == "0.600" and "Seeds are averaged." in shown.caption


def test_units_are_never_mixed():
    gpu = {run + "g": replace(one, unit="H200 GPU h", device="H200") for run, one in STAGES.items()}
    other = row("10%", hours=0.01, r1=20.0, stage_runs={name: run + "g" for name, run in RUNS.items()})
    mixed = row("25%", hours=0.01, r1=20.0, stage_runs=RUNS | {"evaluate.msrvtt": "eg"})
    shown = figures(TRIAL, other, mixed, stages=STAGES | gpu)
    assert {one.name: [cells[0] for cells in one.data.rows] for one in shown} == {
        "hours-4-tiny-h200": ["10%"],
        "hours-4-tiny-cpu": ["50%"],
    }
    assert all("25% (in several units: CPU h, H200 GPU h)" in one.caption for one in shown)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"stage_runs": RUNS | {"pretrain": "gone"}}, "the ledger does not have all its stages"),
        ({"status": "KILLED"}, "unfinished"),
        ({"stage_runs": {}}, "the ledger names no stage of it"),
    ],
)
def test_a_row_without_a_bar_is_told(changes, why):
    other = replace(TRIAL, variant="10%", run_id="other", **changes)
    (shown,) = figures(TRIAL, other)
    assert f"Not drawn: 10% ({why})." in shown.caption
    assert [cells[0] for cells in shown.data.rows] == ["50%"]
    (alone,) = figures(other)
    assert f"10% ({why})" in alone.caption and "No row's hours are known." in alone.svg.replace("’", "'")


def test_a_table_that_nobody_measured_has_no_hours():
    assert figures() == []


def test_the_papers_step_has_the_counts_of_the_model_document():
    base = load_scale("paper").base_config()
    shape = step_of(base.pretrain, vocabulary_size(base.model.tokenizer))
    shown = step_figure({"paper": pretraining_step(load_scale("paper"))})
    assert shown is not None
    gmac = {cells[1]: float(cells[2]) for cells in shown.data.rows}
    written = {"vision encoder": 6.65, "decoder": 1.57, "text encoder": 4.11, "fusion encoder": 3.99}
    assert {name: gmac[name] for name in written} == written
    assert gmac["word head (MLM)"] == pytest.approx(0.10, abs=0.005)
    assert sum(float(cells[3]) for cells in shown.data.rows) == pytest.approx(100, abs=0.3)
    assert "not measured time" in shown.caption and ">16.4 GMAC<" in shown.svg
    counted = step_figure({"paper": step_cost(*published_accounting(base.model, shape))})
    assert counted is not None
    (head,) = (float(cells[2]) for cells in counted.data.rows if cells[1] == "word head (MLM)")
    assert head == pytest.approx(0.77, abs=0.005)


def test_no_steps_no_figure():
    assert step_figure({}) is None
