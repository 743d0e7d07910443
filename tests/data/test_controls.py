"""Controls at the real tiny size: the captions cannot be solved by colour, nor without learning what they say."""

import random
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from experiments.scale import load_scale
from smaug_core.data.corpora import SPLITS, Item, prepare, read_source
from smaug_core.data.scenes import COLOURS, SIZES, vocabulary
from smaug_core.data.video import read_frames
from smaug_core.evaluation.metrics import ranks, recall
from smaug_core.evaluation.retrieval import evaluate
from smaug_core.training.train import pretrain
from tests.small import run_context

pytestmark = pytest.mark.slow

BINS = 8
CLIPS = "moving_shapes/sentence"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """The data of the tiny scale, rendered once for all controls."""
    root = tmp_path_factory.mktemp("tiny")
    prepare(SPLITS, load_scale("tiny").base_config().data, root, workers=2)
    return root


def items_of(source: str, split: str, root) -> list[Item]:
    return read_source(source, split, load_scale("tiny").base_config().data, root)


def histograms(items: list[Item]) -> np.ndarray:
    """How often each of 8 x 8 x 8 colours is seen in each clip, over all its frames; roots, so that few count too."""
    rows = []
    for item in items:
        bins = read_frames(item.media, lambda available: range(available)).reshape(-1, 3).astype(int) * BINS // 256
        rows.append(np.bincount(bins @ [BINS * BINS, BINS, 1], minlength=BINS**3) / len(bins))
    return np.sqrt(np.array(rows))


def words(items: list[Item]) -> np.ndarray:
    """How often each word, and each pair of a size and a colour, is in each caption."""
    known = vocabulary()
    pairs = [f"{size} {colour}" for size in SIZES for colour in COLOURS]
    return np.array(
        [[*map(item.caption.split().count, known), *map(item.caption.count, pairs)] for item in items], dtype=float
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


def test_colours_alone_do_not_find_the_clip(root):
    train, test = items_of(CLIPS, "train", root), items_of(CLIPS, "test", root)
    seen, said = (histograms(train), histograms(test)), (words(train), words(test))
    found = {}
    for strength in (1e-4, 1e-3, 1e-2):
        as_seen = similarities(ridge(said[0], seen[0], said[1], strength), seen[1])
        as_said = similarities(said[1], ridge(seen[0], said[0], seen[1], strength))
        found |= {f"words to colours, {way}, {strength}": text_to_video_r1(s) for way, s in as_seen.items()}
        found |= {f"colours to words, {way}, {strength}": text_to_video_r1(s) for way, s in as_said.items()}
    for way, r1 in sorted(found.items(), key=lambda each: -each[1]):
        print(f"R@1 {r1:5.2f} %  {way}")  # noqa: T201
    assert max(found.values()) < 10


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
    items = [item for source in config.pretrain.corpus for item in items_of(source, "train", root)]
    captions = [item.caption for item in items]
    random.Random(0).shuffle(captions)
    shuffled = [replace(item, caption=caption) for item, caption in zip(items, captions, strict=True)]
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
