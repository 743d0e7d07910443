"""Ranks and recall against cases worked by hand and a sort."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smaug_core.errors import SmaugError
from smaug_core.evaluation.metrics import ranks, recall


def everything(shape):
    return np.ones(shape, dtype=bool)


def test_ties_count_against_us():
    scores = np.array([[1.0, 1.0, 0.0]])
    correct = np.array([[True, False, False]])
    assert ranks(scores, scores, everything((1, 3)), correct).tolist() == [2]


def test_a_query_with_several_answers_is_judged_by_the_best():
    scores = np.array([[3.0, 1.0, 2.0, 0.0]])
    correct = np.array([[False, True, True, False]])
    assert ranks(scores, scores, everything((1, 4)), correct).tolist() == [2]


def test_unscored_candidates_come_last_by_their_fallback():
    scores = np.array([[np.nan, -9.0, -8.0, np.nan]])
    fallback = np.array([[0.9, 0.1, 0.2, 0.3]])
    scored = np.array([[False, True, True, False]])
    for answer, rank in ((2, 1), (1, 2), (0, 3), (3, 4)):
        correct = np.arange(4)[None] == answer
        assert ranks(scores, fallback, scored, correct).tolist() == [rank]


@given(st.integers(0, 2**31))
def test_without_ties_the_rank_is_the_place_in_a_sort(seed):
    rng = np.random.default_rng(seed)
    scores = rng.permutation(60).reshape(6, 10).astype(float)
    answers = rng.integers(0, 10, 6)
    correct = np.arange(10)[None] == answers[:, None]
    got = ranks(scores, scores, everything(scores.shape), correct)
    expected = [sorted(-row).index(-row[a]) + 1 for row, a in zip(scores, answers, strict=True)]
    assert got.tolist() == expected


def test_a_score_that_is_not_a_number_is_refused():
    scores = np.array([[np.nan, 1.0]])
    with pytest.raises(SmaugError, match="not finite numbers"):
        ranks(scores, np.zeros((1, 2)), everything((1, 2)), np.array([[True, False]]))


def test_a_query_without_an_answer_is_refused():
    with pytest.raises(ValueError, match=r"queries \[1\] have no correct candidate"):
        ranks(np.eye(2), np.eye(2), everything((2, 2)), np.array([[True, False], [False, False]]))


def test_recall_is_in_percent():
    found = recall(np.array([1, 2, 5, 6, 11]))
    assert found == {"r1": 20.0, "r5": 60.0, "r10": 80.0, "median_rank": 5.0}
