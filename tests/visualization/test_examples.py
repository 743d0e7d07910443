"""What a trained model is shown to do: predictions put in place by hand, choices as the selector makes them."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from smaug_core.clip_shape import ClipShape
from smaug_core.data.media.location import MediaLocation
from smaug_core.data.tokenizer import load_tokenizer
from smaug_core.data.transforms import CLIP, resize, to_picture
from smaug_core.errors import ClipError, SmaugError
from smaug_core.model.init_weights import build
from smaug_core.model.objectives import pixel_targets
from smaug_core.patches import patchify
from smaug_core.visualization.examples import GREY, choose, rebuilt, reconstruct, spread
from tests.small import CONFIG, make_items

TOKENIZER = load_tokenizer("moving_shapes")
OPTIONS = {"text_length": 32, "device": "cpu"}


def model_of(shape: ClipShape | None = None, **changed):
    return build(dataclasses.replace(CONFIG, **changed), TOKENIZER.vocab_size, seed=0, shape=shape)


@pytest.fixture(scope="module")
def items(tmp_path_factory):
    return make_items(tmp_path_factory.mktemp("examples"), clips=4, stills=1)


def cut(picture: np.ndarray, place: int) -> np.ndarray:
    """One patch of 8 x 8 pixels of a picture that is 48 wide, counted row by row."""
    row, column = divmod(place, 6)
    return picture[8 * row : 8 * row + 8, 8 * column : 8 * column + 8]


def test_hidden_patches_are_grey_then_as_predicted_and_the_others_are_untouched():
    model = model_of()
    pixels = np.random.default_rng(0).integers(0, 256, (1, 48, 48, 3), dtype=np.uint8)
    image = resize(pixels, 48, CLIP)
    hidden = torch.tensor([[7, 0, 35]])
    # In the order of `hidden`: black, white, and red, as normalised pixels of 8 x 8 patches, colours last.
    plain = torch.tensor([[0.0, 0.0, 0.0], [1.0, 1.0, 1.0], [1.0, 0.0, 0.0]])
    predicted = ((plain - torch.tensor(CLIP.mean)) / torch.tensor(CLIP.std)).repeat(1, 64).unsqueeze(0)
    made = rebuilt(model, image, hidden, predicted)
    assert (made.original == pixels[0]).all()
    for place, colour in ((7, (0, 0, 0)), (0, (255, 255, 255)), (35, (255, 0, 0))):
        assert (cut(made.masked, place) == GREY).all()
        assert (cut(made.restored, place) == colour).all()
    for place in set(range(36)) - {7, 0, 35}:
        assert (cut(made.masked, place) == cut(pixels[0], place)).all()
        assert (cut(made.restored, place) == cut(pixels[0], place)).all()


@pytest.mark.parametrize("normalize_target", [False, True])
def test_a_perfect_prediction_gives_the_original_back(normalize_target):
    """The way back is the inverse of what the loss compares with."""
    model = model_of(normalize_target=normalize_target)
    pixels = np.random.default_rng(1).integers(0, 256, (1, 48, 48, 3), dtype=np.uint8)
    image, hidden = resize(pixels, 48, CLIP), torch.randperm(36)[None, :18]
    made = rebuilt(model, image, hidden, pixel_targets(image, hidden, 8, normalize_target))
    assert (made.restored == pixels[0]).all()
    assert (made.masked != pixels[0]).any()


def test_a_prediction_beyond_black_and_white_is_cut_off():
    model = model_of()
    image, hidden = resize(np.full((1, 48, 48, 3), 100, dtype=np.uint8), 48, CLIP), torch.tensor([[0, 1]])
    far = torch.stack([torch.full((192,), 50.0), torch.full((192,), -50.0)]).unsqueeze(0)
    made = rebuilt(model, image, hidden, far)
    assert (cut(made.restored, 0) == 255).all() and (cut(made.restored, 1) == 0).all()


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=20, deadline=None)
def test_making_a_picture_undoes_the_normalisation(seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
    assert (to_picture(resize(pixels, 16, CLIP), CLIP) == pixels).all()


def test_half_of_the_patches_are_hidden_always_the_same_ones_and_otherwise_ones_for_each_item(items):
    model = model_of()
    made = [reconstruct(model, TOKENIZER, item, mask_ratio=0.5, **OPTIONS) for item in (*items[:2], items[0])]
    hidden = [[place for place in range(36) if (cut(m.masked, place) == GREY).all()] for m in made]
    assert [len(places) for places in hidden] == [18, 18, 18]
    assert hidden[0] == hidden[2] != hidden[1]
    assert (made[0].restored == made[2].restored).all()


def test_what_is_drawn_is_what_the_decoder_says_of_what_the_encoder_saw(items):
    """Computed again here, step by step, for a picture whose visible patches alone go in."""
    model = model_of().eval()
    made = reconstruct(model, TOKENIZER, items[4], mask_ratio=0.5, **OPTIONS)
    image = resize(made.original[None], 48, CLIP)
    places = torch.arange(36)
    is_hidden = torch.tensor([bool((cut(made.masked, int(place)) == GREY).all()) for place in places])
    with torch.inference_mode():
        clips = model.encode_clips(image[None], visible=places[~is_hidden][None])
        predicted = model.decoder(clips.tokens[:, 0], clips.position_ids[:, 0], places[is_hidden][None])
    expected = to_picture(image, CLIP)[0]
    filled = patchify(image, 8)
    filled[:, is_hidden] = predicted
    for number, place in enumerate(places[is_hidden].tolist()):
        colours = predicted[0, number].reshape(8, 8, 3) * torch.tensor(CLIP.std) + torch.tensor(CLIP.mean)
        cut(expected, place)[:] = (colours.clamp(0, 1) * 255).round().numpy()
    assert np.abs(made.restored.astype(int) - expected.astype(int)).max() <= 1


def test_of_a_clip_the_first_frame_selected_among_masked_ones_is_rebuilt(items):
    model = model_of(ClipShape(frames=4, selected=2)).eval()
    with torch.no_grad():
        model.selector.score.weight.normal_(std=5.0, generator=torch.Generator().manual_seed(0))
    seen = set()
    for item in items[:4]:
        made = reconstruct(model, TOKENIZER, item, mask_ratio=0.5, **OPTIONS)
        frames = choose(model, TOKENIZER, item, **OPTIONS).frames
        visible = [place for place in range(36) if not (cut(made.masked, place) == GREY).all()]
        words, mask = (torch.from_numpy(part) for part in TOKENIZER.encode([item.caption], 32))
        with torch.inference_mode():
            clips = model.encode_clips(resize(frames, 48, CLIP)[None], visible=torch.tensor([visible]))
            first = model.select(clips.summaries, model.summarise(model.text(words, mask), mask)).places[0, 0]
        assert (made.original == frames[first]).all()
        seen.add(int(first))
    assert seen != {2}, "2 is the middle frame"


def test_the_frames_with_the_best_scores_are_chosen_and_compared_with_the_relevant_ones(items):
    model = model_of(ClipShape(frames=4, selected=2))
    with torch.no_grad():
        model.selector.score.weight.normal_(std=5.0)
    item = dataclasses.replace(items[0], relevant=(0, 1, 5))  # of 8 frames; looked at are 0, 2, 4 and 6
    made = choose(model, TOKENIZER, item, **OPTIONS)
    assert made.frames.shape == (4, 48, 48, 3) and made.scores.shape == (4,)
    assert made.chosen.sum() == 2
    assert made.scores[made.chosen].min() >= made.scores[~made.chosen].max()
    assert made.relevant.tolist() == [True, False, False, False]
    assert choose(model, TOKENIZER, dataclasses.replace(item, relevant=()), **OPTIONS).relevant is None


def test_what_a_model_does_not_do_is_refused(items):
    for ratio, depth, told in ((0.5, 0, "has no pixel decoder"), (0.0, 3, "mask_ratio: 0.0 hides none of 36 patches")):
        with pytest.raises(SmaugError, match=told):
            reconstruct(model_of(decoder_depth=depth), TOKENIZER, items[0], mask_ratio=ratio, **OPTIONS)
    for shape, told in ((None, "single frames"), (ClipShape(frames=2, selected=2), "2 frames and hands on all")):
        with pytest.raises(SmaugError, match=f"no frame selector: expected .*, got one trained on {told}"):
            choose(model_of(shape), TOKENIZER, items[0], **OPTIONS)


def test_an_unreadable_clip_is_an_error_that_names_it(items, tmp_path):
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(items[0].media.path.read_bytes()[:500])
    with pytest.raises(ClipError, match="broken.mp4"):
        reconstruct(
            model_of(), TOKENIZER, dataclasses.replace(items[0], media=MediaLocation(broken)), mask_ratio=0.5, **OPTIONS
        )


def test_examples_are_spread_evenly_and_always_the_same():
    assert spread(range(256), 6) == [0, 42, 85, 128, 170, 213]
    assert spread(range(3), 6) == [0, 1, 2]
    assert spread([], 6) == []
