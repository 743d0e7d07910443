"""Text-to-video and video-to-text retrieval: contrast everything, match the best candidates again."""

import json
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from smaug_core.config import RANKINGS, EvaluateConfig, ModelConfig
from smaug_core.data.augment import resize
from smaug_core.data.corpora import Item
from smaug_core.data.frames import sample_frames
from smaug_core.data.text import Tokenizer, load_tokenizer
from smaug_core.data.video import read_frames
from smaug_core.evaluation.metrics import ranks, recall
from smaug_core.model.objectives import frame_similarity, frames_to_keys
from smaug_core.model.smaug import SMAUG
from smaug_core.stages import Interrupted, Outcome, Watch
from smaug_core.training.checkpoint import load_weights

CLIPS_AT_ONCE = 16
"""Clips encoded in one pass; a matter of memory, not of results."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """The test set as the model sees it."""

    clips: Float[Tensor, "clips frames embed"]
    """A vector for each frame."""
    keys: Float[Tensor, "clips tokens width"]
    """All frames' tokens of each clip."""
    captions: Float[Tensor, "captions embed"]
    states: Float[Tensor, "captions words dim"]
    mask: Bool[Tensor, "captions words"]


@dataclass(frozen=True, slots=True)
class Scores:
    """How well each clip (row) and caption (column) go together."""

    contrast: Float[np.ndarray, "clips captions"]
    """Cosine over temperature."""
    match: Float[np.ndarray, "clips captions"]
    """The matching head's logit; NaN where a pair was no candidate in either direction."""


def evaluate(
    model_config: ModelConfig,
    config: EvaluateConfig,
    items: list[Item],
    *,
    weights: Path,
    out: Path,
    device: str,
    watch: Watch,
) -> Outcome:
    """Rank the test clips for each caption and the captions for each clip, by all three rankings.

    The configured ranking's results have plain names (`t2v.r1`); each ranking's also carry its own
    (`match.t2v.r1`). The rank of every query goes to `ranks.json`.

    Raises:
        ClipError: a clip cannot be read; nothing takes its place.
    """
    tokenizer = load_tokenizer(model_config.tokenizer)
    model = SMAUG(model_config, tokenizer.vocab_size)
    load_weights(weights, model, model_config)
    model.to(device).eval()
    media = list(dict.fromkeys(item.media for item in items))
    with torch.inference_mode():
        encoded = encode(model, tokenizer, items, media, config, device, watch)
        scores = score(model, encoded, config.rerank, watch, done=len(media))
    correct = np.array([[item.media == clip for item in items] for clip in media])

    metrics: dict[str, float] = {}
    for ranking in RANKINGS:
        by_direction = rank_both_ways(scores, correct, ranking, config.rerank)
        found = {
            f"{direction}.{name}": value
            for direction, query_ranks in by_direction.items()
            for name, value in recall(query_ranks).items()
        }
        metrics |= {f"{ranking.replace('+', '_')}.{name}": value for name, value in found.items()}
        if ranking == config.ranking:
            metrics |= found
            _write_ranks(out / "ranks.json", by_direction, items, media)
    notes = {
        "dataset": config.dataset,
        "split": config.split,
        "n_queries": len(items),
        "n_clips": len(media),
        "test_digest": digest_of_queries(items),
        "ranking": config.ranking,
    }
    return Outcome(metrics=metrics, useful_s=0.0, files=["ranks.json"], notes=notes)


def encode(
    model: SMAUG,
    tokenizer: Tokenizer,
    items: list[Item],
    media: list[Path],
    config: EvaluateConfig,
    device: str,
    watch: Watch,
) -> Encoded:
    """Encode every clip and every caption once."""
    clips, keys = [], []
    for start in range(0, len(media), CLIPS_AT_ONCE):
        chunk = media[start : start + CLIPS_AT_ONCE]
        images = torch.stack([_frames(path, config.frames, model.config.image_size) for path in chunk])
        frames = model.encode_frames(images.to(device), keep_rate=config.keep_rate)
        clips.append(model.embed_frames(frames, config.frames))
        keys.append(frames_to_keys(frames.tokens, config.frames))
        _report(watch, start + len(chunk), 2 * len(media))
    words, mask = tokenizer.encode([item.caption for item in items], config.text_length)
    word_mask = torch.from_numpy(mask).to(device)
    states = model.text(torch.from_numpy(words).to(device), word_mask)
    return Encoded(torch.cat(clips), torch.cat(keys), model.embed_caption(states, word_mask), states, word_mask)


def _frames(path: Path, frames: int, size: int) -> Float[Tensor, "frames 3 {size} {size}"]:
    return resize(read_frames(path, lambda available: sample_frames(available, frames)), size)


def score(model: SMAUG, encoded: Encoded, rerank: int, watch: Watch, *, done: int) -> Scores:
    """Contrast all pairs; match those among the best `rerank` of their clip or of their caption.

    The matching head sees each pair once, for both directions.
    """
    similarity = frame_similarity(encoded.clips, encoded.captions) / model.bounded_temperature()
    contrast = similarity.double().cpu().numpy()
    wanted = candidates(contrast, rerank) | candidates(contrast.T, rerank).T
    match = np.full(contrast.shape, np.nan)
    for clip, row in enumerate(wanted):
        captions = torch.from_numpy(np.flatnonzero(row)).to(encoded.states.device)
        keys = encoded.keys[clip : clip + 1]  # one row: its keys and values are computed once for all captions
        logits = model.match_logits(encoded.states[captions], encoded.mask[captions], keys)
        match[clip, row] = logits[:, 1].double().cpu().numpy()
        _report(watch, done + clip + 1, done + len(wanted))
    return Scores(contrast, match)


def candidates(scores: Float[np.ndarray, "queries candidates"], rerank: int) -> Bool[np.ndarray, "queries candidates"]:
    """The `rerank` best candidates of each query, the earlier one first where scores are equal."""
    order = np.argsort(-scores, axis=1, kind="stable")
    chosen = np.zeros(scores.shape, dtype=bool)
    np.put_along_axis(chosen, order[:, :rerank], True, axis=1)
    return chosen


def rank_both_ways(
    scores: Scores, correct: Bool[np.ndarray, "clips captions"], ranking: str, rerank: int
) -> dict[str, np.ndarray]:
    """Ranks of the captions' clips (`t2v`) and of the clips' captions (`v2t`)."""
    found = {}
    for direction, transpose in (("t2v", True), ("v2t", False)):
        contrast = scores.contrast.T if transpose else scores.contrast
        match = scores.match.T if transpose else scores.match
        answers = correct.T if transpose else correct
        if ranking == "contrast":
            decisive, scored = contrast, np.ones(contrast.shape, dtype=bool)
        else:
            scored = candidates(contrast, rerank)
            decisive = match if ranking == "match" else match + contrast
        found[direction] = ranks(decisive, contrast, scored, answers)
    return found


def digest_of_queries(items: list[Item]) -> str:
    """A digest that is equal exactly where two evaluations asked the same questions about the same clips."""
    lines = [json.dumps([item.id, item.media.name, item.caption]) for item in items]
    return sha256("\n".join(lines).encode()).hexdigest()


def _write_ranks(path: Path, by_direction: dict[str, np.ndarray], items: list[Item], media: list[Path]) -> None:
    queries = {"t2v": [item.id for item in items], "v2t": [_first_id(items, clip) for clip in media]}
    document = {d: dict(zip(queries[d], r.tolist(), strict=True)) for d, r in by_direction.items()}
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(document))
    partial.rename(path)


def _first_id(items: list[Item], clip: Path) -> str:
    return next(item.id for item in items if item.media == clip)


def _report(watch: Watch, done: int, total: int) -> None:
    watch.report(done, total, {})
    if watch.stop_requested():
        raise Interrupted("stopped during evaluation; it starts over next time")
