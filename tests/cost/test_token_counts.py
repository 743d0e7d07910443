"""Token counts: rounding as in MAE and EViT, and the counts of the paper's rows."""

import pytest

from smaug_core.cost.token_counts import num_kept, num_visible


@pytest.mark.parametrize(
    ("patches", "ratio", "left"),
    [
        (196, 0.1, 176),
        (196, 0.25, 147),
        (196, 0.5, 98),
        (196, 0.65, 68),
        (36, 0.1, 32),
        (36, 0.65, 12),
        (100, 0.9, 10),
    ],
)
def test_visible_patches_are_rounded_down_as_in_mae(patches, ratio, left):
    assert num_visible(patches, ratio) == left


@pytest.mark.parametrize("ratio", [-0.1, 1.0])
def test_a_mask_ratio_outside_zero_to_one_is_refused(ratio):
    with pytest.raises(ValueError, match=r"mask_ratio must be in \[0, 1\)"):
        num_visible(36, ratio)


def test_hiding_everything_is_refused():
    with pytest.raises(ValueError, match="leaves no visible patch of 4"):
        num_visible(4, 0.9)


@pytest.mark.parametrize(
    ("start", "rate", "counts"),
    [
        (98, 0.8, [80, 65, 53]),
        (98, 0.6, [60, 37, 24]),
        (98, 0.7, [70, 50, 36]),
        (98, 0.9, [90, 82, 75]),
        (176, 0.8, [142, 115, 93]),
        (147, 0.8, [119, 97, 79]),
        (68, 0.8, [56, 46, 38]),
        (196, 0.8, [158, 128, 104]),
    ],
)
def test_token_counts_of_the_papers_rows(start, rate, counts):
    tokens, seen = start, []
    for _ in range(3):
        tokens = num_kept(tokens, rate) + 1  # and the fused one
        seen.append(tokens)
    assert seen == counts


def test_counting_is_exact_where_floats_are_not():
    assert num_kept(100, 0.55) == 55  # 0.55 * 100 is 55.000000000000007


@pytest.mark.parametrize("rate", [0.0, 1.1])
def test_a_keeping_rate_outside_zero_to_one_is_refused(rate):
    with pytest.raises(ValueError, match=r"keep_rate must be in \(0, 1\]"):
        num_kept(10, rate)
