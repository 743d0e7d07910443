"""bf16 autocast: what must stay in fp32, seen at the operations themselves."""

from dataclasses import replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from smaug_core.clip_shape import ClipShape
from smaug_core.model.init_weights import build
from tests.small import VOCABULARY, make_batch

EMBED, FRAMES = 20, 4
"""No other size of the small model, so that operations can be told apart."""


class Spy(TorchDispatchMode):
    """Notes what autocast makes of every operation: its name, and the type and shape of its first two tensors."""

    def __init__(self):
        super().__init__()
        self.seen: list[tuple[str, list[torch.dtype], list[torch.Size]]] = []

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        tensors = [arg for arg in args if isinstance(arg, torch.Tensor)][:2]
        name = operation.name().removeprefix("aten::").partition(".")[0]
        self.seen.append((name, [t.dtype for t in tensors], [t.shape for t in tensors]))
        return operation(*args, **(kwargs or {}))

    def types_of(self, name, fits=lambda shapes: True):
        found = [dtypes for seen, dtypes, shapes in self.seen if seen == name and fits(shapes)]
        assert found, f"no {name} was seen"
        return {dtype for dtypes in found for dtype in dtypes}


@pytest.fixture(scope="module")
def spy():
    """Of a step of the small model under bf16, 4 frames of which 2 are selected."""
    from tests.small import CONFIG

    model = build(replace(CONFIG, embed_dim=EMBED), VOCABULARY, seed=0, shape=ClipShape(frames=FRAMES, selected=2))
    with Spy() as spy, torch.autocast("cpu", torch.bfloat16):
        model(make_batch(num=6, frames=FRAMES), negatives_group=6)
    return spy


def test_layers_do_run_in_bf16(spy):
    assert torch.bfloat16 in spy.types_of("addmm") | spy.types_of("mm")


def test_similarities_are_computed_in_fp32(spy):
    assert spy.types_of("bmm", lambda shapes: shapes[0][-1] == EMBED) == {torch.float32}


def test_softmax_weights_are_computed_in_fp32(spy):
    """[CLS]'s attention: the products before the softmax and the sum of dropped tokens after it; and the shares."""
    cls_scores = lambda shapes: shapes[1][-2] == 16 and 1 in (shapes[0][-2], shapes[1][-1])  # noqa: E731  head size 16
    assert spy.types_of("bmm", cls_scores) == {torch.float32}
    fused_sums = lambda shapes: shapes[1][-1] == 32 and 1 in (shapes[0][-2],)  # noqa: E731
    assert spy.types_of("bmm", fused_sums) == {torch.float32}
    by_rank = {rank: spy.types_of("_softmax", lambda shapes, r=rank: len(shapes[0]) == r) for rank in (2, 3)}
    assert by_rank[3] == {torch.float32}  # images x heads x tokens
    assert by_rank[2] == {torch.float32, torch.float64}  # the selector's shares, and the weights of hard negatives


def test_losses_are_computed_in_fp32(spy):
    assert spy.types_of("mse_loss") == {torch.float32}
    assert spy.types_of("_log_softmax") == {torch.float32}
