"""What clips show: splits that share nothing, captions that fit one clip, events with empty frames around them."""

from collections import Counter
from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.config.scale import load_scale
from smaug_core.config import DataConfig
from smaug_core.data.moving_shapes.attributes import (
    COLOURS,
    HELD_OUT_RATIO,
    MOTIONS,
    PATTERNS,
    PREPOSITIONS,
    ROUND,
    SHAPES,
    SIDES,
    SIZES,
    split_of,
    vocabulary,
)
from smaug_core.data.moving_shapes.dataset import SOURCES, frames_of, split_sizes
from smaug_core.data.moving_shapes.scenes import (
    EMPTY_RATIO,
    KEPT_BACK,
    MIN_FRAMES,
    SHORTEST,
    Scene,
    SceneEvent,
    draw_scenes,
)
from smaug_core.data.tokenizer import EMBEDDED_VOCABULARIES, SPECIAL, clean_caption, load_tokenizer
from smaug_core.errors import SettingsError, SmaugError
from tests.data.recipes import recipe

PARTS = [(source, split) for source, described in SOURCES.items() for split in described.sizes]
"""Every source with each of its splits."""
CLIPS = [(source, split) for source, split in PARTS if source not in ("stills", "more_stills")]
HELD_OUT = [(source, split) for source, split in CLIPS if split != "train"]
seeds = st.integers(0, 2**31)
more_frames = st.integers(0, 30)


def names(parts: list[tuple[str, str]]) -> list[str]:
    return ["/".join(part) for part in parts]


def draw(source: str, split: str, count: int, seed: int = 0, more_frames: int = 0) -> list[Scene]:
    return draw_scenes(source, split, count, MIN_FRAMES.get(source, 1) + more_frames, seed)


def draw_all(data: DataConfig, seed: int) -> dict[tuple[str, str], list[Scene]]:
    return {
        (source, split): draw_scenes(source, split, split_sizes(source, data)[split], frames_of(source, data), seed)
        for source, split in PARTS
    }


def told(scenes: list[Scene]) -> list[tuple]:
    """Every object that a caption names, with its background."""
    return [(event.look, scene.ground) for scene in scenes for event in scene.events]


def shown(scenes: list[Scene]) -> list[tuple]:
    """Every object that can be seen, with its background."""
    return [(event.look, scene.ground) for scene in scenes for event in (*scene.events, *scene.distractors)]


def sentences(scene: Scene) -> list[str]:
    return [scene.caption] if isinstance(scene.caption, str) else list(scene.caption)


def words(scene: Scene) -> list[str]:
    return clean_caption(" ".join(sentences(scene))).split()


def phrases(scene: Scene) -> tuple[list[str], list[str]]:
    """What the caption says of each event, and of the background."""
    first, *others = (clean_caption(sentence) for sentence in sentences(scene))
    place = next(n for n, word in enumerate(first.split()) if word in PREPOSITIONS)
    said = " ".join(first.split()[:place]).split(" then ")
    assert all(other.startswith("then ") for other in others)
    return [*said, *(other.removeprefix("then ") for other in others)], first.split()[place + 1 :]


@pytest.fixture(scope="module")
def tiny():
    """The splits of all sources as the tiny scale has them."""
    data = load_scale("tiny").base_config().data
    return draw_all(data, data.seed)


@pytest.mark.parametrize("seed", range(3))
def test_no_object_is_seen_on_the_same_background_in_two_splits_of_any_source(seed):
    for (_, split), scenes in draw_all(load_scale("tiny").base_config().data, seed).items():
        assert {split_of(*each) for each in shown(scenes)} == {split}


@pytest.mark.parametrize("split", ["val", "test"])
def test_each_held_out_split_has_its_share_of_the_combinations(split):
    looks, grounds = product(SIZES, COLOURS, SHAPES), list(product(PATTERNS, SIDES))
    splits = [split_of(look, ground) for look in looks for ground in grounds]
    assert splits.count(split) / len(splits) == pytest.approx(HELD_OUT_RATIO, abs=0.05)


@pytest.mark.parametrize("source, split", HELD_OUT, ids=names(HELD_OUT))
@pytest.mark.parametrize("seed", range(4))
def test_no_caption_fits_two_clips_of_a_split_that_is_ranked(source, split, seed):
    data = load_scale("tiny").base_config().data
    scenes = draw_scenes(source, split, split_sizes(source, data)[split], frames_of(source, data), seed)
    holds = {scene.id: {event.look for event in (*scene.events, *scene.distractors)} for scene in scenes}
    for one, other in combinations(scenes, 2):
        if one.ground == other.ground:
            assert not {event.look for event in one.events} <= holds[other.id]
            assert not {event.look for event in other.events} <= holds[one.id]
    assert len({scene.caption for scene in scenes}) == len(scenes)


@pytest.mark.parametrize("split", ["val", "test"])
def test_no_object_is_told_twice_on_the_same_background_where_one_tells_the_clip(split, tiny):
    for source in ("sentence", "brief"):
        assert max(Counter(told(tiny[source, split])).values()) == 1


def test_training_sees_every_word_a_test_caption_uses(tiny):
    for source, split in HELD_OUT:
        seen = {
            word for part in ((source, "train"), ("stills", "train")) for scene in tiny[part] for word in words(scene)
        }
        assert {word for scene in tiny[source, split] for word in words(scene)} <= seen


@pytest.mark.parametrize("source", SOURCES)
def test_backgrounds_come_equally_often(source, tiny):
    counts = Counter(scene.ground for scene in tiny[source, "train"])
    assert len(counts) == len(PATTERNS) * len(SIDES)
    assert max(counts.values()) - min(counts.values()) <= 2


@settings(deadline=None, max_examples=30)
@given(st.sampled_from(PARTS), seeds, st.integers(1, 30), st.integers(0, 30))
def test_a_scene_does_not_depend_on_how_many_are_drawn(part, seed, count, more):
    assert draw(*part, count, seed) == draw(*part, count + more, seed)[:count]


@pytest.mark.parametrize("source, split", PARTS, ids=names(PARTS))
def test_another_seed_draws_other_scenes(source, split):
    assert [s.caption for s in draw(source, split, 20, 0)] != [s.caption for s in draw(source, split, 20, 1)]


def test_more_stills_are_not_the_stills_again():
    stills, more = (draw(source, "train", 200) for source in ("stills", "more_stills"))
    same = sum(one.caption == other.caption for one, other in zip(stills, more, strict=True))
    assert same < 5


def test_the_vocabulary_file_is_the_special_tokens_and_every_word():
    assert EMBEDDED_VOCABULARIES["moving_shapes"].read_text().splitlines() == [*SPECIAL, *vocabulary()]


def test_every_word_of_the_vocabulary_is_used_and_none_is_missing(tiny):
    used = {word for scenes in tiny.values() for scene in scenes for word in words(scene)}
    assert used == set(vocabulary())


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(PARTS), seeds, more_frames)
def test_a_caption_says_what_the_scene_shows_and_no_more(part, seed, more):
    for scene in draw(*part, 20, seed, more):
        said, ground = phrases(scene)
        assert ground == [scene.ground[0], "at", "the", scene.ground[1]]
        for event, phrase in zip(scene.events, said, strict=True):
            verbs = [""] if event.motion == "none" else [f" {verb}" for verb in MOTIONS[event.motion]]
            assert phrase in [f"a {' '.join(event.look)}{verb}" for verb in verbs]


@settings(deadline=None, max_examples=60)
@given(st.sampled_from([part for part in CLIPS if part[0] != "brief"]), seeds, more_frames)
def test_events_follow_one_another_with_empty_frames_before_between_and_after(part, seed, more):
    for scene in draw(*part, 20, seed, more):
        end = -1
        for event in scene.events:
            assert event.visible[0] > end + 1
            assert list(event.visible) == sorted(set(event.visible))
            end = event.visible[-1]
        assert end < scene.num_frames - 1
        lasting = sum(event.visible[-1] - event.visible[0] + 1 for event in scene.events)
        assert scene.num_frames - lasting <= max(len(scene.events) + 1, round(scene.num_frames * EMPTY_RATIO) + 1)
        assert scene.relevant == [f for event in scene.events for f in event.visible]
        assert scene.distracting == []


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(CLIPS), seeds, more_frames)
def test_only_what_blinks_is_gone_for_a_while_and_every_event_is_long_enough_for_that(part, seed, more):
    for scene in draw(*part, 40, seed, more):
        for event in (*scene.events, *scene.distractors):
            span = event.visible[-1] - event.visible[0] + 1
            assert (len(event.visible) < span) == (event.motion == "blinks")
            assert span >= SHORTEST


@given(seeds)
@settings(deadline=None, max_examples=20)
def test_two_events_show_two_objects_of_one_colour(seed):
    pairs = [scene.events for scene in draw("sentence", "train", 600, seed) if len(scene.events) == 2]
    assert pairs
    for one, other in pairs:
        assert one.look != other.look and one.look[1] == other.look[1]


@settings(deadline=None, max_examples=40)
@given(st.sampled_from(("train", "val", "test")), seeds, more_frames)
def test_a_paragraph_has_a_sentence_for_each_of_three_or_four_events_of_two_objects_of_one_colour(split, seed, more):
    scenes = draw("paragraph", split, 60, seed, more)
    for scene in scenes:
        assert isinstance(scene.caption, tuple) and len(scene.caption) == len(scene.events)
        assert all(sentence.endswith(".") and sentence.count(".") == 1 for sentence in scene.caption)
        looks = [event.look for event in scene.events]
        assert looks[0] != looks[1]  # so the first two sentences name all that is shown
        assert len(set(looks)) == 2 and len({look[1] for look in looks}) == 1
    assert {len(scene.events) for scene in scenes} == {3, 4}


def test_how_long_an_object_is_shown_does_not_depend_on_how_often_it_is_told(tiny):
    share = {1: [], 2: []}
    for scene in tiny["paragraph", "train"]:
        looks = [event.look for event in scene.events]
        frames = [event.visible[-1] - event.visible[0] + 1 for event in scene.events]
        if len(looks) == 3:
            for look in set(looks):
                total = sum(length for event, length in zip(looks, frames, strict=True) if event == look)
                share[looks.count(look)].append(total / sum(frames))
    # In proportion to the sentences it would be 1/3 and 2/3.
    assert np.mean(share[1]) == pytest.approx(0.43, abs=0.03)
    assert np.mean(share[2]) == pytest.approx(0.57, abs=0.03)


def test_paragraphs_are_longer_than_sentences_and_cut_by_a_text_length_of_32(tiny):
    tokenizer = load_tokenizer("moving_shapes")
    lengths = {
        source: tokenizer.encode([" ".join(sentences(scene)) for scene in tiny[source, "train"]], 99)[1].sum(axis=1)
        for source in ("sentence", "paragraph", "brief")
    }
    assert (lengths["sentence"].max(), lengths["brief"].max()) == (20, 13)
    assert (lengths["paragraph"].min(), lengths["paragraph"].max()) == (24, 34)


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(("train", "val", "test")), seeds, more_frames)
def test_a_brief_clip_tells_of_one_event_in_a_quarter_of_its_frames(split, seed, more):
    for scene in draw("brief", split, 60, seed, more):
        (event,) = scene.events
        assert event.visible[-1] - event.visible[0] + 1 == scene.num_frames // 4
        assert 0 < len(scene.relevant) <= scene.num_frames / 4
        assert 0 <= scene.relevant[0] and scene.relevant[-1] < scene.num_frames


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(("train", "val", "test")), seeds, more_frames)
def test_what_distracts_is_another_object_at_another_time_that_no_caption_of_the_split_names_there(split, seed, more):
    scenes = draw("brief", split, 60, seed, more)
    named = set(told(scenes))
    for scene in scenes:
        assert len(scene.distractors) <= 1
        for other in scene.distractors:
            assert other.look != scene.events[0].look
            assert split == "train" or (other.look, scene.ground) not in named
            gaps = (other.visible[0] - scene.relevant[-1], scene.relevant[0] - other.visible[-1])
            assert max(gaps) > 1  # a frame or more between them


def test_half_of_the_brief_clips_distract(tiny):
    share = np.mean([bool(scene.distracting) for scene in tiny["brief", "train"]])
    assert share == pytest.approx(0.5, abs=0.04)


@pytest.mark.parametrize("split", ["val", "test"])
def test_held_out_backgrounds_have_objects_that_only_distract(split):
    others = {(event.look, s.ground) for s in draw("brief", split, 250) for event in s.distractors}
    assert max(Counter(ground for _, ground in others).values()) == KEPT_BACK


def chances(counts: Counter, total: int, places: int) -> float:
    """How far the most and the least frequent place are from even, in standard errors."""
    expected = total / places
    return max(abs(counts[place] - expected) for place in range(places)) / np.sqrt(expected * (1 - 1 / places))


def test_time_alone_tells_nothing_of_what_a_brief_clip_is_about():
    scenes = draw("brief", "train", 6000)
    places = scenes[0].num_frames - scenes[0].num_frames // 4 + 1
    both = [scene for scene in scenes if scene.distractors]
    for events in ([s.events[0] for s in scenes], [s.events[0] for s in both], [s.distractors[0] for s in both]):
        assert chances(Counter(event.visible[0] for event in events), len(events), places) < 3.5
    first = np.mean([scene.events[0].visible[0] < scene.distractors[0].visible[0] for scene in both])
    assert first == pytest.approx(0.5, abs=3.5 * 0.5 / np.sqrt(len(both)))
    # Every pair of places comes as often as the same pair the other way round.
    pairs = Counter((s.events[0].visible[0], s.distractors[0].visible[0]) for s in both)
    apart = [(count - pairs[b, a]) / np.sqrt(count + pairs[b, a]) for (a, b), count in pairs.items()]
    assert np.mean(np.square(apart)) == pytest.approx(1, abs=0.6)


def test_look_and_motion_alone_tell_nothing_of_what_a_brief_clip_is_about():
    both = [scene for scene in draw("brief", "train", 6000) if scene.distractors]

    def traits(event: SceneEvent) -> list[str]:
        return [*event.look, event.motion]

    told_of, beside = (
        Counter(trait for scene in both for event in getattr(scene, which) for trait in traits(event))
        for which in ("events", "distractors")
    )
    for trait in told_of | beside:
        spread = np.sqrt(told_of[trait] + beside[trait])
        assert abs(told_of[trait] - beside[trait]) < 4 * spread, trait


def test_nothing_round_spins(tiny):
    events = [event for part in CLIPS for scene in tiny[part] for event in (*scene.events, *scene.distractors)]
    assert {event.look[2] for event in events if event.motion == "spins"} == set(SHAPES) - ROUND
    assert {event.motion for event in events} == set(MOTIONS)


@pytest.mark.parametrize("source", ["stills", "more_stills"])
def test_a_still_is_one_frame_of_one_object(source):
    for scene in draw(source, "train", 50):
        assert scene.num_frames == 1 and scene.relevant == [0] and len(scene.events) == 1


def test_ids_are_unique_over_all_sources(tiny):
    ids = [scene.id for scenes in tiny.values() for scene in scenes]
    assert len(set(ids)) == len(ids)
    for scenes in tiny.values():
        assert [scene.id.rsplit("/", 1)[1] for scene in scenes] == [f"{number:06d}" for number in range(len(scenes))]


@pytest.mark.parametrize("source, setting", [("sentence", ""), ("paragraph", "paragraph_"), ("brief", "brief_")])
def test_too_few_frames_are_refused_in_a_recipe_and_in_drawing(source, setting):
    least = MIN_FRAMES[source]
    with pytest.raises(SmaugError, match=f"data.{setting}frames: {least - 1} is too few; .* at least {least}"):
        draw_scenes(source, "train", 1, least - 1, 0)
    with pytest.raises(SettingsError, match=f"data.{setting}frames: {least - 1} is not allowed; .* at least {least}"):
        recipe(**{f"{setting}frames": least - 1})
    assert len(draw(source, "train", 1)) == 1


@pytest.mark.parametrize("source, split", HELD_OUT, ids=names(HELD_OUT))
def test_more_clips_than_there_are_combinations_are_refused_with_how_many_there_is_room_for(source, split):
    too_many = len(SIZES) * len(COLOURS) * len(SHAPES) * len(PATTERNS) * len(SIDES)
    with pytest.raises(SmaugError, match=rf"data.{split}_clips: {too_many} is too many; .* room for (\d+)") as refused:
        draw(source, split, too_many)
    room = int(str(refused.value).rsplit(" ", 1)[1])
    assert room >= 256  # what the tiny scale asks for
    assert len(draw(source, split, room)) == room
    with pytest.raises(SmaugError, match="room for"):
        draw(source, split, room + 1)


@pytest.mark.parametrize("source", SOURCES)
def test_training_never_runs_out(source):
    assert len(draw(source, "train", 3000)) == 3000
