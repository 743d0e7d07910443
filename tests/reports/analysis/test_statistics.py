"""Intervals and tests against hand-worked cases, scipy, and simulated data whose truth is known."""

import itertools
from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from reports.analysis.statistics import DRAWS, bootstrap, bootstrap_mean, holm, sign_flip_p, student_interval


def shares(*counts: int) -> np.ndarray:
    """Scores of 0 and 100, so many of each in turn."""
    return np.repeat(np.arange(len(counts)) % 2 * 100.0, counts)


def test_students_interval_by_hand_and_by_scipy():
    low, high = student_interval([1.0, 2.0, 3.0])
    assert (low, high) == pytest.approx((2 - 4.302653 / 3**0.5, 2 + 4.302653 / 3**0.5), abs=1e-5)
    values = [39.3, 40.1, 38.0, 41.2, 39.9]
    found = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert student_interval(values) == pytest.approx((found.low, found.high))
    with pytest.raises(ValueError, match="1 values have no spread"):
        student_interval([1.0])


def test_the_bootstrap_of_a_share_has_the_percentiles_of_the_binomial():
    low, high = bootstrap_mean(shares(60, 40))
    expected = stats.binom(100, 0.4).ppf([0.025, 0.975])
    assert (low, high) == pytest.approx(tuple(expected), abs=1.0)


def test_the_bootstrap_agrees_with_scipys():
    scores = np.random.default_rng(3).choice([0.0, 100 / 3, 200 / 3, 100.0], size=256)
    theirs = stats.bootstrap((scores,), np.mean, n_resamples=DRAWS, method="percentile", rng=1).confidence_interval
    assert bootstrap_mean(scores) == pytest.approx((theirs.low, theirs.high), abs=0.4)


def test_the_bootstrap_of_any_statistic_agrees_with_that_of_the_mean():
    scores = shares(150, 50)
    of_mean = bootstrap(scores[:, None], lambda drawn: drawn.mean(axis=(1, 2)))
    assert of_mean == pytest.approx(bootstrap_mean(scores), abs=0.6)


def test_scores_that_are_all_alike_have_no_interval():
    assert bootstrap_mean(shares(0, 50)) is None
    assert bootstrap(np.ones((5, 2)), lambda drawn: drawn.mean(axis=(1, 2))) is None


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    draws, covered = np.random.default_rng(0), 0
    for _ in range(400):
        low, high = bootstrap_mean(np.where(draws.random(256) < 0.4, 100.0, 0.0))
        covered += low <= 40.0 <= high
    assert 0.92 <= covered / 400 <= 0.98


def exact_p(differences: list[float]) -> float:
    """By every one of the 2^n patterns of signs."""
    observed = abs(sum(differences))
    patterns = itertools.product((1, -1), repeat=len(differences))
    sums = [abs(sum(sign * size for sign, size in zip(signs, differences, strict=True))) for signs in patterns]
    return sum(found >= observed - 1e-9 for found in sums) / len(sums)


@pytest.mark.parametrize(
    "differences",
    [[100.0] * 5, [100.0, 100.0, -100.0, 100.0], [50.0, -100.0, 100.0, 100.0, 50.0, 50.0], [100 / 3] * 3 + [-200 / 3]],
)
def test_p_is_that_of_every_pattern_of_signs(differences):
    assert sign_flip_p(np.array(differences)) == pytest.approx(exact_p(differences), abs=0.015)


def test_p_by_hand_of_queries_that_all_moved_one_way():
    # 8 of 100 queries differ, all in favour: 2 of the 2^8 patterns are as far.
    assert sign_flip_p(shares(92, 8)) == pytest.approx(2 / 2**8, abs=0.003)
    assert sign_flip_p(np.zeros(50)) == 1.0


def test_p_agrees_with_scipys_permutation_test_and_with_the_sign_test():
    draws = np.random.default_rng(5)
    differences = draws.choice([-100.0, 0.0, 100.0], size=300, p=[0.1, 0.75, 0.15])
    theirs = stats.permutation_test(
        (differences,), np.mean, permutation_type="samples", n_resamples=DRAWS, rng=draws, vectorized=True
    )
    assert sign_flip_p(differences) == pytest.approx(theirs.pvalue, abs=0.02)
    gained, lost = int((differences > 0).sum()), int((differences < 0).sum())
    tail = sum(comb(gained + lost, k) for k in range(max(gained, lost), gained + lost + 1)) / 2 ** (gained + lost)
    assert sign_flip_p(differences) == pytest.approx(min(1.0, 2 * tail), abs=0.02)


@pytest.mark.slow
def test_it_rejects_a_true_null_hypothesis_about_as_often_as_its_level_says():
    draws, rejected, trials = np.random.default_rng(11), 0, 800
    for _ in range(trials):
        rejected += sign_flip_p(draws.normal(0.0, 30.0, size=80)) <= 0.05
    assert stats.binomtest(rejected, trials, 0.05).pvalue > 0.01


def test_of_hits_and_misses_it_rejects_no_more_often_than_its_level():
    draws, rejected, trials = np.random.default_rng(12), 0, 2000
    for _ in range(trials):
        hard = draws.random(256)  # some queries are harder than others, for both rows alike
        one, other = draws.random((2, 256)) < hard
        rejected += sign_flip_p(100.0 * one - 100.0 * other) <= 0.05
    assert 0.02 <= rejected / trials <= 0.06


def test_a_real_difference_is_found():
    draws = np.random.default_rng(13)
    one, other = draws.random((2, 1000)) < np.array([[0.45], [0.35]])
    assert sign_flip_p(100.0 * one - 100.0 * other) < 0.001


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sampled_from([-100.0, -50.0, 0.0, 50.0, 100.0]), min_size=1, max_size=60))
def test_p_does_not_care_for_direction_or_order(differences):
    found = sign_flip_p(np.array(differences))
    assert 0 < found <= 1
    assert found == sign_flip_p(-np.array(differences)) == sign_flip_p(np.array(differences[::-1]))


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


@given(st.lists(st.floats(0.0001, 1.0), min_size=1, max_size=12))
def test_holm_is_no_less_than_each_p_no_more_than_bonferroni_and_keeps_the_order(p_values):
    corrected = holm(p_values)
    for p, found in zip(p_values, corrected, strict=True):
        assert p <= found <= min(1.0, len(p_values) * p) + 1e-12
    assert [corrected[k] for k in np.argsort(p_values)] == sorted(corrected)
