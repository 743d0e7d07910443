"""Shards: the same samples as the webdataset library reads, and a reason for each that is left out."""

import io
import json
import random
import tarfile
from hashlib import blake2b
from pathlib import Path

import hypothesis.strategies as st
import pytest
import webdataset
from hypothesis import given, settings

from smaug_core.data.manifest import Manifest, ManifestKind, ManifestRow, write_manifest
from smaug_core.data.media.video import read_frames
from smaug_core.data.sources.shards import Rejected, key_of, read_shard, shards_in
from smaug_core.data.sources.tar_index import index_tar
from smaug_core.errors import SmaugError
from tests.data.sources.made_shards import picture, sample, write_tar

names = st.text(st.sampled_from("abc./é_"), min_size=1, max_size=150).filter(lambda name: name.strip("/"))


def read(shard: Path) -> tuple[list[ManifestRow], list[Rejected]]:
    found = list(read_shard(shard, shard.parent, "made/train", is_image=True))
    return [each for each in found if isinstance(each, ManifestRow)], [e for e in found if isinstance(e, Rejected)]


@settings(deadline=None)
@given(
    st.lists(st.tuples(names, st.binary(max_size=1500)), max_size=6),
    st.sampled_from([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]),
)
def test_the_bytes_at_an_index_are_those_of_the_member(tmp_path_factory, members, form):
    if form == tarfile.USTAR_FORMAT:
        members = [(name[:90], content) for name, content in members if name[:90].strip("/")]
    path = write_tar(tmp_path_factory.mktemp("a") / "0.tar", members, form=form)
    found = list(index_tar(path))
    with tarfile.open(path) as tar:
        expected = [(entry.name, tar.extractfile(entry).read()) for entry in tar if entry.isfile()]
    content = path.read_bytes()
    assert [(m.name, content[m.offset : m.offset + m.length]) for m in found] == expected


def test_links_devices_and_folders(tmp_path):
    path = tmp_path / "0.tar"
    with tarfile.open(path, "w") as tar:
        for name, kind in (("a.png", tarfile.SYMTYPE), ("b.png", tarfile.LNKTYPE), ("c.png", tarfile.FIFOTYPE)):
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = kind, "/etc/passwd"
            tar.addfile(entry)
        folder = tarfile.TarInfo("d")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
    problems = {member.name: member.problem for member in index_tar(path)}
    link = "is a link to '/etc/passwd'"
    assert problems == {"a.png": link, "b.png": link, "c.png": "is no regular file"}
    _, rejected = read(path)
    assert [each.where for each in rejected] == ["0.tar[a]", "0.tar[b]", "0.tar[c]"]
    assert rejected[0].reason == f"'a.png' {link}; expected a file"


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda whole: whole[:580], r"0\.tar: is truncated in 'a\.png'"),
        (lambda whole: whole[:300], r"0\.tar: is no tar file, or damaged"),
        (lambda whole: b"no tar file at all" * 99, r"0\.tar: is no tar file, or damaged"),
        (lambda whole: b"\x1f\x8b" + whole, r"0\.tar: is compressed \(gzip\); expected a plain tar file"),
        (lambda whole: whole[:1024] + b"x" * 512 + whole[1536:], r"0\.tar: is damaged at byte 1024: expected"),
    ],
)
def test_a_damaged_shard_is_named(tmp_path, damage, named):
    path = write_tar(tmp_path / "0.tar", sample("a"))
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(SmaugError, match=named):
        list(index_tar(path))


def test_an_empty_tar_file_has_no_members_and_a_folder_without_shards_is_named(tmp_path):
    assert list(index_tar(write_tar(tmp_path / "0.tar", []))) == []
    (tmp_path / "0.tar").unlink()
    with pytest.raises(SmaugError, match=r"expected WebDataset shards, such as 00000\.tar, got none"):
        shards_in(tmp_path)
    with pytest.raises(SmaugError, match=r"0\.tar: cannot be read \(No such file"):
        list(index_tar(tmp_path / "0.tar"))


def test_the_samples_are_those_of_the_webdataset_library_in_its_order(tmp_path):
    keys = ["000000000", "some/folder.v2/000000001", "name.with", "0000008_00001"]
    members = [part for number, key in enumerate(keys) for part in sample(key, number, f"caption {number}")]
    shard = write_tar(tmp_path / "00000.tar", members)
    theirs = list(webdataset.WebDataset(str(shard), shardshuffle=False))
    rows, rejected = read(shard)
    pictures = {each["__key__"]: next(v for k, v in each.items() if k.endswith("png")) for each in theirs}
    assert [row.id.removeprefix("made/train/") for row in rows] == list(pictures) and not rejected
    content = shard.read_bytes()
    for row in rows:
        media = content[row.offset : row.offset + row.length]
        assert media == pictures[row.id.removeprefix("made/train/")]
        assert row.content == blake2b(media, digest_size=16).digest()
    assert [row.sentences for row in rows] == [(f"caption {number}",) for number in range(4)]


def test_rows_lead_to_the_pixels(tmp_path):
    shard = write_tar(tmp_path / "shards" / "0.tar", [part for n in range(3) for part in sample(f"{n}", n)])
    write_manifest(tmp_path / "train.arrow", read(shard)[0], ManifestKind(is_image=True))
    for number, found in enumerate(Manifest(tmp_path / "train.arrow", tmp_path / "shards")):
        frames = read_frames(found.media, lambda available: range(available))
        assert frames.shape == (1, 24, 32, 3) and (frames[0, 9:, 9:] == number).all()


def test_the_digest_is_the_same_for_files_and_for_shards(tmp_path):
    shard = write_tar(tmp_path / "0.tar", sample("a", 1) + sample("b", 2))
    rows = read(shard)[0]
    files = [
        ManifestRow(id=row.id, sentences=row.sentences, path=f"{row.id}.png", flip=row.flip, content=row.content)
        for row in rows
    ]
    kind = ManifestKind(is_image=True)
    assert write_manifest(tmp_path / "a.arrow", rows, kind) == write_manifest(tmp_path / "b.arrow", files, kind)


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        (sample("a", status="failed_to_download", error_message="404"), "its status is 'failed_to_download' (404)"),
        (sample("a", caption=""), "expected a caption, got an empty one"),
        (sample("a", caption=" \n"), "expected a caption, got an empty one"),
        (sample("a", caption=None), "expected a caption, got null"),
        ([("a.png", picture())], "expected a caption, got null"),
        (
            [("a.png", picture()), ("a.json", json.dumps({"caption": ["one", "two", "three"]}).encode())],
            'expected a caption, got ["one", "two", "three"]',
        ),
        (sample("a")[1:], "expected one picture, got ['.json', '.txt']"),
        ([*sample("a"), ("a.jpg", picture())], "expected one picture, got ['a.png', 'a.jpg']"),
        ([("a.png", picture()), ("a.txt", b"caf\xe9")], "a.txt: expected UTF-8 (unexpected end of data at byte 3)"),
        ([("a.png", picture()), ("a.json", b"{")], "a.json: is no JSON ("),
        ([("a.png", picture()), ("a.json", b"[1]")], "a.json: expected an object, got [1]"),
        ([("a.png", picture()), ("a.json", b"[" * 100_000)], "a.json: is no JSON ("),
        ([("a.png", picture()), ("a.txt", b"x" * (2**20 + 1))], "a.txt: expected at most 1048576 bytes, got 1048577"),
        ([("../a.png", picture()), ("../a.txt", b"a dog")], "'../a.png': expected a name that stays inside the folder"),
        ([("/a.png", picture()), ("/a.txt", b"a dog")], "'/a.png': expected a name that stays inside the folder"),
        ([(".png", picture()), (".txt", b"a dog")], "expected a key before the first dot of the name"),
    ],
)
def test_a_sample_that_is_left_out_is_named_with_its_reason(tmp_path, members, reason):
    shard = write_tar(tmp_path / "00012.tar", [*members, *sample("good", 3)])
    rows, (rejected,) = read(shard)
    assert rejected.reason.startswith(reason) and rejected.where.startswith("00012.tar[")
    assert [row.id for row in rows] == ["made/train/good"]


def test_members_apart_and_members_of_the_shard(tmp_path):
    members = [*sample("a"), *sample("b"), ("a.txt", b"again"), ("__readme__.txt", b"no sample")]
    rows, (rejected,) = read(write_tar(tmp_path / "0.tar", members))
    assert [row.id for row in rows] == ["made/train/a", "made/train/b"]
    assert rejected.where == "0.tar[a]" and "one after the other" in rejected.reason


def test_a_name_that_is_no_utf_8_is_left_out(tmp_path):
    shard = write_tar(tmp_path / "0.tar", sample("a\udce9"), form=tarfile.GNU_FORMAT)
    rows, (rejected,) = read(shard)
    assert not rows and rejected.where == "0.tar[a?]" and "expected a name in UTF-8" in rejected.reason


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("000.jpg", ("000", ".jpg")),
        ("a.b/c.d.JPG", ("a.b/c", ".d.jpg")),
        ("./a/b.txt", ("a/b", ".txt")),
        ("none", ("none", ".")),
    ],
)
def test_a_key_ends_at_the_first_dot_of_the_base_name(name, expected):
    assert key_of(name) == expected


def test_a_mirror_image_is_refused_where_a_side_is_named_and_durations_are_kept(tmp_path):
    members = [*sample("a", caption="on the left", duration=3.5), *sample("b", duration="long")]
    rows, _ = read(write_tar(tmp_path / "0.tar", members))
    assert [row.flip for row in rows] == [False, True] and [row.duration for row in rows] == [3.5, None]


def test_mutated_shards_give_rows_rejects_or_an_error_that_names_them(tmp_path):
    whole = write_tar(tmp_path / "0.tar", [part for n in range(4) for part in sample(f"{n}", n)]).read_bytes()
    random_ = random.Random(0)
    outcomes = set()
    for _ in range(400):
        damaged = bytearray(whole[: random_.choice([len(whole), random_.randrange(len(whole))])])
        for _ in range(random_.choice([1, 3])):
            place = random_.choice([random_.randrange(len(damaged)), 512 * random_.randrange(len(damaged) // 512 + 1)])
            damaged[min(place + random_.randrange(160), len(damaged) - 1)] = random_.randrange(256)
        (tmp_path / "0.tar").write_bytes(damaged)
        try:
            rows, rejected = read(tmp_path / "0.tar")
        except SmaugError as error:
            assert "0.tar: " in str(error)
            outcomes.add("error")
        else:
            size = len(damaged)
            assert all(row.offset + row.length <= size and row.sentences[0].strip() for row in rows)
            outcomes |= {"rows"} if rows else set()
            outcomes |= {"rejected"} if rejected else set()
    assert outcomes == {"error", "rows", "rejected"}


def test_a_tar_of_many_members_is_read_without_keeping_them(tmp_path):
    with tarfile.open(tmp_path / "0.tar", "w") as tar:
        for number in range(3000):
            entry = tarfile.TarInfo(f"{number}.txt")
            entry.size = 5
            tar.addfile(entry, io.BytesIO(b"a dog"))
    assert sum(1 for _ in index_tar(tmp_path / "0.tar")) == 3000


@pytest.mark.timeout(20)
def test_a_member_of_negative_size_is_an_error(tmp_path):
    path = write_tar(tmp_path / "0.tar", [("a.png", b"x"), ("b.png", b"y")])
    content = bytearray(path.read_bytes())
    header = content[1024:1536]
    header[124:136] = (-512).to_bytes(12, "big", signed=True)  # as GNU tar writes numbers: the next header is this one
    header[148:156] = b"%06o\0 " % (8 * 32 + sum(header[:148]) + sum(header[156:]))
    content[1024:1536] = header
    path.write_bytes(content)
    with pytest.raises(SmaugError, match="0.tar: is damaged: 'b.png' has -512 bytes"):
        list(index_tar(path))
