"""The paper's model on a machine without a GPU: a training step of batch 8 fits into 12 GB."""

import json
import subprocess
import sys

import pytest

from tests.experiments.smoke import ROOT

STEP = """
import json, resource, sys, time
import torch
from smaug_core.clip_shape import ClipShape
from smaug_core.config import ModelConfig
from smaug_core.cost.token_counts import num_visible
from smaug_core.data.batch import Batch, places_of_words
from smaug_core.model.init_weights import build
from smaug_core.patches import split_patches

frames, selected, batch, vocabulary = *map(int, sys.argv[1:]), 8, 30522
config = ModelConfig(
    vision="vit_base_patch16_clip_quickgelu_224", image_size=224, patch_size=16, width=768, layers=12, heads=12,
    text_width=768, text_heads=12, text_layers=9, fusion_layers=3, tokenizer="bert", embed_dim=256,
    decoder_width=512, decoder_heads=16, dropout=0.1, selector_hidden=2048,
)
model = build(config, vocabulary, seed=0, shape=ClipShape(frames=frames, selected=selected)).train()
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
words = torch.randint(1000, vocabulary, (batch, 32))
targets = torch.where(torch.rand(words.shape) < 0.15, words, -100)
places, found = places_of_words(targets)
visible, hidden = split_patches(torch.rand(batch, 196), num_visible(196, 0.5))
given = Batch(
    images=torch.randn(batch, frames, 3, 224, 224), media=torch.arange(batch), words=words,
    word_mask=torch.ones_like(words, dtype=torch.bool), negative_draws=torch.rand(batch, 2),
    selection_draws=torch.rand(batch, 3, frames) if frames > 1 else None,
    hidden_words=torch.where(targets == -100, words, 103), word_places=places, word_targets=found,
    visible=visible, hidden=hidden,
)
started = time.monotonic()
losses = model(given, negatives_group=batch)
sum(losses.values()).backward()
optimizer.step()
seconds = time.monotonic() - started
print(json.dumps({
    "seconds": seconds,
    "gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9,
    "parameters": sum(p.numel() for p in model.parameters()),
    "losses": {name: loss.item() for name, loss in losses.items()},
}))
"""


@pytest.mark.nightly
@pytest.mark.parametrize(("frames", "selected"), [(1, 1), (4, 2)])
def test_a_step_of_the_papers_model_stays_below_12_gb(frames, selected):
    command = [sys.executable, "-c", STEP, str(frames), str(selected)]
    ran = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=600)
    assert ran.returncode == 0, ran.stderr
    told = json.loads(ran.stdout)
    print(told)  # noqa: T201  pytest -s shows the seconds
    assert told["gb"] < 12
    assert 190e6 < told["parameters"] < 300e6
    assert all(0 < loss < 15 for loss in told["losses"].values())
