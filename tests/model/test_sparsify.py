"""Token sparsification: what is kept, what is fused, and that positions travel with their tokens."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from smaug_core.model.init_weights import build
from smaug_core.model.sparsify import FUSED, sparsify
from smaug_core.model.vision import sparsifying_block
from tests.small import VOCABULARY


def test_a_case_worked_by_hand():
    x = torch.tensor([[[100.0], [1.0], [2.0], [3.0], [4.0]]])  # [CLS] and four tokens
    ids = torch.tensor([[7, 5, 9, 2]])
    attention = torch.tensor([[0.1, 0.4, 0.2, 0.3]])
    kept, kept_ids = sparsify(x, ids, attention, keep=2)
    assert kept_ids.tolist() == [[5, 2, FUSED]]
    # kept: 2 and 4; fused: 0.1 * 1 + 0.2 * 3, the weights not normalised
    torch.testing.assert_close(kept, torch.tensor([[[100.0], [2.0], [4.0], [0.7]]]))


def test_equals_a_float64_restatement():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 11, 5, generator=generator)
    attention = torch.rand(2, 10, generator=generator).softmax(dim=1)
    ids = torch.arange(10).expand(2, -1)
    got, got_ids = sparsify(x, ids, attention, keep=6)
    for row in range(2):
        ranked = sorted(range(10), key=lambda i: -attention[row, i].item())
        fused = sum(attention[row, i].double() * x[row, 1 + i].double() for i in ranked[6:])
        expected = torch.stack([x[row, 0].double(), *(x[row, 1 + i].double() for i in ranked[:6]), fused])
        torch.testing.assert_close(got[row].double(), expected, atol=1e-5, rtol=1e-5)
        assert got_ids[row].tolist() == [*ranked[:6], FUSED]


def test_a_whole_sparsifying_layer_equals_a_float64_restatement(config):
    """Attention, then what [CLS] attends to least is fused, then the MLP on the shorter sequence (EViT)."""
    block = build(config, VOCABULARY, seed=0).vision.vit.blocks[3]
    x = torch.randn(2, 9, 32, generator=torch.Generator().manual_seed(0))
    got, got_ids = sparsifying_block(block, x, torch.arange(8).expand(2, -1), 5)

    weights = {name: tensor.double() for name, tensor in block.state_dict().items()}
    for row in range(2):
        tokens = x[row].double()
        normed = _norm(tokens, weights, "norm1")
        q, k, v = _linear(normed, weights, "attn.qkv").chunk(3, dim=1)
        mixed, by_head = [], []
        for head in (slice(0, 16), slice(16, 32)):
            attention = (q[:, head] @ k[:, head].T / 16**0.5).exp()
            attention = attention / attention.sum(dim=1, keepdim=True)
            mixed.append(attention @ v[:, head])
            by_head.append(attention[0, 1:])
        tokens = tokens + _linear(torch.cat(mixed, dim=1), weights, "attn.proj")
        importance = sum(by_head) / 2
        ranked = sorted(range(8), key=lambda i: -importance[i].item())
        fused = sum(importance[i] * tokens[1 + i] for i in ranked[5:])
        tokens = torch.stack([tokens[0], *(tokens[1 + i] for i in ranked[:5]), fused])
        hidden = _linear(_norm(tokens, weights, "norm2"), weights, "mlp.fc1")
        hidden = hidden / (1 + (-1.702 * hidden).exp())  # QuickGELU
        expected = tokens + _linear(hidden, weights, "mlp.fc2")
        torch.testing.assert_close(got[row].double(), expected, atol=1e-5, rtol=1e-5)
        assert got_ids[row].tolist() == [*ranked[:5], FUSED]


def _linear(x, weights, name):
    return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def _norm(x, weights, name):
    centred = x - x.mean(dim=1, keepdim=True)
    scaled = centred / (centred.pow(2).mean(dim=1, keepdim=True) + 1e-5).sqrt()
    return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def test_gradients_reach_dropped_tokens_and_their_attention():
    x = torch.randn(1, 5, 3, requires_grad=True)
    attention = torch.tensor([[0.1, 0.4, 0.2, 0.3]], requires_grad=True)
    kept, _ = sparsify(x, torch.arange(4).unsqueeze(0), attention, keep=2)
    kept[:, -1].sum().backward()
    assert attention.grad is not None and x.grad is not None
    assert (attention.grad != 0).tolist() == [[True, False, True, False]]
    assert x.grad[0, :, 0].tolist() == pytest.approx([0, 0.1, 0, 0.2, 0])


@given(st.integers(2, 20), st.data())
def test_every_survivor_keeps_its_own_position(tokens, data):
    keep = data.draw(st.integers(1, tokens - 1))
    attention = torch.tensor([data.draw(st.lists(st.floats(0, 1), min_size=tokens, max_size=tokens))])
    x = torch.cat([torch.tensor([-5.0]), torch.arange(tokens).float()]).reshape(1, -1, 1)  # tagged by place
    kept, ids = sparsify(x, torch.arange(tokens).unsqueeze(0), attention, keep)
    assert kept[0, 1:-1, 0].long().tolist() == ids[0, :-1].tolist()


@pytest.mark.parametrize("keep", [0, 4])
def test_keeping_none_or_all_is_refused(keep):
    with pytest.raises(ValueError, match=r"keep must be in \[1, 3\]"):
        sparsify(torch.zeros(1, 5, 2), torch.arange(4).unsqueeze(0), torch.rand(1, 4), keep)
