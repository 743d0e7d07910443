"""Checks of prepared data sets: bad media are found and named, and a clean manifest has them no more."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from smaug_core.data.dataset_info import DatasetInfo, describe_split, read_info, write_info
from smaug_core.data.manifest import ManifestKind, ManifestRow, write_manifest
from smaug_core.data.media.frame_record import encode_frame, write_frame_record
from smaug_core.data.media.video import write_clip
from smaug_core.data.prepare.checking import check_split, write_clean
from smaug_core.data.sources.shards import Rejected, content_of, read_shard
from smaug_core.errors import SmaugError
from tests.data.sources.made_shards import sample, write_tar

FRAMES = np.arange(4 * 16 * 24 * 3, dtype=np.uint32).reshape(4, 16, 24, 3).astype(np.uint8)


def clips(root: Path, caption: str = "a bird") -> DatasetInfo:
    """Three mp4 files and two records, with two captions each."""
    media = root / "birds" / "media"
    media.mkdir(parents=True)
    for number in range(3):
        write_clip(media / f"{number}.mp4", FRAMES, 8)
    for number in range(3, 5):
        (media / f"{number}.jpgs").write_bytes(write_frame_record([encode_frame(frame, 95) for frame in FRAMES], 2.0))
    files = sorted(media.iterdir())
    rows = [
        ManifestRow(
            id=f"birds/train/{path.name}#{n}",
            sentences=(caption,),
            path=path.name,
            flip=True,
            content=content_of(path.read_bytes()),
            duration=0.5,
        )
        for n in range(2)
        for path in files
    ]
    return described(root / "birds", rows, is_image=False)


def described(folder: Path, rows: list[ManifestRow], *, is_image: bool) -> DatasetInfo:
    digest = write_manifest(folder / "train.arrow", rows, ManifestKind(is_image=is_image))
    splits = {"train": describe_split(folder / "train.arrow", digest)}
    info = DatasetInfo(folder=folder, name=folder.name, is_image=is_image, splits=splits)
    write_info(info)
    return info


@pytest.mark.parametrize("workers", [1, 2])
def test_truncated_missing_and_changed_media_are_named_with_their_rows(tmp_path, workers):
    info, media = clips(tmp_path), tmp_path / "birds" / "media"
    assert check_split(info, "train", workers=workers) == []
    (media / "1.mp4").unlink()
    (media / "4.jpgs").write_bytes((media / "4.jpgs").read_bytes()[:-9])
    (media / "2.mp4").write_bytes((media / "0.mp4").read_bytes()[:-9] + b"123456789")
    seen = []
    bad = check_split(info, "train", workers=workers, progress=lambda done, total: seen.append((done, total)))
    assert [row.number for row in bad] == [1, 2, 4, 6, 7, 9] and seen[-1] == (10, 10)
    assert "1.mp4: no such file" in bad[0].reason and bad[0].id == "birds/train/1.mp4#0"
    assert "expected the bytes that were prepared, got others" in bad[1].reason


def test_media_that_do_not_decode_are_named_where_no_hash_is_known(tmp_path):
    info = clips(tmp_path)
    broken = info.media_root / "0.mp4"
    broken.write_bytes(broken.read_bytes()[: broken.stat().st_size // 2])
    rows = [ManifestRow(id="birds/train/0.mp4#0", sentences=("a bird",), path="0.mp4", flip=True)]
    (bad,) = check_split(described(info.folder, rows, is_image=False), "train", workers=1)
    assert str(broken) in bad.reason and "others" not in bad.reason


def test_a_clean_manifest_lacks_the_bad_rows_alone(tmp_path):
    info = clips(tmp_path)
    before = [info.open("train").row(number) for number in range(10)]
    (info.media_root / "1.mp4").unlink()
    clean = write_clean(info, {"train": check_split(info, "train", workers=1)})
    assert clean == read_info(tmp_path, "birds") and clean.digest("train") != info.splits["train"].digest
    manifest = clean.open("train")
    kept = [row for row in before if row["path"] != "1.mp4"]
    assert [manifest.row(number) | {"media": 0} for number in range(8)] == [row | {"media": 0} for row in kept]
    assert clean.splits["train"].media == 4 and check_split(clean, "train", workers=1) == []


def test_a_copied_manifest_is_noted_again(tmp_path):
    info = clips(tmp_path)
    os.utime(info.manifest_of("train"), ns=(1, 1))
    with pytest.raises(SmaugError, match="if it was only copied"):
        info.digest("train")
    again = write_clean(info, {"train": check_split(info, "train", workers=1)})
    assert again.digest("train") == info.splits["train"].digest


def test_another_manifest_is_refused(tmp_path):
    info = clips(tmp_path)
    other = replace(info, splits={"train": replace(info.splits["train"], digest="0" * 64)})
    with pytest.raises(SmaugError, match="expected the digest 0000"):
        check_split(other, "train", workers=1)


def test_pictures_in_shards_are_checked(tmp_path):
    media = tmp_path / "cats" / "media"
    shard = write_tar(media / "0.tar", [member for n in range(3) for member in sample(f"{n:03}", n)])
    rows = [row for row in read_shard(shard, media, "cats/train", is_image=True) if not isinstance(row, Rejected)]
    info = described(tmp_path / "cats", rows, is_image=True)
    assert check_split(info, "train", workers=1) == []
    content = bytearray(shard.read_bytes())
    content[rows[1].offset + 60] ^= 255
    shard.write_bytes(content)
    (bad,) = check_split(info, "train", workers=1)
    assert bad.id == "cats/train/001" and f"{shard}[001.png]" in bad.reason


def test_a_check_that_was_killed_after_the_manifest_is_done_again(tmp_path):
    info = clips(tmp_path)
    (info.media_root / "1.mp4").unlink()
    bad = check_split(info, "train", workers=1)
    clean = write_clean(info, {"train": bad})
    write_info(info)  # as it was before the kill
    assert check_split(info, "train", workers=1) == []
    assert write_clean(info, {"train": []}).splits["train"].digest == clean.splits["train"].digest
    assert read_info(tmp_path, "birds").open("train").digest() == clean.digest("train")
