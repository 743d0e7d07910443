"""Preparation of data sets: resumed after a kill, each reject with its reason, and the same samples as the source."""

import json
import os
import signal
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest

from smaug_core.data.dataset_info import read_info
from smaug_core.data.media.video import read_frames, write_clip
from smaug_core.data.prepare.conversion import Prepared, prepare_split
from smaug_core.data.prepare.parts import annotation_parts
from smaug_core.data.prepare.source import PrepareRequest, resolve
from smaug_core.data.sources.annotation import Annotation
from smaug_core.errors import SmaugError
from tests.conformance.drivers import wait_until
from tests.data.media.made import every
from tests.data.sources.made_shards import picture, sample, write_tar

ROOT = Path(__file__).resolve().parents[3]


def clip(path: Path, *, seconds: int = 3, fps: int = 8, height: int = 48, width: int = 64) -> Path:
    """A clip that is darker than 100 in its first second, and gets brighter with every one."""
    frames = np.zeros((seconds * fps, height, width, 3), dtype=np.uint8)
    frames += (60 * (np.arange(seconds * fps) // fps + 1))[:, None, None, None].astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_clip(path, frames, fps)
    return path


@pytest.fixture
def annotations(tmp_path) -> Path:
    """Four captions of three clips, in mixed order; one clip is damaged, and one missing."""
    for name in ("a.mp4", "sub/b.c.mp4"):
        clip(tmp_path / "source" / "media" / name)
    (tmp_path / "source" / "media" / "bad.mp4").write_bytes(b"no video")
    captions = [("a.mp4", "one"), ("sub/b.c.mp4", "two"), ("bad.mp4", "three"), ("a.mp4", "four"), ("gone.mp4", "x")]
    file = tmp_path / "source" / "annotations" / "train.json"
    file.parent.mkdir()
    file.write_text(json.dumps([{"video": name, "caption": caption} for name, caption in captions]))
    return file


def prepared(root: Path, source: Path, name: str = "mine", workers: int = 1, **request) -> Prepared:
    info, split, parts, preparation = resolve(PrepareRequest(name, source, **request), root)
    return prepare_split(info, split, parts, preparation, workers=workers)


def rejected(made: Prepared) -> dict[str, str]:
    lines = [] if made.report is None else map(json.loads, made.report.read_text().splitlines())
    return {Path(line["where"]).name: line["reason"] for line in lines}


@pytest.mark.parametrize(("frames", "num"), [("jpeg", 6), ("intra", 6), ("copy", 24)])
def test_captions_keep_their_order_and_clips_their_pictures(tmp_path, annotations, frames, num):
    made = prepared(tmp_path / "data", annotations, frames=frames)
    found = list(read_info(tmp_path / "data", "mine").open("train"))
    ids = [sample.id for sample in found]
    assert ids[:2] + ids[-1:] == ["mine/train/a.mp4#0", "mine/train/sub/b.c.mp4#0", "mine/train/a.mp4#1"]
    captions = [sample.caption for sample in found]
    assert captions == (["one", "two", "three", "four"] if frames == "copy" else ["one", "two", "four"])
    for found_sample in found[:2]:
        shown = read_frames(found_sample.media, every)
        assert shown.shape == (num, 48, 64, 3)
        brightness = shown.reshape(3, -1).mean(axis=1)
        assert np.abs(brightness - [60, 120, 180]).max() < 12  # two frames of each second, or all
    assert made.counts.captions == len(found) and rejected(made)["gone.mp4"] == "no such file"


def test_a_copy_leaves_the_media_alone_and_what_cannot_be_decoded_is_found_by_a_check(tmp_path, annotations):
    made = prepared(tmp_path / "data", annotations, frames="copy")
    assert made.info.media == str(annotations.parent.parent / "media") and made.info.preparation == "none"
    assert list(rejected(made)) == ["gone.mp4"]
    written = {path.name for path in (tmp_path / "data" / "mine").iterdir()}
    assert written == {"dataset.yaml", "train.arrow", "train.rejected.jsonl"}


def test_samples_that_cannot_be_used_are_left_out_with_their_reason(tmp_path, annotations):
    made = prepared(tmp_path / "data", annotations)
    assert made.rejected == 2 and made.counts.captions == 3 and made.counts.media == 2
    assert rejected(made).keys() == {"bad.mp4", "gone.mp4"}
    assert rejected(made)["bad.mp4"].startswith("not a readable video")


def test_large_clips_and_pictures_become_smaller_and_small_ones_stay(tmp_path):
    clip(tmp_path / "source" / "media" / "a.mp4", height=120, width=200)
    file = tmp_path / "source" / "annotations" / "val.json"
    file.parent.mkdir()
    file.write_text(json.dumps([{"video": "a.mp4", "caption": "a"}]))
    for side, size in ((60, (60, 100)), (224, (120, 200))):
        made = prepared(tmp_path / "data", file, f"side{side}", short_side=side)
        assert made.split == "val"
        (only,) = made.info.open("val")
        assert read_frames(only.media, every).shape[1:3] == size
        assert made.info.preparation == f"jpeg 2 fps {side} q95"
    (tmp_path / "source" / "media" / "a.png").write_bytes(picture(7))
    file.write_text(json.dumps([{"image": "a.png", "caption": "a"}]))
    made = prepared(tmp_path / "data", file, "pictures", short_side=16)
    (only,) = made.info.open("val")
    assert only.is_image and only.media.suffix == ".jpg"
    assert read_frames(only.media, every).shape == (1, 16, 22, 3)


def shards(folder: Path, count: int = 3, each: int = 4) -> Path:
    for number in range(count):
        keys = range(number * each, (number + 1) * each)
        write_tar(folder / f"{number:05d}.tar", [part for n in keys for part in sample(f"{n:09d}", n, f"caption {n}")])
    return folder


def test_shards_are_prepared_in_their_order_whatever_the_number_of_processes(tmp_path):
    folder = shards(tmp_path / "shards")
    (folder / "00001.tar").write_bytes((folder / "00001.tar").read_bytes()[:5000])
    alone = prepared(tmp_path / "one", folder, frames="copy")
    several = prepared(tmp_path / "two", folder, frames="copy", workers=2)
    found = list(alone.info.open("train"))
    assert found == list(several.info.open("train")) and alone.counts.digest == several.counts.digest
    captions = [sample.caption for sample in found]
    assert captions[:4] == [f"caption {n}" for n in range(4)] and captions[-4:] == [
        f"caption {n}" for n in range(8, 12)
    ]
    assert "00001.tar" in str(rejected(alone))


def test_the_digest_is_the_same_for_the_media_as_files_and_in_shards(tmp_path):
    folder = shards(tmp_path / "shards", count=1)
    made = prepared(tmp_path / "data", folder, frames="copy")
    media, rows = tmp_path / "files" / "media", []
    media.mkdir(parents=True)
    with tarfile.open(folder / "00000.tar") as tar:
        for number in range(4):
            (media / f"{number:09d}.png").write_bytes(tar.extractfile(f"{number:09d}.png").read())
            rows.append({"image": f"{number:09d}.png", "caption": f"caption {number}"})
    file = tmp_path / "files" / "annotations" / "train.json"
    file.parent.mkdir()
    file.write_text(json.dumps(rows))
    other = prepared(tmp_path / "data", file, "files", frames="copy")
    contents = [[info.open("train").row(n)["content"] for n in range(4)] for info in (made.info, other.info)]
    assert contents[0] == contents[1]


def test_a_killed_preparation_continues_and_ends_as_one_that_was_not(tmp_path):
    folder = shards(tmp_path / "shards", count=6, each=60)
    home = tmp_path / "home"
    command = [sys.executable, "-c", "from experiments.cli.app import main; main()", "data", "prepare", "mine"]
    command += ["--from", str(folder), "--home", str(home), "--workers", "1"]
    results = home / "data" / "mine" / ".train.parts"
    process = subprocess.Popen(command, cwd=ROOT, env=os.environ, start_new_session=True)
    wait_until(lambda: len(list(results.glob("*.jsonl"))) >= 2)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    done = {path.name: path.stat().st_mtime_ns for path in results.glob("*.jsonl")}
    assert 2 <= len(done) < 6 and not (home / "data" / "mine" / "dataset.yaml").exists()
    tars = {path.name: path.stat().st_mtime_ns for path in home.rglob("*.tar") if f"{path.stem}.jsonl" in done}
    output = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert "mine train: 360 captions of 360 pictures (jpeg 224 q95)" in output
    assert tars.items() <= {path.name: path.stat().st_mtime_ns for path in home.rglob("*.tar")}.items()
    whole = prepared(tmp_path / "whole", folder)
    assert read_info(home / "data", "mine").splits["train"].digest == whole.counts.digest
    assert not results.exists() and not [path for path in home.rglob(".*") if path.is_file()]


def test_a_part_whose_source_or_preparation_changed_is_made_again(tmp_path):
    folder = shards(tmp_path / "shards", count=2)
    info, split, parts, preparation = resolve(PrepareRequest("mine", folder), tmp_path / "data")
    with pytest.raises(ZeroDivisionError):
        prepare_split(info, split, parts, preparation, progress=lambda *_: 1 / 0)
    shards(folder, count=1, each=2)
    made = prepared(tmp_path / "data", folder)
    assert [sample.caption for sample in made.info.open("train")][:3] == ["caption 0", "caption 1", "caption 4"]


def test_splits_of_one_data_set_agree(tmp_path, annotations):
    prepared(tmp_path / "data", annotations)
    val = annotations.with_name("val.json")
    val.write_text(json.dumps([{"video": "a.mp4", "caption": "v"}]))
    assert prepared(tmp_path / "data", val).info.splits.keys() == {"train", "val"}
    with pytest.raises(SmaugError, match=r"dataset\.yaml: preparation: expected 'jpeg 2 fps 224 q95'"):
        resolve(PrepareRequest("mine", val, short_side=100), tmp_path / "data")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"name": "../mine"}, r"'\.\./mine': expected the name of a folder"),
        ({"name": ".mine"}, r"'\.mine': expected the name of a folder"),
        ({"name": "cc3m"}, r"train\.json: holds clips; expected pictures for cc3m"),
        ({"split": "../x"}, r"--split '\.\./x': expected a name such as train"),
        ({"media": Path("/nowhere")}, r"--media /nowhere: expected the folder of the files that train\.json names"),
        ({"source": Path("/nowhere.json")}, r"/nowhere\.json: no such annotation file"),
    ],
)
def test_a_wrong_request_is_refused(tmp_path, annotations, change, named):
    with pytest.raises(SmaugError, match=named):
        resolve(PrepareRequest(**{"name": "mine", "source": annotations} | change), tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_clips_whose_names_differ_in_their_ending_alone_stay_two(tmp_path):
    for name in ("a.mp4", "a.mov", "b.c.mp4"):
        clip(tmp_path / "source" / "media" / name, seconds=1 + len(name) % 2)
    file = tmp_path / "source" / "annotations" / "train.json"
    file.parent.mkdir()
    file.write_text(json.dumps([{"video": name, "caption": name} for name in ("a.mp4", "a.mov", "b.c.mp4")]))
    made = prepared(tmp_path / "data", file)
    assert [each.media.member for each in made.info.open("train")] == ["a.mp4.jpgs", "a.mov.jpgs", "b.c.mp4.jpgs"]
    assert made.counts.media == 3 and len({each.number for each in made.info.open("train")}) == 3


def test_parts_are_mixed_only_if_captions_of_a_clip_lie_apart(tmp_path, monkeypatch):
    monkeypatch.setattr("smaug_core.data.prepare.parts.MEDIA", 2)
    file = tmp_path / "train.json"
    for media, expected in (("aabbccdd", [False, False]), ("abcda", [True, True]), ("a", [False])):
        annotations = [Annotation(media=f"{name}.mp4", sentences=("x",)) for name in media]
        parts = annotation_parts(file, annotations, "mine/train", tmp_path)
        assert [part.is_mixed for part in parts] == expected


@pytest.mark.parametrize("frames", ["copy", "jpeg"])
def test_a_key_that_two_shards_have_is_left_out_of_the_second(tmp_path, frames):
    folder = shards(tmp_path / "shards", count=2)
    write_tar(folder / "00002.tar", [*sample("000000003", 50, "again"), *sample("000000009", 51, "new")])
    made = prepared(tmp_path / "data", folder, frames=frames)
    assert (made.rejected, made.counts.captions) == (1, 9)
    assert [each.caption for each in made.info.open("train")] == [f"caption {n}" for n in range(8)] + ["new"]
    ((where, reason),) = rejected(made).items()
    assert where.startswith("00002.tar[000000003") and reason == "its id is an earlier one's: mine/train/000000003"
