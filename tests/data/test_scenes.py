"""What clips show: splits that share nothing, captions that fit one clip, events with empty frames around them."""

from collections import Counter
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.scale import load_scale
from smaug_core.data.moving_shapes import split_sizes
from smaug_core.data.scenes import (
    COLOURS,
    EMPTY_RATIO,
    HELD_OUT_RATIO,
    MIN_FRAMES,
    MOTIONS,
    PATTERNS,
    PREPOSITIONS,
    ROUND,
    SHAPES,
    SIDES,
    SIZES,
    Scene,
    draw_scenes,
    split_of,
    vocabulary,
)
from smaug_core.data.text import EMBEDDED_VOCABULARIES, SPECIAL
from smaug_core.errors import SmaugError

SPLITS = ("train", "val", "test", "stills")
seeds = st.integers(0, 2**31)
lengths = st.integers(MIN_FRAMES, 40)


def combinations(scenes: list[Scene]) -> list[tuple]:
    return [(event.look, scene.ground) for scene in scenes for event in scene.events]


def phrases(scene: Scene) -> tuple[list[str], str, list[str]]:
    """What the caption says of each event, the preposition, and the words after it."""
    words = scene.caption.split()
    place = next(n for n, word in enumerate(words) if word in PREPOSITIONS)
    return " ".join(words[:place]).split(" then "), words[place], words[place + 1 :]


@pytest.fixture(scope="module")
def tiny():
    """The splits as the tiny scale has them."""
    data = load_scale("tiny").base_config().data
    return {split: draw_scenes(split, count, data.frames, data.seed) for split, count in split_sizes(data).items()}


@pytest.mark.parametrize("seed", range(4))
def test_no_object_is_seen_on_the_same_background_in_two_splits(seed):
    data = load_scale("tiny").base_config().data
    shown = {s: set(combinations(draw_scenes(s, n, data.frames, seed))) for s, n in split_sizes(data).items()}
    for split, held in shown.items():
        assert {split_of(*each) for each in held} == {"train" if split == "stills" else split}
    assert not shown["train"] & shown["val"] and not shown["train"] & shown["test"]
    assert not shown["stills"] & shown["test"] and not shown["val"] & shown["test"]


@pytest.mark.parametrize("split", ["val", "test"])
def test_each_held_out_split_has_its_share_of_the_combinations(split):
    looks, grounds = product(SIZES, COLOURS, SHAPES), list(product(PATTERNS, SIDES))
    splits = [split_of(look, ground) for look in looks for ground in grounds]
    assert splits.count(split) / len(splits) == pytest.approx(HELD_OUT_RATIO, abs=0.05)


@pytest.mark.parametrize("split", ["val", "test"])
@pytest.mark.parametrize("seed", range(4))
def test_no_caption_fits_two_clips_of_a_split_that_is_ranked(split, seed):
    data = load_scale("tiny").base_config().data
    scenes = draw_scenes(split, split_sizes(data)[split], data.frames, seed)
    assert max(Counter(combinations(scenes)).values()) == 1
    assert len({scene.caption for scene in scenes}) == len(scenes)


def test_training_sees_every_word_a_test_caption_uses(tiny):
    seen = {word for split in ("train", "stills") for scene in tiny[split] for word in scene.caption.split()}
    assert {word for scene in tiny["test"] for word in scene.caption.split()} <= seen


def test_backgrounds_come_equally_often(tiny):
    counts = Counter(scene.ground for scene in tiny["train"])
    assert len(counts) == len(PATTERNS) * len(SIDES)
    assert max(counts.values()) - min(counts.values()) <= 2


@settings(deadline=None, max_examples=20)
@given(st.sampled_from(SPLITS), seeds, st.integers(1, 30), st.integers(0, 30))
def test_a_scene_does_not_depend_on_how_many_are_drawn(split, seed, count, more):
    assert draw_scenes(split, count, 16, seed) == draw_scenes(split, count + more, 16, seed)[:count]


def test_another_seed_draws_other_scenes():
    assert [s.caption for s in draw_scenes("val", 20, 16, 0)] != [s.caption for s in draw_scenes("val", 20, 16, 1)]


def test_the_vocabulary_file_is_the_special_tokens_and_every_word():
    assert EMBEDDED_VOCABULARIES["moving_shapes"].read_text().splitlines() == [*SPECIAL, *vocabulary()]


def test_every_word_of_the_vocabulary_is_used_and_none_is_missing(tiny):
    used = {word for scenes in tiny.values() for scene in scenes for word in scene.caption.split()}
    assert used == set(vocabulary())


@settings(deadline=None, max_examples=40)
@given(st.sampled_from(SPLITS), seeds, lengths)
def test_a_caption_says_what_the_scene_shows(split, seed, num_frames):
    for scene in draw_scenes(split, 20, num_frames, seed):
        said, _, ground = phrases(scene)
        assert ground == [scene.ground[0], "at", "the", scene.ground[1]]
        for event, phrase in zip(scene.events, said, strict=True):
            verbs = [""] if split == "stills" else [f" {verb}" for verb in MOTIONS[event.motion]]
            assert phrase in [f"a {' '.join(event.look)}{verb}" for verb in verbs]


@settings(deadline=None, max_examples=40)
@given(st.sampled_from(("train", "val", "test")), seeds, lengths)
def test_events_follow_one_another_with_empty_frames_before_between_and_after(split, seed, num_frames):
    for scene in draw_scenes(split, 20, num_frames, seed):
        assert scene.num_frames == num_frames
        end = -1
        for event in scene.events:
            assert event.visible[0] > end + 1
            assert list(event.visible) == sorted(set(event.visible))
            end = event.visible[-1]
        assert end < num_frames - 1
        lasting = sum(event.visible[-1] - event.visible[0] + 1 for event in scene.events)
        assert num_frames - lasting <= max(len(scene.events) + 1, round(num_frames * EMPTY_RATIO) + 1)
        assert scene.relevant == [f for event in scene.events for f in event.visible]


@settings(deadline=None, max_examples=40)
@given(seeds, lengths)
def test_only_what_blinks_is_gone_for_a_while(seed, num_frames):
    for scene in draw_scenes("train", 40, num_frames, seed):
        for event in scene.events:
            span = event.visible[-1] - event.visible[0] + 1
            assert (len(event.visible) < span) == (event.motion == "blinks")
            assert span >= 2


@given(seeds)
@settings(deadline=None, max_examples=20)
def test_two_events_show_two_objects_of_one_colour(seed):
    pairs = [scene.events for scene in draw_scenes("train", 60, 16, seed) if len(scene.events) == 2]
    assert pairs
    for one, other in pairs:
        assert one.look != other.look and one.look[1] == other.look[1]


def test_nothing_round_spins(tiny):
    events = [event for split in ("train", "val", "test") for scene in tiny[split] for event in scene.events]
    assert {event.look[2] for event in events if event.motion == "spins"} == set(SHAPES) - ROUND
    assert {event.motion for event in events} == set(MOTIONS)


def test_a_still_is_one_frame_of_one_object():
    for scene in draw_scenes("stills", 50, 16, 0):
        assert scene.num_frames == 1 and scene.relevant == [0] and len(scene.events) == 1


def test_ids_are_unique_and_say_the_split(tiny):
    for split, scenes in tiny.items():
        assert [scene.id for scene in scenes] == [f"{split}/{number:06d}" for number in range(len(scenes))]


def test_too_few_frames_are_refused():
    with pytest.raises(SmaugError, match=f"data.frames: {MIN_FRAMES - 1} is too few; .* at least {MIN_FRAMES}"):
        draw_scenes("train", 1, MIN_FRAMES - 1, 0)


@pytest.mark.parametrize("split", ["val", "test"])
def test_more_clips_than_there_are_combinations_are_refused_with_how_many_there_is_room_for(split):
    too_many = len(SIZES) * len(COLOURS) * len(SHAPES) * len(PATTERNS) * len(SIDES)
    with pytest.raises(SmaugError, match=rf"data.{split}_clips: {too_many} is too many; .* room for (\d+)") as refused:
        draw_scenes(split, too_many, 16, 0)
    room = int(str(refused.value).rsplit(" ", 1)[1])
    assert len(draw_scenes(split, room, 16, 0)) == room
    with pytest.raises(SmaugError, match="room for"):
        draw_scenes(split, room + 1, 16, 0)


def test_training_never_runs_out():
    assert len(draw_scenes("train", 3000, 16, 0)) == 3000
