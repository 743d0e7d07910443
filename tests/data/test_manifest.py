"""Manifests: what is written comes back, the digest is of the content alone, and whatever is wrong is named."""

import os
import pickle
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import hypothesis.strategies as st
import pyarrow as pa
import pytest
from hypothesis import given, settings

from smaug_core.data import manifest as module
from smaug_core.data.corpus import Corpus
from smaug_core.data.manifest import Manifest, ManifestKind, ManifestRow, Sample, write_manifest
from smaug_core.data.media.location import MediaLocation
from smaug_core.errors import SmaugError

CLIPS = ManifestKind(is_image=False)
ROW = ManifestRow(id="a/train/one#0", sentences=("a dog",), path="one.mp4", flip=True)

words = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20).filter(str.strip)
names = st.text(st.sampled_from("abc/"), max_size=5).map("a".__add__)
rows = st.lists(
    st.builds(
        ManifestRow,
        id=words,
        sentences=st.lists(words, min_size=1, max_size=3).map(tuple),
        path=names,
        flip=st.booleans(),
        member=st.none() | words,
        offset=st.none() | st.integers(0, 2**40),
        length=st.none() | st.integers(0, 2**33),
        content=st.none() | st.binary(min_size=16, max_size=16),
        duration=st.none() | st.floats(0, 1e6, width=32),
        relevant=st.lists(st.integers(0, 1000), max_size=3).map(tuple),
    ),
    min_size=1,
    max_size=9,
    unique_by=lambda row: row.id,
)


def written(folder: Path, made: list[ManifestRow], kind: ManifestKind = CLIPS, name: str = "train") -> Manifest:
    write_manifest(folder / f"{name}.arrow", made, kind)
    return Manifest(folder / f"{name}.arrow", folder / "media")


@settings(deadline=None)
@given(rows, st.booleans(), st.booleans())
def test_rows_come_back_as_written_in_their_order(tmp_path_factory, made, is_image, is_paragraph):
    folder = tmp_path_factory.mktemp("a")
    kind = ManifestKind(is_image=is_image, is_paragraph=is_paragraph, preparation="jpeg 2 fps")
    digest = write_manifest(folder / "train.arrow", made, kind)
    found = Manifest(folder / "train.arrow", folder / "media")
    assert found.kind == kind and len(found) == len(made) and found.digest() == digest
    media = list(dict.fromkeys((row.path, row.member) for row in made))
    assert found.num_media == len(media)
    for sample, row in zip(found, made, strict=True):
        assert sample == Sample(
            id=row.id,
            media=MediaLocation(folder / "media" / row.path, row.member, row.offset or 0, row.length),
            number=media.index((row.path, row.member)),
            caption=" ".join(row.sentences),
            is_image=is_image,
            flip=row.flip,
            relevant=row.relevant,
        )


@pytest.mark.parametrize(
    ("change", "counts"),
    [
        ({"path": "elsewhere/two.mp4"}, False),
        ({"path": "0.tar", "member": "one.mp4", "offset": 512, "length": 9}, False),
        ({"duration": 9.0}, False),
        ({"id": "a/train/two#0"}, True),
        ({"sentences": ("a cat",)}, True),
        ({"sentences": ("a", "dog")}, True),
        ({"flip": False}, True),
        ({"content": b"0" * 16}, True),
    ],
)
def test_the_digest_is_of_what_a_training_sees_and_not_of_where_it_lies(tmp_path, change, counts):
    one, other = (write_manifest(tmp_path / "a.arrow", [row], CLIPS) for row in (ROW, replace(ROW, **change)))
    assert (one != other) == counts


@pytest.mark.parametrize("change", [{"is_image": True}, {"is_paragraph": True}, {"preparation": "intra"}])
def test_the_digest_is_of_the_kind_too(tmp_path, change):
    one, other = (write_manifest(tmp_path / "a.arrow", [ROW], kind) for kind in (CLIPS, replace(CLIPS, **change)))
    assert one != other


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({}, r"row 1 \('a/train/one#0'\): expected an id that no other row has$"),
        ({"id": ""}, r"row 1 \(''\): expected an id that no other row has$"),
        ({"id": "b", "sentences": (" ", "")}, r"row 1 \('b'\): expected a caption, got \[' ', ''\]$"),
        ({"id": "b", "sentences": ()}, r"row 1 \('b'\): expected a caption, got \[\]$"),
        ({"id": "b", "path": "../one.mp4"}, r"row 1 \('b'\): expected a path inside .*, got '\.\./one\.mp4'$"),
        ({"id": "b", "path": "/one.mp4"}, r"row 1 \('b'\): expected a path inside .*, got '/one\.mp4'$"),
        (
            {"id": "b", "sentences": ("ok", "\ud83d")},
            r"row 1 \('b'\): expected text that UTF-8 can hold, got '\\ud83d'$",
        ),
        ({"id": "b\udcff"}, r"row 1 \('b\\udcff'\): expected text that UTF-8 can hold, got '\\udcff'$"),
        ({"id": "b", "path": "\udcff.mp4"}, r"row 1 \('b'\): expected text that UTF-8 can hold"),
        ({"id": "b", "member": "\udcff.mp4"}, r"row 1 \('b'\): expected text that UTF-8 can hold"),
    ],
)
def test_wrong_rows_are_named_and_nothing_is_written(tmp_path, wrong, named):
    with pytest.raises(SmaugError, match=named):
        write_manifest(tmp_path / "train.arrow", [ROW, replace(ROW, **wrong)], CLIPS)
    assert list(tmp_path.iterdir()) == []


def test_ten_wrong_rows_are_named_and_the_others_counted(tmp_path):
    with pytest.raises(SmaugError) as raised:
        write_manifest(tmp_path / "train.arrow", [ROW] * 14, CLIPS)
    assert str(raised.value).count("expected an id") == 10 and str(raised.value).endswith("; and 3 more")
    with pytest.raises(SmaugError, match=r"train\.arrow: expected captions, got none$"):
        write_manifest(tmp_path / "train.arrow", [], CLIPS)


def test_a_missing_a_damaged_and_an_old_manifest_are_named(tmp_path, monkeypatch):
    path = tmp_path / "train.arrow"
    with pytest.raises(SmaugError, match=r"train\.arrow: no such manifest; prepare the data set first"):
        Manifest(path, tmp_path)
    content = written(tmp_path, [ROW]).path.read_bytes()
    for damaged in (b"", b"{}", content[: len(content) // 2], content[:-1], b"\0" * len(content)):
        path.write_bytes(damaged)
        with pytest.raises(SmaugError, match=r"train\.arrow: (is damaged|expected a manifest)"):
            Manifest(path, tmp_path)
    monkeypatch.setattr(module, "VERSION", "0")
    written(tmp_path, [ROW])
    monkeypatch.undo()
    with pytest.raises(SmaugError, match=r"train\.arrow: expected a manifest of version 1, got 0; prepare"):
        Manifest(path, tmp_path)


def test_flipped_bytes_give_an_error_or_rows_and_nothing_else(tmp_path):
    """Whatever was read from a damaged file is an error of this project, or values of the right kinds."""
    content = written(tmp_path, [replace(ROW, id=f"{number}") for number in range(40)]).path.read_bytes()
    random_ = random.Random(0)
    for number in range(300):
        damaged = bytearray(content)
        for _ in range(random_.choice([1, 4])):
            damaged[random_.randrange(len(damaged))] = random_.randrange(256)
        path = tmp_path / f"{number}.arrow"
        path.write_bytes(damaged)
        try:
            samples = list(Manifest(path, tmp_path / "media"))
        except SmaugError as error:
            assert str(path) in str(error)
        else:
            for sample in samples:
                assert isinstance(sample.caption, str) and tmp_path / "media" in sample.media.path.parents
        path.unlink()


def test_a_corpus_is_its_manifests_one_after_the_other_and_no_number_is_shared(tmp_path):
    pictures = written(
        tmp_path, [replace(ROW, id=f"p{n}", path=f"{n // 2}.jpg") for n in range(5)], ManifestKind(is_image=True), "a"
    )
    clips = written(tmp_path, [replace(ROW, id=f"c{n}", path=f"{n}.mp4") for n in range(3)], CLIPS, "b")
    corpus = pickle.loads(pickle.dumps(Corpus([pictures, clips])))
    assert [sample.id for sample in corpus] == ["p0", "p1", "p2", "p3", "p4", "c0", "c1", "c2"]
    assert [sample.number for sample in corpus] == [0, 0, 1, 1, 2, 3, 4, 5] and corpus.num_media == 6
    assert corpus.rows_of(images=True).tolist() == [0, 1, 2, 3, 4]
    assert corpus.rows_of(images=False).tolist() == [5, 6, 7]
    for row in (-1, 8):
        with pytest.raises(IndexError):
            corpus[row]


def test_rows_over_several_batches_are_found(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "BATCH_ROWS", 4)
    found = written(tmp_path, [replace(ROW, id=f"{n}", path=f"{n}.mp4") for n in range(11)])
    assert [sample.id for sample in found] == [str(n) for n in range(11)] and found.num_media == 11


def test_the_shards_are_those_that_rows_lie_in(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "BATCH_ROWS", 4)
    made = [
        replace(ROW, id=f"{n}", path=f"{1 - n // 5}.tar", member=f"{n}.mp4", offset=512 * n, length=9)
        for n in range(10)
    ]
    found = written(tmp_path, [*made, ROW])
    assert found.shards() == [tmp_path / "media" / "1.tar", tmp_path / "media" / "0.tar"]
    assert written(tmp_path, [ROW]).shards() == []
    assert found.digest() == write_manifest(tmp_path / "again.arrow", [*made, ROW], CLIPS)


def test_a_million_rows_take_no_memory_in_a_process_that_opens_them(tmp_path):
    """20,000 rows are a hundred times fewer, and cost as much."""
    code = (
        "import sys, psutil\n"
        "from pathlib import Path\n"
        "from smaug_core.data.corpus import Corpus\n"
        "from smaug_core.data.manifest import Manifest\n"
        "Corpus([Manifest(Path(sys.argv[2]), Path('media'))])[0]\n"
        "before = psutil.Process().memory_full_info().uss\n"
        "corpus = Corpus([Manifest(Path(sys.argv[1]), Path('media'))])\n"
        "[corpus[row] for row in range(0, len(corpus), len(corpus) // 50)], corpus.rows_of(images=False)\n"
        "print(psutil.Process().memory_full_info().uss - before)\n"
    )
    sizes = {}
    written(tmp_path, [ROW], name="one")
    for count in (2_000, 200_000):
        made = (replace(ROW, id=f"{n}", path=f"{n % 9}.mp4") for n in range(count))
        write_manifest(tmp_path / f"{count}.arrow", made, CLIPS)
        command = [sys.executable, "-c", code, str(tmp_path / f"{count}.arrow"), str(tmp_path / "one.arrow")]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ)
        sizes[count] = int(done.stdout)
    assert sizes[200_000] - sizes[2_000] < 10 * 2**20, "10 times as many rows may take 50 MB"


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [("media", 9, "expected numbers of clips below 3, got 9"), ("id", None, "a value is missing")],
)
def test_a_damaged_column_is_an_error(tmp_path, column, value, message):
    rows = [ManifestRow(id=f"{n}", sentences=("a",), path=f"{n}.png", flip=True) for n in range(3)]
    write_manifest(tmp_path / "a.arrow", rows, ManifestKind(is_image=True))
    with pa.ipc.open_file(tmp_path / "a.arrow") as file:
        table = file.read_all()
    place = table.schema.get_field_index(column)
    values = [*table.column(column).to_pylist()[:2], value]
    table = table.set_column(place, table.schema.field(place), pa.array(values, table.schema.field(place).type))
    with pa.OSFile(str(tmp_path / "a.arrow"), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)
    with pytest.raises(SmaugError, match=message):
        assert Manifest(tmp_path / "a.arrow", tmp_path).num_media


def test_columns_of_another_type_are_another_version(tmp_path):
    rows = [ManifestRow(id="0", sentences=("a",), path="0.png", flip=True)]
    write_manifest(tmp_path / "a.arrow", rows, ManifestKind(is_image=True))
    with pa.ipc.open_file(tmp_path / "a.arrow") as file:
        table = file.read_all()
    fields = [field.with_type(pa.binary()) if field.name == "path" else field for field in table.schema]
    table = table.cast(pa.schema(fields, table.schema.metadata))
    with pa.OSFile(str(tmp_path / "a.arrow"), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)
    with pytest.raises(SmaugError, match="expected a manifest of version"):
        Manifest(tmp_path / "a.arrow", tmp_path)
