"""Frame selection: different frames, in order of time, by the right chances, with a gradient to every score."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from smaug_core.clip_shape import ClipShape
from smaug_core.model.init_weights import build
from smaug_core.model.selector import FrameSelector, gather_frames, pick_frames, take_frames
from tests.small import VOCABULARY


def pick(scores, num, *, draws=None, temperature=1.0):
    return pick_frames(scores, num, draws=draws, temperature=temperature)


@given(st.integers(0, 2**31), st.integers(1, 8), st.booleans())
def test_the_frames_are_different_and_in_order_of_time(seed, num, drawn):
    generator = torch.Generator().manual_seed(seed)
    scores = 3 * torch.randn(5, 8, generator=generator)
    draws = torch.rand(5, 8, generator=generator) if drawn else None
    places = pick(scores, num, draws=draws).places
    assert all(row == sorted(set(row)) and len(row) == num for row in places.tolist())


def test_without_draws_the_best_frames_are_taken_every_time():
    scores = torch.tensor([[0.1, 3.0, -1.0, 2.0]])
    assert pick(scores, 2).places.tolist() == [[1, 3]]
    assert pick(scores, 2).places.tolist() == pick(scores, 2).places.tolist()


def test_all_frames_selected_is_the_identity():
    tokens = torch.randn(3, 4, 5, 6)
    selection = pick(torch.randn(3, 4, requires_grad=True), 4, draws=torch.rand(3, 4))
    assert torch.equal(take_frames(tokens, selection), tokens)


def test_frames_are_drawn_one_after_the_other_without_putting_back():
    """How often each frame is among two of four, against the sum over ordered pairs (Plackett-Luce)."""
    scores = torch.tensor([0.0, 1.0, 2.0, -1.0])
    p = scores.double().softmax(dim=0)
    expected = torch.zeros(4, dtype=torch.double)
    for first, second in itertools.permutations(range(4), 2):
        chance = p[first] * p[second] / (1 - p[first])
        expected[first] += chance
        expected[second] += chance
    num = 100_000
    draws = torch.rand(num, 4, generator=torch.Generator().manual_seed(0))
    places = pick(scores.expand(num, -1), 2, draws=draws).places
    found = torch.zeros(num, 4).scatter(1, places, 1.0).double().mean(dim=0)
    torch.testing.assert_close(found, expected, atol=6e-3, rtol=0)  # four standard errors


@pytest.mark.parametrize("num", [1, 2, 3])
def test_values_are_those_of_the_frames_and_every_score_gets_a_gradient(num):
    tokens = torch.randn(2, 4, 3, 5)
    scores = torch.randn(2, 4, requires_grad=True)
    selection = pick(scores, num, draws=torch.rand(2, 4))
    taken = take_frames(tokens, selection)
    assert torch.equal(taken, gather_frames(tokens, selection.places))
    (taken * torch.randn(2, num, 3, 5)).sum().backward()
    assert (scores.grad != 0).all()


def test_the_gradient_is_that_of_a_mixture_of_what_could_have_been_picked():
    tokens, weight = torch.randn(1, 4, 2, 3).double(), torch.randn(1, 2, 2, 3).double()
    scores = torch.randn(1, 4, dtype=torch.float32, requires_grad=True)
    draws = torch.rand(1, 4)
    (take_frames(tokens, pick(scores, 2, draws=draws, temperature=0.7)) * weight).sum().backward()

    again = scores.detach().clone().requires_grad_()
    perturbed = (again - torch.log(-torch.log(draws))) / 0.7
    first, second = perturbed[0].argsort(descending=True)[:2].tolist()
    shares = {
        first: perturbed.softmax(dim=1),
        second: perturbed.scatter(1, torch.tensor([[first]]), -torch.inf).softmax(1),
    }
    mixed = torch.stack([torch.einsum("pf,pfnd->pnd", shares[place].double(), tokens) for place in sorted(shares)], 1)
    (mixed * weight).sum().backward()
    torch.testing.assert_close(scores.grad, again.grad)


def test_the_gradient_of_a_token_reaches_the_frame_it_came_from_alone():
    tokens = torch.randn(1, 4, 2, 3, requires_grad=True)
    selection = pick(torch.randn(1, 4, requires_grad=True), 2, draws=torch.rand(1, 4))
    take_frames(tokens, selection).sum().backward()
    expected = torch.zeros(1, 4, 2, 3)
    expected[0, selection.places[0]] = 1
    assert torch.equal(tokens.grad, expected)


@pytest.mark.parametrize("num", [0, 5])
def test_a_number_that_cannot_be_selected_is_refused(num):
    with pytest.raises(ValueError, match=rf"must be in \[1, 4\], got {num}"):
        pick(torch.zeros(1, 4), num)


def test_the_score_of_a_frame_depends_on_the_caption_and_takes_any_number_of_frames(config):
    selector = build(config, VOCABULARY, seed=0, shape=ClipShape(frames=4, selected=2)).selector
    assert isinstance(selector, FrameSelector)
    torch.nn.init.normal_(selector.score.weight)
    frames, captions = torch.randn(2, 4, 32), torch.randn(2, 24)
    scores = selector(frames, captions)
    assert not torch.allclose(scores, selector(frames, captions.flip(0)))
    assert selector(torch.randn(2, 12, 32), captions).shape == (2, 12)
