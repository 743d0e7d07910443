"""Training and evaluation as a whole: what is learnt by heart is found again."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from smaug_core.config import EvaluateConfig
from smaug_core.data.manifest import Sample
from smaug_core.data.media.location import MediaLocation
from smaug_core.data.media.video import write_clip
from smaug_core.evaluation.retrieval import evaluate
from smaug_core.training.train import pretrain
from tests.small import CONFIG, PRETRAIN, SampleList, run_context
from tests.training.test_train import Recorder

COLOURS = ("dc1e1e", "1eb428", "283ce6", "ebdc28", "f0f0f0", "9628b4", "f58c14", "0a0a0a")
UPPER = ("red", "green", "blue", "yellow", "pink", "dots", "stripes", "checks")
LOWER = ("ring", "bar", "cross", "circle", "columns", "waves", "diagonals", "small")
"""Words of the vocabulary that stand for the colours of the two halves here, whatever they mean."""


def pairs(folder) -> SampleList:
    """64 H.264 clips, each of two colours one above the other, and a caption of two words that tells both."""
    rng = np.random.default_rng(0)
    colours = [np.array(list(bytes.fromhex(colour))) for colour in COLOURS]
    items = SampleList()
    for upper, first in enumerate(UPPER):
        for lower, second in enumerate(LOWER):
            frames = rng.integers(-10, 11, (8, 64, 64, 3))
            frames[:, :32] += colours[upper]
            frames[:, 32:] += colours[lower]
            media = folder / f"{first}-{second}.mp4"
            write_clip(media, frames.clip(0, 255).astype(np.uint8), 8)
            items.append(
                Sample(
                    id=media.stem,
                    media=MediaLocation(media),
                    number=len(items),
                    caption=f"a {first} {second}",
                    is_image=False,
                    flip=False,
                    relevant=(),
                )
            )
    return items


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.nightly
def test_64_pairs_learnt_by_heart_are_all_found_first(tmp_path):
    items = pairs(tmp_path)
    model = replace(CONFIG, caption_vector="mean")
    schedule = replace(
        PRETRAIN, epochs=300, batch_size=32, negatives_group=32, lr=3e-3, min_lr=3e-5, warmup_epochs=5.0,
        mask_ratio=0.0, mlm_ratio=0.0,
    )  # fmt: skip
    pretrain(model, schedule, items, run_context(tmp_path, Recorder()))
    config = EvaluateConfig(dataset="made", text_length=32, rerank=64, frames=4)
    outcome = evaluate(model, config, items, run_context(tmp_path, Recorder(), weights=tmp_path / "model"))
    assert outcome.metrics["match.t2v.r1"] == 100.0
    assert outcome.metrics["contrast.t2v.r1"] == 100.0
