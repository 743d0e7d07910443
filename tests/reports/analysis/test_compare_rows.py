"""Two rows as the claims see them."""

import pytest

from reports.analysis.build_tables import build_tables
from reports.analysis.compare_rows import comparer, measured_scales
from reports.paper.claims import Check
from reports.paper.tables import load_published
from tests.reports.rows import evaluation, made_ranks, row

ONLY_4 = {"4": load_published()["4"]}
HOURS, R1 = "pretrain.hours", "msrvtt.t2v.r1"


def check(column, **changes):
    told = {
        "table": "4",
        "column": column,
        "row": "25%",
        "against": "10%",
        "measure": "difference",
        "at_least": 0.0,
    }
    return Check(**told | changes)


def compared(trials, column=R1):
    return comparer(build_tables(ONLY_4, trials, made_ranks))(check(column), "tiny")


def test_two_rows_are_paired_by_seed_and_by_query_whatever_the_baseline():
    found = compared([row("10%", hours=3.0, r1=40.0), row("25%", hours=2.0, r1=41.0)])
    assert (found.pairs, found.problems) == (((41.0, 40.0),), ())
    low, high = found.interval
    assert 0 < low < 1.0 < high, "ten queries of 1,000 changed, all for the better"
    hours = compared([row("10%", hours=3.0, r1=40.0), row("25%", hours=2.0, r1=41.0)], HOURS)
    assert (hours.pairs, hours.interval, hours.unit, hours.device) == (((2.0, 3.0),), None, "CPU h", "Xeon")


def test_seeds_of_fine_tuning_are_averaged_and_only_shared_seeds_count():
    trials = [
        row("10%", hours=1.0, r1=40.0),
        row("10%", hours=1.0, r1=42.0, seed="0/1"),
        row("25%", hours=1.0, r1=43.0),
        row("25%", hours=1.0, r1=45.0, seed="0/1"),
        row("25%", hours=1.0, r1=90.0, seed="1"),
    ]
    assert compared(trials).pairs == ((44.0, 41.0),)


def test_without_both_rows_nothing_was_measured():
    assert compared([row("10%", hours=3.0, r1=40.0)]) is None
    trials = [row("10%", hours=3.0, r1=40.0), row("25%", hours=2.0, r1=41.0)]
    tables = build_tables(ONLY_4, trials, made_ranks)
    assert comparer(tables)(check(R1), "paper") is None
    assert measured_scales(tables) == ["tiny"] and measured_scales(build_tables(ONLY_4, [], made_ranks)) == []


@pytest.mark.parametrize(
    ("change", "column", "problem"),
    [
        ({"device": "H200", "unit": "H200 GPU h"}, HOURS, "measured on different devices"),
        ({"evaluations": {"msrvtt": evaluation(test_digest="bbbb")}}, R1, "evaluated on different test sets"),
        ({"marks": ("layers recomputed",)}, HOURS, "recomputed activations to save memory"),
        ({"code": "0ther"}, R1, "made by different code"),
        ({"marks": ("partial schedule",)}, R1, "row 25%: it was trained for fewer epochs"),
        ({"marks": ("stale code accepted",)}, R1, "row 25%: it holds results of other code"),
    ],
)
def test_what_keeps_two_rows_from_being_compared_is_told(change, column, problem):
    found = compared([row("10%", hours=3.0, r1=40.0), row("25%", hours=2.0, r1=41.0, **change)], column)
    assert any(problem in told for told in found.problems)


def test_a_faulty_row_is_no_evidence():
    doubled = [row("25%", hours=2.0, r1=41.0), row("25%", hours=2.0, r1=50.0, run_id="another")]
    found = compared([row("10%", hours=3.0, r1=40.0), *doubled])
    assert found.pairs == () and "both claim seed 0" in found.problems[0]


def test_a_row_that_is_not_finished_was_not_made_by_other_code():
    found = compared([row("10%", hours=3.0, r1=40.0), row("25%", hours=2.0, code="digest of no result yet")])
    assert found.pairs == () and not any("different code" in problem for problem in found.problems)
