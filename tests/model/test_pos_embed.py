"""Position tables at another image size, by hand, and in this model's own checkpoints."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from smaug_core.model.init_weights import build
from smaug_core.model.pos_embed import resize_positions
from tests.small import CONFIG, VOCABULARY

BEIT = replace(CONFIG, vision="beit_base_patch16_224", layers=2, keep_rate=1.0, sparsify_layers=())
ABSOLUTE = "vision.vit.pos_embed"
RELATIVE = "vision.vit.blocks.1.attn.relative_position_bias_table"


def model_at(config, size):
    return build(replace(config, image_size=size), VOCABULARY, seed=1)


def test_absolute_positions_are_resampled_bicubically_and_cls_stays():
    """Of a table that rises steadily along an axis, the middle keeps rising steadily, at the new pace."""
    ramp = torch.arange(6.0).repeat(6, 1)  # by column
    table = torch.cat([torch.full((1, 1, 32), 9.0), ramp.reshape(1, 36, 1).expand(1, 36, 32)], dim=1)
    resized = resize_positions({ABSOLUTE: table}, model_at(CONFIG, 96))[ABSOLUTE]
    assert resized.shape == (1, 145, 32) and (resized[:, 0] == 9).all()
    line = resized[0, 1:, 5].reshape(12, 12)[6]
    expected = (torch.arange(12.0) + 0.5) / 2 - 0.5  # the middles of half as wide patches
    torch.testing.assert_close(line[3:9], expected[3:9], atol=1e-5, rtol=0)


def test_relative_positions_are_interpolated_on_a_grid_that_widens():
    """Against an interpolation by NumPy, one axis after the other, on points at q^0, q^0 + q^1 and so on."""
    table = torch.randn(11 * 11 + 3, 2)
    resized = resize_positions({RELATIVE: table}, model_at(BEIT, 64))[RELATIVE]
    assert resized.shape == (15 * 15 + 3, 2)
    assert torch.equal(resized[-3:], table[-3:])
    low, high = 1.01, 1.5
    for _ in range(60):  # five steps reach the farthest distance, 7
        q = (low + high) / 2
        low, high = (low, q) if sum(q**i for i in range(5)) > 7 else (q, high)
    half = np.cumsum([q**i for i in range(5)])
    known, wanted = np.concatenate([-half[::-1], [0], half]), np.arange(-7, 8)
    for head in range(2):
        grid = table[:-3, head].reshape(11, 11).double().numpy()
        rows = np.array([np.interp(wanted, known, row) for row in grid])
        expected = np.array([np.interp(wanted, known, column) for column in rows.T]).T
        np.testing.assert_allclose(resized[:-3, head].reshape(15, 15), expected, atol=1e-4)


@pytest.mark.parametrize(("config", "table"), [(CONFIG, ABSOLUTE), (BEIT, RELATIVE)])
@pytest.mark.parametrize("size", [32, 64])
@torch.no_grad()
def test_a_checkpoint_of_ours_serves_another_size(config, table, size):
    old, new = model_at(config, 48), model_at(config, size)
    tensors = old.state_dict()
    resized = resize_positions(tensors, new)
    assert resized.keys() == tensors.keys()
    assert resized[table].shape == new.state_dict()[table].shape != tensors[table].shape
    new.load_state_dict(resized)
    others = [name for name in resized if not name.endswith(("pos_embed", "relative_position_bias_table"))]
    assert all(resized[name] is tensors[name] for name in others)
    frames = new.eval().vision(torch.randn(1, 3, size, size), visible=None, keep_rate=1.0)
    assert frames.tokens.shape == (1, 1 + (size // 8) ** 2, 32)


@pytest.mark.parametrize("config", [CONFIG, BEIT])
def test_the_same_size_changes_nothing(config):
    model = model_at(config, 48)
    tensors = model.state_dict()
    assert all(tensor is tensors[name] for name, tensor in resize_positions(tensors, model).items())


@pytest.mark.parametrize("shape", [(1, 36, 32), (1, 26, 31), (26, 32), (1, 1, 32)])
def test_what_is_no_table_for_a_square_is_left_to_be_refused(shape):
    table = torch.zeros(shape)
    assert resize_positions({ABSOLUTE: table, "other": table}, model_at(CONFIG, 48))[ABSOLUTE] is table
