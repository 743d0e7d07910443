"""Rendering for real: files, damage, kills, two at once, and the same bytes wherever it is done."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import asdict, fields, replace
from pathlib import Path

import av
import pytest

from smaug_core.config import DataConfig
from smaug_core.data.media.video import MAX_KEYFRAME_EVERY, read_frames
from smaug_core.data.moving_shapes.dataset import (
    SAMPLE,
    SOURCES,
    directory,
    frames_of,
    is_rendered,
    open_split,
    recipe_digest,
    split_digest,
    split_sizes,
)
from smaug_core.data.moving_shapes.rasterize import paint
from smaug_core.data.moving_shapes.scenes import Scene, draw_scenes
from smaug_core.data.prepare.render_jobs import CHUNK, FPS
from smaug_core.data.prepare.rendering import render
from smaug_core.errors import SmaugError
from tests.data.recipes import recipe
from tests.faults import full_disk, read_only_disk

CONFIG = recipe(seed=3, train_clips=CHUNK + 8)
PARTS = [(source, split) for source, described in SOURCES.items() for split in described.sizes]
READS = {
    "stills": {"seed", "size", "train_stills"},
    "more_stills": {"seed", "size", "more_stills"},
    "sentence": {"seed", "size", "frames", "train_clips", "val_clips", "test_clips"},
    "paragraph": {"seed", "size", "paragraph_frames", "paragraph_train_clips", "val_clips", "test_clips"},
    "brief": {"seed", "size", "brief_frames", "brief_train_clips", "val_clips", "test_clips"},
}
"""The settings that decide what is rendered for each source."""

RENDER = """
import json, sys
from pathlib import Path
from smaug_core.config import DataConfig
from smaug_core.data.prepare.rendering import render
if __name__ == "__main__":
    root, workers, config = sys.argv[1:]
    print(render("sentence", DataConfig(**json.loads(config)), Path(root), workers=int(workers)))
"""

DIE_HALFWAY = """
import json, os, signal, sys
from pathlib import Path
from smaug_core.config import DataConfig
from smaug_core.data.prepare.rendering import render
def die(done, total):
    print(done, total, os.getpid(), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
if __name__ == "__main__":
    root, workers, config = sys.argv[1:]
    render("sentence", DataConfig(**json.loads(config)), Path(root), workers=int(workers), progress=die)
"""


def start(code: str, root: Path, workers: int, folder: Path) -> subprocess.Popen:
    """Another process that renders `CONFIG`; a file, so that its own workers can import it."""
    script = folder / "script.py"
    script.write_text(code)
    command = [sys.executable, str(script), str(root), str(workers), json.dumps(asdict(CONFIG))]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])}
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def checksums(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def scenes_of(source: str, split: str) -> list[Scene]:
    return draw_scenes(source, split, split_sizes(source, CONFIG)[split], frames_of(source, CONFIG), CONFIG.seed)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Every source, rendered."""
    root = tmp_path_factory.mktemp("media")
    return {source: render(source, CONFIG, root, workers=1) for source in SOURCES}


@pytest.fixture
def rendered(folders):
    return folders["sentence"]


@pytest.fixture
def copy(rendered, tmp_path):
    return Path(shutil.copytree(rendered, tmp_path / "moving_shapes" / rendered.name))


@pytest.mark.parametrize("source", SOURCES)
def test_every_scene_has_its_file_and_its_row(folders, source):
    folder, sizes = folders[source], split_sizes(source, CONFIG)
    assert folder.name == f"{source}-{recipe_digest(source, CONFIG)[:12]}"
    media = set()
    for split in sizes:
        rows, scenes = open_split(folder, split), scenes_of(source, split)
        captions = [scene.caption if isinstance(scene.caption, str) else list(scene.caption) for scene in scenes]
        assert [row["caption"] for row in rows] == captions
        assert [row["relevant"] for row in rows] == [scene.relevant for scene in scenes]
        assert [row["distractors"] for row in rows] == [scene.distracting for scene in scenes]
        assert [row["id"] for row in rows] == [scene.id for scene in scenes]
        assert rows[0]["facts"]["ground"] == list(scenes[0].ground)
        assert rows[0]["facts"]["events"][0]["look"] == list(scenes[0].events[0].look)
        media |= {row["media"] for row in rows}
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    tables = {f"{split}.{end}" for split in sizes for end in ("jsonl", "arrow")}
    assert files == media | tables | {"manifest.json"}
    assert len(media) == sum(sizes.values())


def test_a_paragraph_is_recorded_as_its_sentences_and_a_brief_clip_with_what_distracts(folders):
    assert all(len(row["caption"]) in (3, 4) for row in open_split(folders["paragraph"], "train"))
    rows = open_split(folders["brief"], "train")
    assert any(row["distractors"] for row in rows) and not all(row["distractors"] for row in rows)
    for row in rows:
        assert bool(row["distractors"]) == bool(row["facts"]["distractors"])


@pytest.mark.parametrize("source", SOURCES)
def test_the_manifest_says_what_was_rendered_with_what(folders, source):
    manifest = json.loads((folders[source] / "manifest.json").read_text())
    sizes = split_sizes(source, CONFIG)
    assert manifest["digest"] == recipe_digest(source, CONFIG)
    assert manifest["recipe"] == {
        "generator": "moving_shapes",
        "source": source,
        "version": SOURCES[source].version,
        "seed": CONFIG.seed,
        "size": CONFIG.size,
        "frames": frames_of(source, CONFIG),
        "splits": sizes,
    }
    assert manifest["counts"] == sizes
    assert manifest["av"] == av.__version__ and "libavcodec" in manifest["libraries"]
    assert set(manifest["decoded_sha256"]) == set(sizes)


@pytest.mark.parametrize("source", ["sentence", "paragraph", "brief"])
def test_clips_are_h264_with_key_frames_near_enough_to_seek(folders, source):
    length = frames_of(source, CONFIG)
    for path in folders[source].glob("clips/*/*.mp4"):
        with av.open(path) as container:
            stream = container.streams.video[0]
            assert (stream.codec_context.name, stream.average_rate, stream.frames) == ("h264", FPS, length)
            keys = [n for n, packet in enumerate(p for p in container.demux(stream) if p.size) if packet.is_keyframe]
        assert keys[0] == 0
        assert max(b - a for a, b in zip(keys, [*keys[1:], length], strict=True)) <= MAX_KEYFRAME_EVERY


@pytest.mark.parametrize("source, split", PARTS, ids=["/".join(part) for part in PARTS])
def test_what_is_decoded_is_what_was_painted(folders, source, split):
    scene, row = scenes_of(source, split)[0], open_split(folders[source], split)[0]
    frames = read_frames(folders[source] / row["media"], lambda available: range(available))
    painted = paint(scene, CONFIG.size, CONFIG.seed)
    assert frames.shape == painted.shape
    error = abs(frames.astype(int) - painted).mean()
    assert error == 0 if source in ("stills", "more_stills") else error < 12


def test_what_is_there_is_not_rendered_again(rendered):
    def refuse(done, total):
        raise AssertionError("rendered again")

    before = (rendered / "manifest.json").stat().st_mtime_ns
    assert render("sentence", CONFIG, rendered.parent.parent, workers=1, progress=refuse) == rendered
    assert (rendered / "manifest.json").stat().st_mtime_ns == before


@pytest.mark.parametrize("source", SOURCES)
def test_a_source_is_rendered_by_itself_and_progress_ends_with_all_its_files(tmp_path, source):
    told = []
    folder = render(source, CONFIG, tmp_path, workers=1, progress=lambda done, total: told.append((done, total)))
    total = sum(split_sizes(source, CONFIG).values())
    assert told[-1] == (total, total)
    assert told == sorted(told) and {of for _, of in told} == {total}
    assert [each for each in SOURCES if is_rendered(each, CONFIG, tmp_path)] == [source]
    assert list((tmp_path / "moving_shapes").iterdir()) == [folder]


@pytest.mark.parametrize("name", [field.name for field in fields(DataConfig)])
def test_the_digests_change_with_every_setting_that_a_source_reads_and_with_no_other(name):
    changed = replace(CONFIG, **{name: getattr(CONFIG, name) + 2})
    differ = {source for source in SOURCES if recipe_digest(source, changed) != recipe_digest(source, CONFIG)}
    assert differ == {source for source, read in READS.items() if name in read}
    for source in SOURCES:
        moved = directory(source, changed, Path("x")) != directory(source, CONFIG, Path("x"))
        assert moved == (source in differ)
        for split, setting in SOURCES[source].sizes.items():
            read = READS[source] - (set(SOURCES[source].sizes.values()) - {setting})
            same = split_digest(source, split, changed) == split_digest(source, split, CONFIG)
            assert same == (name not in read)


def test_no_two_sources_or_splits_share_a_digest():
    even = replace(CONFIG, **dict.fromkeys([f.name for f in fields(CONFIG) if f.name not in ("seed", "size")], 32))
    assert len({split_digest(source, split, even) for source, split in PARTS}) == len(PARTS)
    assert len({recipe_digest(source, even) for source in SOURCES}) == len(SOURCES)


def test_two_processes_and_two_workers_give_the_same_bytes_and_do_not_get_in_each_others_way(rendered, tmp_path):
    root = tmp_path / "media"
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    both = [start(RENDER, root, 1, tmp_path / "a"), start(RENDER, root, 2, tmp_path / "b")]
    told = [process.communicate(timeout=120)[0].strip() for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert told == [str(directory("sentence", CONFIG, root))] * 2
    assert [path.name for path in (root / "moving_shapes").iterdir()] == [rendered.name]
    assert checksums(directory("sentence", CONFIG, root)) == checksums(rendered)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_rendering_that_is_killed_leaves_nothing_that_counts_and_is_done_anew(rendered, tmp_path, workers):
    process = start(DIE_HALFWAY, tmp_path / "media", workers, tmp_path)
    # Its output ends when its workers, who share it, have ended too.
    told = process.communicate(timeout=60)[0].split()
    assert process.returncode == -signal.SIGKILL
    assert 0 < int(told[0]) < int(told[1])
    target = directory("sentence", CONFIG, tmp_path / "media")
    assert not target.exists() and list(target.parent.glob(f".{target.name}.*/clips/train/*.mp4"))
    with pytest.raises(SmaugError, match="train is not rendered here; render it first"):
        open_split(target, "train")
    assert render("sentence", CONFIG, tmp_path / "media", workers=1) == target
    assert checksums(target) == checksums(rendered)
    assert list(target.parent.iterdir()) == [target]  # what the dead process left is gone


def test_a_rendering_that_fails_leaves_nothing(tmp_path):
    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        render("sentence", CONFIG, tmp_path, workers=1, progress=stop)
    assert list((tmp_path / "moving_shapes").iterdir()) == []


def test_settings_that_ask_for_too_much_are_said_before_anything_is_written(tmp_path):
    with pytest.raises(SmaugError, match=r"data\.test_clips: 5000 is too many"):
        render("sentence", replace(CONFIG, test_clips=5000), tmp_path, workers=1)
    assert not list(tmp_path.rglob("*.mp4"))


@pytest.mark.parametrize("source, split", PARTS, ids=["/".join(part) for part in PARTS])
def test_a_damaged_file_is_found_when_its_split_is_opened(folders, tmp_path, source, split):
    copy = Path(shutil.copytree(folders[source], tmp_path / folders[source].name))
    path = sorted((copy / ("stills" if "stills" in source else "clips") / split).iterdir())[0]
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(SmaugError, match=rf"{copy.name}: {split} is damaged .*{path.name}.*delete this folder"):
        open_split(copy, split)
    for other in set(SOURCES[source].sizes) - {split}:
        open_split(copy, other)


def test_a_clip_that_is_whole_but_not_the_one_rendered_is_found(copy):
    one, other = sorted((copy / "clips" / "val").iterdir())[:2]
    shutil.copy(other, one)
    with pytest.raises(SmaugError, match=rf"{copy.name}: val is damaged \(a sample decodes to"):
        open_split(copy, "val")


def test_a_missing_clip_is_named(copy):
    (copy / "clips" / "test" / "000001.mp4").unlink()
    with pytest.raises(SmaugError, match=r"test is damaged .*000001\.mp4: no such file"):
        open_split(copy, "test")


def test_a_sample_of_a_long_split_is_spread_over_all_of_it(copy):
    assert CONFIG.train_clips > SAMPLE
    checked = []
    for place, path in enumerate(sorted((copy / "clips" / "train").iterdir())):
        kept = path.read_bytes()
        path.write_bytes(b"")
        try:
            open_split(copy, "train")
        except SmaugError:
            checked.append(place)
        path.write_bytes(kept)
    assert len(checked) == SAMPLE
    apart = [b - a for a, b in zip(checked, [*checked[1:], CONFIG.train_clips], strict=True)]
    assert checked[0] == 0 and max(apart) - min(apart) <= 1


@pytest.mark.parametrize("cut", ["a line", "part of a line", "all"])
def test_captions_that_are_cut_off_are_found(copy, cut):
    path = copy / "train.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    kept = {"a line": lines[:-1], "part of a line": [*lines[:-1], lines[-1][:20]], "all": []}[cut]
    path.write_bytes(b"".join(kept))
    what = "JSONDecodeError" if cut == "part of a line" else f"{len(kept)} captions, {len(lines)} were written"
    with pytest.raises(SmaugError, match=rf"{copy.name}: train is damaged .*{what}.*; delete this folder and render"):
        open_split(copy, "train")


@pytest.mark.parametrize("content", [b"", b"{", b"{}"])
def test_a_damaged_manifest_is_found(copy, content):
    (copy / "manifest.json").write_bytes(content)
    with pytest.raises(SmaugError, match=rf"{copy.name}: train is damaged .*; delete this folder and render it again"):
        open_split(copy, "train")


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(
        SmaugError, match=r"file/moving_shapes/sentence-\w+: cannot be written .*; free some space or choose"
    ):
        render("sentence", CONFIG, tmp_path / "file", workers=1)


def test_a_read_only_disk_is_named():
    with read_only_disk() as folder, pytest.raises(SmaugError, match=r"cannot be written .*Read-only file system"):
        render("sentence", CONFIG, folder, workers=1)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_full_disk_is_named_and_what_was_written_is_removed(workers):
    with full_disk(kilobytes=64) as disk:
        with pytest.raises(SmaugError, match=r"cannot be written .*No space left on device"):
            render("sentence", CONFIG, disk.folder, workers=workers)
        assert list((disk.folder / "moving_shapes").iterdir()) == []
