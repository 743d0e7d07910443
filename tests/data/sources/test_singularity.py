"""Annotation files: what a good one gives, and everything wrong with a bad one, by row."""

import json
import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from smaug_core.data.sources.annotation import annotation_digest
from smaug_core.data.sources.singularity import read
from smaug_core.errors import SmaugError

texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(lambda text: text.strip())
GOOD = {"video": "a.mp4", "caption": "a dog"}


def write(folder, content):
    path = folder / "annotations" / "train.json"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return path


def refusal(path, *, is_image=False, is_paragraph=False) -> str:
    with pytest.raises(SmaugError) as refused:
        read(path, is_image=is_image, is_paragraph=is_paragraph)
    assert str(refused.value).startswith(f"{path}: ")
    return str(refused.value).removeprefix(f"{path}: ")


@settings(deadline=None)
@given(st.lists(st.one_of(texts, st.lists(texts, min_size=1, max_size=4)), min_size=1, max_size=6))
def test_captions_come_back_as_written_in_their_order(tmp_path_factory, captions):
    rows = [{"video": f"{number}.mp4", "caption": caption} for number, caption in enumerate(captions)]
    path = write(tmp_path_factory.mktemp("a"), rows)
    joined = read(path, is_image=False, is_paragraph=True)
    assert [(row.media, row.sentences) for row in joined] == [
        (row["video"], (row["caption"],) if isinstance(row["caption"], str) else tuple(row["caption"])) for row in rows
    ]
    each = read(path, is_image=False, is_paragraph=False)
    assert [(row.media, row.sentences) for row in each] == [
        (row["video"], (text,))
        for row in rows
        for text in ([row["caption"]] if isinstance(row["caption"], str) else row["caption"])
    ]


def test_each_caption_of_a_list_names_its_own_sides(tmp_path):
    path = write(tmp_path, [GOOD | {"caption": ["a dog", "a dog on the left"]}])
    assert [row.names_sides for row in read(path, is_image=False, is_paragraph=False)] == [False, True]
    assert [row.names_sides for row in read(path, is_image=False, is_paragraph=True)] == [True]


@pytest.mark.parametrize("is_paragraph", [False, True])
def test_options_of_a_question_are_no_captions(tmp_path, is_paragraph):
    options = [f"option {number}" for number in range(5)]
    what = refusal(write(tmp_path, [GOOD, GOOD | {"caption": options, "answer": 3}]), is_paragraph=is_paragraph)
    assert what == (
        "row 2 'caption' holds the 5 options of a multiple-choice question, whose 'answer' is 3;"
        " expected captions that all fit the video"
    )


@pytest.mark.parametrize("path", ["a.mp4", "a/b/c.mp4", "./a.mp4", "a..b/c", "..a", "ä b.mp4", "a\\b"])
def test_paths_below_the_folder_are_taken(tmp_path, path):
    assert read(write(tmp_path, [GOOD | {"video": path}]), is_image=False, is_paragraph=False)[0].media == path


@pytest.mark.parametrize(
    "path",
    ["", ".", "/etc/passwd", "//host/a", "..", "../a", "a/../../b", "a/..", "a\0b", "\ud800.mp4", 3, None, ["a"]],
)
def test_paths_that_leave_the_folder_or_are_none_are_refused(tmp_path, path):
    what = refusal(write(tmp_path, [GOOD, GOOD | {"video": path}]))
    assert re.fullmatch(r"row 2 'video' is .*; it should be a path that stays inside the folder of media", what)


@settings(deadline=None)
@given(st.lists(st.sampled_from(["..", "a", ".", "", "b.mp4"]), min_size=1, max_size=5))
@example(["", "a"])
def test_no_path_that_is_taken_leaves_the_folder(tmp_path_factory, parts):
    folder = tmp_path_factory.mktemp("a")
    try:
        (row,) = read(write(folder, [GOOD | {"video": "/".join(parts)}]), is_image=False, is_paragraph=False)
    except SmaugError:
        return
    media = folder / "media"
    assert (media / row.media).resolve().is_relative_to(media.resolve()) and (media / row.media) != media


@pytest.mark.parametrize("caption", ["", "  ", [], [""], ["a dog", " "], None, 3, {"a": 1}, [["a dog"]], "\udfff"])
def test_captions_that_are_none_are_refused(tmp_path, caption):
    what = refusal(write(tmp_path, [GOOD | {"caption": caption}]))
    assert re.fullmatch(r"row 1 'caption' is .*; it should be a text, or a list of texts, none of them empty", what)


def test_every_wrong_row_is_told_with_its_number(tmp_path):
    rows = [{"caption": "a dog"}, GOOD, {"video": "b.mp4"}, "a dog", {"image": "c.png", "caption": "a dog"}]
    assert refusal(write(tmp_path, rows)) == (
        "row 1 lacks 'video', it has ['caption']; row 3 lacks 'caption', it has ['video'];"
        " row 4 is \"a dog\"; it should have 'video' and 'caption';"
        " row 5 lacks 'video', it has ['caption', 'image']"
    )


def test_pictures_must_be_pictures(tmp_path):
    assert refusal(write(tmp_path, [GOOD]), is_image=True) == "row 1 lacks 'image', it has ['caption', 'video']"


def test_of_many_wrong_rows_ten_are_told_and_the_others_counted(tmp_path):
    what = refusal(write(tmp_path, [{}] * 6 + [GOOD]))
    assert what.count("row ") == 10 and what.endswith("; and 2 more")


def test_a_long_value_is_cut(tmp_path):
    assert len(refusal(write(tmp_path, [GOOD | {"caption": [3] * 1000}]))) < 200


@pytest.mark.parametrize("content", [b"", b"[{", b"\xff\xfe[", b"[" * 100_000])
def test_what_is_no_json_is_refused(tmp_path, content):
    assert re.match(r"is no JSON \(.*\); it should be a list of rows", refusal(write(tmp_path, content)))


@pytest.mark.parametrize("content", [[], {}, GOOD, None, "text"])
def test_what_is_no_list_of_rows_is_refused(tmp_path, content):
    assert refusal(write(tmp_path, content)) == f"holds {json.dumps(content)}; it should hold a list of rows"


def test_a_missing_file_is_told_with_where_everything_belongs(tmp_path):
    what = refusal(tmp_path / "webvid" / "annotations" / "train.json")
    assert "no such annotation file; put it there" in what and what.endswith(str(tmp_path / "webvid" / "media"))
    assert annotation_digest(tmp_path / "webvid" / "annotations" / "train.json") is None


def test_a_file_in_the_place_of_a_folder_is_a_missing_file(tmp_path):
    (tmp_path / "webvid").write_text("in the way")
    assert "no such annotation file" in refusal(tmp_path / "webvid" / "annotations" / "train.json")
    assert annotation_digest(tmp_path / "webvid" / "annotations" / "train.json") is None


def test_a_folder_in_the_place_of_the_file_is_told(tmp_path):
    assert refusal(tmp_path) == "cannot be read (Is a directory); it should be an annotation file"
    with pytest.raises(SmaugError, match=r"cannot be read \(Is a directory\); it should be an annotation file"):
        annotation_digest(tmp_path)


def test_the_digest_is_that_of_the_content_wherever_it_lies(tmp_path):
    (tmp_path / "other").mkdir()
    one, other = write(tmp_path, [GOOD]), write(tmp_path / "other", [GOOD])
    assert annotation_digest(one) == annotation_digest(other)
    other.write_bytes(other.read_bytes() + b" ")
    assert annotation_digest(one) != annotation_digest(other)
