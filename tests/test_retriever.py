"""A trained model in use: the same scores as the evaluation, from paths and plain captions."""

import json
import math

import numpy as np
import pytest
import torch

import smaug_core
from smaug_core.clip_shape import ClipShape
from smaug_core.config import EvaluateConfig
from smaug_core.data.tokenizer import load_tokenizer
from smaug_core.errors import CheckpointError, ClipError
from smaug_core.evaluation.retrieval import evaluate
from smaug_core.model.init_weights import build
from smaug_core.training.checkpoint import save_model
from tests.small import CONFIG, make_items, run_context
from tests.training.test_train import Recorder


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("retriever")
    vocabulary = load_tokenizer("moving_shapes").vocab_size
    model = build(CONFIG, vocabulary, seed=0, shape=ClipShape(frames=4, selected=2))
    torch.nn.init.normal_(model.match_head.weight)
    save_model(folder / "model", model, {})
    return folder, make_items(folder, clips=6, stills=1)


def test_it_ranks_as_the_evaluation_does(made, tmp_path):
    folder, items = made
    retriever = smaug_core.load(folder)
    config = EvaluateConfig(dataset="made", text_length=512, rerank=3, frames=4)
    evaluate(CONFIG, config, items, run_context(tmp_path, Recorder(), weights=folder / "model"))
    kept = json.loads((tmp_path / "ranks.json").read_text())["t2v"]
    for item in items:
        ranked = retriever.rank(item.caption, [i.media.path for i in items], frames=4, rerank=3)
        assert 1 + [path for path, _ in ranked].index(item.media.path) == kept[item.id]
        logits = [logit for _, logit in ranked]
        assert logits[:3] == sorted(logits[:3], reverse=True)
        assert all(math.isnan(logit) for logit in logits[3:])


def test_vectors_give_the_similarity_of_the_scores(made):
    folder, items = made
    retriever = smaug_core.load(folder / "model")  # the folder of the weights itself does too
    media, captions = [str(i.media) for i in items], [i.caption for i in items]
    clips, words = retriever.embed_clips(media, frames=4), retriever.embed_captions(captions)
    np.testing.assert_allclose(np.linalg.norm(clips, axis=-1), 1, atol=1e-5)
    cosines = np.einsum("vkd,td->vkt", clips, words).mean(axis=1)
    scores = retriever.score(media, captions, frames=4)
    np.testing.assert_allclose(scores.contrast * retriever.model.temperature.item(), cosines, atol=1e-5)


def test_what_is_not_there_is_named(made, tmp_path):
    with pytest.raises(CheckpointError, match="not a folder of SMAUG weights"):
        smaug_core.load(tmp_path)
    with pytest.raises(ClipError, match=r"nowhere\.mp4"):
        smaug_core.load(made[0]).rank("a red square", [tmp_path / "nowhere.mp4"])
