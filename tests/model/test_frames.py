"""The model on several frames: which parts there are, what selects, and where gradients stop."""

from dataclasses import replace

import pytest
import torch

from smaug_core.clip_shape import ClipShape
from smaug_core.model.init_weights import build
from smaug_core.model.pairs import Pairs
from tests.small import VOCABULARY, make_batch


def model_of(config, frames, selected, **changes):
    """As after some training: what starts at 0, and at first passes nothing on or back, is drawn."""
    model = build(replace(config, **changes), VOCABULARY, seed=0, shape=ClipShape(frames=frames, selected=selected))
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        starts_at_0 = name in ("match_head.weight", "selector.score.weight")
        if starts_at_0 or (name.startswith("temporal") and name.endswith("output.dense.weight")):
            torch.nn.init.normal_(parameter, std=0.1, generator=generator)
    return model


def losses_of(model, batch):
    return model(batch, negatives_group=6)


@pytest.mark.parametrize(("frames", "selected"), [(4, 1), (4, 2), (4, 4), (8, 4)])
@pytest.mark.parametrize("selection_per", ["pair", "clip"])
def test_every_parameter_is_trained(config, frames, selected, selection_per):
    model = model_of(config, frames, selected, selection_per=selection_per)
    assert (model.selector is not None) == (selected < frames)
    sum(losses_of(model, make_batch(frames=frames)).values()).backward()
    idle = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    # a softmax does not see a number added to all its inputs: what only does that has a rounding error for a gradient
    assert [n for n in idle if not n.endswith(("key.bias", "selector.score.bias"))] == []


def test_one_frame_has_neither_selector_nor_temporal_encoder(config):
    model = model_of(config, 1, 1)
    assert model.selector is None and model.temporal is None


@torch.no_grad()
def test_a_single_frame_through_a_video_model_skips_both(config):
    video, still = model_of(config, 4, 2), model_of(config, 1, 1)
    still.load_state_dict({n: t for n, t in video.state_dict().items() if not n.startswith(("selector", "temporal"))})
    batch = make_batch(frames=1)
    for name, value in losses_of(still, batch).items():
        torch.testing.assert_close(losses_of(video, batch)[name], value)


@torch.no_grad()
def test_the_contrast_sees_all_frames_before_any_is_selected(config):
    video, still = model_of(config, 4, 1), model_of(config, 1, 1)
    still.load_state_dict({n: t for n, t in video.state_dict().items() if not n.startswith(("selector", "temporal"))})
    batch = make_batch(frames=4)
    vectors = [
        still.embed_frames(still.encode_clips(batch.images[:, k : k + 1], visible=batch.visible)) for k in range(4)
    ]
    whole = video.embed_frames(video.encode_clips(batch.images, visible=batch.visible))
    torch.testing.assert_close(whole, torch.cat(vectors, dim=1))


def test_reconstruction_teaches_the_selector_nothing(config):
    model = model_of(config, 4, 2)
    losses_of(model, make_batch(frames=4))["mvm"].backward()
    assert all(p.grad is None or not p.grad.any() for p in model.selector.parameters())
    assert all(p.grad is None for p in model.temporal.parameters())


@pytest.mark.parametrize("loss", ["vtm", "mlm"])
def test_the_text_teaches_the_selector(config, loss):
    model = model_of(config, 4, 2)
    losses_of(model, make_batch(frames=4))[loss].backward()
    assert model.selector.score.weight.grad.abs().sum() > 0


@torch.no_grad()
def test_a_new_video_model_likes_all_frames_and_adds_nothing_to_their_tokens(config):
    model = build(config, VOCABULARY, seed=0, shape=ClipShape(frames=4, selected=2)).eval()
    scores = model.selector(torch.randn(3, 4, 32), torch.randn(3, 24))
    assert torch.equal(scores, torch.zeros(3, 4))
    tokens, places = torch.randn(3, 2, 5, 32), torch.tensor([[0, 2]] * 3)
    normed = torch.nn.functional.layer_norm(tokens, (32,))
    torch.testing.assert_close(model.temporal(tokens, places, 4), normed.flatten(1, 2), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_only_selected_frames_are_reconstructed(config):
    """Pixels of frames that were not selected do not change the loss, those of one that was do."""
    model = model_of(config, 4, 2).eval()
    batch = make_batch(frames=4)
    clips = model.encode_clips(batch.images, visible=batch.visible)
    captions = model.summarise(model.text(batch.words, batch.word_mask), batch.word_mask)
    selection = model.select(clips.summaries, captions, batch.selection_draws[:, 0])
    before = model._reconstruct(batch, clips, selection)
    selected = set(selection.places[0].tolist())
    for frame in range(4):
        images = batch.images.clone()
        images[0, frame] += 1.0
        after = model._reconstruct(replace(batch, images=images), clips, selection)
        assert torch.equal(before, after) == (frame not in selected)


@torch.no_grad()
@pytest.mark.parametrize("selection_per", ["pair", "clip"])
def test_a_wrong_pair_selects_by_its_own_caption_or_by_the_clips(config, selection_per):
    model = model_of(config, 8, 1, selection_per=selection_per).eval()
    batch = make_batch(num=3, frames=8)
    clips = model.encode_clips(batch.images)
    states = model.text(batch.words, batch.word_mask)
    captions = model.summarise(states, batch.word_mask)
    pairs = Pairs(
        clips=torch.tensor([0, 1, 2, 2, 0, 1, 0, 1, 2]),
        captions=torch.tensor([0, 1, 2, 0, 1, 2, 1, 2, 0]),
        counts=torch.ones(9, dtype=torch.bool),
    )
    keys, _ = model._keys_of_pairs(batch, pairs, clips, states)
    for number, (clip, caption) in enumerate(zip(pairs.clips.tolist(), pairs.captions.tolist(), strict=True)):
        row, kind = number % 3, number // 3
        if selection_per == "clip":
            caption = row = clip
            kind = 0
        draws = batch.selection_draws[row : row + 1, kind]
        one = model.select(clips.summaries[clip : clip + 1], captions[caption : caption + 1], draws)
        expected = model.join_frames(clips.tokens[clip][one.places], one.places, 8)
        torch.testing.assert_close(keys[number : number + 1], expected)


@torch.no_grad()
def test_recomputed_layers_give_the_same_numbers(config):
    batch = make_batch(frames=4)
    gradients = []
    for wanted in (False, True):
        model = model_of(config, 4, 2, dropout=0.1)
        model.recompute_layers(wanted)
        torch.manual_seed(0)
        with torch.enable_grad():
            sum(losses_of(model, batch).values()).backward()
        gradients.append([p.grad for p in model.parameters() if p.grad is not None])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


def test_under_bf16_similarities_and_the_pixel_loss_stay_in_fp32(config):
    model = model_of(config, 4, 2)
    with torch.autocast("cpu", torch.bfloat16):
        losses = losses_of(model, make_batch(frames=4))
    exact = losses_of(model, make_batch(frames=4))
    assert all(loss.dtype == torch.float32 for loss in losses.values())
    for name, loss in losses.items():
        torch.testing.assert_close(loss, exact[name], atol=0.1, rtol=0.05)
