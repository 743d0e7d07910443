"""The temporal encoder: joint attention, an embedding that starts at 0 and follows the number of frames."""

import pytest
import torch

from smaug_core.model.temporal import TemporalEncoder, resize_time


def test_the_embedding_follows_the_middles_of_equal_intervals():
    table = torch.tensor([[0.0], [1.0]])  # at 1/4 and 3/4 of the clip
    assert resize_time(table, 4).flatten().tolist() == pytest.approx([0.0, 0.25, 0.75, 1.0])  # at 1/8, 3/8, 5/8, 7/8
    assert resize_time(table, 1).flatten().tolist() == [0.5]
    assert resize_time(table, 2) is table


def test_a_new_one_does_not_know_the_order_of_frames_and_a_trained_one_does(config):
    temporal = TemporalEncoder(config, 4).eval()
    tokens, places = torch.randn(1, 2, 3, 32), torch.tensor([[0, 3]])
    backwards = torch.tensor([[3, 0]])
    assert torch.equal(temporal(tokens, places, 4), temporal(tokens, backwards, 4))
    torch.nn.init.normal_(temporal.time_embed)
    assert not torch.allclose(temporal(tokens, places, 4), temporal(tokens, backwards, 4))


def test_every_token_sees_those_of_the_other_frames(config):
    temporal = TemporalEncoder(config, 4).eval()
    tokens, places = torch.randn(1, 2, 3, 32), torch.tensor([[1, 2]])
    changed = tokens.clone()
    changed[0, 1, 2] += 1.0
    first = slice(0, 3)
    assert not torch.allclose(temporal(tokens, places, 4)[:, first], temporal(changed, places, 4)[:, first])


def test_each_token_gets_the_embedding_of_the_place_its_frame_was_selected_from(config):
    temporal = TemporalEncoder(config, 4).eval()
    temporal.layers = torch.nn.ModuleList()
    torch.nn.init.normal_(temporal.time_embed)
    joined = temporal(torch.zeros(1, 2, 3, 32), torch.tensor([[1, 3]]), 4)
    assert torch.equal(joined[0, :3], temporal.time_embed[1].expand(3, -1))
    assert torch.equal(joined[0, 3:], temporal.time_embed[3].expand(3, -1))
