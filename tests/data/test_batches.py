"""Batches: in a fixed order, with keyed draws, one kind of media each, and never silent about damage."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from smaug_core.data.batch import Batch, places_of_words
from smaug_core.data.batch_reader import BatchRecipe, hide_words
from smaug_core.data.batches import TrainingBatches
from smaug_core.data.manifest import Sample
from smaug_core.data.media.location import MediaLocation
from smaug_core.data.tokenizer import load_tokenizer
from smaug_core.data.transforms import CLIP
from smaug_core.distributed import World
from smaug_core.errors import SmaugError
from tests.small import SampleList, make_items

RECIPE = BatchRecipe(
    batch_size=4,
    frames=1,
    image_size=48,
    colours=CLIP,
    num_patches=36,
    text_length=32,
    mask_ratio=0.5,
    mlm_ratio=0.15,
    max_unreadable=0.0,
)


@pytest.fixture(scope="module")
def items(tmp_path_factory):
    return make_items(tmp_path_factory.mktemp("media"), clips=9, stills=5)


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer("moving_shapes")


def batches_of(items, tokenizer, seed=0, **changes):
    return TrainingBatches(items, tokenizer, replace(RECIPE, **changes), seed=seed)


def at(sample: Sample, name: str, path: Path) -> Sample:
    """The same caption of another file."""
    return replace(sample, id=name, media=MediaLocation(path))


def steps_of(batches: TrainingBatches, first: int, last: int, workers: int = 0) -> list[Batch]:
    """Batches of steps `first` to `last` - 1."""
    return [batches.use(read) for read in batches.loader(first, last, workers=workers)]


def equal(one, other) -> bool:
    return all(
        torch.equal(getattr(one, name), getattr(other, name))
        for name in (
            "images",
            "media",
            "words",
            "hidden_words",
            "word_places",
            "word_targets",
            "visible",
            "hidden",
            "negative_draws",
        )
    )


def words_by_place(batch) -> dict[tuple[int, int], int]:
    """The words to be predicted, by their caption and their place in it."""
    places, words = batch.word_places.tolist(), batch.word_targets.tolist()
    return {divmod(p, batch.words.shape[1]): w for p, w in zip(places, words, strict=True) if w != -100}


def test_a_step_is_the_same_batch_wherever_training_starts(items, tokenizer):
    whole = steps_of(batches_of(items, tokenizer), 0, 6)
    resumed = steps_of(batches_of(items, tokenizer), 4, 6)
    assert equal(whole[4], resumed[0]) and equal(whole[5], resumed[1])


def test_another_epoch_and_another_seed_draw_anew(items, tokenizer):
    batches = batches_of(items, tokenizer)
    assert not equal(batches.batch(items[:4], 0), batches.batch(items[:4], 1))
    assert not equal(batches.batch(items[:4], 0), batches_of(items, tokenizer, seed=1).batch(items[:4], 0))


def test_draws_belong_to_the_sample_not_to_its_place(items, tokenizer):
    batches = batches_of(items, tokenizer)
    forwards, backwards = batches.batch(items[:4], 0), batches.batch(items[3::-1], 0)
    assert torch.equal(forwards.images, backwards.images.flip(0))
    assert torch.equal(forwards.visible, backwards.visible.flip(0))
    assert torch.equal(forwards.negative_draws, backwards.negative_draws.flip(0))


def test_a_batch_is_all_clips_or_all_pictures_and_no_item_comes_twice(items, tokenizer):
    batches = batches_of(items, tokenizer)
    assert batches.steps_per_epoch == 3  # 9 clips make 2 batches of 4, 5 pictures make 1
    order = [[items[row] for row in batch] for batch in batches.epoch_order(0)]
    assert sorted(sum(item.is_image for item in batch) for batch in order) == [0, 0, 4]
    seen = [item.id for batch in order for item in batch]
    assert len(set(seen)) == 12
    assert (batches.epoch_order(0) != batches.epoch_order(1)).any()


def test_captions_of_one_clip_share_a_media_number(items, tokenizer):
    twice = [items[0], replace(items[0], id="again", caption="a red circle"), items[1], items[2]]
    media = batches_of(items, tokenizer).batch(twice, 0).media
    assert media[0] == media[1] and len(set(media.tolist())) == 3


def test_an_unreadable_clip_is_counted_named_and_replaced_with_its_own_caption(tmp_path, tokenizer):
    items = make_items(tmp_path, clips=4, stills=0)
    items[1].media.path.write_bytes(b"not a video")
    with pytest.raises(SmaugError, match=r"^1 of 4 clips and pictures could not be read, 0 allowed.*000001.mp4"):
        batches_of(items, tokenizer).batch(items, 0)
    tolerant = batches_of(items, tokenizer, max_unreadable=0.25)
    batch = tolerant.batch(items, 0)
    assert list(tolerant.unreadable) == [str(items[1].media)]
    assert batch.media[1] == batch.media[2]  # a positive pair, so neither is the other's negative
    assert torch.equal(batch.words[1], batch.words[2]) and torch.equal(batch.images[1], batch.images[2])


def test_the_share_of_a_process_is_its_part_of_the_batch_whatever_cannot_be_read(tmp_path, tokenizer):
    """The stand-in for the second process's first clip is its second; for its last, the first process's first."""
    items = make_items(tmp_path, clips=4, stills=0)
    for number in (1, 3):
        items[number].media.path.write_bytes(b"not a video")
    recipe = replace(RECIPE, max_unreadable=0.5)
    whole = TrainingBatches(items, tokenizer, recipe, seed=0).batch(items, 0)
    for rank in range(2):
        world = World(rank=rank, size=2)
        share = TrainingBatches(items, tokenizer, recipe, seed=0, world=world).batch(items, 0)
        own = world.share(4)
        for name in ("images", "media", "visible", "hidden", "negative_draws"):
            assert torch.equal(getattr(share, name), getattr(whole, name)[own]), name
        longest = share.words.shape[1]
        assert torch.equal(share.words, whole.words[own, :longest])
        assert words_by_place(share) == {
            (row - own.start, column): word
            for (row, column), word in words_by_place(whole).items()
            if own.start <= row < own.stop
        }
    assert whole.media.tolist() == [whole.media[0], whole.media[2], whole.media[2], whole.media[0]]


@pytest.mark.parametrize(("share", "num", "allowed"), [(0.001, 999, 0), (0.001, 1000, 1), (0.29, 100, 29), (0.5, 5, 2)])
def test_the_share_is_of_the_media_and_not_of_their_captions(items, tokenizer, share, num, allowed):
    made = SampleList(at(items[0], f"{n}", items[0].media.path.with_name(f"{n % num}.mp4")) for n in range(3 * num))
    assert batches_of(made, tokenizer, max_unreadable=share).allowed == allowed


def test_too_many_unreadable_clips_are_counted_and_ten_are_named(items, tokenizer):
    made = SampleList(at(items[0], f"{n}", items[0].media.path.with_name(f"{n:02}.mp4")) for n in range(40))
    batches = batches_of(made, tokenizer, max_unreadable=0.3)
    found = {str(item.media): f"{item.media}: damaged" for item in made[::-3][:13]}
    few = dict(list(found.items())[:12])
    batches.know_unreadable(few)
    assert batches.notes() == {"unreadable": dict(sorted(few.items())[:10]), "n_unreadable": 12}
    with pytest.raises(SmaugError) as raised:
        batches.know_unreadable(found)
    told = str(raised.value)
    assert told.startswith("13 of 40 clips and pictures could not be read, 12 allowed (max_unreadable = 0.3): ")
    assert told.count(": damaged") == 10 and told.endswith("; and 3 more; 27 others were not read yet")


@pytest.mark.parametrize("rank", [0, 1])
def test_a_training_that_fails_reads_on_and_names_every_unreadable_file_in_each_process(tmp_path, tokenizer, rank):
    items = make_items(tmp_path, clips=12, stills=4)
    for number in (1, 5, 11):
        items[number].media.path.write_bytes(b"not a video")
    items[14].media.path.unlink()
    batches = TrainingBatches(items, tokenizer, RECIPE, seed=0, world=World(rank=rank, size=2))
    with pytest.raises(SmaugError) as raised:
        batches.know_unreadable({str(items[5].media): f"{items[5].media}: not a readable video"})
    told = str(raised.value)
    assert told.startswith("4 of 16 clips and pictures could not be read, 0 allowed (max_unreadable = 0.0): ")
    assert all(told.count(f"{items[number].media}: ") == 1 for number in (1, 5, 11, 14)) and "not read yet" not in told


def test_a_training_that_fails_reads_on_only_until_ten_are_named_or_many_were_read(tmp_path, tokenizer, monkeypatch):
    items = make_items(tmp_path, clips=4, stills=0)
    missing = SampleList(at(items[0], f"{n}", tmp_path / f"{n:02}.mp4") for n in range(100))
    with pytest.raises(SmaugError, match=r"^10 of 104 .*09.mp4: no such file; 94 others were not read yet$"):
        batches_of(SampleList(missing + items), tokenizer).batch(missing[:4], 0)
    monkeypatch.setattr("smaug_core.data.batches.LOOKED_AT", 3)
    with pytest.raises(SmaugError, match=r"^1 of 5 .*00.mp4: no such file; 1 others were not read yet$"):
        batches_of(SampleList(items + missing[:1]), tokenizer).batch(missing[:1], 0)


def test_a_clip_that_failed_is_not_tried_again(tmp_path, tokenizer):
    items = make_items(tmp_path, clips=4, stills=0)
    bytes_of = items[1].media.path.read_bytes()
    items[1].media.path.write_bytes(b"not a video")
    batches = batches_of(items, tokenizer, max_unreadable=0.25)
    before = batches.batch(items, 0)
    items[1].media.path.write_bytes(bytes_of)
    assert equal(before, batches.batch(items, 0))


def test_a_batch_of_which_nothing_can_be_read_stops(tmp_path, tokenizer):
    items = make_items(tmp_path, clips=4, stills=0)
    for item in items:
        item.media.path.write_bytes(b"not a video")
    with pytest.raises(SmaugError, match=r"no clip of a batch of 4 could be read; the first: .*000000.mp4"):
        batches_of(items, tokenizer, max_unreadable=0.9999999).batch(items, 0)


def test_too_little_data_for_a_batch_is_said(items, tokenizer):
    with pytest.raises(SmaugError, match=r"batch_size: 16 is more than there are pictures \(5\) or clips \(9\)"):
        batches_of(items, tokenizer, batch_size=16)


def test_nothing_is_hidden_in_finetuning(items, tokenizer):
    batch = batches_of(items, tokenizer, mask_ratio=0.0, mlm_ratio=0.0).batch(items[:4], 0)
    assert batch.visible is None and batch.hidden is None and batch.hidden_words is None


@given(st.integers(0, 2**31), st.sampled_from([0.0, 0.02, 0.15, 0.6]))
def test_every_hidden_word_has_its_place_and_padding_has_no_target(seed, ratio):
    rng = np.random.default_rng(seed)
    targets = torch.from_numpy(np.where(rng.random((6, 11)) < ratio, rng.integers(0, 99, (6, 11)), -100))
    places, words = places_of_words(targets)
    found = words != -100
    assert places.shape == words.shape and len(places) in {2**n for n in range(8)}
    assert len(places) < 2 * max(1, found.sum())
    rebuilt = torch.full_like(targets, -100)
    rebuilt.view(-1)[places[found]] = words[found]
    assert torch.equal(rebuilt, targets) and (places[~found] == 0).all()


def test_a_batch_says_where_words_were_replaced(items, tokenizer):
    batch = batches_of(items, tokenizer, mlm_ratio=0.5).batch(items[:4], 0)
    found = words_by_place(batch)
    assert len(found) > 4 and all(batch.words[place] == word for place, word in found.items())
    changed = {tuple(place) for place in (batch.hidden_words != batch.words).nonzero().tolist()}
    assert changed <= found.keys()


@given(st.integers(0, 2**31))
def test_special_tokens_are_never_hidden_and_targets_are_the_true_words(seed):
    tokenizer = load_tokenizer("moving_shapes")
    words, mask = tokenizer.encode(["a small red circle moves left", "a blue star"], 32)
    draws = np.random.default_rng(seed).random((*words.shape, 3))
    hidden, targets = hide_words(words, mask, draws, 0.9, tokenizer)
    chosen = targets != -100
    assert (targets[chosen] == words[chosen]).all()
    assert (hidden[~chosen] == words[~chosen]).all()
    special = np.isin(words, [tokenizer.cls_id, tokenizer.sep_id, tokenizer.pad_id])
    assert not (chosen & special).any()


def test_words_are_replaced_by_the_80_10_10_rule():
    tokenizer = load_tokenizer("moving_shapes")
    words, mask = tokenizer.encode(["a small red circle moves left"] * 4000, 32)
    draws = np.random.default_rng(0).random((*words.shape, 3))
    hidden, targets = hide_words(words, mask, draws, 0.15, tokenizer)
    chosen = targets != -100
    plain = words.shape[1] - 2
    assert chosen.mean() * words.shape[1] / plain == pytest.approx(0.15, abs=0.01)
    assert (hidden[chosen] == tokenizer.mask_id).mean() == pytest.approx(0.8, abs=0.02)
    kept = (hidden[chosen] == words[chosen]).mean()
    assert kept == pytest.approx(0.1 + 0.1 / tokenizer.vocab_size, abs=0.02)
