"""Crops, resizing and normalisation, against torchvision where it does the same."""

import numpy as np
import pytest
import torch

from smaug_core import torchvision_on_cpu
from smaug_core.data.transforms import CLIP, Colours, augment, crop_box, resize, to_picture

torchvision_on_cpu.make_importable()
from torchvision.transforms import v2  # noqa: E402


def frames(count=1, height=40, width=60, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def test_resizing_equals_torchvisions_bicubic():
    picture = frames()
    theirs = v2.Compose(
        [v2.ToImage(), v2.ToDtype(torch.float, scale=True), v2.Resize((24, 24), v2.InterpolationMode.BICUBIC)]
    )(picture[0]).clamp(0, 1)
    theirs = v2.Normalize(CLIP.mean, CLIP.std)(theirs)
    torch.testing.assert_close(resize(picture, 24, CLIP)[0], theirs, atol=1e-4, rtol=1e-4)


def test_crops_stay_inside_and_cover_half_to_all_of_the_picture():
    areas = []
    for seed in range(200):
        top, left, height, width = crop_box(40, 60, np.random.default_rng(seed))
        assert 0 <= top <= 40 - height and 0 <= left <= 60 - width
        areas.append(height * width / 2400)
    assert 0.45 < min(areas) and max(areas) <= 1
    assert np.std(areas) > 0.05


def test_all_frames_of_a_clip_get_the_same_crop():
    clip = np.repeat(frames(), 3, axis=0)
    out = augment(clip, 24, np.random.default_rng(1), flip=False, colours=CLIP)
    assert torch.equal(out[0], out[1]) and torch.equal(out[0], out[2])


def test_equal_draws_give_equal_pictures_and_other_draws_others():
    clip = frames()
    one, same, other = (augment(clip, 24, np.random.default_rng(s), flip=True, colours=CLIP) for s in (1, 1, 2))
    assert torch.equal(one, same) and not torch.equal(one, other)


def test_no_picture_is_mirrored_where_that_is_not_allowed():
    ramp = np.broadcast_to(np.arange(0, 240, 4, dtype=np.uint8)[None, None, :, None], (1, 40, 60, 3))
    rising = [
        augment(ramp, 24, np.random.default_rng(s), flip=f, colours=CLIP)[0, 0, 0]
        for f in (False, True)
        for s in range(20)
    ]
    ways = [bool(line[-1] > line[0]) for line in rising]
    assert all(ways[:20])
    assert 3 <= sum(ways[20:]) <= 17


def test_to_picture_undoes_the_normalisation():
    picture = frames(height=24, width=24)
    assert np.array_equal(to_picture(resize(picture, 24, CLIP), CLIP), picture)


@pytest.mark.parametrize("shape", [(4, 400), (400, 4)])
def test_a_picture_too_narrow_for_any_crop_is_cut_in_the_middle(shape):
    top, left, height, width = crop_box(*shape, np.random.default_rng(0))
    assert 0 < height <= shape[0] and 0 < width <= shape[1]
    assert abs((shape[0] - height) // 2 - top) <= 1 and abs((shape[1] - width) // 2 - left) <= 1


def test_pixels_are_normalised_by_what_the_encoder_was_trained_with():
    picture = np.full((1, 24, 24, 3), 255, dtype=np.uint8)
    assert resize(picture, 24, Colours((0.5, 0.5, 0.5), (0.25, 0.5, 1.0)))[0, :, 0, 0].tolist() == [2.0, 1.0, 0.5]
