"""Text-to-video and video-to-text retrieval: contrast everything, match the best candidates again."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from smaug_core.config import RANKINGS, EvaluateConfig, ModelConfig
from smaug_core.data.loading.loader import Loader
from smaug_core.data.manifest import Sample
from smaug_core.data.media.location import MediaLocation
from smaug_core.data.tokenizer import Tokenizer, load_tokenizer
from smaug_core.distributed import World
from smaug_core.errors import ClipError
from smaug_core.evaluation.clip_reader import ClipReader
from smaug_core.evaluation.metrics import ranks, recall
from smaug_core.files import write_whole
from smaug_core.model.objectives import frame_similarity
from smaug_core.model.smaug import SMAUG, EncodedClips
from smaug_core.run_context import RunContext
from smaug_core.stage_protocol import Interrupted, Outcome
from smaug_core.training.checkpoint import load_weights, read_config

CLIPS_AT_ONCE = 16
"""Clips encoded in one pass. Processes share whole passes, so that no score depends on how many processes there are."""
CAPTIONS_AT_ONCE = 256
"""Captions matched with a clip in one pass; a matter of memory, not of results."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """The encoded test set: this process's share of the clips, and every caption."""

    vectors: Float[Tensor, "clips frames embed"]
    """A vector for each frame, in the space shared with captions."""
    clips: list[EncodedClips]
    """Tokens of each clip, in main memory: 32 frames of thousands of clips fill no GPU."""
    captions: Float[Tensor, "captions embed"]
    states: Float[Tensor, "captions words dim"]
    mask: Bool[Tensor, "captions words"]


@dataclass(frozen=True, slots=True)
class Scores:
    """Scores of each clip (row) with each caption (column)."""

    contrast: Float[np.ndarray, "clips captions"]
    """Cosine over temperature."""
    match: Float[np.ndarray, "clips captions"]
    """The matching head's logit; NaN where a pair was no candidate in either direction."""


def evaluate(
    model_config: ModelConfig, config: EvaluateConfig, samples: Sequence[Sample], context: RunContext
) -> Outcome:
    """Rank the test clips for each caption and the captions for each clip, by all three rankings.

    The configured ranking's results have plain names (`t2v.r1`); each ranking's also carry its own
    (`match.t2v.r1`). The rank of every query goes to `ranks.json`.

    Raises:
        ClipError: clips cannot be read; they are not replaced, and the message names all of them.
    """
    tokenizer = load_tokenizer(model_config.tokenizer)
    made_for, shape = read_config(context.starting_weights)
    model = SMAUG(replace(model_config, image_size=made_for["image_size"]), tokenizer.vocab_size, shape)
    with context.world.together():
        load_weights(context.starting_weights, model)
    model.to(context.device).eval()
    samples = list(samples)
    first = {sample.number: sample for sample in reversed(samples)}  # the first caption of each clip
    clips = [first[number] for number in dict.fromkeys(sample.number for sample in samples)]
    with torch.inference_mode():
        encoded = encode(
            model, tokenizer, [s.caption for s in samples], [clip.media for clip in clips], config, context
        )
        scores = score(model, encoded, config, context)
    correct = np.array([clip.number for clip in clips])[:, None] == np.array([sample.number for sample in samples])

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
            if context.world.is_first:
                _write_ranks(context.out / "ranks.json", by_direction, samples, clips)
    notes = {
        "dataset": config.dataset,
        "split": config.split,
        "n_queries": len(samples),
        "n_clips": len(clips),
        "test_digest": digest_of_queries(samples),
        "ranking": config.ranking,
    }
    return Outcome(metrics=metrics, useful_s=0.0, files=["ranks.json"], notes=notes)


def encode(
    model: SMAUG,
    tokenizer: Tokenizer,
    captions: Sequence[str],
    media: Sequence[MediaLocation],
    config: EvaluateConfig,
    context: RunContext,
) -> Encoded:
    """Encode this process's share of the clips, and every caption, once.

    Raises:
        ClipError: clips cannot be read; the message names all of them, in every process.
    """
    own = media[own_clips(len(media), context.world)]
    vectors = [torch.empty(0, config.frames, model.config.embed_dim, device=context.device)]
    clips: list[EncodedClips] = []
    faults: list[str] = []
    passes = [own[start : start + CLIPS_AT_ONCE] for start in range(0, len(own), CLIPS_AT_ONCE)]
    reader = ClipReader(config.frames, model.config.image_size, model.vision.colours)
    loader = Loader(reader, passes, workers=context.loader_workers, pin_memory=context.pins_memory)
    for number in range(largest_share(len(media), context.world) // CLIPS_AT_ONCE):
        if number < len(passes):
            read = next(loader)
            faults += read.unreadable
            if read.frames is not None and not faults:
                frames = read.frames.to(context.device, non_blocking=True)
                encoded = model.encode_clips(frames, keep_rate=config.keep_rate)
                vectors.append(model.embed_frames(encoded))
                clips += encoded.to("cpu").each()
                context.watch.report(len(clips), 2 * len(own), {})
        _stop_together(context)
    if faults := [fault for found in context.world.collect(faults) for fault in found]:
        count = f"{len(faults)} of {len(media)} clips cannot be read: " if len(faults) > 1 else ""
        raise ClipError(count + "; ".join(faults))
    words, mask = tokenizer.encode(captions, config.text_length)
    word_mask = torch.from_numpy(mask).to(context.device)
    states = model.text(torch.from_numpy(words).to(context.device), word_mask)
    return Encoded(torch.cat(vectors), clips, model.embed_caption(states, word_mask), states, word_mask)


def own_clips(num_clips: int, world: World) -> slice:
    """Range of clips that this process works on: whole passes of them."""
    passes = world.share(-(-num_clips // CLIPS_AT_ONCE))
    return slice(passes.start * CLIPS_AT_ONCE, passes.stop * CLIPS_AT_ONCE)


def largest_share(num_clips: int, world: World) -> int:
    """Largest number of clips that a process works on, in whole passes."""
    passes = -(-num_clips // CLIPS_AT_ONCE)
    return -(-passes // world.size) * CLIPS_AT_ONCE


def score(model: SMAUG, encoded: Encoded, config: EvaluateConfig, context: RunContext) -> Scores:
    """Contrast all pairs; match those among the best `rerank` of their clip or of their caption.

    The matching head sees each pair once, for both directions.
    """
    world, own = context.world, len(encoded.clips)
    temperature = model.bounded_temperature()
    rows = [
        frame_similarity(chunk, encoded.captions) / temperature for chunk in torch.split(encoded.vectors, CLIPS_AT_ONCE)
    ]
    contrast = np.concatenate(world.collect(torch.cat(rows).double().cpu().numpy()))
    wanted = candidates(contrast, config.rerank) | candidates(contrast.T, config.rerank).T
    chosen = wanted[own_clips(len(wanted), world)]
    match = np.full(chosen.shape, np.nan)
    for row in range(largest_share(len(wanted), world)):
        if row < own:
            clip, captions = encoded.clips[row].to(context.device), np.flatnonzero(chosen[row])
            logits = match_clip(model, clip, encoded, captions, config.selected)
            match[row, captions] = logits.double().cpu().numpy()
            context.watch.report(own + row + 1, 2 * own, {})
        _stop_together(context)
    return Scores(contrast, np.concatenate(world.collect(match)))


def match_clip(
    model: SMAUG, clip: EncodedClips, encoded: Encoded, captions: Int[np.ndarray, " captions"], selected: str
) -> Float[Tensor, " captions"]:
    """The matching head's logit of one clip with some of the captions, each with the frames that it selects.

    Args:
        model: in evaluation mode.
        clip: a single one.
        encoded: holds the captions.
        captions: which of them.
        selected: `literal`, as many frames as in training, or `all`.
    """
    every = torch.arange(clip.num_frames, device=clip.tokens.device).unsqueeze(0)
    logits = []
    for start in range(0, len(captions), CAPTIONS_AT_ONCE):
        chosen = torch.from_numpy(captions[start : start + CAPTIONS_AT_ONCE]).to(clip.tokens.device)
        states, mask = encoded.states[chosen], encoded.mask[chosen]
        if model.selector is None or selected == "all" or clip.num_frames <= model.shape.selected:
            keys = model.join_frames(clip.tokens, every, clip.num_frames)  # one row serves all captions
        else:
            summaries = clip.summaries.expand(len(chosen), -1, -1)
            places = model.select(summaries, model.summarise(states, mask)).places
            keys = model.join_frames(clip.tokens[0][places], places, clip.num_frames)
        logits.append(model.match_logits(states, mask, keys)[:, 1])
    return torch.cat(logits)


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


def digest_of_queries(samples: Sequence[Sample]) -> str:
    """Digest that is equal exactly if two evaluations ran the same queries on the same clips."""
    lines = [json.dumps([sample.id, sample.media.name, sample.caption]) for sample in samples]
    return sha256("\n".join(lines).encode()).hexdigest()


def _write_ranks(
    path: Path, by_direction: dict[str, np.ndarray], samples: Sequence[Sample], clips: Sequence[Sample]
) -> None:
    queries = {"t2v": [sample.id for sample in samples], "v2t": [clip.id for clip in clips]}
    document = {d: dict(zip(queries[d], r.tolist(), strict=True)) for d, r in by_direction.items()}
    write_whole(path, lambda partial: partial.write_text(json.dumps(document)))


def _stop_together(context: RunContext) -> None:
    """Stop if a stop was requested in any process; all must call this equally often, however few clips they have."""
    if context.world.any(context.watch.stop_requested())[0]:
        raise Interrupted("stopped during evaluation; it starts over next time")
