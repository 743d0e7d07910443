"""`dataset.yaml`: what is written comes back, a changed manifest is noticed, and whatever is wrong is named."""

import os
import random
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from smaug_core.data.dataset_info import (
    Counts,
    DatasetInfo,
    describe_split,
    is_prepared,
    prepared_names,
    read_info,
    write_info,
)
from smaug_core.data.manifest import ManifestKind, ManifestRow, write_manifest
from smaug_core.errors import SmaugError

ROWS = [
    ManifestRow(id=f"birds/train/{n // 2}.mp4#{n % 2}", sentences=("a bird", "sings"), path=f"{n // 2}.mp4", flip=True)
    for n in range(5)
]
KIND = ManifestKind(is_image=False, is_paragraph=True, preparation="jpeg 2 fps 224 q95")


def prepared(root: Path, name: str = "birds", **changes) -> DatasetInfo:
    """A data set of five captions of three clips that are not there."""
    folder = root / name
    (folder / "media").mkdir(parents=True)
    digest = write_manifest(folder / "train.arrow", ROWS, KIND)
    info = DatasetInfo(
        folder=folder,
        name=name,
        is_image=False,
        is_paragraph=True,
        licence="CC BY 4.0",
        protocol="ours: two halves – Zürich",
        preparation=KIND.preparation,
        splits={"train": describe_split(folder / "train.arrow", digest)},
        published={"train": Counts(captions=6, media=3)},
    )
    info = replace(info, **changes)
    write_info(info)
    return info


def test_what_is_written_comes_back_and_the_manifest_opens(tmp_path):
    info = prepared(tmp_path)
    assert read_info(tmp_path, "birds") == info
    assert sorted(path.name for path in info.folder.iterdir()) == ["dataset.yaml", "media", "train.arrow"]
    manifest = info.open("train")
    assert (len(manifest), manifest.num_media, manifest.kind) == (5, 3, KIND)
    assert manifest.media == tmp_path / "birds" / "media"
    assert info.digest("train") == manifest.digest() == describe_split(info.manifest_of("train")).digest
    assert (info.splits["train"].captions, info.splits["train"].media) == (5, 3)


def test_keys_that_may_be_missing_have_defaults(tmp_path):
    info = prepared(tmp_path)
    held = yaml.safe_load(info.file.read_text())
    for key in ("protocol", "media", "preparation", "published"):
        del held[key]
    info.file.write_text(yaml.safe_dump(held))
    found = read_info(tmp_path, "birds")
    assert (found.protocol, found.media, found.preparation, found.published) == ("", "media", "none", {})


def test_every_folder_with_the_file_is_a_data_set(tmp_path):
    assert prepared_names(tmp_path / "none") == []
    for name in ("birds", "mine/cats", "dogs"):
        prepared(tmp_path, name)
    (tmp_path / "empty").mkdir()
    assert prepared_names(tmp_path) == ["birds", "dogs", "mine/cats"]
    assert is_prepared(tmp_path, "mine/cats") and not is_prepared(tmp_path, "empty")
    assert not any(is_prepared(tmp_path, name) for name in ("", ".", "../birds", "birds/", "./birds", "/birds"))
    assert read_info(tmp_path, "mine/cats").name == "mine/cats"


def test_the_digest_is_read_and_not_computed(tmp_path):
    info = prepared(tmp_path)
    path, before = info.manifest_of("train"), info.manifest_of("train").stat()
    path.write_bytes(bytes(before.st_size))
    os.utime(path, ns=(before.st_mtime_ns, before.st_mtime_ns))
    assert read_info(tmp_path, "birds").digest("train") == info.splits["train"].digest


@pytest.mark.parametrize("change", ["time", "size"])
def test_a_changed_manifest_is_named_with_what_to_run(tmp_path, change):
    info = prepared(tmp_path)
    path, before = info.manifest_of("train"), info.manifest_of("train").stat()
    if change == "size":
        path.write_bytes(path.read_bytes() + b"x")
    os.utime(path, ns=(before.st_mtime_ns, before.st_mtime_ns + (change == "time")))
    for use in (info.digest, info.open):
        with pytest.raises(SmaugError) as raised:
            use("train")
        told = str(raised.value)
        assert told.startswith(f"{path}: expected {before.st_size} bytes of 2")
        assert f"as {info.file} says, got " in told and told.endswith("again (`smaug data prepare birds`)")
        assert "`smaug data check birds` reads it again" in told


def test_a_missing_manifest_media_root_or_split_is_named(tmp_path):
    info = prepared(tmp_path)
    with pytest.raises(SmaugError, match=r"^birds: has no split 'test'; expected one of \['train'\]$"):
        info.digest("test")
    moved = replace(info, media="elsewhere")
    with pytest.raises(SmaugError, match=r"birds/dataset\.yaml: media: expected a folder, got 'elsewhere': no folder "):
        moved.open("train")
    assert moved.digest("train") == info.digest("train")  # a machine that only plans needs no media
    info.manifest_of("train").unlink()
    with pytest.raises(SmaugError, match=r"train\.arrow: no such manifest, .*dataset\.yaml names it; prepare"):
        info.open("train")


@pytest.mark.parametrize("change", [{"is_image": True}, {"is_paragraph": False}, {"preparation": "none"}])
def test_a_manifest_of_another_kind_is_named(tmp_path, change):
    info = prepared(tmp_path, **change)
    with pytest.raises(SmaugError, match=r"train\.arrow: expected 5 captions and ManifestKind.*, got 5 and Manif"):
        info.open("train")


def test_shards_that_are_missing_or_newer_than_the_manifest_are_named_up_to_ten(tmp_path):
    info = prepared(tmp_path)
    path = info.manifest_of("train")
    rows = [replace(row, path=f"{n}.tar", member="a.mp4", offset=512, length=1) for n, row in enumerate(ROWS * 3)]
    rows = [replace(row, id=f"{n}") for n, row in enumerate(rows)]
    info = replace(info, splits={"train": describe_split(path, write_manifest(path, rows, KIND))})
    shards = [info.media_root / f"{n}.tar" for n in range(len(rows))]
    for shard in shards:
        shard.write_bytes(b"")
    write_info(info)
    written = info.file.stat().st_mtime_ns
    for shard in shards:
        os.utime(shard, ns=(0, written))
    assert len(info.open("train")) == 15
    os.utime(shards[0], ns=(0, written + 1))
    for shard in shards[1:13]:
        shard.unlink()
    with pytest.raises(SmaugError) as raised:
        info.open("train")
    told = str(raised.value)
    assert told.startswith(f"{path}: {shards[0]}: is newer than {info.file}; {shards[1]}: No such file or directory; ")
    assert (
        told.count("No such file") == 9
        and "; and 3 more; if it was only copied, `smaug data check birds` reads it again" in told
    )
    for shard in shards:
        shard.write_bytes(b"")
    write_info(info)  # as `smaug data check` does, once it has compared all bytes
    assert len(info.open("train")) == 15


def test_a_folder_of_media_may_lie_anywhere(tmp_path):
    (tmp_path / "disk").mkdir()
    for name, media in (("a", str(tmp_path / "disk")), ("b", "../disk")):
        info = prepared(tmp_path, name, media=media)
        assert info.open("train")[0].media.path.resolve() == tmp_path / "disk" / "0.mp4"


SPLIT = "splits: {train: {captions: 5, media: 3, digest: %s, size: 9, mtime_ns: 1}}\n" % ("e" * 64)
GOOD = "kind: video\nparagraph: false\nlicence: unknown\n" + SPLIT


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "expected an object, got null"),
        ("[1, 2]", r"expected an object, got \[1, 2\]"),
        ("kind: [", "cannot be read as YAML"),
        ("a: &a [*a]\n", "cannot be read as YAML"),
        ("? [1, 2]\n: 3\n", "cannot be read as YAML"),
        ("\0", "cannot be read as YAML"),
        (GOOD.replace("kind: video", "kind: audio"), 'kind: expected one of image, video, got "audio"'),
        (GOOD.replace("kind: video\n", ""), "kind: expected one of image, video, got nothing: the key is missing"),
        (GOOD.replace("paragraph: false", "paragraph: 2"), "paragraph: expected true or false, got 2"),
        (GOOD.replace("licence", "license"), "licence: expected a string, got nothing"),
        (GOOD + "medai: x\n", "medai: expected one of the keys kind, .*, got an unknown key"),
        (GOOD + "media: ''\n", 'media: expected a string that is not empty, got ""'),
        (GOOD.replace("captions: 5", "captions: 0"), r"splits\.train\.captions: expected an integer from 1 .*, got 0"),
        (GOOD.replace("mtime_ns: 1", "mtime_ns: now"), r'splits\.train\.mtime_ns: expected an integer .*, got "now"'),
        (GOOD.replace("e" * 64, "e"), r'splits\.train\.digest: expected 64 hexadecimal digits, got "e"'),
        (GOOD.replace("size: 9", "size: 9, name: 1"), r"splits\.train\.name: expected one of the keys captions, media"),
        (GOOD.replace("train", "../train"), r"splits: expected names of splits, got '\.\./train'"),
        (GOOD.replace(SPLIT, "splits: {}\n"), "splits: expected at least one, got none"),
        (GOOD + "published: {train: {captions: 1}}\n", r"published\.train\.media: expected an integer .*, got nothing"),
    ],
)
def test_a_wrong_document_is_named_with_the_key_and_what_is_expected(tmp_path, text, named):
    (tmp_path / "birds").mkdir()
    (tmp_path / "birds" / "dataset.yaml").write_text(text)
    with pytest.raises(SmaugError, match=rf"^{tmp_path}/birds/dataset\.yaml: {named}"):
        read_info(tmp_path, "birds")


def test_whatever_a_document_holds_is_read_or_refused_by_name(tmp_path):
    """Bytes of a good document are dropped, doubled and replaced."""
    (tmp_path / "birds").mkdir()
    path, draws = tmp_path / "birds" / "dataset.yaml", random.Random(0)
    for number in range(500):
        content = bytearray((GOOD + "published: {train: {captions: 6, media: 3}}\n").encode())
        for _ in range(draws.randint(1, 4)):
            place = draws.randrange(len(content))
            content[place : place + draws.randint(0, 2)] = draws.randbytes(draws.randint(0, 2))
        path.write_bytes(content)
        try:
            info = read_info(tmp_path, "birds")
        except SmaugError as error:
            assert str(error).startswith(f"{path}: "), number
        else:
            assert info.splits and all(isinstance(split.captions, int) for split in info.splits.values()), number


def test_a_document_that_is_no_text_or_not_there_is_named(tmp_path):
    (tmp_path / "birds").mkdir()
    with pytest.raises(SmaugError, match=r"birds/dataset\.yaml: no such file; prepare the data set first"):
        read_info(tmp_path, "birds")
    (tmp_path / "birds" / "dataset.yaml").write_bytes(b"kind: \xff\xfe")
    with pytest.raises(SmaugError, match=r"birds/dataset\.yaml: cannot be read as YAML"):
        read_info(tmp_path, "birds")


def test_a_licence_that_yaml_takes_for_a_date_is_a_text(tmp_path):
    (tmp_path / "birds").mkdir()
    (tmp_path / "birds" / "dataset.yaml").write_text(GOOD.replace("unknown", "2020-01-01"))
    assert read_info(tmp_path, "birds").licence == "2020-01-01"
