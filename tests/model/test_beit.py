"""The encoder of the Singularity baseline: whole frames only, at any size."""

from dataclasses import replace

import pytest
import torch

from smaug_core.data.transforms import CLIP, Colours
from smaug_core.errors import SmaugError
from smaug_core.model.beit import BeitEncoder
from smaug_core.model.encoder import create_encoder
from smaug_core.model.init_weights import build
from smaug_core.model.vision import VisionEncoder
from tests.small import CONFIG, VOCABULARY, make_batch

BEIT = replace(
    CONFIG, vision="beit_base_patch16_224", width=64, heads=2, layers=2, keep_rate=1.0, sparsify_layers=(1, 2)
)


def test_the_kind_of_model_chooses_the_encoder(config):
    assert isinstance(create_encoder(config), VisionEncoder)
    assert isinstance(create_encoder(BEIT), BeitEncoder)
    with pytest.raises(SmaugError, match="model.vision: 'resnet18'"):
        create_encoder(replace(config, vision="resnet18"))


@torch.no_grad()
def test_the_summary_is_the_normed_mean_of_the_patches(config):
    encoder = build(BEIT, VOCABULARY, seed=1).vision.eval()
    images = torch.randn(2, 3, 48, 48)
    frames = encoder(images, visible=None, keep_rate=1.0)
    plain = encoder.vit.forward_features(images)
    assert frames.tokens.shape == (2, 37, 64) and frames.position_ids.tolist() == [list(range(36))] * 2
    mean = plain[:, 1:].mean(dim=1)
    centred = mean - mean.mean(dim=-1, keepdim=True)
    by_hand = centred / centred.square().mean(dim=-1, keepdim=True).sqrt()  # new norms scale by 1 and shift by 0
    torch.testing.assert_close(frames.summary, by_hand)
    torch.testing.assert_close(frames.tokens.mean(dim=-1), torch.zeros(2, 37), atol=1e-5, rtol=0)
    torch.testing.assert_close(frames.tokens.std(dim=-1, unbiased=False), torch.ones(2, 37))


def test_new_weights_begin_without_biases_and_with_beits_layer_scale():
    model = build(BEIT, VOCABULARY, seed=1)
    for block in model.vision.vit.blocks:
        assert not block.attn.relative_position_bias_table.any()
        assert not block.attn.q_bias.any() and not block.attn.v_bias.any()
        assert (block.gamma_1 == 0.1).all() and (block.gamma_2 == 0.1).all()
        assert block.attn.qkv.weight.std().item() == pytest.approx(0.02 * (768 / 64) ** 0.5, rel=0.1)


def test_a_step_trains_every_part_of_the_encoder():
    """With hidden words and no hidden patches, as Singularity trains."""
    model = build(BEIT, VOCABULARY, seed=1)
    with torch.no_grad():
        model.match_head.weight.normal_(0, 0.02)  # new, it is 0 and passes no gradient on
    losses = model(make_batch(mask_ratio=0.0), negatives_group=6)
    assert losses.keys() == {"vtc", "vtm", "mlm"}
    sum(losses.values()).backward()
    untouched = [n for n, p in model.vision.named_parameters() if p.grad is None or not p.grad.any()]
    assert untouched == []


def test_layers_are_skipped_in_training_only():
    encoder = build(BEIT, VOCABULARY, seed=1).vision
    images = torch.randn(64, 3, 48, 48)
    trained = encoder(images, visible=None, keep_rate=1.0).summary
    encoder.eval()
    one, two = (encoder(images, visible=None, keep_rate=1.0).summary for _ in range(2))
    assert torch.equal(one, two)
    changed = (trained - one).abs().amax(dim=1) > 1e-4  # a kept branch is scaled up, so every sample changes
    assert changed.all()


def test_stochastic_depth_rises_to_a_tenth():
    blocks = create_encoder(replace(BEIT, layers=3, sparsify_layers=())).vit.blocks
    rates = [getattr(block.drop_path1, "drop_prob", 0.0) for block in blocks]
    assert rates == pytest.approx([0.0, 0.05, 0.1])


@torch.no_grad()
def test_bf16_stays_near_fp32():
    encoder = build(BEIT, VOCABULARY, seed=1).vision.eval()
    images = torch.randn(2, 3, 48, 48)
    exact = encoder(images, visible=None, keep_rate=1.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = encoder(images, visible=None, keep_rate=1.0)
    torch.testing.assert_close(rough.tokens.float(), exact.tokens, atol=0.05, rtol=0)
    torch.testing.assert_close(rough.summary.float(), exact.summary, atol=0.05, rtol=0)


def test_hidden_patches_are_refused():
    encoder = create_encoder(BEIT)
    visible = torch.tensor([[0, 5, 7]])
    with pytest.raises(SmaugError, match="3 of 36 patches are visible; expected pretrain.mask_ratio = 0"):
        encoder(torch.zeros(1, 3, 48, 48), visible=visible, keep_rate=1.0)


def test_sparsification_is_refused_when_built_and_when_asked_for_later():
    with pytest.raises(SmaugError, match="model.keep_rate: 0.8 is not allowed with model.vision = 'beit_base"):
        create_encoder(replace(BEIT, keep_rate=0.8))
    with pytest.raises(SmaugError, match="keep_rate: 0.7 is not allowed"):
        create_encoder(BEIT)(torch.zeros(1, 3, 48, 48), visible=None, keep_rate=0.7)


def test_a_keeping_rate_without_layers_that_sparsify_means_nothing():
    encoder = create_encoder(replace(BEIT, keep_rate=0.8, sparsify_layers=()))
    assert encoder(torch.zeros(1, 3, 48, 48), visible=None, keep_rate=0.8).tokens.shape == (1, 37, 64)


def test_pictures_of_another_size_are_refused():
    with pytest.raises(ValueError, match="give 64 patches; the position table holds 36"):
        create_encoder(BEIT)(torch.zeros(1, 3, 64, 64), visible=None, keep_rate=1.0)


def test_pixels_are_normalised_as_the_checkpoints_were_trained(config):
    assert create_encoder(config).colours == CLIP
    beit = replace(config, vision="beit_base_patch16_224.in22k_ft_in22k", keep_rate=1.0)
    assert create_encoder(beit).colours == Colours((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
