"""Captions to ids, against transformers on the same vocabulary."""

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import BertTokenizer

from smaug_core.data.moving_shapes.dataset import SOURCES
from smaug_core.data.moving_shapes.scenes import draw_scenes
from smaug_core.data.tokenizer import (
    EMBEDDED_VOCABULARIES,
    SPECIAL,
    Tokenizer,
    clean_caption,
    load_tokenizer,
    tokenizer_digest,
)
from smaug_core.errors import SmaugError

LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789&$%<>[]_=+é中"
PIECES = ("play", "##ing", "##ed", "un", "##able", "dog", "##s", "cafe", "running", "[unused1]", "²")
HARD = (
    "A dog's playing -- un-able/played!",
    "Café CAFE\u0301 dogs",
    "中文 dog中dog",
    "x" * 150,
    "²³ ½ running\u200bdog",
    "\ttabs\nand\r\nlines ",
    "[MASK] [CLS] dog [SEP]",
    "50% of $3 & <b> \x00\ufffd",
    "🙂 dog🙂s",
    "",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A vocabulary in the form of BERT's, with word pieces and single characters."""
    folder = tmp_path_factory.mktemp("bert")
    tokens = [*SPECIAL, *PIECES, *LETTERS, *(f"##{letter}" for letter in LETTERS)]
    (folder / "vocab.txt").write_text("".join(f"{token}\n" for token in dict.fromkeys(tokens)), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def ours(folder):
    return load_tokenizer(str(folder))


@pytest.fixture(scope="module")
def theirs(folder):
    lines = (folder / "vocab.txt").read_text(encoding="utf-8").splitlines()
    return BertTokenizer(vocab={token: number for number, token in enumerate(lines)}, do_lower_case=True)


@pytest.mark.parametrize(
    "written, cleaned",
    [
        ("A Man, walking.", "a man walking"),
        ('it\'s "so" (very) nice!?', "its so very nice"),
        ("a*b#c:d;e~f", "abcdef"),
        ("black-and-white and/or grey", "black and white and or grey"),
        ("<PERSON> meets <person>", "person meets person"),
        ("  two   spaces\tand\na line\n", "two spaces and a line"),
        ("50% & $3 [x] _y_", "50% & $3 [x] _y_"),
        ("ÀÉ", "àé"),
        (" - ", ""),
        ("", ""),
    ],
)
def test_cleaning_by_hand(written, cleaned):
    assert clean_caption(written) == cleaned


@given(st.text())
def test_cleaning_twice_changes_nothing_more(text):
    # Taking away a sign can make a new <person>, as in <per*son>; the reference does not look again either.
    once = clean_caption(text).replace("<person>", "")
    assert clean_caption(clean_caption(once)) == clean_caption(once)


@pytest.mark.parametrize("text", HARD)
def test_hard_captions_get_the_ids_that_transformers_gives(ours, theirs, text):
    ids, mask = ours.encode([text], 10_000)
    assert ids[mask].tolist() == theirs(clean_caption(text))["input_ids"]


@settings(deadline=None, max_examples=300)
@given(
    text=st.text(
        alphabet=st.one_of(st.sampled_from(LETTERS + LETTERS.upper() + " ,.'-/#\n"), st.characters(codec="utf-8"))
    )
)
def test_any_caption_gets_the_ids_that_transformers_gives(ours, theirs, text):
    ids, mask = ours.encode([text], 10_000)
    assert ids[mask].tolist() == theirs(clean_caption(text))["input_ids"]


def test_every_embedded_caption_is_known_words_only():
    tokenizer = load_tokenizer("moving_shapes")
    scenes = [
        scene
        for source, described in SOURCES.items()
        for split in described.sizes
        for scene in draw_scenes(source, split, 100, 1 if described.frames is None else 32, 0)
    ]
    captions = [scene.caption if isinstance(scene.caption, str) else " ".join(scene.caption) for scene in scenes]
    ids, mask = tokenizer.encode(captions, 64)
    assert tokenizer.unk_id not in ids
    words = [len(clean_caption(caption).split()) for caption in captions]
    assert (mask.sum(axis=1) == np.array(words) + 2).all()


def test_special_tokens_have_the_ids_of_their_lines(ours):
    ids = (ours.pad_id, ours.unk_id, ours.cls_id, ours.sep_id, ours.mask_id)
    assert ids == tuple(range(5))


def test_captions_are_padded_to_the_longest_and_the_mask_says_where(ours):
    ids, mask = ours.encode(["dog", "dog dog dog", ""], 32)
    assert ids.dtype == np.int64 and mask.dtype == np.bool_
    assert mask.tolist() == [
        [True, True, True, False, False],
        [True] * 5,
        [True, True, False, False, False],
    ]
    assert (ids[~mask] == ours.pad_id).all() and (ids[:, 0] == ours.cls_id).all()
    assert [row[keep][-1] for row, keep in zip(ids, mask, strict=True)] == [ours.sep_id] * 3


@given(words=st.integers(0, 12), max_length=st.integers(2, 12))
def test_a_caption_that_is_cut_still_ends_with_sep(ours, words, max_length):
    ids, mask = ours.encode([" ".join(["dog"] * words)], max_length)
    assert ids.shape == (1, min(words + 2, max_length)) and mask.all()
    assert ids[0, 0] == ours.cls_id and ids[0, -1] == ours.sep_id
    assert ours.sep_id not in ids[0, :-1]


@pytest.mark.parametrize("captions, max_length", [([], 8), (["dog"], 1)])
def test_nothing_to_encode_and_no_room_are_refused(ours, captions, max_length):
    with pytest.raises(ValueError, match=f"max_length >= 2, got {len(captions)} and {max_length}"):
        ours.encode(captions, max_length)


def test_every_missing_special_token_is_named(tmp_path):
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\ndog\n")
    with pytest.raises(SmaugError, match=r"vocab\.txt: lacks the special tokens \['\[SEP\]', '\[MASK\]'\]"):
        load_tokenizer(str(tmp_path))


def test_a_missing_vocabulary_is_named_with_what_would_be_right(tmp_path):
    for read in (load_tokenizer, tokenizer_digest):
        with pytest.raises(SmaugError, match=r"nowhere/vocab\.txt cannot be read .* one of \['moving_shapes'\] or"):
            read(str(tmp_path / "nowhere"))


def test_a_file_that_is_no_text_is_named(tmp_path):
    (tmp_path / "vocab.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SmaugError, match=r"vocab\.txt: is not UTF-8"):
        load_tokenizer(str(tmp_path))


@pytest.mark.parametrize("odd", ["\u2028", "\x85", "\x1c"])
def test_only_a_line_feed_ends_a_token(tmp_path, odd):
    # BERT's multilingual vocabulary holds U+2028; ids after it would all be wrong.
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join([*SPECIAL, odd, "dog"]) + "\n", encoding="utf-8", newline="\n")
    ids, _ = Tokenizer(path).encode(["dog"], 8)
    assert ids[0].tolist() == [2, len(SPECIAL) + 1, 3]
    path.write_text("\r\n".join([*SPECIAL, "cat", "dog"]), encoding="utf-8", newline="")
    ids, _ = Tokenizer(path).encode(["dog"], 8)
    assert ids[0].tolist() == [2, len(SPECIAL) + 1, 3]


def test_the_digest_is_that_of_the_file_and_changes_with_it(folder, tmp_path):
    data = (folder / "vocab.txt").read_bytes()
    assert tokenizer_digest(str(folder)) == hashlib.sha256(data).hexdigest()
    (tmp_path / "vocab.txt").write_bytes(data + b"cat\n")
    assert tokenizer_digest(str(tmp_path)) != tokenizer_digest(str(folder))
    embedded = EMBEDDED_VOCABULARIES["moving_shapes"].read_bytes()
    assert tokenizer_digest("moving_shapes") == hashlib.sha256(embedded).hexdigest()
