"""The closed form against torch's own count of the same step."""

from dataclasses import replace

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from smaug_core.cost import StepShape, block, step_cost, token_schedule, total_macs
from smaug_core.model.initial import build
from tests.small import VOCABULARY, make_batch


@pytest.mark.parametrize("mask_ratio", [0.1, 0.5, 0.65])
@pytest.mark.parametrize("keep_rate", [0.8, 1.0])
def test_equals_torchs_count_of_the_forward_pass(config, mask_ratio, keep_rate):
    config = replace(config, keep_rate=keep_rate)
    batch = make_batch(num=8, mask_ratio=mask_ratio)
    # the counter does not know the fused attention kernels of the CPU
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter, torch.no_grad():
        build(config, VOCABULARY, seed=0)(batch, negatives_group=8)
    counted = counter.get_total_flops() / 2 / 8
    shape = StepShape(mask_ratio=mask_ratio, text_tokens=7, hidden_words=1, vocab_size=VOCABULARY)
    assert total_macs(step_cost(config, shape)) == pytest.approx(counted, rel=0.01)


def test_finetuning_has_no_masked_pass_and_no_decoder(config):
    shape = StepShape(mask_ratio=0.0, text_tokens=7, hidden_words=0, vocab_size=VOCABULARY)
    assert set(step_cost(config, shape)) == {"encoder", "text", "fusion", "heads"}


def test_tokens_by_layer_at_paper_scale(config):
    config = replace(config, image_size=224, patch_size=16)
    schedule = token_schedule(config, 0.5)
    assert [leaving for _, leaving in schedule] == [98] * 3 + [80] * 3 + [65] * 3 + [53] * 3


def test_a_block_worked_by_hand():
    # width 2, 3 tokens: projections 4 * 3 * 4 = 48, attention 2 * 9 * 2 = 36, feed-forward 2 * 3 * 2 * 8 = 96
    assert block(3, 2) == 180
