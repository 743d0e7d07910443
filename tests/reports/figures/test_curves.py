"""Training curves: which stages are drawn where, how they are thinned, and what is said of missing ones."""

from dataclasses import replace
from math import inf, nan
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.tracking.reader import TrialRow
from reports.analysis.build_tables import build_tables
from reports.figures.curves import curve_figures, groups_of, log_ticks, thinned
from reports.paper.tables import load_published
from tests.reports.rows import made_ranks, row
from tests.reports.stage_rows import stage

STAGES = {run: stage(run) for run in "abc"} | {"v": stage("v", "pretrain_video")}
FALLING = [(step, 4.0 / step) for step in range(1, 9)]


def trial(variant: str, run: str, **changes) -> TrialRow:
    return row(variant, hours=0.02, r1=20.0, stage_runs={"pretrain": run}, **changes)


def tables(*trials: TrialRow):
    return [t for t in build_tables(load_published(), trials, made_ranks) if t.trials]


def rate(variant: str, run: str, position: int) -> TrialRow:
    told = {"sweep": "keeping_rate", "table": "5", "row_label": "Keeping Rate", "baseline": "0.8"}
    return replace(trial(variant, run), run_id=f"rate-{variant}", position=position, **told)


def figures(trials, read=lambda stage, name: FALLING, stages=STAGES):
    return list(curve_figures(tables(*trials), stages, read))


def test_thinned_points_are_means_of_neighbours_at_the_last_step():
    assert thinned([(1, 1.0), (2, 3.0), (3, 5.0), (4, 9.0)], 2) == [(2, 2.0), (4, 7.0)]
    assert thinned([(1, 1.0), (2, 3.0)], 2) == [(1, 1.0), (2, 3.0)]
    assert thinned([], 2) == []


@given(st.lists(st.floats(0, 10), max_size=300), st.integers(1, 80))
def test_thinning_keeps_the_end_the_range_and_the_order(values, most):
    curve = list(enumerate(values))
    points = thinned(curve, most)
    assert len(points) == min(most, len(curve))
    if curve:
        assert points[-1][0] == curve[-1][0]
        assert min(values) - 1e-9 <= min(v for _, v in points) <= max(v for _, v in points) <= max(values) + 1e-9
    assert [s for s, _ in points] == sorted({s for s, _ in points})


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0.009, 11, [0.01, 0.1, 1, 10]),
        (0.8, 9, [1, 2, 5]),
        (0.29, 0.41, [0.3, 0.35, 0.4]),
        (0.055, 0.43, [0.1, 0.3]),
    ],
)
def test_ticks_by_hand(low, high, ticks):
    found = log_ticks(low, high)
    assert found == ticks or (len(found) >= 3 and set(ticks) <= set(found))


@given(st.floats(1e-3, 1e3), st.floats(1.3, 1e4))
def test_ticks_are_few_and_within(low, factor):
    ticks = log_ticks(low, low * factor)
    assert len(ticks) <= 8 and all(low <= tick <= low * factor for tick in ticks)


def test_a_shared_stage_is_one_line_for_its_rows():
    (shown,) = figures([trial("50%", "a"), trial("10%", "b"), trial("65%", "a")])
    assert {cells[0] for cells in shown.data.rows} == {"50%, 65%", "10%"}
    assert "Trained once for several rows: 50%, 65%." in shown.caption


def test_a_table_whose_stages_are_drawn_elsewhere_has_no_figure_of_its_own():
    masking = [trial("50%", "a"), trial("10%", "b")]
    (shown,) = figures([*masking, rate("0.8", "a", 2)])
    assert shown.title.startswith("Tables 4, 5, scale tiny")
    assert "Rows are named as in Table 4; those of 5 need no other stages." in shown.caption
    apart = figures([*masking, rate("0.8", "a", 2), rate("0.9", "c", 3)])
    assert [one.name for one in apart] == ["curves-4-tiny-pretrain", "curves-5-tiny-pretrain"]


def test_each_curve_is_read_once():
    asked = []

    def read(stage, name):
        asked.append((stage.run_id, name))
        return FALLING

    figures([trial("50%", "a"), trial("10%", "b"), rate("0.8", "a", 2), rate("0.9", "c", 3)], read)
    assert len(asked) == len(set(asked)) == 9  # three stages; loss, vtc, mlm


def test_single_and_several_frames_have_figures_of_their_own():
    both = replace(trial("50%", "a"), stage_runs={"pretrain": "a", "pretrain_video": "v"})
    assert [f.name for f in figures([both])] == ["curves-4-tiny-pretrain", "curves-4-tiny-pretrain_video"]


def test_a_stage_that_the_ledger_lacks_is_told():
    (shown,) = figures([trial("50%", "a"), trial("10%", "gone")])
    assert "Not drawn: row 10% (the ledger has no run of its stage)." in shown.caption
    assert {cells[0] for cells in shown.data.rows} == {"50%"}


def test_a_table_that_misses_a_stage_says_so_itself():
    found = figures([trial("50%", "a"), trial("10%", "b"), rate("0.8", "a", 2), rate("0.9", "gone", 3)])
    assert ["row 0.9 (the ledger has no run" in one.caption for one in found] == [False, True]


def test_a_stage_without_a_curve_is_told_and_nothing_looks_like_zero():
    (shown,) = figures([trial("50%", "a")], lambda stage, name: [])
    assert "Not drawn: row 50% (no loss that can be drawn was recorded of run a)." in shown.caption
    assert "No curve was recorded." in shown.svg and not shown.data.rows
    assert "{http://www.w3.org/2000/svg}path" not in {e.tag for e in ElementTree.fromstring(shown.svg).iter()}


def test_a_loss_that_is_no_number_is_told_and_the_rest_drawn():
    (shown,) = figures([trial("50%", "a")], lambda stage, name: [*FALLING, (9, nan), (10, inf)])
    assert "loss of 50% is no positive number near steps 9, 10." in shown.caption
    assert "nan" not in shown.svg.lower()
    assert ("50%", "pretrain a", "loss", "10", "4.00", "0.500", "inf") in shown.data.rows


def test_a_part_that_a_stage_does_not_train_is_told():
    stages = STAGES | {"b": stage("b", metrics={"loss": 1.0, "vtc": 0.5})}
    (shown,) = figures([trial("50%", "a"), trial("10%", "b")], stages=stages)
    assert "No mlm of 10%: nothing was recorded under that name." in shown.caption


def test_more_lines_than_can_be_told_apart_are_named():
    many = {f"s{place}": stage(f"s{place}") for place in range(10)}
    trials = [trial(f"row {place}", f"s{place}", position=place) for place in range(10)]
    (shown,) = figures(trials, stages=many)
    assert len({cells[0] for cells in shown.data.rows}) == 8
    assert "row row 8 (more than 8 lines cannot be distinguished)" in shown.caption


def test_only_the_first_seed_is_drawn_and_that_is_said():
    (shown,) = figures([trial("50%", "a"), trial("50%", "b", seed="1", run_id="second")])
    assert {cells[1] for cells in shown.data.rows} == {"pretrain a"}
    assert "The first seed of each row" in shown.caption


def test_groups_keep_the_order_of_the_tables():
    found = groups_of(tables(trial("50%", "a"), rate("0.8", "b", 2), rate("0.9", "c", 3)), STAGES)
    assert [group.tables[0].name for group in found] == ["4", "5"]
