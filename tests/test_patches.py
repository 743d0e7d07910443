"""Patches: their order, their number, and which are hidden."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from smaug_core.patches import patchify, split_patches, unpatchify


def test_patches_run_row_by_row_with_colours_last():
    image = torch.arange(2 * 3 * 4 * 4, dtype=torch.float).reshape(2, 3, 4, 4)
    patches = patchify(image, 2)
    assert patches.shape == (2, 4, 12)
    # second patch of the first image: columns 2 and 3 of rows 0 and 1; three colours of each pixel together
    assert patches[0, 1].tolist() == [2, 18, 34, 3, 19, 35, 6, 22, 38, 7, 23, 39]


def test_unpatchify_undoes_patchify():
    image = torch.rand(2, 3, 12, 12)
    assert torch.equal(unpatchify(patchify(image, 4), 4), image)


@given(st.integers(1, 30), st.integers(0, 2**31))
def test_visible_and_hidden_make_up_all_patches(visible, seed):
    noise = torch.rand(3, 30, generator=torch.Generator().manual_seed(seed))
    shown, hidden = split_patches(noise, visible)
    assert shown.shape == (3, visible)
    together = torch.cat([shown, hidden], dim=1).sort(dim=1).values
    assert torch.equal(together, torch.arange(30).expand(3, -1))


def test_the_lowest_noise_stays_visible():
    shown, hidden = split_patches(torch.tensor([[0.9, 0.1, 0.5, 0.3]]), 2)
    assert shown.tolist() == [[1, 3]]
    assert hidden.tolist() == [[2, 0]]
