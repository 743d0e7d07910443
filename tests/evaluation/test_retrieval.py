"""Retrieval: re-ranking against a brute-force reference, all frames used, damage never replaced."""

import json

import numpy as np
import pytest
import torch
from einops import rearrange

from smaug_core.config import EvaluateConfig
from smaug_core.data.tokenizer import load_tokenizer
from smaug_core.errors import ClipError
from smaug_core.evaluation.retrieval import (
    Scores,
    candidates,
    digest_of_queries,
    encode,
    evaluate,
    rank_both_ways,
    score,
)
from smaug_core.model.init_weights import build
from smaug_core.training.checkpoint import save_model
from tests.small import CONFIG, make_items, run_context
from tests.training.test_train import Recorder

RANKINGS = ("match", "match+contrast", "contrast")


def random_scores(seed, clips=12, captions=12):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(clips, captions)), rng.normal(size=(clips, captions))


@pytest.mark.parametrize("ranking", RANKINGS)
@pytest.mark.parametrize("rerank", [1, 3, 12, 50])
def test_reranked_ranks_equal_a_brute_force_reference(ranking, rerank):
    contrast, match = random_scores(rerank)
    correct = np.eye(12, dtype=bool)
    wanted = candidates(contrast, rerank) | candidates(contrast.T, rerank).T
    scores = Scores(contrast, np.where(wanted, match, np.nan))
    got = rank_both_ways(scores, correct, ranking, rerank)
    for direction, c, m in (("t2v", contrast.T, match.T), ("v2t", contrast, match)):
        for query in range(12):
            by_contrast = sorted(range(12), key=lambda j: -c[query, j])
            first, rest = by_contrast[:rerank], by_contrast[rerank:]
            if ranking == "contrast":
                order = by_contrast
            else:
                add = c if ranking == "match+contrast" else np.zeros_like(c)
                order = sorted(first, key=lambda j: -(m[query, j] + add[query, j])) + rest
            assert got[direction][query] == 1 + order.index(query)


def test_a_clip_with_several_captions_counts_its_best_one():
    contrast = np.array([[1.0, 5.0, 3.0], [9.0, 0.0, 4.0]])  # two clips, three captions
    correct = np.array([[True, True, False], [False, False, True]])
    got = rank_both_ways(Scores(contrast, contrast), correct, "contrast", 3)
    assert got["v2t"].tolist() == [1, 2]
    assert got["t2v"].tolist() == [2, 1, 1]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluate")
    items = make_items(folder, clips=10, stills=0)
    model = build(CONFIG, load_tokenizer("moving_shapes").vocab_size, seed=0)
    save_model(folder / "model", model, {})
    return folder / "model", items


def run(trained, out, workers=0, **changes):
    weights, items = trained
    settings = {"dataset": "made", "text_length": 32, "rerank": 4, "frames": 4, **changes}
    context = run_context(out, Recorder(), weights=weights, loader_workers=workers)
    return evaluate(CONFIG, EvaluateConfig(**settings), items, context)


def test_all_three_rankings_are_recorded_and_the_configured_one_is_reported(trained, tmp_path):
    outcome = run(trained, tmp_path)
    for name in ("t2v.r1", "v2t.r10", "t2v.median_rank"):
        assert outcome.metrics[name] == outcome.metrics[f"match.{name}"]
        assert f"match_contrast.{name}" in outcome.metrics and f"contrast.{name}" in outcome.metrics
    other = run(trained, tmp_path, ranking="contrast")
    assert other.metrics["t2v.r1"] == outcome.metrics["contrast.t2v.r1"]


def test_the_rank_of_every_query_is_kept(trained, tmp_path):
    outcome = run(trained, tmp_path)
    kept = json.loads((tmp_path / "ranks.json").read_text())
    assert set(kept["t2v"]) == {item.id for item in trained[1]}
    within = sum(rank <= 5 for rank in kept["t2v"].values())
    assert outcome.metrics["t2v.r5"] == pytest.approx(10.0 * within)
    assert outcome.notes["n_queries"] == 10


def test_evaluating_twice_gives_the_same_ranks(trained, tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        run(trained, tmp_path / name)
    assert (tmp_path / "a" / "ranks.json").read_bytes() == (tmp_path / "b" / "ranks.json").read_bytes()


def test_loader_processes_change_no_rank(trained, tmp_path):
    for name, workers in (("a", 0), ("b", 2)):
        (tmp_path / name).mkdir()
        run(trained, tmp_path / name, workers)
    assert (tmp_path / "a" / "ranks.json").read_bytes() == (tmp_path / "b" / "ranks.json").read_bytes()


def test_scores_of_the_model_are_matched_once_and_agree_with_a_pair_by_pair_pass(trained, tmp_path):
    """Keys of a clip are shared by its captions; the logits must not depend on that."""
    weights, items = trained
    tokenizer = load_tokenizer("moving_shapes")
    model = build(CONFIG, tokenizer.vocab_size, seed=0).eval()
    config = EvaluateConfig(dataset="made", text_length=32, rerank=10, frames=3)
    with torch.inference_mode():
        media = [item.media for item in items]
        context = run_context(tmp_path, Recorder())
        encoded = encode(model, tokenizer, [item.caption for item in items], media, config, context)
        scores = score(model, encoded, config, context)
        for clip in range(0, 10, 3):
            for caption in range(0, 10, 4):
                one = model.match_logits(
                    encoded.states[caption : caption + 1],
                    encoded.mask[caption : caption + 1],
                    rearrange(encoded.clips[clip].tokens, "b k n d -> b (k n) d"),
                )
                assert scores.match[clip, caption] == pytest.approx(one[0, 1].item(), abs=1e-5)


def test_a_damaged_clip_stops_the_evaluation_and_is_named(tmp_path):
    items = make_items(tmp_path, clips=4, stills=0)
    model = build(CONFIG, load_tokenizer("moving_shapes").vocab_size, seed=0)
    save_model(tmp_path / "model", model, {})
    damaged = items[2].media.path
    damaged.write_bytes(damaged.read_bytes()[:600])
    with pytest.raises(ClipError, match="000002.mp4"):
        run((tmp_path / "model", items), tmp_path)
    assert not (tmp_path / "ranks.json").exists()


def test_the_digest_tells_test_sets_apart(trained):
    items = trained[1]
    assert digest_of_queries(items) == digest_of_queries(list(items))
    assert digest_of_queries(items) != digest_of_queries(items[:-1])
