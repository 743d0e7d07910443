"""What a vocabulary does not know of captions: counted as the model reads them, recorded, and warned about once."""

import json
import logging
import shutil
from dataclasses import asdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import smaug_core
from smaug_core import stages
from smaug_core.config import EvaluateConfig
from smaug_core.data.tokenizer import load_tokenizer
from smaug_core.data.unknown_words import SAMPLE, UnknownWords, count_unknown, sampled
from smaug_core.model.init_weights import build
from smaug_core.training.checkpoint import save_model
from tests.small import CONFIG, make_items
from tests.training.test_train import Recorder

TOKENIZER = load_tokenizer("moving_shapes")
PERSON = "Somebody walks a dog; the dog is red."


@settings(deadline=None)
@given(st.lists(st.one_of(st.text(max_size=30), st.sampled_from([PERSON, "a red ring moves left"])), min_size=1))
def test_counts_are_those_of_the_ids_that_a_model_reads(captions):
    counts = count_unknown(TOKENIZER, captions)
    ids, mask = TOKENIZER.encode(captions, max_length=1000)
    assert counts.unknown == (ids == TOKENIZER.unk_id).sum()
    assert counts.tokens == mask.sum() - 2 * len(captions)
    assert sum(counts.most_frequent.values()) <= counts.unknown


def test_words_are_named_by_how_often_they_are_unknown():
    counts = count_unknown(TOKENIZER, [PERSON, "a red ring"])
    assert counts.most_frequent == {"dog": 2, "somebody": 1, "walks": 1, "is": 1}
    assert (counts.captions, counts.tokens, counts.unknown, counts.is_high) == (2, 11, 5, True)
    assert counts.message("webvid train", "moving_shapes") == (
        "webvid train: 5 of 11 tokens (45%) are unknown to the tokenizer 'moving_shapes' and are read as [UNK];"
        " most frequent: 'dog' (2), 'somebody' (1), 'walks' (1), 'is' (1)"
    )
    assert UnknownWords(**json.loads(json.dumps(counts.to_json()))) == counts


@pytest.mark.parametrize(("known", "is_high"), [(19, False), (18, True)])
def test_a_warning_is_due_above_5_percent(known, is_high):
    assert count_unknown(TOKENIZER, ["dog " + "red " * known]).is_high is is_high
    assert not count_unknown(TOKENIZER, [""]).is_high


def test_of_a_large_data_set_an_even_sample_is_counted():
    taken = sampled(range(3 * SAMPLE + 1))
    assert len(taken) == SAMPLE and taken[:3] == [0, 3, 6] and taken[-1] > 3 * SAMPLE - 4
    assert sampled([1, 2]) == [1, 2]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A model, and a real data set whose captions a person wrote."""
    folder = tmp_path_factory.mktemp("trained")
    save_model(folder / "model", build(CONFIG, TOKENIZER.vocab_size, seed=0), {})
    media = folder / "data" / "msrvtt" / "media"
    media.mkdir(parents=True)
    items = make_items(media, clips=4, stills=0)
    annotations = media.parent / "annotations"
    annotations.mkdir()
    rows = [{"video": item.media.name, "caption": [PERSON, item.caption]} for item in items]
    (annotations / "test.json").write_text(json.dumps(rows))
    return folder, items


def evaluated(folder, out):
    config = EvaluateConfig(dataset="msrvtt", text_length=32, rerank=2, frames=2)
    settings = {"model": asdict(CONFIG), "data": None, "evaluate": asdict(config)}
    out.mkdir()
    return stages.run(
        "evaluate",
        settings,
        seed=None,
        parents=[folder],
        out=out,
        data_root=folder / "data",
        device="cpu",
        watch=Recorder(),
    )


def test_a_stage_records_the_counts_of_its_data_and_warns_in_its_log(trained, tmp_path, caplog):
    folder, items = trained
    notes = evaluated(folder, tmp_path / "out").notes
    (told,) = caplog.messages
    counts = UnknownWords(**notes["unknown_words"]["msrvtt test"])
    assert notes["n_queries"] == counts.captions == 8 and counts.most_frequent["dog"] == 8
    assert told == counts.message("msrvtt test", "moving_shapes") and "'dog' (8)" in told


def test_a_data_set_whose_words_are_known_is_counted_and_no_warning(trained, tmp_path, caplog):
    folder, items = trained
    known = tmp_path / "data" / "msrvtt"
    shutil.copytree(folder / "data" / "msrvtt", known)
    rows = [{"video": item.media.name, "caption": "a red ring moves left"} for item in items]
    (known / "annotations" / "test.json").write_text(json.dumps(rows))
    shutil.copytree(folder / "model", tmp_path / "model")
    notes = evaluated(tmp_path, tmp_path / "out").notes
    assert notes["unknown_words"] == {
        "msrvtt test": UnknownWords(captions=4, tokens=20, unknown=0, most_frequent={}).to_json()
    }
    assert not caplog.messages


def test_a_retriever_warns_of_each_word_once(trained, caplog):
    folder, items = trained
    caplog.set_level(logging.WARNING)
    retriever = smaug_core.load(folder)
    clips = [items[0].media.path]
    retriever.rank("a red ring moves left", clips, frames=1)
    retriever.embed_clips(clips[:1], frames=1)
    assert not caplog.messages
    retriever.rank(PERSON, clips, frames=1)
    retriever.embed_captions([PERSON, "the dog walks"])
    (told,) = caplog.messages
    assert told.startswith("captions: 5 of 8 tokens (62%) are unknown to the tokenizer 'moving_shapes'")
    retriever.embed_captions(["a cat and a dog"])
    assert len(caplog.messages) == 2 and "'cat' (1)" in caplog.messages[1]
