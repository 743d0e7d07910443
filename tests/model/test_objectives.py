"""Every loss against a restatement in float64, and negatives that are never positives."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from smaug_core.model.objectives import (
    contrastive_loss,
    frame_similarity,
    hard_negatives,
    matching_loss,
    pixel_loss,
    pixel_targets,
    word_loss,
)
from smaug_core.patches import patchify


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


@pytest.mark.parametrize("draw", [0.0, 1 - 2**-24, 1.0])
def test_the_ends_of_the_draw_stay_among_the_negatives(draw):
    media = torch.tensor([0, 1, 2, 0, 4, 5, 6, 4])
    chosen, found = hard_negatives(torch.zeros(8, 8), media, torch.full((8,), draw), 4)
    assert found.all()
    assert (media[chosen] != media).all()
    assert (chosen // 4 == torch.arange(8) // 4).all()


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


def test_maes_loss_worked_by_hand():
    """Two patches of 2 x 2 pixels are hidden; a patch lists its pixels row by row, red, green and blue together."""
    image = torch.zeros(1, 3, 4, 4)
    image[0, 0, 0, 2], image[0, 1, 1, 2], image[0, 2, 1, 3] = 0.5, 1.0, 2.0  # of the second patch, top right
    image[0, :, 2:, :2] = 3.0  # all of the third patch, bottom left
    target = pixel_targets(image, torch.tensor([[2, 1]]), 2, normalize=False)
    assert target.tolist() == [[[3.0] * 12, [0.5, 0, 0, 0, 0, 0, 0, 1.0, 0, 0, 0, 2.0]]]
    predicted = torch.zeros(1, 2, 12)
    predicted[0, 0, 0], predicted[0, 1, 11] = 3.0, 1.0
    # squared errors: 11 x 9 in the third patch; 0.25 + 1 + 1 in the second; the mean is over both patches' 24 values
    assert pixel_loss(predicted, target).item() == pytest.approx((11 * 9 + 2.25) / 24, abs=1e-6)


def test_normalised_targets_equal_a_float64_restatement():
    images = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    hidden = torch.tensor([[3, 1], [0, 2]])
    got = pixel_targets(images, hidden, 4, normalize=True)
    for row in range(2):
        for place, patch in enumerate(hidden[row].tolist()):
            top, left = 4 * (patch // 2), 4 * (patch % 2)
            values = [
                images[row, colour, top + y, left + x].double()
                for y in range(4)
                for x in range(4)
                for colour in range(3)
            ]
            mean = sum(values) / 48
            variance = sum((value - mean) ** 2 for value in values) / 47  # unbiased
            expected = torch.stack([(value - mean) / (variance + 1e-6).sqrt() for value in values])
            torch.testing.assert_close(got[row, place].double(), expected, atol=1e-5, rtol=1e-5)


def test_a_pair_that_does_not_count_and_a_total_of_more_than_are_here():
    """One process of several: the divisor is its share of all pairs that count, not of its own."""
    logits = torch.randn(3, 2, generator=torch.Generator().manual_seed(0))
    p = logits.double().log_softmax(dim=1)
    got = matching_loss(
        logits, torch.tensor([True, False, False]), torch.tensor([True, True, False]), torch.tensor(2.5)
    )
    assert got.item() == pytest.approx((-(p[0, 1] + p[1, 0]) / 2.5).item(), abs=1e-5)


def test_the_gradients_of_all_losses_equal_those_of_a_float64_restatement():
    generator = torch.Generator().manual_seed(0)
    wide = {name: torch.randn(size, generator=generator).double() for name, size in SIZES.items()}
    narrow = {name: tensor.float().requires_grad_() for name, tensor in wide.items()}
    wide = {name: tensor.float().double().requires_grad_() for name, tensor in wide.items()}
    targets, images, hidden = torch.tensor([2, 0, 6]), torch.rand(1, 3, 8, 8), torch.tensor([[3, 1]])
    is_match = torch.tensor([True, True, False, False])

    contrast(narrow["vtc"], torch.arange(5)).backward()
    matching_loss(narrow["vtm"], is_match, torch.ones(4) > 0, torch.tensor(4.0)).backward()
    word_loss(narrow["mlm"], targets, torch.tensor(3.0)).backward()
    pixel_loss(narrow["mvm"], pixel_targets(images, hidden, 4, normalize=False)).backward()

    s = wide["vtc"]
    rows, columns = s.exp().sum(dim=1).log(), s.exp().sum(dim=0).log()
    ((rows.mean() + columns.mean()) / 2 - s.diagonal().mean()).backward()
    v = wide["vtm"]
    (v.exp().sum(dim=1).log() - v[torch.arange(4), is_match.long()]).mean().backward()
    w = wide["mlm"]
    (w.exp().sum(dim=1).log() - w[torch.arange(3), targets]).mean().backward()
    ((wide["mvm"] - patchify(images, 4)[0, [3, 1]].double()) ** 2).mean().backward()
    for name, tensor in narrow.items():
        torch.testing.assert_close(tensor.grad.double(), wide[name].grad, atol=1e-5, rtol=1e-5)


SIZES = {"vtc": (5, 5), "vtm": (4, 2), "mlm": (3, 7), "mvm": (1, 2, 48)}
