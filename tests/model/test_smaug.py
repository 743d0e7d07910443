"""The whole model: which losses it gives, where gradients go, and that it can learn by heart."""

import math
from dataclasses import replace

import pytest
import torch

from smaug_core.config import ScheduleConfig
from smaug_core.model.decoder import sincos_positions
from smaug_core.model.init_weights import build
from smaug_core.training.optim import build_optimizer
from tests.small import VOCABULARY, make_batch


def test_pretraining_has_four_losses_and_finetuning_two(config):
    model = build(config, VOCABULARY, seed=0)
    assert set(model(make_batch(), negatives_group=6)) == {"vtc", "vtm", "mlm", "mvm"}
    plain = make_batch(mask_ratio=0.0, hide_words=False)
    assert set(model(plain, negatives_group=6)) == {"vtc", "vtm"}


def test_no_decoder_means_no_pixel_loss(config):
    model = build(replace(config, decoder_depth=0), VOCABULARY, seed=0)
    assert "mvm" not in model(make_batch(), negatives_group=6)


def test_every_parameter_is_trained(config):
    model = build(config, VOCABULARY, seed=0)
    sum(model(make_batch(), negatives_group=6).values()).backward()
    idle = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    # a softmax does not see a number added to all its inputs: attention's key biases have no gradient
    assert [n for n in idle if not n.endswith(("key.bias",))] == []


def test_padding_does_not_change_the_losses(config):
    model = build(config, VOCABULARY, seed=0).eval()
    batch = make_batch()
    width = 3
    padded = replace(
        batch,
        words=torch.nn.functional.pad(batch.words, (0, width)),
        word_mask=torch.nn.functional.pad(batch.word_mask, (0, width)),
        hidden_words=torch.nn.functional.pad(batch.hidden_words, (0, width)),
        word_places=batch.word_places // 7 * (7 + width) + batch.word_places % 7,
    )
    short, long = model(batch, negatives_group=6), model(padded, negatives_group=6)
    for name in short:
        torch.testing.assert_close(short[name], long[name], atol=1e-5, rtol=1e-5)


def test_padding_of_the_hidden_words_changes_neither_losses_nor_gradients(config):
    """6 words are padded to 8 places; the same 6, and 32 places, give the same."""
    batch, model = make_batch(num=6), build(config, VOCABULARY, seed=0)
    found = []
    for places in (8, 6, 32):
        padding = (0, places - 8)
        padded = replace(
            batch,
            word_places=torch.nn.functional.pad(batch.word_places, padding),
            word_targets=torch.nn.functional.pad(batch.word_targets, padding, value=-100),
        )
        model.zero_grad()
        losses = model(padded, negatives_group=6)
        sum(losses.values()).backward()
        found.append((losses["mlm"], {name: p.grad for name, p in model.named_parameters()}))
    for loss, gradients in found[1:]:
        torch.testing.assert_close(loss, found[0][0])
        torch.testing.assert_close(gradients, found[0][1])


def test_words_of_the_fusion_encoder_see_each_other_in_both_directions(config):
    fusion = build(config, VOCABULARY, seed=0).fusion.eval()
    words, keys = torch.randn(1, 5, 24), torch.randn(1, 9, 32)
    mask = torch.ones(1, 5, dtype=torch.bool)
    changed = words.clone()
    changed[0, 4] += 1.0
    assert not torch.allclose(fusion(words, mask, keys)[0, 0], fusion(changed, mask, keys)[0, 0])


@torch.no_grad()
def test_one_row_of_tokens_serves_many_captions(config):
    model = build(config, VOCABULARY, seed=0).eval()
    states, mask = torch.randn(4, 5, 24), torch.ones(4, 5, dtype=torch.bool)
    keys = torch.randn(1, 9, 32)
    shared = model.match_logits(states, mask, keys)
    torch.testing.assert_close(shared, model.match_logits(states, mask, keys.expand(4, -1, -1)))


def test_new_weights_are_scaled_to_their_width(config):
    model = build(config, VOCABULARY, seed=0)
    for part, width in ((model.vision.vit.blocks[3].mlp.fc2, 32), (model.fusion.layers[1].output.dense, 24)):
        assert part.weight.std().item() == pytest.approx(0.02 * math.sqrt(768 / width), rel=0.1)
        assert part.bias.abs().sum() == 0
    assert model.text.layers[0].intermediate.dense.weight.std().item() == pytest.approx(0.02, rel=0.1)


def test_new_positions_are_known_and_captions_begin_as_sums_of_their_words(config):
    model = build(config, VOCABULARY, seed=0)
    table = model.vision.vit.pos_embed[0, 1:]
    assert torch.equal(table, sincos_positions(6, 32))
    embeddings = model.text.embeddings
    assert embeddings.position_embeddings.weight.abs().sum() == 0
    assert embeddings.token_type_embeddings.weight.abs().sum() == 0
    words = torch.tensor([[7, 8, 9]])
    mask = torch.ones_like(words, dtype=torch.bool)
    states = model.text(words, mask)
    torch.testing.assert_close(states.flip(1), model.text(words.flip(1), mask))


def test_a_mean_of_tokens_leaves_padding_out(config):
    model = build(replace(config, caption_vector="mean"), VOCABULARY, seed=0).eval()
    states, mask = torch.randn(2, 5, 24), torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    vectors = model.embed_caption(states, mask)
    torch.testing.assert_close(vectors[1:], model.embed_caption(states[1:, :3], mask[1:, :3]))
    by_hand = torch.nn.functional.normalize(model.text_projection(states[0].mean(dim=0)), dim=-1)
    torch.testing.assert_close(vectors[0], by_hand)


def test_the_seed_decides_the_weights(config):
    one, same, other = (build(config, VOCABULARY, seed=s).state_dict() for s in (0, 0, 1))
    assert all(torch.equal(one[k], same[k]) for k in one)
    assert any(not torch.equal(one[k], other[k]) for k in one)


def test_the_temperature_is_kept_within_its_bounds(config):
    model = build(config, VOCABULARY, seed=0)
    with torch.no_grad():
        model.temperature.fill_(3.0)
    assert model.bounded_temperature().item() == 0.5


def test_weight_decay_spares_norms_biases_tables_and_temperature(config):
    schedule = ScheduleConfig(
        epochs=1, batch_size=6, lr=1e-3, min_lr=0.0, warmup_epochs=0.0, beta2=0.98, precision="fp32",
        text_length=8, negatives_group=6,
    )  # fmt: skip
    model = build(config, VOCABULARY, seed=0)
    decayed, exempt = build_optimizer(model, schedule).param_groups
    names = {id(p): n for n, p in model.named_parameters()}
    spared = {names[id(p)] for p in exempt["params"]}
    assert {"temperature", "vision.vit.cls_token", "vision.vit.pos_embed", "decoder.mask_token"} <= spared
    assert "text.embeddings.word_embeddings.weight" in spared
    assert all(p.dim() >= 2 for p in decayed["params"])
    assert decayed["weight_decay"] == 0.02 and exempt["weight_decay"] == 0
    assert len(decayed["params"]) + len(exempt["params"]) == len(names)


@pytest.mark.parametrize("caption_vector", ["cls", "mean"])
def test_a_small_batch_can_be_learnt_by_heart(config, caption_vector):
    model = build(replace(config, caption_vector=caption_vector), VOCABULARY, seed=0)
    batch = make_batch(num=8)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for _ in range(400):  # some 140 were enough; late ones jump about, on every processor differently
        losses = model(batch, negatives_group=8)
        if losses["vtc"] < 0.1 and losses["mlm"] < 0.1 and losses["vtm"] < 0.3:
            return
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
    pytest.fail(f"not learnt: {losses}")
