"""Sources by name: what they hand over, and a digest that is known before anything is rendered."""

from dataclasses import fields, replace

import pytest

from smaug_core.config import DataConfig
from smaug_core.data import moving_shapes
from smaug_core.data.corpora import SPLITS, prepare, read_source, source_digest
from smaug_core.data.scenes import MIN_FRAMES, draw_scenes
from smaug_core.errors import SmaugError

CONFIG = DataConfig(seed=1, size=32, frames=MIN_FRAMES, train_clips=6, train_stills=5, val_clips=3, test_clips=4)
STILLS, CLIPS = "moving_shapes/stills", "moving_shapes/sentence"
PAIRS = [(name, split) for name, splits in SPLITS.items() for split in splits]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("media")
    prepare([STILLS, CLIPS], CONFIG, root)
    return root


def test_clips_come_with_their_captions(root):
    for split, count in (("train", 6), ("val", 3), ("test", 4)):
        items = read_source(CLIPS, split, CONFIG, root)
        scenes = draw_scenes(split, count, CONFIG.frames, CONFIG.seed)
        assert [item.caption for item in items] == [scene.caption for scene in scenes]
        assert [item.relevant for item in items] == [tuple(scene.relevant) for scene in scenes]
        assert all(item.media.suffix == ".mp4" and item.media.is_file() and not item.is_image for item in items)


def test_stills_are_pictures(root):
    items = read_source(STILLS, "train", CONFIG, root)
    assert len(items) == 5
    assert all(item.media.suffix == ".png" and item.media.is_file() and item.is_image for item in items)


def test_ids_are_unique_over_all_sources_and_say_where_they_are_from(root):
    ids = [item.id for name, split in PAIRS for item in read_source(name, split, CONFIG, root)]
    assert len(set(ids)) == len(ids) == 18
    assert ids[0] == "moving_shapes/stills/stills/000000" and ids[-1] == "moving_shapes/sentence/test/000003"


def test_captions_that_name_sides_forbid_mirror_images(root):
    assert not any(item.flip for name, split in PAIRS for item in read_source(name, split, CONFIG, root))


def test_reading_twice_gives_the_same_order(root):
    assert read_source(CLIPS, "test", CONFIG, root) == read_source(CLIPS, "test", CONFIG, root)


def test_the_digest_needs_no_rendering_and_stays_as_it_is(tmp_path):
    before = [source_digest(name, split, CONFIG) for name, split in PAIRS]
    assert len(set(before)) == len(PAIRS)
    assert list(tmp_path.iterdir()) == []
    prepare([CLIPS], CONFIG, tmp_path)
    assert [source_digest(name, split, CONFIG) for name, split in PAIRS] == before


@pytest.mark.parametrize("name", [field.name for field in fields(DataConfig)])
def test_the_digest_changes_with_every_setting_of_the_data(name):
    changed = replace(CONFIG, **{name: getattr(CONFIG, name) + 2})
    for source, split in PAIRS:
        assert source_digest(source, split, changed) != source_digest(source, split, CONFIG)


def test_preparing_renders_what_is_missing_and_only_that(root, tmp_path):
    told = []
    prepare([STILLS, CLIPS], CONFIG, root, lambda done, total: told.append((done, total)))
    assert told == []
    prepare([STILLS, CLIPS], CONFIG, tmp_path, lambda done, total: told.append((done, total)))
    assert told[-1] == (18, 18) and len([each for each in told if each == (18, 18)]) == 1
    prepare([], None, tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()


READERS = {
    "read": lambda name, split, data, root: read_source(name, split, data, root),
    "digest": lambda name, split, data, root: source_digest(name, split, data),
}


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
def test_what_is_asked_for_wrongly_is_said_with_what_would_be_right(read, root):
    with pytest.raises(SmaugError, match=rf"source: 'webvid' is unknown; .*'{CLIPS}', '{STILLS}'"):
        read("webvid", "train", CONFIG, root)
    with pytest.raises(SmaugError, match=rf"{STILLS}: has no split 'test'; .*\['train'\]"):
        read(STILLS, "test", CONFIG, root)
    with pytest.raises(SmaugError, match=rf"{CLIPS}: is rendered from the section `data`, which is missing; add it"):
        read(CLIPS, "train", None, root)


def test_preparing_an_unknown_source_or_without_data_is_refused(tmp_path):
    with pytest.raises(SmaugError, match="'webvid' is unknown"):
        prepare(["webvid"], CONFIG, tmp_path)
    with pytest.raises(SmaugError, match="section `data`, which is missing"):
        prepare([CLIPS], None, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_reading_before_rendering_says_what_to_do(tmp_path):
    with pytest.raises(SmaugError, match=r"train is not rendered here; render it first \(`prepare`\)"):
        read_source(CLIPS, "train", CONFIG, tmp_path)


def test_media_of_another_recipe_are_not_read(root):
    with pytest.raises(SmaugError, match="not rendered here"):
        read_source(CLIPS, "train", replace(CONFIG, seed=2), root)


def test_damage_is_found_when_a_source_is_read(tmp_path):
    prepare([CLIPS], CONFIG, tmp_path)
    clip = moving_shapes.directory(CONFIG, tmp_path) / "clips" / "val" / "000001.mp4"
    clip.write_bytes(b"")
    with pytest.raises(SmaugError, match=r"val is damaged .*000001\.mp4"):
        read_source(CLIPS, "val", CONFIG, tmp_path)
