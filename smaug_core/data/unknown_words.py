"""Words missing from a vocabulary, which a model reads as [UNK]: counts, names and a warning."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

from smaug_core.data.tokenizer import Tokenizer

MOST_UNKNOWN = 0.05
"""Share of unknown tokens from which a warning is due."""
SAMPLE = 10_000
"""Captions of a data set that are counted, evenly spread: less than a second, whatever its size."""
NAMED = 8
"""Most frequent unknown words that are kept and named."""
LONGEST = 40
"""Characters of a word that are kept."""

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class UnknownWords:
    """Coverage of captions by a vocabulary."""

    captions: int
    """Captions counted."""
    tokens: int
    """All their tokens, without [CLS] and [SEP]."""
    unknown: int
    """Tokens that are [UNK]."""
    most_frequent: dict[str, int]
    """The words that became [UNK] most often, and how often."""

    @property
    def is_high(self) -> bool:
        """True if more than `MOST_UNKNOWN` of the tokens are unknown."""
        return self.unknown > MOST_UNKNOWN * self.tokens

    def message(self, where: str, vocabulary: str) -> str:
        """Describe the counts as a warning, with the words."""
        words = ", ".join(f"{word!r} ({count})" for word, count in self.most_frequent.items())
        return (
            f"{where}: {self.unknown} of {self.tokens} tokens ({self.unknown / self.tokens:.0%}) are unknown to the"
            f" tokenizer {vocabulary!r} and are read as [UNK]; most frequent: {words}"
        )

    def to_json(self) -> dict[str, Any]:
        """Return the counts as a result records them; the constructor takes them back."""
        return asdict(self)


def count_unknown(tokenizer: Tokenizer, captions: Iterable[str]) -> UnknownWords:
    """Count the tokens of captions, and those that are unknown."""
    looked_at, tokens, words = 0, 0, Counter[str]()
    for caption in captions:
        count, unknown = tokenizer.count_tokens(caption)
        looked_at, tokens = looked_at + 1, tokens + count
        words.update(word[:LONGEST] for word in unknown)
    return UnknownWords(
        captions=looked_at,
        tokens=tokens,
        unknown=words.total(),
        most_frequent=dict(words.most_common(NAMED)),
    )


def sampled(items: Sequence[T]) -> list[T]:
    """Take at most `SAMPLE` of the items, evenly spread; always the same ones."""
    taken = min(SAMPLE, len(items))
    return [items[place * len(items) // taken] for place in range(taken)]
