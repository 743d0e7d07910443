"""Times a training step at several mask ratios, interleaved, beside the closed form.

    python -m tests.benchmarks.step --scale tiny --repeats 15

Prints JSON: median device milliseconds per step, and the ratio to the default row, measured and in closed form.
On CPU a millisecond is one of process time at one thread, so a busy machine disturbs it less than wall time.
"""

import argparse
import json
import statistics
import sys
import time

import torch

from experiments.scale import load_scale
from smaug_core.config import ModelConfig
from smaug_core.cost import StepShape, step_cost, total_macs
from smaug_core.counting import num_visible
from smaug_core.data.batch import Batch
from smaug_core.data.text import load_tokenizer
from smaug_core.model.initial import build
from smaug_core.model.masking import split_patches

MASK_RATIOS = (0.1, 0.25, 0.5, 0.65)
DEFAULT = 0.5
WORDS, HIDDEN_WORDS = 14, 2
"""Length of a caption with [CLS] and [SEP], and words to be predicted in it."""


def synthetic_batch(model: ModelConfig, mask_ratio: float, num: int, vocab_size: int) -> Batch:
    """A batch of noise with the shapes of a pre-training step."""
    visible, hidden = split_patches(torch.rand(num, model.num_patches), num_visible(model.num_patches, mask_ratio))
    words = torch.randint(5, vocab_size, (num, WORDS))
    targets = torch.full_like(words, -100)
    targets[:, 1 : 1 + HIDDEN_WORDS] = words[:, 1 : 1 + HIDDEN_WORDS]
    return Batch(
        images=torch.randn(num, 1, 3, model.image_size, model.image_size),
        media=torch.arange(num),
        words=words,
        word_mask=torch.ones_like(words, dtype=torch.bool),
        negative_draws=torch.rand(num, 2),
        hidden_words=words,
        word_targets=targets,
        visible=visible,
        hidden=hidden,
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scale", default="tiny")
    parser.add_argument("--repeats", type=int, default=15)
    options = parser.parse_args()
    torch.set_num_threads(1)
    config = load_scale(options.scale).base_config()
    vocab_size = load_tokenizer(config.model.tokenizer).vocab_size
    model = build(config.model, vocab_size, seed=0)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    num = config.pretrain.batch_size
    batches = {r: synthetic_batch(config.model, r, num, vocab_size) for r in MASK_RATIOS}
    times: dict[float, list[float]] = {r: [] for r in MASK_RATIOS}
    for _ in range(options.repeats + 2):
        for ratio, batch in batches.items():
            began = time.process_time()
            losses = model(batch, negatives_group=config.pretrain.negatives_group)
            optimizer.zero_grad()
            torch.stack(list(losses.values())).sum().backward()
            optimizer.step()
            times[ratio].append(time.process_time() - began)
    shapes = {
        r: StepShape(mask_ratio=r, text_tokens=WORDS, hidden_words=HIDDEN_WORDS, vocab_size=vocab_size)
        for r in MASK_RATIOS
    }
    milliseconds = {r: 1000 * statistics.median(seen[2:]) for r, seen in times.items()}
    macs = {r: total_macs(step_cost(config.model, shape)) for r, shape in shapes.items()}
    rows = [
        {
            "mask_ratio": ratio,
            "cpu_ms_per_step": round(milliseconds[ratio], 1),
            "measured_ratio": round(milliseconds[ratio] / milliseconds[DEFAULT], 3),
            "closed_form_ratio": round(macs[ratio] / macs[DEFAULT], 3),
            "mmac_per_sample": round(macs[ratio] / 1e6, 2),
        }
        for ratio in MASK_RATIOS
    ]
    document = {"scale": options.scale, "batch_size": num, "threads": 1, "repeats": options.repeats, "rows": rows}
    sys.stdout.write(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
