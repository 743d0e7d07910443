"""Sources by name: what they hand over, and a digest that is known before anything is rendered."""

import hashlib
import json
import os
from dataclasses import fields, replace

import numpy as np
import pytest
from PIL import Image

from smaug_core.config import DataConfig
from smaug_core.data import manifest as manifest_module
from smaug_core.data.dataset_info import Counts
from smaug_core.data.dataset_sizes import PUBLISHED
from smaug_core.data.datasets import (
    EMBEDDED,
    SPLITS,
    is_known,
    open_source,
    published_size,
    source_digest,
    split_counts,
    splits_of,
)
from smaug_core.data.manifest import ManifestKind, ManifestRow, write_manifest
from smaug_core.data.media.video import read_frames, write_clip
from smaug_core.data.moving_shapes import dataset as moving_shapes
from smaug_core.data.moving_shapes.scenes import draw_scenes
from smaug_core.data.prepare.rendering import prepare
from smaug_core.data.tokenizer import clean_caption
from smaug_core.errors import ClipError, SmaugError
from tests.data.recipes import SMALLEST as CONFIG
from tests.data.test_dataset_info import ROWS, prepared
from tests.faults import full_disk

STILLS, CLIPS, PARAGRAPHS, BRIEF = (f"moving_shapes/{name}" for name in ("stills", "sentence", "paragraph", "brief"))
PAIRS = [(name, split) for name in EMBEDDED for split in SPLITS[name]]
REAL = [(name, split) for name in PUBLISHED for split in SPLITS[name]]
FILES = 5 + 3 + (6 + 3 + 4) + (4 + 3 + 4) + (5 + 3 + 4)
"""Of all embedded sources."""


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("media")
    prepare(EMBEDDED, CONFIG, root)
    return root


def test_the_sources_and_their_splits():
    three = ("train", "val", "test")
    assert {name: SPLITS[name] for name in EMBEDDED} == {
        "moving_shapes/stills": ("train",),
        "moving_shapes/more_stills": ("train",),
        "moving_shapes/sentence": three,
        "moving_shapes/paragraph": three,
        "moving_shapes/brief": three,
    }


def test_clips_come_with_their_captions(root):
    for split, count in (("train", 6), ("val", 3), ("test", 4)):
        items = open_source(CLIPS, split, CONFIG, root)
        scenes = draw_scenes("sentence", split, count, CONFIG.frames, CONFIG.seed)
        assert [item.caption for item in items] == [scene.caption for scene in scenes]
        assert [item.relevant for item in items] == [tuple(scene.relevant) for scene in scenes]
        assert all(item.media.suffix == ".mp4" and item.media.path.is_file() and not item.is_image for item in items)


@pytest.mark.parametrize("split, count", [("train", 4), ("val", 3), ("test", 4)])
def test_a_paragraph_is_its_sentences_joined_by_one_space_in_training_and_in_tests(root, split, count):
    items = open_source(PARAGRAPHS, split, CONFIG, root)
    assert len(items) == count
    for item, scene in zip(
        items, draw_scenes("paragraph", split, count, CONFIG.paragraph_frames, CONFIG.seed), strict=True
    ):
        assert item.caption == " ".join(scene.caption)
        assert clean_caption(item.caption).count(" then ") == len(scene.events) - 1
        assert item.relevant == tuple(scene.relevant)


def test_a_brief_clip_is_relevant_where_its_caption_holds_and_not_where_something_distracts(root):
    items = open_source(BRIEF, "train", CONFIG, root)
    scenes = draw_scenes("brief", "train", len(items), CONFIG.brief_frames, CONFIG.seed)
    assert any(scene.distracting for scene in scenes)
    for item, scene in zip(items, scenes, strict=True):
        assert item.relevant == scene.events[0].visible
        assert not set(item.relevant) & set(scene.distracting)
        assert 4 * len(item.relevant) <= len(read_frames(item.media, lambda available: range(available)))


@pytest.mark.parametrize("name, count", [(STILLS, 5), ("moving_shapes/more_stills", 3)])
def test_stills_are_pictures(root, name, count):
    items = open_source(name, "train", CONFIG, root)
    assert len(items) == count
    assert all(item.media.suffix == ".png" and item.media.path.is_file() and item.is_image for item in items)


def test_ids_are_unique_over_all_sources_and_say_where_they_are_from(root):
    ids = [item.id for name, split in PAIRS for item in open_source(name, split, CONFIG, root)]
    assert len(set(ids)) == len(ids) == FILES
    assert ids[0] == "moving_shapes/stills/stills/000000"
    assert "moving_shapes/sentence/test/000003" in ids and ids[-1] == "moving_shapes/brief/brief/test/000003"


def test_captions_that_name_sides_forbid_mirror_images(root):
    assert not any(item.flip for name, split in PAIRS for item in open_source(name, split, CONFIG, root))


HELD = {
    "moving_shapes/stills": "068e054c227b58a495bb6ed55225012f4a27e9576a9195a513ab8962b39e1d85",
    "moving_shapes/more_stills": "10f5e13e52eab2e8f66626040ffea79de15707538a5083fef7e28e2ad8ffcf61",
    "moving_shapes/sentence": "399c19dcc3f35a526a428e80790147e8d41599ac35514483f549532785e80658",
    "moving_shapes/paragraph": "495deba9efd890fe84bc61c84d003fed380caaac825e31c6e0b3f8e3b72c99e1",
    "moving_shapes/brief": "b29320cf3fe3c2de7a1d242061fb76f8197728b097bea56a32d9d33cbbe13954",
}
"""Digests of the embedded data, computed by the version before there were manifests."""


@pytest.mark.parametrize("name", EMBEDDED)
def test_digests_ids_captions_files_and_their_order_are_those_of_the_version_before_manifests(root, name):
    digest = hashlib.sha256()
    for split in SPLITS[name]:
        digest.update(source_digest(name, split, CONFIG).encode())
        for s in open_source(name, split, CONFIG, root):
            file = str(s.media.path.relative_to(root))
            digest.update(json.dumps([s.id, file, s.caption, s.is_image, s.flip, list(s.relevant)]).encode())
    assert digest.hexdigest() == HELD[name]


def test_reading_twice_gives_the_same_order(root):
    assert list(open_source(CLIPS, "test", CONFIG, root)) == list(open_source(CLIPS, "test", CONFIG, root))


def test_the_digest_needs_no_rendering_and_stays_as_it_is(tmp_path):
    before = [source_digest(name, split, CONFIG) for name, split in PAIRS]
    assert len(set(before)) == len(PAIRS)
    assert list(tmp_path.iterdir()) == []
    prepare([CLIPS], CONFIG, tmp_path)
    assert [source_digest(name, split, CONFIG) for name, split in PAIRS] == before


@pytest.mark.parametrize("name", [field.name for field in fields(DataConfig)])
def test_a_setting_changes_the_digests_of_the_splits_that_read_it_and_no_other(name):
    changed = replace(CONFIG, **{name: getattr(CONFIG, name) + 2})
    differ = [part for part in PAIRS if source_digest(*part, changed) != source_digest(*part, CONFIG)]
    if name in ("seed", "size"):
        assert differ == PAIRS
    elif name in ("val_clips", "test_clips"):
        assert differ == [(source, name[: -len("_clips")]) for source in (CLIPS, PARAGRAPHS, BRIEF)]
    else:
        read_by = {
            "frames": CLIPS,
            "train_clips": CLIPS,
            "train_stills": STILLS,
            "more_stills": "moving_shapes/more_stills",
        }.get(name, f"moving_shapes/{name.split('_')[0]}")
        splits = SPLITS[read_by] if name.endswith("frames") else ("train",)
        assert differ == [(read_by, split) for split in splits]


def test_preparing_renders_what_is_missing_of_what_is_asked_for_and_only_that(root, tmp_path):
    told = []
    prepare(EMBEDDED, CONFIG, root, lambda done, total: told.append((done, total)))
    assert told == []
    prepare([STILLS, CLIPS, STILLS], CONFIG, tmp_path, lambda done, total: told.append((done, total)))
    assert told == sorted(told) and {total for _, total in told} == {18}
    assert told[-1] == (18, 18) and len([each for each in told if each == (18, 18)]) == 1
    folders = sorted(path.name.split("-")[0] for path in (tmp_path / "moving_shapes").iterdir())
    assert folders == ["sentence", "stills"]
    told.clear()
    prepare([PARAGRAPHS, CLIPS, "webvid"], CONFIG, tmp_path, lambda done, total: told.append((done, total)))
    assert told[-1] == (11, 11)
    prepare([], None, tmp_path / "nothing")
    prepare(PUBLISHED, None, tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()


READERS = {
    "read": lambda name, split, data, root: open_source(name, split, data, root),
    "digest": lambda name, split, data, root: source_digest(name, split, data, root),
}


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
def test_what_is_asked_for_wrongly_is_said_with_what_would_be_right(read, root):
    with pytest.raises(SmaugError, match=r"source: 'howto' is unknown; .*'anet', .*'moving_shapes/brief'"):
        read("howto", "train", CONFIG, root)
    with pytest.raises(SmaugError, match=rf"{STILLS}: has no split 'test'; .*\['train'\]"):
        read(STILLS, "test", CONFIG, root)
    with pytest.raises(SmaugError, match=r"anet: has no split 'test'; .*\['train', 'val'\]"):
        read("anet", "test", CONFIG, root)
    with pytest.raises(SmaugError, match=rf"{CLIPS}: is rendered from the section `data`, which is missing; add it"):
        read(CLIPS, "train", None, root)


def test_preparing_an_unknown_source_or_without_data_is_refused(tmp_path):
    with pytest.raises(SmaugError, match="'howto' is unknown"):
        prepare(["howto"], CONFIG, tmp_path)
    with pytest.raises(SmaugError, match=rf"{CLIPS}: is rendered from the section `data`, which is missing"):
        prepare(["webvid", CLIPS], None, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_reading_before_rendering_says_what_to_do(tmp_path):
    with pytest.raises(SmaugError, match=r"train is not rendered here; render it first \(`prepare`\)"):
        open_source(CLIPS, "train", CONFIG, tmp_path)


def test_media_of_another_recipe_are_not_read(root):
    with pytest.raises(SmaugError, match="not rendered here"):
        open_source(CLIPS, "train", replace(CONFIG, seed=2), root)
    # Yet what another source reads is nothing to it.
    assert open_source(CLIPS, "train", replace(CONFIG, brief_train_clips=99), root)


def test_damage_is_found_when_a_source_is_read(tmp_path):
    prepare([CLIPS], CONFIG, tmp_path)
    clip = moving_shapes.directory("sentence", CONFIG, tmp_path) / "clips" / "val" / "000001.mp4"
    clip.write_bytes(b"")
    with pytest.raises(SmaugError, match=r"val is damaged .*000001\.mp4"):
        open_source(CLIPS, "val", CONFIG, tmp_path)


def annotate(root, name, split, rows) -> bytes:
    """Write an annotation file where it belongs; gives its content."""
    path = root / name / "annotations" / f"{split}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rows))
    return path.read_bytes()


def test_real_pictures_and_clips_are_read_by_their_annotations(tmp_path):
    annotate(tmp_path, "cc3m", "train", [{"image": "a/one.png", "caption": "a dog"}])
    annotate(tmp_path, "didemo", "val", [{"video": "two.mp4", "caption": ["A dog runs.", "It sits."], "duration": 3.1}])
    (tmp_path / "cc3m" / "media" / "a").mkdir(parents=True)
    (tmp_path / "didemo" / "media").mkdir()
    pixels = np.zeros((4, 16, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels[0]).save(tmp_path / "cc3m" / "media" / "a" / "one.png")
    write_clip(tmp_path / "didemo" / "media" / "two.mp4", pixels, 8)
    (picture,) = open_source("cc3m", "train", None, tmp_path)
    (clip,) = open_source("didemo", "val", None, tmp_path)
    assert (picture.id, picture.caption, picture.is_image) == ("cc3m/train/a/one.png#0", "a dog", True)
    assert (clip.id, clip.caption, clip.is_image) == ("didemo/val/two.mp4#0", "A dog runs. It sits.", False)
    assert picture.relevant == clip.relevant == ()
    assert read_frames(picture.media, lambda available: range(available)).shape == (1, 16, 16, 3)
    assert read_frames(clip.media, lambda available: range(available)).shape == (4, 16, 16, 3)


def test_a_clip_may_have_many_captions_and_each_is_an_item(tmp_path):
    rows = [{"video": "v.mp4", "caption": f"caption {number}"} for number in range(20)]
    annotate(tmp_path, "msrvtt", "train", rows)
    items = open_source("msrvtt", "train", None, tmp_path)
    assert [item.caption for item in items] == [row["caption"] for row in rows]
    assert len({item.id for item in items}) == 20 and len({item.media for item in items}) == 1


@pytest.mark.parametrize("name", ["msrvtt", "webvid", "didemo", "anet"])
def test_a_list_of_captions_is_a_paragraph_in_paragraph_benchmarks_and_else_several(tmp_path, name):
    rows = [{"video": "one.mp4", "caption": ["A dog runs.", "It sits."]}, {"video": "two.mp4", "caption": "A cat."}]
    annotate(tmp_path, name, "train", rows)
    items = open_source(name, "train", None, tmp_path)
    several = [("one.mp4", "A dog runs."), ("one.mp4", "It sits."), ("two.mp4", "A cat.")]
    joined = [("one.mp4", "A dog runs. It sits."), ("two.mp4", "A cat.")]
    expected = joined if name in ("didemo", "anet") else several
    assert [(item.media.name, item.caption) for item in items] == expected
    numbers = [0, 0] if name in ("didemo", "anet") else [0, 1, 0]
    ids = [f"{name}/train/{media}#{number}" for (media, _), number in zip(expected, numbers, strict=True)]
    assert [item.id for item in items] == ids


def test_what_an_earlier_version_rendered_is_used_as_it_is(tmp_path):
    """It has no manifests; they are made without rendering again."""
    prepare([CLIPS], CONFIG, tmp_path)
    folder = moving_shapes.directory("sentence", CONFIG, tmp_path)
    expected = list(open_source(CLIPS, "train", CONFIG, tmp_path))
    for path in folder.glob("*.arrow"):
        path.unlink()
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    assert list(open_source(CLIPS, "train", CONFIG, tmp_path)) == expected
    after = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    assert after.items() - before.items() == {(folder / "train.arrow", after[folder / "train.arrow"])}


def test_a_manifest_follows_its_annotation_file(tmp_path):
    annotate(tmp_path, "webvid", "train", [{"video": "a.mp4", "caption": "a dog"}])
    assert [item.caption for item in open_source("webvid", "train", None, tmp_path)] == ["a dog"]
    manifest = tmp_path / "webvid" / "train.arrow"
    written = manifest.stat().st_mtime_ns
    open_source("webvid", "train", None, tmp_path)
    assert manifest.stat().st_mtime_ns == written
    annotate(tmp_path, "webvid", "train", [{"video": "a.mp4", "caption": "a cat that sits"}])
    assert [item.caption for item in open_source("webvid", "train", None, tmp_path)] == ["a cat that sits"]
    manifest.write_bytes(manifest.read_bytes()[:99])
    assert [item.caption for item in open_source("webvid", "train", None, tmp_path)] == ["a cat that sits"]
    (tmp_path / "webvid" / "annotations" / "train.json").unlink()
    with pytest.raises(SmaugError, match=r"train\.json: no such annotation file"):
        open_source("webvid", "train", None, tmp_path)


@pytest.mark.parametrize("damage", ["cut", "of another version", "of other rows"])
def test_a_manifest_of_rendered_data_is_written_again_where_it_does_not_fit(tmp_path, monkeypatch, damage):
    prepare([CLIPS], CONFIG, tmp_path)
    expected = list(open_source(CLIPS, "train", CONFIG, tmp_path))
    path = moving_shapes.directory("sentence", CONFIG, tmp_path) / "train.arrow"
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-9])
    else:
        rows = [ManifestRow(id="a", sentences=("a",), path="a.mp4", flip=True)]
        with monkeypatch.context() as patched:
            patched.setattr(manifest_module, "VERSION", "0" if damage == "of another version" else "1")
            write_manifest(path, rows, ManifestKind(is_image=False))
    monkeypatch.setattr("smaug_core.data.prepare.rendering.render_all", None)
    assert list(open_source(CLIPS, "train", CONFIG, tmp_path)) == expected


def test_a_prepared_data_set_may_have_any_name(tmp_path):
    info = prepared(tmp_path, "mine/birds")
    assert is_known("mine/birds", tmp_path) and not is_known("mine/birds")
    assert splits_of("mine/birds", tmp_path) == ("train",)
    assert [s.id for s in open_source("mine/birds", "train", None, tmp_path)] == [row.id for row in ROWS]
    assert source_digest("mine/birds", "train", None, tmp_path) == info.splits["train"].digest
    assert split_counts("mine/birds", "train", None, tmp_path) == Counts(captions=5, media=3)
    prepare(["mine/birds"], None, tmp_path)
    for read in (open_source, source_digest, split_counts):
        with pytest.raises(SmaugError, match=r"^mine/birds: has no split 'test'; expected one of \['train'\]$"):
            read("mine/birds", "test", None, tmp_path)
        with pytest.raises(SmaugError, match=rf"'bird' is unknown; .*'mine/birds'.*, or a folder of {tmp_path} with"):
            read("bird", "train", None, tmp_path)
    assert source_digest("mine/birds", "train", None) is None  # as that of every data set whose folder is not given
    with pytest.raises(SmaugError, match="'mine/birds' is unknown"):
        split_counts("mine/birds", "train", None)
    os.utime(info.manifest_of("train"), ns=(0, 0))
    for read in (open_source, source_digest):
        with pytest.raises(SmaugError, match=r"train\.arrow: expected .* bytes of 2.*, got .* bytes of 1970-01-01"):
            read("mine/birds", "train", None, tmp_path)


def test_what_was_prepared_of_a_benchmark_replaces_its_annotations_split_by_split(tmp_path):
    for split in ("train", "test"):
        annotate(tmp_path, "msrvtt", split, [{"video": "a.mp4", "caption": "a dog"}])
    before = source_digest("msrvtt", "train", None, tmp_path)
    info = prepared(tmp_path, "msrvtt")
    assert source_digest("msrvtt", "train", None, tmp_path) == info.splits["train"].digest != before
    assert [len(open_source("msrvtt", split, None, tmp_path)) for split in ("train", "test")] == [5, 1]
    assert split_counts("msrvtt", "train", None, tmp_path).captions == 5
    assert split_counts("msrvtt", "test", None, tmp_path).captions == 1_000
    assert splits_of("msrvtt", tmp_path) == SPLITS["msrvtt"] == ("train", "test")


def test_a_rendered_source_is_counted_by_its_settings():
    assert split_counts(CLIPS, "train", CONFIG) == Counts(captions=6, media=6)
    assert split_counts("didemo", "val", None) == Counts(captions=1_065, media=1_065)


def test_a_manifest_that_cannot_be_written_is_named():
    with full_disk() as disk:
        annotate(disk.folder, "webvid", "train", [{"video": "a.mp4", "caption": "a dog"}])
        disk.fill()
        with pytest.raises(SmaugError, match=r"train\.arrow: the manifest cannot be written \(.*No space left"):
            open_source("webvid", "train", None, disk.folder)


def test_a_missing_media_file_is_told_when_it_is_read_and_not_before(tmp_path):
    annotate(tmp_path, "webvid", "train", [{"video": "gone.mp4", "caption": "a dog"}])
    (item,) = open_source("webvid", "train", None, tmp_path)
    with pytest.raises(ClipError, match=r"webvid/media/gone\.mp4: no such file"):
        read_frames(item.media, lambda available: range(available))


@pytest.mark.parametrize(
    "caption, flip",
    [
        ("a dog runs", True),
        ("A dog on the LEFT.", False),
        ("the right-hand side", False),
        (["a dog runs", "then turns left"], False),
        ("bright lights, a copyright, leftovers", True),
    ],
)
def test_a_mirror_image_is_allowed_unless_the_caption_names_a_side(tmp_path, caption, flip):
    annotate(tmp_path, "anet", "val", [{"video": "v.mp4", "caption": caption}])
    assert [item.flip for item in open_source("anet", "val", None, tmp_path)] == [flip]


@pytest.mark.parametrize("name, split", REAL, ids=["/".join(part) for part in REAL])
def test_the_digest_of_a_real_source_is_that_of_its_annotations_and_none_where_they_are_not(tmp_path, name, split):
    assert source_digest(name, split, None) is None
    assert source_digest(name, split, None, tmp_path) is None
    kind = "image" if PUBLISHED[name].is_image else "video"
    content = annotate(tmp_path, name, split, [{kind: "x", "caption": "a dog"}])
    assert source_digest(name, split, None, tmp_path) == hashlib.sha256(content).hexdigest()
    assert len(open_source(name, split, None, tmp_path)) == 1


def test_published_sizes_are_known_without_files():
    assert published_size("cc3m") + published_size("webvid") == 5_440_000
    assert published_size("anet", "val") == 4_917
    with pytest.raises(SmaugError, match=rf"{CLIPS}: has no published size; the section `data` decides it"):
        published_size(CLIPS)
    with pytest.raises(SmaugError, match="cc3m: has no split 'val'"):
        published_size("cc3m", "val")
    with pytest.raises(SmaugError, match="'howto' is unknown"):
        published_size("howto")


def test_the_parts_of_the_17m_corpus_add_up_to_what_is_published():
    parts = [PUBLISHED[name] for name in ("cc3m", "webvid", "cc12m", "sbu", "vg", "coco")]
    assert round(sum(part.captions["train"] for part in parts) / 1e6, 2) == 18.41
    assert round(sum(part.media["train"] for part in parts) / 1e6, 2) == 17.28


def test_names_are_known_or_not():
    assert all(is_known(name) for name in (*EMBEDDED, "cc3m", "webvid", "cc12m", "sbu", "vg", "coco"))
    assert all(is_known(name) for name in ("msrvtt", "didemo", "anet"))
    assert not any(is_known(name) for name in ("", "howto", "moving_shapes", "CC3M"))
