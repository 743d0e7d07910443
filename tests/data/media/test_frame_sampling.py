"""Which frames of a clip are looked at."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smaug_core.data.media.frame_sampling import sample_frames

counts = st.integers(1, 200)


@pytest.mark.parametrize(
    "available, wanted, expected",
    [
        (16, 4, [1, 5, 9, 13]),  # intervals 0-3, 4-7, 8-11, 12-15
        (16, 1, [7]),
        (9, 3, [1, 4, 7]),
        (7, 3, [0, 2, 5]),  # intervals 0-1, 2-3, 4-6
        (3, 3, [0, 1, 2]),
        (3, 5, [0, 1, 2, 2, 2]),
        (1, 1, [0]),
        (1, 4, [0, 0, 0, 0]),
    ],
)
def test_the_middle_of_each_interval_by_hand(available, wanted, expected):
    assert sample_frames(available, wanted) == expected


@pytest.mark.parametrize(
    "draws, expected",
    [([0.0, 0.0, 0.0, 0.0], [0, 4, 8, 12]), ([0.999] * 4, [3, 7, 11, 15]), ([0.5, 0.25, 0.75, 0.0], [2, 5, 11, 12])],
)
def test_draws_pick_within_the_intervals_and_reach_both_ends(draws, expected):
    assert sample_frames(16, 4, draws) == expected


@given(counts, counts, st.one_of(st.none(), st.integers(0, 2**31)))
def test_one_frame_from_each_interval_in_order_and_in_range(available, wanted, seed):
    draws = None if seed is None else np.random.default_rng(seed).random(wanted).tolist()
    chosen = sample_frames(available, wanted, draws)
    assert len(chosen) == wanted
    assert chosen == sorted(chosen) and chosen[0] >= 0 and chosen[-1] < available
    intervals = min(available, wanted)
    edges = [k * available // intervals for k in range(intervals + 1)]
    for k, frame in enumerate(chosen[:intervals]):
        assert edges[k] <= frame < edges[k + 1]
    assert set(chosen[intervals:]) <= {available - 1}


@given(counts, counts)
def test_intervals_are_equal_to_within_a_frame(available, wanted):
    intervals = min(available, wanted)
    firsts = sample_frames(available, wanted, [0.0] * wanted)[:intervals]
    lasts = sample_frames(available, wanted, [1 - 2**-53] * wanted)[:intervals]
    sizes = [last - first + 1 for first, last in zip(firsts, lasts, strict=True)]
    assert sum(sizes) == available and max(sizes) - min(sizes) <= 1


def test_every_frame_of_an_interval_is_drawn_equally_often():
    draws = np.random.default_rng(0).random(8000)
    counted = np.bincount([sample_frames(8, 2, [draw, 0.0])[0] for draw in draws], minlength=4)
    assert counted / 8000 == pytest.approx(np.full(4, 0.25), abs=0.02)


@pytest.mark.parametrize("available, wanted", [(0, 1), (1, 0), (-3, 2)])
def test_no_frames_are_refused(available, wanted):
    with pytest.raises(ValueError, match=f"at least 1, got {available} and {wanted}"):
        sample_frames(available, wanted)


def test_a_wrong_number_of_draws_is_refused():
    with pytest.raises(ValueError, match="one number for each of the 3 frames, got 2"):
        sample_frames(8, 3, [0.1, 0.2])
