"""The encoder against the plain timm model it wraps, and under sparsification."""

from dataclasses import replace

import pytest
import torch

from smaug_core.errors import SmaugError
from smaug_core.model.init_weights import build
from smaug_core.model.sparsify import FUSED
from smaug_core.model.vision import VisionEncoder, attend, create_vit
from tests.small import VOCABULARY


@pytest.fixture
def encoder(config):
    return build(config, VOCABULARY, seed=1).vision.eval()


@torch.no_grad()
def test_no_mask_and_keeping_all_equals_the_timm_model(encoder):
    images = torch.randn(3, 3, 48, 48)
    ours = encoder(images, visible=None, keep_rate=1.0).tokens
    torch.testing.assert_close(ours, encoder.vit.forward_features(images), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_keeping_all_equals_a_plain_masked_autoencoder(encoder):
    images = torch.randn(2, 3, 48, 48)
    visible = torch.tensor([[3, 0, 17, 35], [1, 2, 3, 4]])
    ours = encoder(images, visible=visible, keep_rate=1.0)
    vit = encoder.vit
    embedded = vit.patch_embed(images) + vit.pos_embed[:, 1:]
    x = torch.stack([embedded[row, visible[row]] for row in range(2)])
    x = torch.cat([(vit.cls_token + vit.pos_embed[:, :1]).expand(2, -1, -1), x], dim=1)
    plain = vit.norm(vit.blocks(vit.norm_pre(x)))
    torch.testing.assert_close(ours.tokens, plain, atol=1e-5, rtol=1e-5)
    assert torch.equal(ours.position_ids, visible)


@torch.no_grad()
def test_every_survivor_meets_its_own_position(config):
    """With blocks that change nothing, a survivor still is its own patch at its own position."""
    encoder = VisionEncoder(config).eval()
    for block in encoder.vit.blocks:
        block.attn.proj.weight.zero_()
        block.attn.proj.bias.zero_()
        block.mlp.fc2.weight.zero_()
        block.mlp.fc2.bias.zero_()
    images = torch.randn(4, 3, 48, 48)
    untouched = encoder(images, visible=None, keep_rate=1.0).tokens[:, 1:]
    sparse = encoder(images, visible=None, keep_rate=0.6)
    assert sparse.position_ids.shape == (4, 10)  # 36 -> 22 + 1 -> 14 + 1 -> 9 + 1
    for row in range(4):
        for place, patch in enumerate(sparse.position_ids[row].tolist()):
            if patch != FUSED:
                torch.testing.assert_close(sparse.tokens[row, 1 + place], untouched[row, patch])


@torch.no_grad()
def test_cls_attention_is_the_first_row_of_the_softmax(encoder):
    attn = encoder.vit.blocks[0].attn
    x = torch.randn(2, 10, 32)
    mixed, cls_attention = attend(attn, x)
    torch.testing.assert_close(mixed, attn(x), atol=1e-5, rtol=1e-5)
    q, k, _ = attn.qkv(x).reshape(2, 10, 3, 2, 16).permute(2, 0, 3, 1, 4)
    full = (q @ k.transpose(-1, -2) * attn.scale).softmax(dim=-1)
    torch.testing.assert_close(cls_attention, full.mean(dim=1)[:, 0, 1:])
    assert (cls_attention.sum(dim=1) < 1).all()  # [CLS]'s attention to itself is left out, not shared out


def test_an_unknown_model_is_named_with_near_ones(config):
    with pytest.raises(SmaugError, match="timm has no model 'vit_bass'"):
        create_vit(replace(config, vision="vit_bass"))


@pytest.mark.parametrize("name", ["resnet18", "vit_base_patch16_gap_224"])
def test_a_model_without_class_token_or_blocks_is_refused(config, name):
    with pytest.raises(SmaugError, match=f"model.vision: '{name}'"):
        create_vit(replace(config, vision=name))


def test_pictures_of_another_size_are_refused(encoder):
    with pytest.raises(ValueError, match="give 64 patches; the position table holds 36"):
        encoder(torch.zeros(1, 3, 64, 64), visible=None, keep_rate=1.0)


def test_a_tag_that_timm_does_not_know_is_refused_with_those_it_has(config):
    with pytest.raises(SmaugError, match=r"timm has no weights '.*\.opnai'; of this model it has .*\.openai"):
        build(replace(config, vision="vit_base_patch16_clip_quickgelu_224.opnai"), VOCABULARY, seed=0)
