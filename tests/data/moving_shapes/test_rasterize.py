"""Pixels against what the scene says: objects by repainting them in another colour, backgrounds without objects."""

from collections import defaultdict
from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from smaug_core.data.moving_shapes.attributes import COLOURS, MOTIONS, PATTERNS, ROUND, SHAPES, SIDES, SIZES
from smaug_core.data.moving_shapes.rasterize import OBJECT_COLOURS, RADIUS, STRETCH, paint
from smaug_core.data.moving_shapes.scenes import Scene, SceneEvent, draw_scenes

SIZE = 64
SHOWN = tuple(range(3, 13))
GROUNDS = list(product(PATTERNS, SIDES))
IN_THE_BAND = slice(int(0.4 * SIZE), int(0.6 * SIZE))
"""Rows or columns that a background's border, shaken, may lie in."""


def scene_of(look, motion, *, number=0, shown=SHOWN) -> Scene:
    event = SceneEvent(look=look, motion=motion, visible=shown)
    frames = 16 if shown == SHOWN else 1
    return Scene(id=f"made/{number:06d}", ground=GROUNDS[0], events=(event,), num_frames=frames, caption="")


def empty_scene(ground, number) -> Scene:
    return Scene(id=f"made/{number:06d}", ground=ground, events=(), num_frames=1, caption="")


def place_of(scene: Scene, which: int = 0) -> np.ndarray:
    """Where an object is, by frame: the pixels that differ when it alone has another colour."""
    event = scene.events[which]
    size, colour, shape = event.look
    other = COLOURS[(COLOURS.index(colour) + 1) % len(COLOURS)]
    events = list(scene.events)
    events[which] = replace(event, look=(size, other, shape))
    pictures = [paint(each, SIZE, 0).astype(int) for each in (scene, replace(scene, events=tuple(events)))]
    return np.abs(pictures[0] - pictures[1]).max(axis=3) > 2


def strong(frames: np.ndarray) -> np.ndarray:
    """Pixels of a colour that no background has, however it is lit."""
    highest, lowest = frames.max(axis=3).astype(int), frames.min(axis=3)
    return (highest > 80) & (lowest < 0.45 * highest)


def middle(places: np.ndarray) -> np.ndarray:
    """Mean row and column of the true pixels of each frame, in widths of the frame."""
    return np.array([np.argwhere(place).mean(axis=0) for place in places]) / SIZE


@pytest.mark.parametrize("source, frames", [("sentence", 16), ("stills", 1), ("paragraph", 32), ("brief", 16)])
def test_the_frames_that_show_something_are_those_that_are_called_relevant(source, frames):
    for scene in draw_scenes(source, "train", 30, frames, 0):
        seen = set()
        for which, event in enumerate(scene.events):
            frames = np.flatnonzero(place_of(scene, which).any(axis=(1, 2)))
            assert tuple(frames) == event.visible
            seen |= set(frames.tolist())
        assert sorted(seen) == scene.relevant


def test_strong_colours_are_found_where_and_only_where_an_object_is_visible():
    for scene in draw_scenes("sentence", "train", 60, 16, 0):
        share = strong(paint(scene, SIZE, 0)).mean(axis=(1, 2))
        shown = np.isin(np.arange(16), scene.relevant)
        assert share[shown].max() > 0.01, scene
        # The rim may leave little of a small ring that has shrunk.
        assert share[~shown].max() < min(0.001, share[shown].min()), scene


def test_the_rest_of_a_brief_clip_shows_what_distracts_and_else_the_background_with_its_shake_and_noise():
    for scene in draw_scenes("brief", "train", 40, 16, 0):
        frames = paint(scene, SIZE, 0)
        share = strong(frames).mean(axis=(1, 2))
        busy = np.isin(np.arange(16), [*scene.relevant, *scene.distracting])
        assert share[busy].max() > 0.01 and share[~busy].max() < min(0.001, share[busy].min()), scene
        for look_at in (scene.relevant, scene.distracting):
            assert not look_at or share[look_at].min() > 0
        empty = np.flatnonzero(~busy)
        changes = np.abs(np.diff(frames[empty].astype(int), axis=0)).mean(axis=(1, 2, 3))
        assert changes.min() > 1, scene


def test_what_distracts_is_painted_as_what_is_told():
    for scene in draw_scenes("brief", "train", 10, 16, 0):
        both = replace(scene, events=(*scene.events, *scene.distractors), distractors=())
        assert np.array_equal(paint(scene, SIZE, 0), paint(both, SIZE, 0))


@pytest.mark.parametrize("colour", COLOURS)
def test_an_object_has_the_colour_it_is_said_to_have(colour):
    known = np.array(list(OBJECT_COLOURS.values()), dtype=float)
    known /= np.linalg.norm(known, axis=1, keepdims=True)
    for number, (size, shape) in enumerate(product(SIZES, SHAPES)):
        scene = scene_of((size, colour, shape), "blinks", number=number)
        frames = paint(scene, SIZE, 0)
        seen = frames[place_of(scene) & strong(frames)].mean(axis=0)
        assert list(OBJECT_COLOURS)[int((known @ seen).argmax())] == colour


def test_there_is_a_colour_for_every_colour_word():
    assert set(OBJECT_COLOURS) == set(COLOURS)


def test_a_large_object_is_never_smaller_than_a_small_one():
    areas = defaultdict(list)
    for number, (size, shape, motion) in enumerate(product(SIZES, SHAPES, MOTIONS)):
        places = place_of(scene_of((size, COLOURS[0], shape), motion, number=number))
        areas[size] += places[list(SHOWN)].sum(axis=(1, 2)).tolist()
    assert min(areas["large"]) > 1.1 * max(areas["small"])


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_of_one_size_are_about_equal_in_area(shape):
    def mean_area(of):
        stills = [scene_of(("large", COLOURS[0], of), "none", number=n, shown=(0,)) for n in range(40)]
        return np.mean([place_of(still).sum() for still in stills])

    assert mean_area(shape) == pytest.approx(np.mean([mean_area(each) for each in SHAPES]), rel=0.15)


@pytest.mark.parametrize("motion, axis, sign", [("left", 1, -1), ("right", 1, 1), ("up", 0, -1), ("down", 0, 1)])
@pytest.mark.parametrize("size", SIZES)
def test_an_object_moves_the_way_it_is_said_to(motion, axis, sign, size):
    at = middle(place_of(scene_of((size, COLOURS[0], SHAPES[0]), motion))[list(SHOWN)])
    moved = sign * (at[-1] - at[0])
    room = 1 - 2 * RADIUS[size] * STRETCH[SHAPES[0]]
    assert moved[axis] > room / 2 and abs(moved[1 - axis]) < 0.1
    assert np.all(sign * np.diff(at[:, axis]) > -0.07)  # the camera shakes


def test_growing_and_shrinking_change_the_area_and_not_the_place():
    for motion, sign in (("grows", 1), ("shrinks", -1)):
        places = place_of(scene_of(("large", COLOURS[0], SHAPES[0]), motion))[list(SHOWN)]
        area = places.sum(axis=(1, 2)) ** float(sign)
        assert np.all(np.diff(area) > 0)
        assert np.ptp(middle(places), axis=0).max() < 0.12


@pytest.mark.parametrize("shape", [shape for shape in SHAPES if shape not in ROUND])
def test_what_spins_covers_other_pixels_from_frame_to_frame_and_stays_where_it_is(shape):
    spinning, still = (
        place_of(scene_of(("large", COLOURS[0], shape), motion))[list(SHOWN)] for motion in ("spins", "blinks")
    )

    def overlap(places):
        return np.mean([(a & b).sum() / (a | b).sum() for a, b in zip(places, places[1:], strict=False)])

    assert overlap(spinning) < overlap(still) - 0.1
    assert np.ptp(middle(spinning), axis=0).max() < 0.2


@pytest.mark.parametrize("ground", GROUNDS, ids=" ".join)
def test_a_pattern_lies_on_the_side_named_and_nothing_on_the_other(ground):
    for number in range(6):
        edges = _edges(paint(empty_scene(ground, number), SIZE, 0)[0])
        first, second = edges[: IN_THE_BAND.start], edges[IN_THE_BAND.stop :]
        if ground[1] in ("left", "right"):
            first, second = edges[:, : IN_THE_BAND.start], edges[:, IN_THE_BAND.stop :]
        named, other = (first, second) if ground[1] in ("top", "left") else (second, first)
        assert named.mean() > 0.15
        assert other.mean() < 0.01


def _edges(picture: np.ndarray) -> np.ndarray:
    """Where the brightness changes within two pixels by more than noise does."""
    brightness = picture.max(axis=2).astype(float)
    down, across = np.zeros((2, *brightness.shape))
    down[1:-1] = np.abs(brightness[2:] - brightness[:-2])
    across[:, 1:-1] = np.abs(brightness[:, 2:] - brightness[:, :-2])
    return np.maximum(down, across) > 30


@pytest.mark.parametrize("pattern", PATTERNS)
def test_each_tone_of_a_pattern_covers_half_of_its_side(pattern):
    shares = []
    for number in range(60):
        picture = paint(empty_scene((pattern, "left"), number), SIZE, 0)[0, :, : IN_THE_BAND.start].max(axis=2)
        low, high = np.percentile(picture, [5, 95])
        shares.append((picture > (low + high) / 2).mean())
    assert np.mean(shares) == pytest.approx(0.5, abs=0.03)


def test_a_pattern_covers_half_of_the_frame():
    borders = []
    for number in range(60):
        picture = paint(empty_scene(("columns", "top"), number), SIZE, 0)[0].max(axis=2).astype(int)
        patterned = np.abs(picture[:, 2:] - picture[:, :-2]).max(axis=1) > 40
        borders.append(patterned.mean())
    assert np.mean(borders) == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("place", [0, 1], ids=["pattern", "side"])
def test_the_mean_colour_of_a_background_tells_neither_pattern_nor_side(place):
    grounds = [GROUNDS[number % len(GROUNDS)] for number in range(20 * len(GROUNDS))]
    means = np.array([paint(empty_scene(g, n), 32, 0)[0].mean(axis=(0, 1)) for n, g in enumerate(grounds)])
    groups = defaultdict(list)
    for ground, mean in zip(grounds, means, strict=True):
        groups[ground[place]].append(mean)
    between = sum(len(g) * (np.mean(g, axis=0) - means.mean(axis=0)) ** 2 for g in groups.values()) / len(means)
    # Chance alone explains (groups - 1) / (backgrounds - 1) of the variance, and three times that hardly ever.
    assert (between / means.var(axis=0)).max() < 3.5 * (len(groups) - 1) / (len(means) - 1)


def test_the_same_scene_size_and_seed_give_the_same_pixels():
    scene = draw_scenes("sentence", "train", 1, 16, 0)[0]
    assert np.array_equal(paint(scene, SIZE, 0), paint(scene, SIZE, 0))
    for other in (paint(scene, SIZE, 1), paint(replace(scene, id="train/000007"), SIZE, 0)):
        assert not np.array_equal(paint(scene, SIZE, 0), other)


def test_frames_have_the_size_asked_for():
    scene = draw_scenes("sentence", "val", 1, 12, 0)[0]
    assert paint(scene, 32, 0).shape == (12, 32, 32, 3)
    assert paint(draw_scenes("stills", "train", 1, 1, 0)[0], 48, 0).shape == (1, 48, 48, 3)


def test_a_pattern_without_a_way_to_paint_it_is_refused():
    with pytest.raises(ValueError, match="pattern 'plaid' cannot be painted"):
        paint(empty_scene(("plaid", "left"), 0), SIZE, 0)
