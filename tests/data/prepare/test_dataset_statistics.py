"""Statistics of a split, counted by hand."""

import pytest

from smaug_core.data.manifest import Manifest, ManifestKind, ManifestRow, write_manifest
from smaug_core.data.prepare.dataset_statistics import split_statistics, spread
from smaug_core.data.tokenizer import load_tokenizer


def test_durations_words_tokens_and_duplicates(tmp_path):
    captions = ["A red circle.", "a red circle", "a zyzzyva moves left, then a blue square moves right"]
    rows = [
        ManifestRow(
            id=f"{medium}#{n}",
            sentences=(caption,),
            path=f"{medium}.mp4",
            flip=True,
            content=bytes([medium // 2]) * 16,
            duration=None if medium == 2 else 4.0 * (medium + 1),
        )
        for medium in range(3)
        for n, caption in enumerate(captions)
    ]
    write_manifest(tmp_path / "train.arrow", rows, ManifestKind(is_image=False))
    found = split_statistics(Manifest(tmp_path / "train.arrow", tmp_path), load_tokenizer("moving_shapes"))
    assert (found.captions, found.media, found.repeated_captions, found.repeated_media) == (9, 3, 7, 1)
    assert found.seconds == spread([4.0, 8.0]) and found.seconds.total == 12
    assert (found.words.least, found.words.median, found.words.most, found.words.total) == (3, 3, 10, 48)
    assert found.tokens.count == 9 and found.unknown_words.most_frequent == {"zyzzyva": 3, "square": 3}
    assert found.unknown_words.tokens == found.tokens.total


def test_without_vocabulary_and_durations_they_are_left_out(tmp_path):
    write_manifest(
        tmp_path / "a.arrow",
        [ManifestRow(id="a", sentences=("x y",), path="a.png", flip=True)],
        ManifestKind(is_image=True),
    )
    found = split_statistics(Manifest(tmp_path / "a.arrow", tmp_path), None)
    assert found.seconds is None and found.tokens is None and found.unknown_words is None and found.repeated_media == 0


def test_a_spread_holds_quantiles():
    found = spread(list(range(101)))
    assert (found.least, found.median, found.most_of_95_percent, found.most) == (0, 50, 95, 100)
    assert found.total == pytest.approx(5050)
