"""Captions to token ids."""

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int64

from smaug_core.errors import SmaugError
from smaug_core.hub import find_beside, in_cache, is_hub_name

EMBEDDED_VOCABULARIES = {"moving_shapes": Path(__file__).with_name("moving_shapes_vocab.txt")}
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def clean_caption(text: str) -> str:
    """Lower-case, without most punctuation, `-` and `/` as spaces, single spaces.

    Source: Singularity (dataset/utils.py:61-72).
    """
    text = re.sub(r"[,.'!?\"()*#:;~]", "", text.lower())
    text = text.replace("-", " ").replace("/", " ").replace("<person>", "person")
    return re.sub(r"\s+", " ", text).strip()


class Tokenizer:
    """BERT's uncased WordPiece tokenizer; cleans captions first."""

    def __init__(self, vocabulary: Path) -> None:
        """Read a vocabulary file: one token per line, its id the line number counted from 0.

        Raises:
            SmaugError: the file cannot be read, is no text, or lacks one of BERT's special tokens.
        """
        from tokenizers.implementations import BertWordPieceTokenizer

        try:
            text = _read_vocabulary(vocabulary).decode("utf-8")
        except UnicodeDecodeError as error:
            raise SmaugError(f"{vocabulary}: is not UTF-8 ({error}); BERT's vocab.txt is") from error
        # Not splitlines: that also ends a line at U+2028, which is a token of BERT's multilingual vocabulary.
        tokens = text.replace("\r\n", "\n").removesuffix("\n").split("\n")
        missing = [token for token in SPECIAL if token not in tokens]
        if missing:
            raise SmaugError(f"{vocabulary}: lacks the special tokens {missing}; BERT's vocab.txt has them")
        ids = {token: number for number, token in enumerate(tokens)}
        self._wordpiece = BertWordPieceTokenizer(ids, lowercase=True)
        self.vocab_size = len(tokens)
        self.pad_id, self.unk_id, self.cls_id, self.sep_id, self.mask_id = (ids[token] for token in SPECIAL)

    def encode(
        self, captions: Sequence[str], max_length: int
    ) -> tuple[Int64[np.ndarray, "captions words"], Bool[np.ndarray, "captions words"]]:
        """Token ids from [CLS] to [SEP], padded to the longest caption, and true where there is a token.

        Args:
            captions: as written; at least one.
            max_length: tokens kept of each, at least 2; [SEP] stays last when a caption is cut.
        """
        if max_length < 2 or not captions:
            raise ValueError(f"needs a caption and max_length >= 2, got {len(captions)} and {max_length}")
        rows = [self._wordpiece.encode(clean_caption(caption)).ids for caption in captions]
        rows = [row if len(row) <= max_length else [*row[: max_length - 1], self.sep_id] for row in rows]
        ids = np.full((len(rows), max(map(len, rows))), self.pad_id, dtype=np.int64)
        mask = np.zeros(ids.shape, dtype=np.bool_)
        for number, row in enumerate(rows):
            ids[number, : len(row)] = row
            mask[number, : len(row)] = True
        return ids, mask

    def count_tokens(self, caption: str) -> tuple[int, list[str]]:
        """The number of a caption's tokens without [CLS] and [SEP], and the words that became [UNK]."""
        text = clean_caption(caption)
        encoded = self._wordpiece.encode(text)
        ids = encoded.ids
        unknown = (
            []
            if self.unk_id not in ids
            else [
                text[start:end]
                for number, (start, end) in zip(ids, encoded.offsets, strict=True)
                if number == self.unk_id
            ]
        )
        return len(ids) - 2, unknown


def load_tokenizer(name: str) -> Tokenizer:
    """Load the tokenizer of `moving_shapes`, or one whose vocab.txt is in a directory or with a model of the hub.

    Raises:
        SmaugError: there is no such vocabulary, or it is no BERT vocabulary.
    """
    path = _local_vocabulary(name) or find_beside(name, "vocab.txt")
    if path is None:
        raise SmaugError(
            f"tokenizer: {name!r} is no directory here, and the hub has no vocab.txt of it, or cannot be reached"
        )
    return Tokenizer(path)


def tokenizer_digest(name: str) -> str | None:
    """SHA-256 of the vocabulary that `load_tokenizer(name)` would read; None if it must be downloaded first.

    Raises:
        SmaugError: there is no such vocabulary.
    """
    path = _local_vocabulary(name)
    return None if path is None else hashlib.sha256(_read_vocabulary(path)).hexdigest()


def _local_vocabulary(name: str) -> Path | None:
    """The vocabulary's file; None if it is neither local nor in the hub's local cache."""
    if name in EMBEDDED_VOCABULARIES:
        return EMBEDDED_VOCABULARIES[name]
    if Path(name).is_dir() or not is_hub_name(name):
        return Path(name) / "vocab.txt"
    return in_cache(name, "vocab.txt")


def _read_vocabulary(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise SmaugError(
            f"tokenizer: {path} cannot be read ({error.strerror}); expected one of"
            f" {sorted(EMBEDDED_VOCABULARIES)} or a directory that holds BERT's vocab.txt"
        ) from error
