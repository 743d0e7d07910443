"""What counts for a cell, what spoils it, and how sure it is."""

import numpy as np
import pytest

from experiments.tracking.reader import DamagedRun
from reports.analysis.build_tables import build_tables
from reports.analysis.samples import RankBook, collect, has_ranks, over_seeds, scores_of
from reports.paper.tables import load_published
from tests.reports.rows import evaluation, made_ranks, no_ranks, ranks_by_run, row

SLOT = "msrvtt.t2v.r1"
ONLY_4 = {"4": load_published()["4"]}


def collected(trials, read=made_ranks, slot=SLOT):
    return collect(slot, slot, trials, RankBook(read))


def only_table(trials, read=made_ranks):
    (table,) = build_tables(ONLY_4, trials, read)
    return table


def test_recall_counts_ranks_up_to_k_and_a_median_rank_counts_the_ranks():
    ranks = RankBook(lambda *_: {"b": 4, "a": 1, "c": 6}).ranks(row("50%"), "x")
    assert scores_of("x.t2v.r1", ranks).values.tolist() == [100.0, 0.0, 0.0]
    assert scores_of("x.t2v.r5", ranks).values.tolist() == [100.0, 100.0, 0.0]
    assert scores_of("x.t2v.r10", ranks).summary == 100.0
    assert scores_of("x.t2v.r5", ranks).queries == ("a", "b", "c")
    assert scores_of("x.t2v.median_rank", ranks).summary == 4.0


@pytest.mark.parametrize(
    ("slot", "expected"),
    [
        ("msrvtt.t2v.r1", True),
        ("msrvtt.t2v.median_rank", True),
        ("msrvtt.v2t.r1", False),
        ("msrvtt.match_contrast.t2v.r1", False),
        ("pretrain.hours", False),
        ("msrvtt_qa.accuracy", False),
    ],
)
def test_columns_that_ranks_can_make(slot, expected):
    assert has_ranks(slot) is expected


def test_seeds_of_fine_tuning_are_averaged_within_those_of_pre_training():
    trials = [
        row("50%", hours=1.0, r1=10.0, seed="0"),
        row("50%", hours=1.0, r1=20.0, seed="0/1"),
        row("50%", hours=1.0, r1=40.0, seed="1"),
    ]
    samples, faults = collected(trials)
    assert faults == [] and samples.means() == {"0": 15.0, "1": 40.0}
    assert samples.mean() == 27.5
    assert samples.by_query().mean() == pytest.approx(27.5)


def test_an_interval_over_queries_holds_for_one_seed_and_for_two():
    one = only_table([row("50%", hours=1.0, r1=40.0)]).cell("50%", SLOT).interval
    assert one.kind == "queries" and (one.low, one.high) == pytest.approx((37.0, 43.0), abs=0.3)
    two = only_table([row("50%", hours=1.0, r1=r1, seed=seed) for seed, r1 in (("0", 40.0), ("1", 50.0))])
    assert two.cell("50%", SLOT).interval.kind == "queries"


def test_three_seeds_of_pre_training_have_students_interval_hours_too():
    trials = [row("50%", hours=h, r1=r1, seed=s) for s, r1, h in (("0", 40.0, 1.0), ("1", 41.0, 2.0), ("2", 42.0, 3.0))]
    table = only_table(trials)
    interval = table.cell("50%", SLOT).interval
    assert interval.kind == "full seeds"
    assert (interval.low, interval.high) == pytest.approx((41 - 2.4841, 41 + 2.4841), abs=1e-3)
    assert table.cell("50%", "pretrain.hours").interval.kind == "full seeds"


def test_three_seeds_of_fine_tuning_alone_say_so():
    trials = [row("50%", hours=1.0, r1=r1, seed=s) for s, r1 in (("0", 40.0), ("0/1", 41.0), ("0/2", 42.0))]
    table = only_table(trials)
    assert table.cell("50%", SLOT).interval.kind == "fine-tuning seeds"
    assert over_seeds({("0", "0"): 1.0, ("1", "0"): 2.0}) is None


def test_one_seed_of_hours_has_no_interval():
    assert only_table([row("50%", hours=1.0, r1=40.0)]).cell("50%", "pretrain.hours").interval is None


def test_the_test_is_over_the_queries_of_both_rows_by_hand():
    # Of 8 queries six change, all for the better: p = 2 / 2^6.
    ranks = {"run-50%-0": [1] * 2 + [9] * 6, "run-10%-0": [1] * 8}
    trials = [row("50%", hours=1.0, r1=25.0), row("10%", hours=1.0, r1=100.0)]
    for trial in trials:
        trial.metrics.update({"msrvtt.t2v.r5": trial.metrics[SLOT], "msrvtt.t2v.r10": 100.0})
    cell = only_table(trials, ranks_by_run(ranks)).cell("10%", SLOT)
    assert cell.p_raw == pytest.approx(2 / 2**6, abs=0.006) and cell.p == cell.p_raw
    assert cell.delta == 75.0 and cell.delta_interval.kind == "queries"
    assert (cell.delta_interval.low, cell.delta_interval.high) == pytest.approx((37.5, 100.0), abs=13)


def test_holm_runs_over_the_rows_of_a_column_and_hours_have_no_p():
    trials = [row("50%", hours=1.0, r1=40.0), row("10%", hours=1.0, r1=40.8), row("25%", hours=1.0, r1=41.5)]
    table = only_table(trials)
    first, second = table.cell("10%", SLOT), table.cell("25%", SLOT)
    assert second.p == pytest.approx(2 * second.p_raw) and first.p == pytest.approx(max(first.p_raw, second.p))
    assert table.cell("10%", "pretrain.hours").p_raw is None
    assert table.cell("50%", SLOT).p_raw is None


def test_a_difference_over_three_shared_seeds_is_paired_by_seed():
    trials = []
    for seed, base, gain in (("0", 40.0, 2.0), ("1", 30.0, 2.1), ("2", 20.0, 1.9)):
        trials += [row("50%", hours=1.0, r1=base, seed=seed), row("10%", hours=1.0, r1=base + gain, seed=seed)]
    cell = only_table(trials).cell("10%", SLOT)
    assert cell.delta == pytest.approx(2.0) and cell.delta_interval.kind == "full seeds"
    assert cell.delta_interval.high - cell.delta_interval.low == pytest.approx(2 * 0.24841, abs=1e-4)
    assert cell.interval.high - cell.interval.low > 20, "the seeds themselves differ much"


def test_a_run_without_the_metric_spoils_the_mean_and_says_what_it_has():
    trials = [row("50%", hours=1.0, r1=40.0), row("50%", hours=1.0, r1=60.0, seed="1")]
    ranks = {trial.run_id: list(made_ranks(trial, "msrvtt").values()) for trial in trials}
    trials[1].metrics["msrvtt.t2v.R1"] = trials[1].metrics.pop(SLOT)
    table = only_table(trials, ranks_by_run(ranks))
    cell = table.cell("50%", SLOT)
    assert cell.measured is None
    (fault,) = table.faults()
    assert str(fault).startswith("table 4 (scale tiny), row 50%, msrvtt.t2v.r1: run run-50%-1 is finished and has no")
    assert "msrvtt.t2v.R1" in fault.what


def test_a_run_that_is_not_finished_is_no_fault():
    table = only_table([row("50%", hours=1.0)])
    assert table.faults() == [] and table.cell("50%", SLOT).marks == ("unfinished",)


def test_two_current_runs_of_one_seed_give_no_number_and_are_both_named():
    trials = [row("50%", hours=1.0, r1=40.0), row("50%", hours=1.0, r1=60.0, run_id="another")]
    cell = only_table(trials).cell("50%", SLOT)
    assert cell.measured is None
    assert "runs run-50%-0 and another both claim seed 0; delete one, or tag it smaug.superseded_by" in cell.faults[0]


def test_without_ranks_the_value_stays_and_the_interval_is_told_to_be_missing():
    table = only_table([row("50%", hours=1.0, r1=40.0), row("10%", hours=1.0, r1=41.0)], no_ranks)
    cell = table.cell("10%", SLOT)
    assert (cell.measured, cell.delta, cell.p, cell.interval) == (41.0, 1.0, None, None)
    assert "no interval and no test: run run-10%-0 must hold ranks/msrvtt.json" in cell.faults[0]


def test_ranks_that_make_another_number_than_the_metric_are_never_shown():
    ranks = {"run-50%-0": [1, 1, 9, 9]}
    samples, faults = collected([row("50%", hours=1.0, r1=40.0)], ranks_by_run(ranks))
    assert samples is None
    assert faults == ["run run-50%-0: its metric msrvtt.t2v.r1 says 40, its ranks make 50"]


def test_seeds_that_were_asked_different_questions_have_no_mean():
    other = row("50%", hours=1.0, r1=60.0, seed="1", evaluations={"msrvtt": evaluation(test_digest="bbbb")})
    samples, faults = collected([row("50%", hours=1.0, r1=40.0), other])
    assert samples is None and "evaluated on different test sets: run-50%-0, run-50%-1" in faults[0]


def test_another_test_set_than_the_baseline_is_a_fault_without_a_comparison():
    other = row("10%", hours=1.0, r1=41.0, evaluations={"msrvtt": evaluation(test_digest="bbbb")})
    table = only_table([row("50%", hours=1.0, r1=40.0), other])
    cell = table.cell("10%", SLOT)
    assert (cell.measured, cell.delta, cell.p) == (41.0, None, None)
    assert "other test set" in cell.marks and len(table.faults()) == 3  # R@1, R@5, R@10


def test_different_queries_under_one_digest_are_told():
    ranks = {"run-50%-0": [1, 9], "run-50%-1": [1, 1, 9, 9]}
    trials = [row("50%", hours=1.0, r1=50.0), row("50%", hours=1.0, r1=50.0, seed="1")]
    samples, faults = collected(trials, ranks_by_run(ranks))
    assert samples is None and "ranked different queries" in faults[0]


def test_hours_that_were_never_added_up_are_marked_not_faulty():
    trial = row("50%", hours=1.0, r1=40.0, marks=("several devices",))
    del trial.metrics["row_hours.pretrain"]
    table = only_table([trial])
    assert table.faults() == []
    assert table.cell("50%", "pretrain.hours").marks == ("several devices",)
    assert table.cell("50%", SLOT).marks == (), "what was learnt does not depend on it"


def test_medians_over_seeds_are_resampled_query_by_query():
    ranks = {"run-50%-0": [1, 2, 3], "run-50%-1": [1, 4, 9]}
    slot = "msrvtt.t2v.median_rank"
    trials = [row("50%", hours=1.0, r1=33.0, seed=seed) for seed in ("0", "1")]
    for trial, median in zip(trials, (2.0, 4.0), strict=True):
        trial.metrics[slot] = median
    samples, faults = collected(trials, ranks_by_run(ranks), slot)
    assert faults == [] and samples.mean() == 3.0
    low, high = samples.over_queries()
    assert (low, high) == (1.0, 6.0)
    assert np.isfinite([low, high]).all()


def test_seeds_that_all_agree_have_no_interval_of_their_own():
    trials = [row("50%", hours=1.0, r1=40.0, seed=seed) for seed in ("0", "1", "2")]
    table = only_table(trials)
    assert table.cell("50%", SLOT).interval.kind == "queries"
    assert table.cell("50%", "pretrain.hours").interval is None


@pytest.mark.parametrize(
    ("metric", "value"),
    [(SLOT, float("nan")), (SLOT, -1.0), (SLOT, 100.5), ("row_hours.pretrain", 0.0), ("row_hours.pretrain", -1.0)],
)
def test_a_number_that_cannot_have_been_measured_is_never_shown(metric, value):
    trials = [row("50%", hours=1.0, r1=40.0), row("10%", hours=1.0, r1=41.0)]
    ranks = {trial.run_id: list(made_ranks(trial, "msrvtt").values()) for trial in trials}
    trials[0].metrics[metric] = value
    table = only_table(trials, ranks_by_run(ranks))
    slot = "pretrain.hours" if "hours" in metric else SLOT
    assert table.cell("50%", slot).measured is None
    assert f"run run-50%-0: its metric {metric} is {value:g}, which cannot have been measured" in table.faults()[0].what
    other = table.cell("10%", slot)
    assert other.measured is not None and (other.delta, other.ratio, other.p) == (None, None, None)


def test_a_baseline_that_is_no_row_is_told():
    table = only_table([row("50%", hours=1.0, r1=40.0, baseline="51%")])
    (fault,) = table.faults()
    assert "its runs name the baseline row '51%', which it has not" in str(fault)
    assert table.cell("50%", SLOT).measured == 40.0


def test_rows_without_a_common_seed_say_why_they_do_not_compare():
    table = only_table([row("50%", hours=1.0, r1=40.0), row("10%", hours=1.0, r1=41.0, seed="7")])
    cell = table.cell("10%", SLOT)
    assert (cell.measured, cell.delta) == (41.0, None)
    assert "has no seed in common with the baseline row" in cell.faults[0]


def test_other_queries_under_one_digest_are_a_fault():
    ranks = {"run-50%-0": [1, 9], "run-10%-0": [1, 1, 9, 9]}
    trials = [row("50%", hours=1.0, r1=50.0), row("10%", hours=1.0, r1=50.0)]
    for trial in trials:
        trial.metrics.update({"msrvtt.t2v.r5": 50.0, "msrvtt.t2v.r10": 100.0})
    cell = only_table(trials, ranks_by_run(ranks)).cell("10%", SLOT)
    assert cell.p is None and "ranked other queries than the baseline row" in cell.faults[0]


def test_a_damaged_run_takes_its_row_s_numbers_not_the_table():
    broken = DamagedRun(
        run_id="broken",
        tags={"table": "4", "sweep": "masking_ratio", "scale": "tiny", "variant": "10%"},
        what="its tag smaug.columns is missing",
    )
    trials = [row("50%", hours=1.0, r1=40.0), row("10%", hours=1.0, r1=41.0, seed="1")]
    (table,) = build_tables(ONLY_4, trials, made_ranks, damaged=[broken])
    assert table.cell("10%", SLOT).measured is None and table.cell("50%", SLOT).measured == 40.0
    assert "run broken cannot be read: its tag smaug.columns is missing" in str(table.faults()[0])
    elsewhere = DamagedRun(run_id="broken", tags={**broken.tags, "scale": "paper"}, what="x")
    (table,) = build_tables(ONLY_4, trials, made_ranks, damaged=[elsewhere])
    assert table.cell("10%", SLOT).measured == 41.0
