"""The closed form against torch's own count of the same step, and against counts made elsewhere by hand."""

from dataclasses import replace

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from experiments.config.scale import load_scale
from experiments.config.settings import with_overrides
from experiments.stages.graph import resolved
from smaug_core.clip_shape import ClipShape
from smaug_core.cost.flops import StepShape, block, cost, published_accounting, step_cost, token_schedule, total_macs
from smaug_core.cost.token_counts import num_visible
from smaug_core.data.batch import Batch, places_of_words
from smaug_core.errors import SmaugError
from smaug_core.model.init_weights import build
from smaug_core.model.smaug import SMAUG
from tests.benchmarks.rows import SIZES
from tests.small import VOCABULARY, make_batch

SINGLE = ClipShape()
PAPER = replace(SIZES["paper"].model, dropout=0.0)
BERT = 30_522


def counted(model: SMAUG, batch: Batch) -> float:
    """Multiply-accumulates of the forward pass of one sample, as torch counts them."""
    # the counter does not know the fused attention kernels of the CPU
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(batch, negatives_group=len(batch.media))
    return counter.get_total_flops() / 2 / len(batch.media)


def single_frame(mask_ratio: float, clip: ClipShape = SINGLE) -> StepShape:
    """A step at the paper's scale."""
    return StepShape(mask_ratio=mask_ratio, text_tokens=32, hidden_words=4, vocab_size=BERT, clip=clip)


@pytest.mark.parametrize("mask_ratio", [0.1, 0.5, 0.65])
@pytest.mark.parametrize("keep_rate", [0.8, 1.0])
def test_equals_torchs_count_of_a_single_frame_step(config, mask_ratio, keep_rate):
    config = replace(config, keep_rate=keep_rate)
    shape = StepShape(mask_ratio=mask_ratio, text_tokens=7, hidden_words=1, vocab_size=VOCABULARY)
    found = counted(build(config, VOCABULARY, seed=0), make_batch(num=8, mask_ratio=mask_ratio))
    assert total_macs(step_cost(config, shape)) == pytest.approx(found, rel=1e-3)


@pytest.mark.parametrize("selection_per", ["pair", "clip"])
@pytest.mark.parametrize(("frames", "selected"), [(4, 4), (4, 2), (4, 1), (8, 4)])
def test_equals_torchs_count_of_a_multi_frame_step(config, frames, selected, selection_per):
    config, clip = replace(config, selection_per=selection_per), ClipShape(frames=frames, selected=selected)
    shape = StepShape(mask_ratio=0.5, text_tokens=7, hidden_words=1, vocab_size=VOCABULARY, clip=clip)
    found = counted(build(config, VOCABULARY, seed=0, shape=clip), make_batch(num=4, frames=frames))
    assert total_macs(step_cost(config, shape)) == pytest.approx(found, rel=1e-3)


@pytest.mark.parametrize("vision", ["vit_base_patch16_clip_quickgelu_224", "beit_base_patch16_224.in22k_ft_in22k"])
@pytest.mark.parametrize("clip", [SINGLE, ClipShape(frames=4, selected=4)])
def test_equals_torchs_count_where_nothing_is_hidden_or_dropped(config, clip, vision):
    config = replace(config, vision=vision, keep_rate=1.0, decoder_depth=0)
    shape = StepShape(mask_ratio=0.0, text_tokens=7, hidden_words=1, vocab_size=VOCABULARY, clip=clip)
    model = build(config, VOCABULARY, seed=0, shape=clip)
    found = counted(model, make_batch(num=4, frames=clip.frames, mask_ratio=0.0))
    assert total_macs(step_cost(config, shape)) == pytest.approx(found, rel=1e-3)


def test_equals_torchs_count_of_a_fine_tuning_step(config):
    clip = ClipShape(frames=4, selected=2)
    shape = StepShape(mask_ratio=0.0, text_tokens=7, hidden_words=0, vocab_size=VOCABULARY, clip=clip)
    batch = make_batch(num=4, frames=4, mask_ratio=0.0, hide_words=False)
    found = counted(build(config, VOCABULARY, seed=0, shape=clip), batch)
    assert total_macs(step_cost(config, shape)) == pytest.approx(found, rel=1e-3)


@pytest.mark.parametrize("clip", [SINGLE, ClipShape(frames=4, selected=2)])
def test_equals_torchs_count_at_the_papers_widths(clip):
    """At full depth, on two samples, on the meta device: no number is computed."""
    batch = make_batch(num=2, frames=clip.frames)
    patches = torch.rand(2, 196).argsort(dim=1)
    words = torch.randint(5, BERT, (2, 32))
    targets = torch.full_like(words, -100)
    targets[:, 1:5] = words[:, 1:5]
    word_places, word_targets = places_of_words(targets)
    batch = replace(
        batch,
        images=torch.randn(2, clip.frames, 3, 224, 224),
        words=words,
        word_mask=torch.ones_like(words, dtype=torch.bool),
        hidden_words=words,
        word_places=word_places,
        word_targets=word_targets,
        visible=patches[:, :98],
        hidden=patches[:, 98:],
    )
    with torch.device("meta"):
        model = SMAUG(PAPER, BERT, clip)
    found = counted(model, batch.to("meta"))
    assert total_macs(step_cost(PAPER, single_frame(0.5, clip))) == pytest.approx(found, rel=1e-3)


def test_finetuning_has_no_masked_pass_and_no_decoder(config):
    shape = StepShape(mask_ratio=0.0, text_tokens=7, hidden_words=0, vocab_size=VOCABULARY)
    assert set(step_cost(config, shape)) == {"encoder", "text", "fusion", "heads"}


def test_parts_that_take_several_frames_are_there_with_them_alone(config):
    def parts(frames: int, selected: int) -> set[str]:
        return set(step_cost(config, single_frame(0.5, ClipShape(frames=frames, selected=selected))))

    assert parts(4, 4) - parts(1, 1) == {"temporal"}
    assert parts(4, 2) - parts(4, 4) == {"selector"}


def test_selecting_for_each_pair_costs_three_temporal_encoders_and_selectors():
    clip = ClipShape(frames=4, selected=2)
    pair = step_cost(PAPER, single_frame(0.5, clip))
    own = step_cost(replace(PAPER, selection_per="clip"), single_frame(0.5, clip))
    for name in pair:
        assert pair[name].macs == (3 if name in ("selector", "temporal") else 1) * own[name].macs


ROWS = [  # of Tables 4, 5 and 11: masking, keeping rate, decoder depth, tokens that leave layers 1, 4, 7 and 10
    (0.10, 0.8, 3, (176, 142, 115, 93)),
    (0.25, 0.8, 3, (147, 119, 97, 79)),
    (0.50, 0.8, 3, (98, 80, 65, 53)),
    (0.65, 0.8, 3, (68, 56, 46, 38)),
    (0.50, 0.6, 3, (98, 60, 37, 24)),
    (0.50, 0.7, 3, (98, 70, 50, 36)),
    (0.50, 0.9, 3, (98, 90, 82, 75)),
    (0.50, 0.8, 1, (98, 80, 65, 53)),
    (0.50, 0.8, 6, (98, 80, 65, 53)),
    (0.50, 0.8, 12, (98, 80, 65, 53)),
]


@pytest.mark.parametrize(("mask_ratio", "keep_rate", "depth", "tokens"), ROWS)
def test_tokens_by_layer_of_the_single_frame_rows(mask_ratio, keep_rate, depth, tokens):
    model = replace(PAPER, keep_rate=keep_rate, decoder_depth=depth)
    leaving = [out for _, out in token_schedule(model, mask_ratio)]
    assert leaving == [count for count in tokens for _ in range(3)]
    parts = step_cost(model, single_frame(mask_ratio))
    assert parts["encoder"].tokens == 1 + tokens[0]
    assert parts["decoder"].tokens == 1 + tokens[-1] + 196 - num_visible(196, mask_ratio)


def test_tokens_where_one_of_the_two_is_off():
    assert [out for _, out in token_schedule(PAPER, 0.0)][::3] == [196, 158, 128, 104]
    assert [out for _, out in token_schedule(replace(PAPER, keep_rate=1.0), 0.5)] == [98] * 12


def test_the_default_step_in_parts():
    """In GMAC, beside a count by hand in which all 196 patches are embedded."""
    parts = step_cost(*published_accounting(PAPER, single_frame(0.5)))
    found = {name: part.macs / 1e9 for name, part in parts.items()}
    assert found["encoder"] == pytest.approx(6.71 - 98 * 768**2 / 1e9, abs=0.005)
    assert found["text"] == pytest.approx(4.11, abs=0.005)
    assert found["fusion"] == pytest.approx(3.99, abs=0.005)
    assert found["word_head"] == pytest.approx(0.77, abs=0.005)
    assert published_accounting(PAPER, single_frame(0.5))[1].hidden_words == 32


def test_a_block_worked_by_hand():
    # width 2, 3 tokens: projections 4 * 3 * 4 = 48, attention 2 * 9 * 2 = 36, feed-forward 2 * 3 * 2 * 8 = 96
    assert block(3, 2) == 180
    # 2 of 3 tokens reach a feed-forward part of 5: 2 * 2 * 2 * 5 = 40
    assert block(3, 2, after=2, hidden=5) == 124


def test_every_training_stage_of_a_configuration_has_its_cost():
    scale = load_scale("tiny")
    tree = with_overrides(scale.tree, {"pretrain_video.frames": 4, "finetune.msrvtt.image_size_ratio": 1.5})
    config = resolved(scale.config(tree, ["msrvtt"]))
    found = cost(config, 43)
    assert list(found) == ["pretrain", "pretrain_video", "finetune.msrvtt"]
    assert "temporal" in found["finetune.msrvtt"] and "temporal" not in found["pretrain"]
    assert "word_head" not in found["finetune.msrvtt"]
    assert found["finetune.msrvtt"]["encoder"].tokens == 1 + 81
    with pytest.raises(SmaugError, match="step: 'fast' has no cost model"):
        cost(config, 43, step="fast")
