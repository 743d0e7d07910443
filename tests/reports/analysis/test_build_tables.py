"""Published and measured numbers are joined as they would be by hand."""

import pytest

from reports.analysis.build_tables import build_tables
from reports.paper.tables import load_published
from tests.reports.rows import evaluation, made_ranks, row

PUBLISHED = load_published()
ONLY_4 = {"4": PUBLISHED["4"]}


def cell(table, name, slot):
    return table.rows[name][[column.slot for column in table.columns].index(slot)]


def test_without_trials_a_table_has_published_numbers_alone():
    tables = build_tables(PUBLISHED, [], made_ranks)
    assert [table.name for table in tables] == [str(number) for number in range(1, 12)]
    found = cell(tables[3], "10%", "pretrain.hours")
    assert (found.published, found.measured, found.runs, found.marks) == (70.8, None, (), ())
    assert found.published_ratio == pytest.approx(70.8 / 50.4)


def test_a_measured_cell_compares_with_the_baseline_row():
    (table,) = build_tables(ONLY_4, [row("50%", hours=0.02, r1=20.0), row("10%", hours=0.03, r1=21.5)], made_ranks)
    hours, r1 = cell(table, "10%", "pretrain.hours"), cell(table, "10%", "msrvtt.t2v.r1")
    assert (hours.measured, hours.ratio, hours.unit) == (0.03, pytest.approx(1.5), "CPU h")
    assert hours.delta == pytest.approx(0.01)
    assert (r1.published, r1.measured, r1.delta, r1.n_seeds, r1.n_queries) == (40.5, 21.5, 1.5, 1, 1000)
    assert (r1.dataset, r1.scale) == ("moving_shapes/sentence, in the place of MSRVTT", "tiny")
    assert [run.run_id for run in r1.runs] == ["run-10%-0"]
    assert cell(table, "50%", "msrvtt.t2v.r1").delta is None
    assert cell(table, "25%", "msrvtt.t2v.r1").measured is None


def test_seeds_are_averaged_and_compared_seed_by_seed():
    base = [row("50%", hours=0.02, r1=20.0, seed="0"), row("50%", hours=0.02, r1=30.0, seed="1")]
    other = [row("10%", hours=0.02, r1=34.0, seed="1"), row("10%", hours=0.04, r1=90.0, seed="2")]
    (table,) = build_tables(ONLY_4, base + other, made_ranks)
    found = cell(table, "10%", "msrvtt.t2v.r1")
    assert (found.measured, found.n_seeds) == (62.0, 2)
    assert found.delta == 4.0  # seed 1 alone has both
    assert cell(table, "10%", "pretrain.hours").ratio == pytest.approx(1.5)


def test_hours_on_another_device_are_marked_and_get_no_ratio():
    trials = [row("50%", hours=0.02, r1=20.0), row("10%", hours=0.001, r1=21.0, device="H200", unit="H200 GPU h")]
    (table,) = build_tables(ONLY_4, trials, made_ranks)
    hours, r1 = cell(table, "10%", "pretrain.hours"), cell(table, "10%", "msrvtt.t2v.r1")
    assert (hours.marks, hours.ratio, hours.delta, hours.unit) == (("other device",), None, None, "H200 GPU h")
    assert (r1.marks, r1.delta) == ((), 1.0)


@pytest.mark.parametrize("recomputed", ["10%", "50%"])
def test_hours_of_layers_computed_again_compare_only_with_their_like(recomputed):
    marks = {name: ("layers recomputed",) if name == recomputed else () for name in ("10%", "50%")}
    trials = [row(name, hours=0.02, r1=20.0, marks=marks[name]) for name in marks]
    (table,) = build_tables(ONLY_4, trials, made_ranks)
    hours, r1 = cell(table, "10%", "pretrain.hours"), cell(table, "10%", "msrvtt.t2v.r1")
    assert (hours.ratio, hours.delta) == (None, None) and "other steps" in hours.marks
    assert (r1.delta, r1.marks) == (0.0, ()), "the numbers are the same"
    both = [row(name, hours=0.02, r1=20.0, marks=("layers recomputed",)) for name in marks]
    (table,) = build_tables(ONLY_4, both, made_ranks)
    assert cell(table, "10%", "pretrain.hours").ratio == pytest.approx(1.0)


@pytest.mark.parametrize("starved", ["10%", "50%"])
def test_hours_of_a_training_that_waited_for_data_have_no_ratio(starved):
    trials = [
        row(name, hours=0.02, r1=20.0, marks=("waited for data",) if name == starved else ()) for name in ("10%", "50%")
    ]
    (table,) = build_tables(ONLY_4, trials, made_ranks)
    hours, r1 = cell(table, "10%", "pretrain.hours"), cell(table, "10%", "msrvtt.t2v.r1")
    assert hours.ratio is None and hours.marks == ("waited for data",)
    assert (r1.delta, r1.marks) == (0.0, ())


def test_a_baseline_row_on_several_devices_gives_no_ratio_to_others():
    base = [row("50%", hours=0.02, r1=20.0), row("50%", hours=0.03, r1=20.0, seed="1", device="Epyc")]
    (table,) = build_tables(ONLY_4, [*base, row("10%", hours=0.02, r1=20.0)], made_ranks)
    assert cell(table, "50%", "pretrain.hours").marks == ("several devices",)
    assert cell(table, "10%", "pretrain.hours").ratio is None


def test_hours_in_several_units_have_no_mean():
    trials = [
        row("10%", hours=0.02, r1=20.0),
        row("10%", hours=0.02, r1=20.0, seed="1", device="H200", unit="H200 GPU h"),
    ]
    (table,) = build_tables(ONLY_4, trials, made_ranks)
    hours = cell(table, "10%", "pretrain.hours")
    assert (hours.measured, hours.marks) == (None, ("several devices",))


def test_another_test_set_other_code_and_unfinished_rows_are_marked():
    trials = [
        row("50%", hours=0.02, r1=20.0),
        row("10%", hours=0.02, r1=21.0, evaluations={"msrvtt": evaluation(test_digest="bbbb")}),
        row("25%", hours=0.02, r1=22.0, code="0ther", marks=("stale code accepted",)),
        row("65%", hours=0.02),
    ]
    (table,) = build_tables(ONLY_4, trials, made_ranks)
    assert cell(table, "10%", "msrvtt.t2v.r1").marks == ("other test set",)
    assert cell(table, "10%", "msrvtt.t2v.r1").delta is None
    assert cell(table, "25%", "msrvtt.t2v.r1").marks == ("stale code accepted", "other code")
    assert cell(table, "65%", "pretrain.hours").measured == 0.02
    assert cell(table, "65%", "msrvtt.t2v.r1").marks == ("unfinished",)


def test_a_row_that_finishes_before_the_baseline_is_not_flagged():
    begun = row("50%", hours=0.02, code="digest of no result yet")
    (table,) = build_tables(ONLY_4, [begun, row("10%", hours=0.02, r1=21.0)], made_ranks)
    found = cell(table, "10%", "msrvtt.t2v.r1")
    assert (found.measured, found.marks, found.faults, found.delta) == (21.0, (), (), None)
    assert cell(table, "10%", "pretrain.hours").marks == ()


def test_every_scale_has_its_own_table():
    trials = [row("50%", hours=0.02, r1=20.0), row("50%", hours=50.0, r1=39.0, scale="paper")]
    tables = build_tables(ONLY_4, trials, made_ranks)
    assert [(table.scale, cell(table, "50%", "msrvtt.t2v.r1").measured) for table in tables] == [
        ("paper", 39.0),
        ("tiny", 20.0),
    ]


def test_rows_and_sweeps_that_the_paper_lacks_come_last():
    trials = [row("30%", hours=0.02, r1=20.0), row("a", hours=0.02, r1=20.0, sweep="mine", table=None, title="Mine")]
    tables = build_tables(ONLY_4, trials, made_ranks)
    assert list(tables[0].rows) == ["10%", "25%", "50%", "65%", "30%"]
    assert (tables[1].name, tables[1].title, list(tables[1].rows)) == ("mine", "Mine", ["a"])


def test_a_column_that_is_still_to_come_is_no_error():
    (table,) = build_tables(ONLY_4, [row("50%", hours=0.02)], made_ranks)
    assert cell(table, "50%", "msrvtt.t2v.r1").measured is None


def test_rows_that_another_table_repeats_are_measured_by_its_runs():
    trial = row("Ours 5M, 1 frame", hours=0.02, r1=20.0, table="9", sweep="retrieval")
    other = row("Ours 5M, 4 frames", hours=0.02, r1=30.0, table="9", sweep="retrieval")
    first, *_, ninth = build_tables({n: PUBLISHED[n] for n in ("1", "9")}, [trial, other], made_ranks)
    assert cell(first, "Ours 5M", "msrvtt.t2v.r1").measured == 20.0
    assert cell(first, "Ours 5M", "msrvtt.t2v.r1").runs == cell(ninth, "Ours 5M, 1 frame", "msrvtt.t2v.r1").runs
    assert cell(first, "Ours 17M", "msrvtt.t2v.r1").measured is None
    assert list(first.rows) == list(PUBLISHED["1"].rows), "what Table 1 does not repeat stays out of it"


def test_words_stand_under_their_headers_with_the_papers_dash():
    first = build_tables(PUBLISHED, [], made_ranks)[0]
    assert first.texts["AVLNet"] == {"PT Datasets": "HT100M", "#Frame": "-"}
    assert "HERO" in first.cited and "Ours 5M" not in first.cited
    assert ["cannot be determined" in told for told in first.cannot_tell] == [True, True]
