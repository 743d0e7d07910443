"""Strips of pictures: sizes, whole-number enlargement, marks that need no colour, and files that stay small."""

import io

import numpy as np
import pytest
from PIL import Image

from smaug_core.visualization.image_strip import COLOURS, FRAME, GAP, INK, PAPER, png, scale_of, strip


def flat(value: int, size: int = 48) -> np.ndarray:
    return np.full((size, size, 3), value, dtype=np.uint8)


@pytest.mark.parametrize(
    ("side", "shown"), [(16, 96), (32, 96), (48, 96), (64, 128), (96, 96), (112, 112), (224, 224), (288, 224)]
)
def test_pictures_are_enlarged_by_whole_numbers_to_a_size_that_can_be_seen(side, shown):
    assert strip([flat(9, side)]).size == (shown, shown)
    assert side > 224 or float(scale_of(side)).is_integer()


def test_every_pixel_becomes_a_square_and_pictures_stand_side_by_side():
    first = np.arange(48 * 48 * 3, dtype=np.uint32).reshape(48, 48, 3).astype(np.uint8)
    made = np.asarray(strip([first, flat(7)]))
    assert made.shape == (96, 96 + GAP + 96, 3)
    assert (made[:, :96] == first.repeat(2, axis=0).repeat(2, axis=1)).all()
    assert (made[:, 96 : 96 + GAP] == PAPER).all()
    assert (made[:, 96 + GAP :] == 7).all()


def test_marked_pictures_have_a_thick_border_and_a_tick_and_the_others_have_neither():
    made = np.asarray(strip([flat(120)] * 3, np.array([False, True, False])))
    step = 96 + 2 * FRAME + GAP
    assert made.shape == (96 + 2 * FRAME, 3 * step - GAP, 3)
    panels = [made[:, place * step : place * step + 96 + 2 * FRAME] for place in range(3)]
    for panel, is_marked in zip(panels, (False, True, False), strict=True):
        border = np.ones(panel.shape[:2], dtype=bool)
        border[FRAME:-FRAME, FRAME:-FRAME] = False
        outside_tick = border.copy()
        outside_tick[: FRAME + 40, : FRAME + 40] = False
        assert (panel[outside_tick] == (INK if is_marked else PAPER)).all()
        inside = panel[FRAME:-FRAME, FRAME:-FRAME]
        assert bool((inside == PAPER).all(axis=2).any()) == is_marked, "the tick is white on dark"
        assert (inside[40:, 40:] == 120).all()


def colours(picture: Image.Image) -> int:
    return len(np.unique(np.asarray(picture.convert("RGB")).reshape(-1, 3), axis=0))


def test_a_file_of_few_colours_holds_what_was_drawn():
    drawn = strip([flat(9), flat(99)], np.array([False, True]))
    content, width, height = png(drawn, 10**6)
    assert (width, height) == drawn.size
    assert (np.asarray(Image.open(io.BytesIO(content)).convert("RGB")) == np.asarray(drawn)).all()


def test_a_file_that_is_too_large_has_fewer_pixels():
    noise = np.random.default_rng(0).integers(0, 256, (2, 224, 224, 3), dtype=np.uint8)
    drawn = strip(list(noise))
    whole, *size = png(drawn, 10**6)
    assert tuple(size) == drawn.size and colours(Image.open(io.BytesIO(whole))) <= COLOURS
    content, width, height = png(drawn, 40_000)
    shown = Image.open(io.BytesIO(content))
    assert len(content) <= 40_000 < len(whole) and shown.size == (width, height) == (drawn.width // 2, 112)
    assert COLOURS // 2 <= colours(shown) <= COLOURS
