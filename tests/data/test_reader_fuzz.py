"""Readers of data sets on mutated files and on made-up documents: only a SmaugError leaves them."""

import io
import itertools
import json
import random
import tarfile
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import hypothesis.strategies as st
import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings

from smaug_core.data.dataset_info import read_info
from smaug_core.data.manifest import Manifest, ManifestKind, ManifestRow, write_manifest
from smaug_core.data.media.frame_record import encode_frame, write_frame_record
from smaug_core.data.media.location import MediaLocation
from smaug_core.data.media.video import read_frames
from smaug_core.data.sources import singularity
from smaug_core.data.sources.shards import read_shard
from smaug_core.data.sources.tar_index import index_tar
from tests.data.fuzzing import BLOCK, KEPT, FuzzedReader, mutations, read_mutated
from tests.data.sources.made_shards import sample, write_tar
from tests.data.test_dataset_info import prepared

NIGHTLY_SECONDS = 20 * 60
EXAMPLES = {"tar": 5000, "shard": 5000, "manifest": 7000, "singularity": 15000, "dataset.yaml": 6000, "record": 5000}
"""Mutated files in `make test`: about four seconds for each reader."""
FORMS = (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)


def read_tar(path: Path) -> None:
    for member in index_tar(path):
        if not member.problem:
            assert len(MediaLocation(path, member.name, member.offset, member.length).read()) == member.length


def read_samples(path: Path) -> None:
    list(read_shard(path, path.parent, "made/train", is_image=True))


def read_manifest(path: Path) -> None:
    manifest = Manifest(path, path.parent)
    assert manifest.num_media >= 0
    for number in range(min(len(manifest), 40)):
        manifest[number]
    if len(manifest) < 1000:
        manifest.digest()


def read_annotations(path: Path) -> None:
    for is_paragraph in (False, True):
        singularity.read(path, is_image=False, is_paragraph=is_paragraph)


def read_description(path: Path) -> None:
    info = read_info(path.parent.parent, path.parent.name)
    for split in info.splits:
        assert len(info.open(split)) >= 0


def read_record(path: Path) -> None:
    read_frames(MediaLocation(path), range)


def fix_checksums(content: bytearray, chance: random.Random) -> None:
    """Give headers of a tar file, which begin any block, the checksum that they should have."""
    for start in range(0, len(content) - BLOCK + 1, BLOCK):
        header = content[start : start + BLOCK]
        if header[257:262] == b"ustar":
            total = 8 * 32 + sum(header[:148]) + sum(header[156:])
            content[start + 148 : start + 156] = b"%06o\0 " % total


def tars() -> list[bytes]:
    def shard(form: int) -> bytes:
        with TemporaryDirectory() as folder:
            long = "a/" * 30 + "b" * 60 if form == tarfile.USTAR_FORMAT else "é" * 150
            members = [*sample("000", 0), *sample(long, 1, "a cat", duration=2.5), *sample("2", 2, None)]
            return write_tar(Path(folder) / "0.tar", members, form=form).read_bytes()

    kept = io.BytesIO()
    with tarfile.open(fileobj=kept, mode="w") as tar:
        for number, kind in enumerate((tarfile.SYMTYPE, tarfile.DIRTYPE, tarfile.GNUTYPE_SPARSE, tarfile.CHRTYPE)):
            entry = tarfile.TarInfo(f"{number}.png")
            entry.type, entry.linkname = kind, "../x"
            tar.addfile(entry)
    return [*map(shard, FORMS), kept.getvalue()]


def manifests() -> list[bytes]:
    rows = [
        ManifestRow(
            id=f"made/train/{n}",
            sentences=("a bird", "sings")[: 1 + n % 2],
            path=f"{n // 2}.tar",
            flip=n % 3 == 0,
            member=f"{n}.jpgs" if n % 2 else None,
            offset=512 * n if n % 2 else None,
            length=100 if n % 2 else None,
            content=bytes([n]) * 16,
            duration=1.5 * n,
            relevant=tuple(range(n % 4)),
        )
        for n in range(20)
    ]
    with TemporaryDirectory() as folder:
        path, found = Path(folder) / "train.arrow", []
        for count, kind in ((20, ManifestKind(is_image=False)), (1, ManifestKind(is_image=True, is_paragraph=True))):
            write_manifest(path, rows[:count], kind)
            found.append(path.read_bytes())
    return found


def descriptions() -> list[bytes]:
    with TemporaryDirectory() as folder:
        return [prepared(Path(folder)).file.read_bytes()]


def records() -> list[bytes]:
    frames = np.random.default_rng(0).integers(0, 256, (3, 16, 24, 3), dtype=np.uint8)
    encoded = [encode_frame(frame, 90) for frame in frames]
    return [write_frame_record(encoded, 2.0), write_frame_record(encoded[:1], 0.5)]


ANNOTATIONS = [
    {"video": "a/b.mp4", "caption": "a dog"},
    {"video": "c.mp4", "caption": ["a cat", "a été"], "duration": 1.5},
]
READERS: dict[str, Callable[[], FuzzedReader]] = {
    "tar": lambda: FuzzedReader("tar", "0.tar", read_tar, tars(), fix_checksums),
    "shard": lambda: FuzzedReader("shard", "0.tar", read_samples, tars()[:3], fix_checksums),
    "manifest": lambda: FuzzedReader("manifest", "train.arrow", read_manifest, manifests()),
    "singularity": lambda: FuzzedReader(
        "singularity", "train.json", read_annotations, [json.dumps(ANNOTATIONS).encode()]
    ),
    "dataset.yaml": lambda: FuzzedReader("dataset.yaml", "birds/dataset.yaml", read_description, descriptions()),
    "record": lambda: FuzzedReader("record", "0.jpgs", read_record, records()),
}


@cache
def reader_of(name: str) -> FuzzedReader:
    return READERS[name]()


every_reader = pytest.mark.parametrize("name", READERS)


@every_reader
def test_real_files_are_read(name, tmp_path):
    reader = reader_of(name)
    if name == "dataset.yaml":
        prepared(tmp_path)
        return reader.read(tmp_path / reader.file)
    for content in reader.files:
        (tmp_path / reader.file).write_bytes(content)
        reader.read(tmp_path / reader.file)


@every_reader
def test_mutated_files(name, tmp_path):
    read_mutated(reader_of(name), tmp_path, itertools.islice(mutations(reader_of(name), 0), EXAMPLES[name]))


@every_reader
def test_inputs_that_once_failed(name, tmp_path):
    kept = sorted((KEPT / name).glob("*"))
    read_mutated(reader_of(name), tmp_path, (path.read_bytes() for path in kept))


@pytest.mark.nightly
@every_reader
def test_mutated_files_all_night(name, tmp_path):
    end = time.monotonic() + NIGHTLY_SECONDS / len(READERS)
    inputs = itertools.takewhile(lambda _: time.monotonic() < end, mutations(reader_of(name), time.time_ns()))
    read_mutated(reader_of(name), tmp_path, inputs)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(["a.mp4", "../a"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["video", "image", "caption", "answer", "x"]), inner, max_size=4)
    ),
    max_leaves=12,
)
in_one_folder = settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])


@in_one_folder
@given(st.lists(values, max_size=4) | values)
def test_made_up_annotations(tmp_path, document):
    read_mutated(reader_of("singularity"), tmp_path, iter([json.dumps(document).encode()]))


@in_one_folder
@given(st.dictionaries(st.sampled_from(["kind", "splits", "media", "licence", "paragraph", "x"]), values, max_size=6))
def test_made_up_descriptions(tmp_path, changes):
    document = yaml.safe_load(reader_of("dataset.yaml").files[0]) | changes
    read_mutated(reader_of("dataset.yaml"), tmp_path, iter([yaml.safe_dump(document).encode()]))


@in_one_folder
@given(values, st.binary(max_size=20), st.sampled_from(["a.png", "a.mp4", "a.b.png", ".png", "../a.png", "/a.png"]))
def test_made_up_samples(tmp_path, about, caption, media):
    path = write_tar(tmp_path / "made.tar", [(media, b"x"), ("a.json", json.dumps(about).encode()), ("a.txt", caption)])
    read_mutated(reader_of("shard"), tmp_path, iter([path.read_bytes()]))


def test_an_input_that_fails_is_kept_and_named(tmp_path, monkeypatch):
    def read(path: Path) -> None:
        raise KeyError(path.read_bytes().decode())

    monkeypatch.setattr("tests.data.fuzzing.KEPT", tmp_path / "kept")
    with pytest.raises(pytest.fail.Exception, match="made: KeyError .* kept as .*kept/made/"):
        read_mutated(FuzzedReader("made", "0", read, [b""]), tmp_path, iter([b"x", b"y"]))
    (kept,) = (tmp_path / "kept" / "made").iterdir()
    assert kept.read_bytes() == b"x"
