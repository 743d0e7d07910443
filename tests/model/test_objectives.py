"""Every loss against a restatement in float64, and negatives that are never positives."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from smaug_core.model.masking import patchify
from smaug_core.model.objectives import (
    contrastive_loss,
    frame_similarity,
    hard_negatives,
    matching_loss,
    pixel_loss,
    pixel_targets,
    word_loss,
)


def contrast(logits, media):
    """The loss where every clip and caption is here, and all are rivals."""
    return contrastive_loss(logits, logits.T, media[:, None] == media[None, :], torch.ones(len(media), len(media)) > 0)


def test_similarity_is_the_mean_of_cosines_not_the_cosine_of_the_mean():
    frames = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    assert frame_similarity(frames, torch.tensor([[1.0, 0.0]])).item() == 0.5  # the other would be 0.707


def test_contrastive_loss_equals_the_papers_formula():
    logits = torch.randn(5, 5, generator=torch.Generator().manual_seed(0))
    s = logits.double()
    to_text = -sum(math.log(s[i, i].exp() / s[i].exp().sum()) for i in range(5)) / 5
    to_video = -sum(math.log(s[i, i].exp() / s[:, i].exp().sum()) for i in range(5)) / 5
    got = contrast(logits, torch.arange(5))
    assert got.item() == pytest.approx((to_text + to_video) / 2, abs=1e-5)


def test_captions_of_one_clip_share_its_positives():
    logits = torch.tensor([[1.0, 2.0, 3.0]] * 3)
    media = torch.tensor([7, 7, 9])
    s = logits.double().log_softmax(dim=1)
    t = logits.double().T.log_softmax(dim=1)
    rows = [(s[0, 0] + s[0, 1]) / 2, (s[1, 0] + s[1, 1]) / 2, s[2, 2]]
    columns = [(t[0, 0] + t[0, 1]) / 2, (t[1, 0] + t[1, 1]) / 2, t[2, 2]]
    expected = -(sum(rows) / 3 + sum(columns) / 3) / 2
    assert contrast(logits, media).item() == pytest.approx(expected.item(), abs=1e-5)


def test_contrast_within_groups_is_the_mean_of_each_groups_own_contrast():
    logits, media = torch.randn(6, 6, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 3, 3, 0])
    rivals = torch.arange(6)[:, None] // 3 == torch.arange(6)[None, :] // 3
    got = contrastive_loss(logits, logits.T, media[:, None] == media[None, :], rivals)
    apart = [contrast(logits[part, part], media[part]) for part in (slice(0, 3), slice(3, 6))]
    torch.testing.assert_close(got, sum(apart) / 2)


@given(st.integers(0, 2**31), st.sampled_from([2, 3, 6, 12]), st.sampled_from([1.0, 20.0, 1000.0]))
def test_no_positive_is_ever_drawn_as_a_negative(seed, group, sharpness):
    generator = torch.Generator().manual_seed(seed)
    media = torch.randint(0, 6, (12,), generator=generator)
    logits = sharpness * torch.randn(12, 12, generator=generator)
    draws = torch.rand(12, generator=generator)
    chosen, found = hard_negatives(logits, media, draws, group)
    for row in range(12):
        rivals = [c for c in range(12) if c // group == row // group and media[c] != media[row]]
        assert bool(found[row]) == bool(rivals)
        if rivals:
            assert chosen[row].item() in rivals


@pytest.mark.parametrize("draw", [0.0, 1 - 2**-24])
def test_the_ends_of_the_draw_stay_among_the_negatives(draw):
    media = torch.tensor([0, 1, 2, 0])
    chosen, found = hard_negatives(torch.zeros(4, 4), media, torch.full((4,), draw), 4)
    assert found.all()
    assert (media[chosen] != media).all()


def test_negatives_are_drawn_by_softmax_plus_a_little():
    logits = torch.tensor([[9.0, 0.0, math.log(2.0), math.log(5.0)]]).expand(4, -1)
    media = torch.arange(4)
    num = 20_000
    draws = (torch.arange(num) + 0.5) / num
    weights = logits[0].double().softmax(dim=0)[1:] + 1e-4
    expected = (weights / weights.sum()).tolist()
    picks = torch.tensor(
        [hard_negatives(logits, media, torch.full((4,), d.item()), 4)[0][0].item() for d in draws[::20]]
    )
    shares = [(picks == c).double().mean().item() for c in (1, 2, 3)]
    assert shares == pytest.approx(expected, abs=2e-3)


def test_matching_loss_leaves_out_pairs_without_a_negative():
    logits = torch.randn(4, 2)
    is_match = torch.tensor([True, False, False, False])
    counts = torch.tensor([True, True, False, True])
    p = logits.double().log_softmax(dim=1)
    expected = -(p[0, 1] + p[1, 0] + p[3, 0]) / 3
    assert matching_loss(logits, is_match, counts, torch.tensor(3.0)).item() == pytest.approx(expected.item(), abs=1e-5)


def test_word_loss_is_a_mean_over_the_hidden_words():
    logits, targets = torch.randn(3, 9), torch.tensor([1, 8, 4])
    p = logits.double().log_softmax(dim=1)
    expected = -(p[0, 1] + p[1, 8] + p[2, 4]) / 3
    assert word_loss(logits, targets, torch.tensor(3.0)).item() == pytest.approx(expected.item(), abs=1e-5)


def test_word_loss_of_no_words_is_zero():
    assert word_loss(torch.zeros(0, 9), torch.zeros(0, dtype=torch.long), torch.tensor(1.0)).item() == 0


def test_pixel_loss_equals_a_restatement():
    images, hidden = torch.rand(2, 3, 8, 8), torch.tensor([[3], [0]])
    target = pixel_targets(images, hidden, 4, normalize=False)
    predicted = torch.randn(2, 1, 48)
    patches = patchify(images, 4)
    wanted = torch.stack([patches[0, 3], patches[1, 0]]).unsqueeze(1)
    expected = (predicted.double() - wanted.double()).pow(2).mean()
    assert pixel_loss(predicted, target).item() == pytest.approx(expected.item(), abs=1e-5)


def test_normalised_targets_have_mean_zero_and_deviation_one():
    target = pixel_targets(torch.rand(2, 3, 8, 8), torch.tensor([[3], [0]]), 4, normalize=True)
    torch.testing.assert_close(target.mean(-1), torch.zeros(2, 1), atol=1e-6, rtol=0)
    torch.testing.assert_close(target.std(-1), torch.ones(2, 1), atol=1e-4, rtol=0)
