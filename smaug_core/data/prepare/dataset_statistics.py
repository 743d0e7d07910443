"""Statistics of a split: durations, lengths of captions, unknown words and duplicates."""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np

from smaug_core.data.manifest import Manifest
from smaug_core.data.tokenizer import Tokenizer, clean_caption
from smaug_core.data.unknown_words import UnknownWords, count_unknown, sampled


@dataclass(frozen=True, kw_only=True, slots=True)
class Spread:
    """Distribution of some numbers."""

    count: int
    total: float
    least: float
    median: float
    most_of_95_percent: float
    """The number that 95 % of them do not exceed."""
    most: float


@dataclass(frozen=True, kw_only=True, slots=True)
class SplitStatistics:
    """Statistics of one split."""

    captions: int
    media: int
    """Clips or pictures."""
    seconds: Spread | None
    """Durations of the clips whose source says it; None if there are none."""
    words: Spread
    """Words of the captions, as the tokenizer cleans them."""
    tokens: Spread | None
    """Tokens of a sample of the captions, without [CLS] and [SEP]; None without a vocabulary."""
    unknown_words: UnknownWords | None
    """Of the same sample."""
    repeated_captions: int
    """Captions that an earlier row has too, once both are cleaned."""
    repeated_media: int
    """Clips or pictures with the bytes of an earlier one."""


def split_statistics(manifest: Manifest, tokenizer: Tokenizer | None) -> SplitStatistics:
    """Statistics of all rows of a manifest, whose media are not read.

    Raises:
        SmaugError: the manifest is damaged.
    """
    captions, contents, media = set[bytes](), set[bytes](), set[int]()
    words, seconds, repeated_media = list[int](), list[float](), 0
    for number in range(len(manifest)):
        row = manifest.row(number)
        caption = clean_caption(" ".join(row["sentences"]))
        captions.add(blake2b(caption.encode(), digest_size=12).digest())  # of 5 M captions no two have the same
        words.append(len(caption.split()))
        if row["media"] in media:
            continue
        media.add(row["media"])
        if row["duration"] is not None:
            seconds.append(row["duration"])
        if row["content"] is not None:
            repeated_media += row["content"] in contents
            contents.add(row["content"])
    sample = [each.caption for each in sampled(manifest)] if tokenizer else []
    return SplitStatistics(
        captions=len(manifest),
        media=len(media),
        seconds=spread(seconds) if seconds else None,
        words=spread(words),
        tokens=spread([tokenizer.count_tokens(caption)[0] for caption in sample]) if tokenizer else None,
        unknown_words=count_unknown(tokenizer, sample) if tokenizer else None,
        repeated_captions=len(manifest) - len(captions),
        repeated_media=repeated_media,
    )


def spread(numbers: Sequence[int | float]) -> Spread:
    """Distribution of numbers, of which there is at least one."""
    least, median, most_of, most = np.quantile(np.asarray(numbers, dtype=np.float64), [0, 0.5, 0.95, 1])
    return Spread(
        count=len(numbers),
        total=float(sum(numbers)),
        least=float(least),
        median=float(median),
        most_of_95_percent=float(most_of),
        most=float(most),
    )
