"""Verdicts by hand-worked numbers, at every place of an interval against its bound."""

import json
from dataclasses import asdict
from statistics import fmean, stdev

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from reports.analysis.verdicts import Verdict, claim_rows, judge_check, judge_measured, measured_text, worst
from reports.paper.claims import Check, Claim, Comparison, load_claims
from reports.paper.tables import load_published

VERDICTS = st.sampled_from(Verdict)


def check(measure="difference", **bound):
    return Check(table="4", column="c", row="a", against="b", measure=measure, **bound)


def found(*pairs, interval=None, problems=()):
    return Comparison(pairs=pairs, interval=interval, problems=tuple(problems), unit="%", device="Xeon")


def test_verdicts_read_as_they_must():
    assert [verdict.value for verdict in Verdict] == [
        "contradicted",
        "cannot tell from these data",
        "not measured",
        "agrees (this pair of checkpoints)",
        "supported",
    ]


@pytest.mark.parametrize(
    ("interval", "bound", "verdict"),
    [
        ((-1.0, 3.0), {"at_least": -1.2}, Verdict.AGREES),
        ((-1.2, 3.0), {"at_least": -1.2}, Verdict.AGREES),
        ((-1.3, 3.0), {"at_least": -1.2}, Verdict.CANNOT_TELL),
        ((-9.0, -1.2), {"at_least": -1.2}, Verdict.CANNOT_TELL),
        ((-9.0, -1.3), {"at_least": -1.2}, Verdict.CONTRADICTED),
        ((-9.0, -1.3), {"at_most": -1.2}, Verdict.AGREES),
        ((-1.3, 3.0), {"at_most": -1.2}, Verdict.CANNOT_TELL),
        ((-1.0, 3.0), {"at_most": -1.2}, Verdict.CONTRADICTED),
    ],
)
@pytest.mark.parametrize("seeds", [1, 2])
def test_few_seeds_are_judged_by_the_interval_over_queries(interval, bound, verdict, seeds):
    judged = judge_check(check(**bound), found(*[(40.0, 41.0)] * seeds, interval=interval), "tiny")
    assert (judged.verdict, judged.value, judged.interval, judged.n_seeds) == (verdict, -1.0, interval, seeds)
    assert "over queries" in judged.reason
    assert (judged.scale, judged.device) == ("tiny", "Xeon")


def test_three_seeds_are_judged_by_students_interval_whatever_the_queries_say():
    pairs = [(40.0, 41.0), (40.0, 40.0), (41.0, 40.0)]  # differences -1, 0, 1
    half = stats.t.ppf(0.975, 2) / 3**0.5  # standard deviation 1
    assert half == pytest.approx(2.484, abs=1e-3)
    outside = (9.0, 10.0)
    for bound, verdict in ((-2.49, Verdict.SUPPORTED), (-2.48, Verdict.CANNOT_TELL), (2.49, Verdict.CONTRADICTED)):
        judged = judge_check(check(at_least=bound), found(*pairs, interval=outside), "paper")
        assert judged.verdict == verdict
        assert judged.interval == pytest.approx((-half, half))
        assert judged.value == 0 and "3 full seeds" in judged.reason
    assert judge_check(check(at_least=-2.49), found(*pairs[:2], interval=outside), "paper").verdict == Verdict.AGREES


def test_the_interval_over_seeds_is_that_of_the_measure_not_of_the_hours():
    pairs = [(50.0, 100.0), (60.0, 100.0), (200.0, 250.0)]  # 2, 1.667 and 1.25 times as fast
    ratios = [2.0, 100 / 60, 1.25]
    judged = judge_check(check("ratio", at_least=0.5), found(*pairs), "paper")
    half = stats.t.ppf(0.975, 2) * stdev(ratios) / 3**0.5
    assert judged.value == pytest.approx(fmean(ratios))
    assert judged.interval == pytest.approx((fmean(ratios) - half, fmean(ratios) + half))
    assert judged.verdict == Verdict.SUPPORTED


@pytest.mark.parametrize(
    ("hours", "verdict"),
    # 100 / (1.05 x 50) = 1.905 and 100 / (0.95 x 56) = 1.880: on one side of 1.9 even if measured again.
    [(50.0, Verdict.AGREES), (56.0, Verdict.CONTRADICTED), (51.0, Verdict.CANNOT_TELL), (55.0, Verdict.CANNOT_TELL)],
)
def test_hours_of_a_single_run_are_not_taken_closer_than_they_repeat(hours, verdict):
    judged = judge_check(check("ratio", at_least=1.9), found((hours, 100.0), interval=(-1.0, 1.0)), "tiny")
    assert (judged.verdict, judged.interval) == (verdict, None)
    assert judged.reason.startswith("a single run has no interval; hours that repeat within 5% lie")


def test_hours_of_two_runs_go_by_their_mean():
    judged = judge_check(check("saved_percent", at_least=10), found((70.0, 100.0), (89.0, 100.0)), "tiny")
    assert (judged.verdict, judged.value) == (Verdict.AGREES, pytest.approx(20.5))
    assert "2 runs are too few" in judged.reason


def test_what_does_not_compare_has_no_value_and_says_why():
    problems = ["measured on Xeon and on H200", "another test set"]
    judged = judge_check(check(at_least=0), found((9.0, 1.0), interval=(8.0, 8.1), problems=problems), "tiny")
    assert (judged.verdict, judged.value, judged.interval) == (Verdict.CANNOT_TELL, None, None)
    assert judged.reason == "measured on Xeon and on H200; another test set"
    judged = judge_check(check(at_least=0), found(interval=(8.0, 8.1)), "tiny")
    assert (judged.verdict, judged.reason) == (Verdict.CANNOT_TELL, "no full seed has both rows")
    judged = judge_check(check("ratio", at_least=0), found((0.0, 1.0)), "tiny")
    assert (judged.verdict, judged.reason) == (Verdict.CANNOT_TELL, "hours of 0 have no ratio")
    judged = judge_check(check(at_least=-2), found((40.0, 41.0)), "tiny")
    assert (judged.verdict, judged.reason) == (Verdict.CANNOT_TELL, "there is no interval over queries")
    assert measured_text(judged) == "-1.0 points"
    judged = judge_check(check(at_least=-2), None, "tiny")
    assert (judged.verdict, measured_text(judged)) == (Verdict.NOT_MEASURED, "")


@given(st.lists(VERDICTS, min_size=1), st.randoms())
def test_a_claim_is_its_worst_check_in_any_order(verdicts, random):
    order = ["contradicted", "cannot tell from these data", "not measured", "agrees (this pair of checkpoints)"]
    expected = next((text for text in order if text in verdicts), "supported")
    random.shuffle(verdicts)
    assert worst(verdicts).value == expected


@given(
    low=st.floats(-50, 50),
    width=st.floats(0, 50),
    bound=st.floats(-50, 50),
)
def test_a_bound_and_its_opposite_never_both_agree_nor_are_both_contradicted(low, width, bound):
    measured = found((1.0, 1.0), interval=(low, low + width))
    floor = judge_check(check(at_least=bound), measured, "tiny").verdict
    ceiling = judge_check(check(at_most=bound), measured, "tiny").verdict
    if round(low - bound, 9) and round(low + width - bound, 9):
        opposite = {Verdict.AGREES: Verdict.CONTRADICTED, Verdict.CONTRADICTED: Verdict.AGREES}
        assert ceiling == opposite.get(floor, Verdict.CANNOT_TELL)
    else:
        assert Verdict.CONTRADICTED not in (floor, ceiling)


def test_a_claim_asks_for_each_of_its_checks_at_its_scale():
    claim = Claim(id="a", says="b", where="c", checks=(check(at_least=0), check("ratio", at_least=2)))
    asked = []

    def compare(check, scale):
        asked.append((check.measure, scale))
        return found((5.0, 4.0), interval=(0.5, 1.5)) if check.measure == "difference" else None

    judged = judge_measured(claim, compare, "tiny")
    assert asked == [("difference", "tiny"), ("ratio", "tiny")]
    assert [check.verdict for check in judged.checks] == [Verdict.AGREES, Verdict.NOT_MEASURED]
    assert (judged.verdict, judged.scale) == (Verdict.NOT_MEASURED, "tiny")


def test_rows_set_published_beside_measured_at_every_scale():
    claims, published = load_claims(), load_published()

    def compare(check, scale):
        if scale == "paper":
            return None
        if check.measure == "difference":
            return found((54.7, 62.1), interval=(-11.0, -3.5))
        return found((0.0482, 0.0556))

    rows = claim_rows(claims, published, compare, ["paper", "tiny"])
    assert len(rows) == 2 * sum(len(claim.checks) for claim in claims)
    time, recall = [row for row in rows if row.claim == "masking" and row.scale == "tiny"]
    assert (time.published, time.measured, time.verdict) == ("holds", "13.3 %", "contradicted")
    assert (recall.measured, recall.verdict) == ("-7.4 [-11.0, -3.5] points", "contradicted")
    assert (recall.interval_low, recall.interval_high, recall.bound) == (-11.0, -3.5, "at least -1.2 points")
    assert time.claim_verdict == recall.claim_verdict == "contradicted"
    assert {row.verdict for row in rows if row.scale == "paper"} == {"not measured"}
    (speed,) = [row for row in rows if row.claim == "speed_up" and row.scale == "tiny"]
    assert (speed.published, speed.measured) == ("does not hold (1.857)", "1.154x")
    assert json.loads(json.dumps([asdict(row) for row in rows]))[0]["claim"] == "masking"


def test_without_any_scale_every_claim_is_there_once_and_not_measured():
    claims = load_claims()
    rows = claim_rows(claims, load_published(), lambda check, scale: None, [])
    assert len(rows) == sum(len(claim.checks) for claim in claims)
    assert {(row.scale, row.verdict, row.claim_verdict) for row in rows} == {("", "not measured", "not measured")}
