"""Reading YAML: plain values, where each stands, and every file that is refused."""

import os
import threading
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.config.yaml_source import (
    MAX_BYTES,
    MOST_NAMED,
    Document,
    Fault,
    SweepError,
    nearest,
    parse_document,
    read_document,
)


def faults_of(content: bytes | str) -> list[str]:
    """What is said of a document, refused or not."""
    try:
        return [str(fault) for fault in parse_document(content, "f.yaml").faults]
    except SweepError as error:
        return [str(fault) for fault in error.faults]


def write(folder: Path, content: bytes | str) -> Path:
    path = folder / "f.yaml"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_every_value_and_key_has_its_place():
    document = parse_document('a: 1\nb:\n  - x\n  - {c: true, "d e": [2]}\n', "f.yaml")
    assert document.value == {"a": 1, "b": ["x", {"c": True, "d e": [2]}]}
    assert document.places == {
        (): (1, 1),
        ("a",): (1, 4),
        ("b",): (3, 3),
        ("b", 0): (3, 5),
        ("b", 1): (4, 5),
        ("b", 1, "c"): (4, 9),
        ("b", 1, "d e"): (4, 22),
        ("b", 1, "d e", 0): (4, 23),
    }
    assert document.key_places == {("a",): (1, 1), ("b",): (2, 1), ("b", 1, "c"): (4, 6), ("b", 1, "d e"): (4, 15)}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("1.5e-3", 1.5e-3),
        ("1E3", 1000.0),
        ("no", "no"),
        ("yes", "yes"),
        ("on", "on"),
        ("off", "off"),
        ("true", True),
        ("False", False),
        ("0x10", 16),
        ("0o10", 8),
        ("010", 10),
        ("12:30:45", "12:30:45"),
        ("null", None),
        ("~", None),
        ("", None),
        ("50%", "50%"),
        ('"4"', "4"),
        ("|-\n  a\n  b", "a\nb"),
    ],
)
def test_values_are_those_of_yaml_1_2(text, value):
    read = parse_document(f"key: {text}\n", "f.yaml").value["key"]
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize("key", ["0.8", "50%", "5M", "1e-4", "no", "true", "null", "010", "pretrain.mask_ratio"])
def test_a_key_is_the_text_that_stands_there(key):
    assert parse_document(f"{key}: 1\n", "f.yaml").value == {key: 1}


def test_an_empty_value_stands_at_its_key():
    document = parse_document('a:\n\n\nb: ""\nc: {d: , e: }\n', "f.yaml")
    assert document.value == {"a": None, "b": "", "c": {"d": None, "e": None}}
    expected = {("a",): (1, 1), ("b",): (4, 4), ("c", "d"): (5, 5), ("c", "e"): (5, 10)}
    assert {keys: document.places[keys] for keys in expected} == expected


def test_a_key_that_stands_twice_is_told_and_the_first_one_counts():
    document = parse_document("a: 1\nb: {x: 1, x: 2}\na: 3\n'a': 4\n", "f.yaml")
    assert document.value == {"a": 1, "b": {"x": 1}}
    assert list(map(str, document.faults)) == [
        "f.yaml:2:11: 'x' is given twice, first in line 2; drop one",
        "f.yaml:3:1: 'a' is given twice, first in line 1; drop one",
        "f.yaml:4:1: 'a' is given twice, first in line 1; drop one",
    ]


def test_a_key_that_is_no_word_is_told():
    assert faults_of("? [a, b]\n: 1\n") == ["f.yaml:1:3: a key must be a word, not a list or mapping"]


def test_an_alias_is_the_value_it_stands_for():
    assert parse_document("a: &x {b: [1, 2]}\nc: *x\n", "f.yaml").value == {"a": {"b": [1, 2]}, "c": {"b": [1, 2]}}


def test_nested_aliases_are_refused_before_they_fill_the_memory():
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    (fault,) = faults_of("\n".join(lines))
    assert fault.endswith("more than 20000 values; aliases count in full")


def test_an_alias_within_what_it_stands_for_is_refused():
    (fault,) = faults_of("a: &x [1, *x]\n")
    assert fault.startswith("f.yaml:")


@pytest.mark.parametrize("text", ["[" * 5000, "{a: " * 5000, "- " * 5000])
def test_deep_nesting_is_refused(text):
    assert len(faults_of(text)) == 1


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: !mine 3", "f.yaml:1:4: '3' is tagged !mine; "),
        ("a: 2001-01-01", "f.yaml:1:4: '2001-01-01' is tagged tag:yaml.org,2002:timestamp; "),
        ("a: !!binary aGVsbG8=", "f.yaml:1:4: 'aGVsbG8=' is tagged tag:yaml.org,2002:binary; "),
        ("a: !!int abc", "f.yaml:1:4: 'abc' is tagged tag:yaml.org,2002:int; "),
        ("a: !!float abc", "f.yaml:1:4: 'abc' is tagged tag:yaml.org,2002:float; "),
        ("a: !!bool abc", "f.yaml:1:4: 'abc' is tagged tag:yaml.org,2002:bool; "),
        ("a: !!set {x, y}", "f.yaml:1:4: is tagged tag:yaml.org,2002:set; "),
        ("!mine {a: 1}", "f.yaml:1:1: is tagged !mine; "),
        (
            "a: !!python/object/apply:os.abort []",
            "f.yaml:1:4: is tagged tag:yaml.org,2002:python/object/apply:os.abort; ",
        ),
    ],
)
def test_nothing_but_plain_values_is_taken(text, told):
    (fault,) = faults_of(text)
    assert fault.startswith(told)


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"a: [1, 2\nb: 3\n", "2:2"),
        (b"a: 1\n\tb: 2\n", "2:1"),
        (b"a: 'open\n", "2:1"),
        (b"a: *nowhere\n", "1:4"),
        (b"a: 1\n---\nb: 2\n", "2:1"),
        (b"a: b: c\n", "1:5"),
        (b"a: \x00\n", "1:1"),
        (b"a: \x1b[31m\n", "1:1"),
        (b"a: \xff\xfe\n", "1:1"),
        (b"caf\xe9: 1\n", "1:1"),
    ],
)
def test_what_is_no_yaml_is_refused_with_its_place(content, line):
    (fault,) = faults_of(content)
    assert fault.startswith(f"f.yaml:{line}: ")
    assert "\n" not in fault and "\x1b" not in fault and "\x00" not in fault


def test_utf_8_is_read_with_and_without_a_mark(tmp_path):
    for content in ("a: é–中\n".encode(), b"\xef\xbb\xbf" + "a: é–中\n".encode()):
        assert read_document(write(tmp_path, content)).value == {"a": "é–中"}


@pytest.mark.parametrize("content", ["", "\n\n", "# only a comment\n", "---\n...\n"])
def test_an_empty_file_holds_nothing(tmp_path, content):
    document = read_document(write(tmp_path, content))
    assert document.value is None
    assert document.fault(("a", "b"), "is missing").line >= 1


def test_files_that_cannot_be_read_are_named(tmp_path):
    for path, why in [(tmp_path, "Is a directory"), (tmp_path / "none.yaml", "No such file or directory")]:
        with pytest.raises(SweepError) as refused:
            read_document(path)
        assert str(refused.value) == f"{path}: cannot be read ({why})"


def test_a_file_of_the_largest_size_is_read_and_one_byte_more_is_not(tmp_path):
    content = "a: 1\n".ljust(MAX_BYTES - 1, "#") + "\n"
    assert read_document(write(tmp_path, content)).value == {"a": 1}
    with pytest.raises(SweepError, match=f"{MAX_BYTES + 1} bytes or more are too many; expected at most {MAX_BYTES}"):
        read_document(write(tmp_path, content + "\n"))


@pytest.mark.parametrize("made", ["sparse", "device", "pipe"])
def test_no_more_of_a_file_is_read_than_may_be(tmp_path, made):
    path = tmp_path / "large.yaml"
    if made == "sparse":
        with path.open("wb") as file:
            file.truncate(1 << 40)
    elif made == "device":
        path.symlink_to("/dev/zero")
    else:
        read, write = os.pipe()
        threading.Thread(target=_write_for_ever, args=[write], daemon=True).start()
        path = Path(f"/dev/fd/{read}")
    with pytest.raises(SweepError, match=f"{path.name}: \\d+ bytes or more are too many"):
        read_document(path)
    if made == "pipe":
        os.close(read)


def _write_for_ever(end: int) -> None:
    with suppress(BrokenPipeError):
        while True:
            os.write(end, b"a: 1\n" * 1000)


def test_what_an_unknown_word_could_have_been_is_cut_where_there_is_much():
    told = nearest("zzz", [f"a{number}" for number in range(1000)])
    assert told.endswith(f" and {1000 - MOST_NAMED} more") and len(told) < 400


def test_a_fault_of_what_is_missing_stands_at_what_would_hold_it():
    document = parse_document("a:\n  b: {c: 1}\n", "f.yaml")
    assert document.fault(("a", "b", "x", "y"), "m") == Fault("f.yaml", 2, 6, "m")
    assert document.fault(("a", "b", "x"), "m", at_key=True) == Fault("f.yaml", 2, 3, "m")


def test_held_gives_an_empty_value_where_another_kind_stands():
    document = parse_document("a: {b: [1]}\n", "f.yaml")
    assert document.held(list, "a", "b") == [1]
    assert document.held(dict, "a", "b") == {}
    assert document.held(str, "a", "b", "c") == ""


def test_faults_are_told_once_in_the_order_of_the_file():
    first, second = Fault("f", 2, 9, "x"), Fault("f", 10, 1, "y")
    assert str(SweepError([second, first, second])) == "f:2:9: x\nf:10:1: y"
    assert str(Fault("--set a", 0, 0, "z")) == "--set a: z"


def test_nearest_gives_the_likely_word_or_all_of_them():
    assert nearest("mask_rato", ["mlm_ratio", "mask_ratio"]) == "did you mean 'mask_ratio'?"
    assert nearest("zzz", ["b", "a"]) == "expected one of a, b"
    assert nearest("zzz", []) == "expected one of (none)"


@given(st.one_of(st.binary(max_size=200), st.text(alphabet="ab:-{}[]&*!'\"|>?#%@, \n\t\r0.1\u2028", max_size=60)))
def test_whatever_stands_in_a_file_it_is_read_or_refused(content):
    try:
        assert isinstance(parse_document(content, "f.yaml"), Document)
    except SweepError as error:
        assert len(error.faults) == 1 and error.faults[0].file == "f.yaml"
