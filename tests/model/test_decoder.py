"""The pixel decoder: every token at its own position, whatever order it comes in."""

import numpy as np
import pytest
import torch

from smaug_core.model.decoder import PixelDecoder, sincos_positions
from smaug_core.model.init_weights import build
from smaug_core.model.sparsify import FUSED
from tests.small import VOCABULARY


@pytest.fixture
def decoder(config) -> PixelDecoder:
    decoder = build(config, VOCABULARY, seed=2).decoder
    assert decoder is not None
    return decoder.eval()


@torch.no_grad()
def test_the_order_of_the_survivors_does_not_matter(decoder):
    tokens, ids = torch.randn(1, 6, 32), torch.tensor([[4, 30, FUSED, 11, 2]])
    hidden = torch.tensor([[0, 1, 3]])
    shuffle = torch.tensor([3, 0, 4, 2, 1])
    shuffled = torch.cat([tokens[:, :1], tokens[:, 1:][:, shuffle]], dim=1)
    torch.testing.assert_close(
        decoder(tokens, ids, hidden), decoder(shuffled, ids[:, shuffle], hidden), atol=1e-6, rtol=1e-5
    )


@torch.no_grad()
def test_a_wrong_position_changes_the_prediction(decoder):
    tokens, hidden = torch.randn(1, 4, 32), torch.tensor([[0]])
    right = decoder(tokens, torch.tensor([[4, 30, 11]]), hidden)
    wrong = decoder(tokens, torch.tensor([[30, 4, 11]]), hidden)
    assert not torch.allclose(right, wrong, atol=1e-4)


@torch.no_grad()
def test_predictions_come_in_the_order_of_the_hidden_patches(decoder):
    tokens, ids = torch.randn(1, 3, 32), torch.tensor([[4, 30]])
    forwards = decoder(tokens, ids, torch.tensor([[0, 7, 9]]))
    backwards = decoder(tokens, ids, torch.tensor([[9, 7, 0]]))
    torch.testing.assert_close(forwards, backwards.flip(1), atol=1e-6, rtol=1e-5)


def test_positions_follow_the_definition():
    table = sincos_positions(3, 8)
    row, column = 2, 1  # the eighth patch
    frequencies = [1.0, 1 / 100]  # 10000 ** -(0/2), 10000 ** -(1/2)
    expected = [np.sin(column * f) for f in frequencies] + [np.cos(column * f) for f in frequencies]
    expected += [np.sin(row * f) for f in frequencies] + [np.cos(row * f) for f in frequencies]
    np.testing.assert_allclose(table[7], expected, atol=1e-6)


def test_a_width_that_cannot_hold_positions_is_refused():
    with pytest.raises(ValueError, match="multiple of 4, got 6"):
        sincos_positions(3, 6)
