"""Controls at the real tiny size: the captions cannot be solved by colour, nor without learning what they say."""

import random
import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch

from experiments.config.scale import load_scale
from smaug_core.data.corpus import Corpus
from smaug_core.data.datasets import EMBEDDED, open_source
from smaug_core.data.manifest import Manifest, Sample
from smaug_core.data.media.video import read_frames
from smaug_core.data.moving_shapes.attributes import COLOURS, SIZES, vocabulary
from smaug_core.data.moving_shapes.dataset import split_sizes
from smaug_core.data.moving_shapes.scenes import draw_scenes
from smaug_core.data.prepare.rendering import prepare
from smaug_core.data.tokenizer import clean_caption
from smaug_core.evaluation.metrics import ranks, recall
from smaug_core.evaluation.retrieval import evaluate
from smaug_core.training.train import pretrain
from tests.small import SampleList, run_context

pytestmark = pytest.mark.nightly

BINS = 8
CLIPS = "moving_shapes/sentence"
BRIEF = "moving_shapes/brief"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """The data of the tiny scale, rendered once for all controls."""
    root = tmp_path_factory.mktemp("tiny")
    prepare(EMBEDDED, load_scale("tiny").base_config().data, root, workers=2)
    return root


def items_of(source: str, split: str, root) -> Manifest:
    return open_source(source, split, load_scale("tiny").base_config().data, root)


def histograms(items: Sequence[Sample]) -> np.ndarray:
    """How often each of 8 x 8 x 8 colours is seen in each clip, over all its frames; roots, so that few count too."""
    rows = []
    for item in items:
        bins = read_frames(item.media, lambda available: range(available)).reshape(-1, 3).astype(int) * BINS // 256
        rows.append(np.bincount(bins @ [BINS * BINS, BINS, 1], minlength=BINS**3) / len(bins))
    return np.sqrt(np.array(rows))


def words(items: Sequence[Sample]) -> np.ndarray:
    """How often each word, and each pair of a size and a colour, is in each caption."""
    known = vocabulary()
    pairs = [f"{size} {colour}" for size in SIZES for colour in COLOURS]
    captions = [clean_caption(item.caption) for item in items]
    return np.array(
        [[*map(caption.split().count, known), *map(caption.count, pairs)] for caption in captions], dtype=float
    )


def ridge(given: np.ndarray, wanted: np.ndarray, asked: np.ndarray, strength: float) -> np.ndarray:
    """What linear regression with a penalty foretells for `asked`."""
    centre, offset = given.mean(axis=0), wanted.mean(axis=0)
    x = given - centre
    weights = np.linalg.solve(x.T @ x + strength * len(x) * np.eye(x.shape[1]), x.T @ (wanted - offset))
    return (asked - centre) @ weights + offset


def text_to_video_r1(scores: np.ndarray) -> float:
    """Percent of captions (rows) whose own clip (column) has the best score."""
    everything = np.ones(scores.shape, dtype=bool)
    return recall(ranks(scores, scores, everything, np.eye(len(scores), dtype=bool)))["r1"]


def similarities(one: np.ndarray, other: np.ndarray) -> dict[str, np.ndarray]:
    """Ways to compare each row of one with each of the other; greater is closer."""
    distance = ((one[:, None] - other[None]) ** 2).sum(axis=2)
    a, b = (rows - rows.mean(axis=0) for rows in (one, other))
    cosine = a @ b.T / np.linalg.norm(a, axis=1)[:, None] / np.linalg.norm(b, axis=1)
    spread = np.maximum(other.std(axis=0), 1e-3)
    whitened = (((one[:, None] - other[None]) / spread) ** 2).sum(axis=2)
    return {"distance": -distance, "cosine": cosine, "whitened distance": -whitened}


@pytest.mark.parametrize("source", [CLIPS, "moving_shapes/paragraph", BRIEF])
def test_colours_alone_do_not_find_the_clip(root, source):
    train, test = items_of(source, "train", root), items_of(source, "test", root)
    seen, said = (histograms(train), histograms(test)), (words(train), words(test))
    found = {}
    for strength in (1e-4, 1e-3, 1e-2):
        as_seen = similarities(ridge(said[0], seen[0], said[1], strength), seen[1])
        as_said = similarities(said[1], ridge(seen[0], said[0], seen[1], strength))
        found |= {f"words to colours, {way}, {strength}": text_to_video_r1(s) for way, s in as_seen.items()}
        found |= {f"colours to words, {way}, {strength}": text_to_video_r1(s) for way, s in as_said.items()}
    for way, r1 in sorted(found.items(), key=lambda each: -each[1]):
        print(f"{source}: R@1 {r1:5.2f} %  {way}")  # noqa: T201
    assert max(found.values()) < 10


def busy_frames(root, split: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Of brief clips that distract, each frame with an object: colours, the caption's words, whether told, the clip."""
    data = load_scale("tiny").base_config().data
    scenes = draw_scenes("brief", split, split_sizes("brief", data)[split], data.brief_frames, data.seed)
    colours, said, told, clips = [], [], [], []
    items = items_of(BRIEF, split, root)
    for number, (item, scene) in enumerate(zip(items, scenes, strict=True)):
        if scene.distractors:
            frames = read_frames(item.media, lambda available: range(available)).astype(int) * BINS // 256
            for frame in (*scene.relevant, *scene.distracting):
                bins = frames[frame].reshape(-1, 3) @ [BINS * BINS, BINS, 1]
                colours.append(np.sqrt(np.bincount(bins, minlength=BINS**3) / len(bins)))
                told.append(frame in scene.relevant)
                clips.append(number)
            said.append(np.repeat(words([item]), len(scene.relevant) + len(scene.distracting), axis=0))
    return np.array(colours), np.concatenate(said), np.array(told), np.array(clips)


def told_first(scores: np.ndarray, told: np.ndarray, clips: np.ndarray) -> float:
    """Share of the pairs of a told and a distracting frame of one clip of which the told one scores higher."""
    pairs = (clips[:, None] == clips[None]) & told[:, None] & ~told[None]
    return float((scores[:, None] > scores[None])[pairs].mean())


def test_what_a_brief_clip_is_about_is_seen_with_the_caption_and_not_without(root):
    (seen, said, told, _), (asked, asked_said, truth, clips) = (busy_frames(root, split) for split in ("train", "test"))
    blind = told_first(ridge(seen, told[:, None].astype(float), asked, 1e-3)[:, 0], truth, clips)
    as_said = ridge(seen[told], said[told], asked, 1e-3) - said[told].mean(axis=0)
    guided = told_first((as_said * (asked_said - said[told].mean(axis=0))).sum(axis=1), truth, clips)
    print(f"told above distracting: frame alone {blind:.3f}, with the caption {guided:.3f}")  # noqa: T201
    assert 0.4 < blind < 0.6
    assert guided > 0.75


class Quiet:
    """A watch that keeps nothing and never stops."""

    def report(self, step, total, values):
        pass

    def useful(self, seconds):
        pass

    def spent(self):
        return time.process_time()

    def stop_requested(self):
        return False


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_a_model_that_learned_from_shuffled_captions_stays_at_chance(root, tmp_path, one_thread):
    config = load_scale("tiny").base_config()
    items = list(Corpus([items_of(source, "train", root) for source in config.pretrain.corpus]))
    captions = [item.caption for item in items]
    random.Random(0).shuffle(captions)
    shuffled = SampleList(replace(item, caption=caption) for item, caption in zip(items, captions, strict=True))
    schedule = replace(config.pretrain, epochs=max(1, config.pretrain.epochs // 4))
    pretrain(config.model, schedule, shuffled, run_context(tmp_path, Quiet()))
    outcome = evaluate(
        config.model,
        replace(next(iter(config.evaluate.values())), frames=4, rerank=32),
        items_of(CLIPS, "test", root),
        run_context(tmp_path, Quiet(), weights=tmp_path / "model"),
    )
    found = {name: outcome.metrics[name] for name in ("contrast.t2v.r1", "match.t2v.r1")}
    print(f"shuffled captions, chance {100 / outcome.notes['n_clips']:.2f} %: {found}")  # noqa: T201
    assert max(found.values()) <= 3
