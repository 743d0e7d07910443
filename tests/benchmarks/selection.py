"""How often the frame selector picks a relevant frame, over several seeds, on clips with few of them.

    python -m tests.benchmarks.selection --seeds 0 1 2 --out reports/measurements/tiny/selection.json

For each seed: a single-frame model on the scale's corpus, a video model that selects one of four
frames of brief clips, then the hit rate on the test clips that share nothing with them. Beside it the chance of a
blind choice, and the interval over seeds (Student's t). No loss sees which frames are relevant.
"""

import argparse
import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from scipy import stats

from experiments.config.scale import load_scale
from experiments.config.settings import with_overrides
from experiments.engines.base import local_cpus
from experiments.worker.device import describe_device
from smaug_core.clip_shape import ClipShape
from smaug_core.data.corpus import Corpus
from smaug_core.data.datasets import open_source
from smaug_core.data.prepare.rendering import prepare
from smaug_core.data.tokenizer import load_tokenizer
from smaug_core.evaluation.frame_selection import selected_frames
from smaug_core.model.init_weights import build
from smaug_core.run_context import RunContext
from smaug_core.training.checkpoint import load_weights
from smaug_core.training.train import pretrain, pretrain_video

BRIEF = "moving_shapes/brief"


class Silent:
    """A watch that tells the last losses at the end."""

    def report(self, step: int, total: int, values: Any) -> None:
        if step == total or step % 100 == 0:
            sys.stderr.write(f"{step}/{total} { {k: round(v, 3) for k, v in values.items()} }\n")

    def useful(self, seconds: float) -> None: ...

    def spent(self) -> float:
        return time.process_time()

    def stop_requested(self) -> bool:
        return False


def measure(seed: int, options: argparse.Namespace, kept: Path, folder: Path) -> dict[str, Any]:
    """Train with one seed and compare what is selected with what is relevant."""
    scale = load_scale(options.scale)
    overrides = {"pretrain_video.frames": 4, "pretrain_video.selected": 1, "pretrain_video.epochs": options.epochs}
    config = scale.config(with_overrides(scale.tree, overrides), scale.datasets)
    assert config.pretrain_video is not None and config.data is not None
    prepare([*config.pretrain.corpus, BRIEF], config.data, options.data, workers=local_cpus())
    corpus = Corpus([open_source(name, "train", config.data, options.data) for name in config.pretrain.corpus])
    brief = Corpus([open_source(BRIEF, "train", config.data, options.data)])

    def context(out: Path, weights: Path | None = None) -> RunContext:
        return RunContext(seed=seed, weights=weights, out=out, device=options.device, watch=Silent())

    single = replace(config.pretrain, epochs=options.single_epochs or config.pretrain.epochs)
    if not (kept / "model").exists():
        pretrain(config.model, single, corpus, context(kept))
    pretrain_video(config.model, config.pretrain_video, brief, context(folder / "video", kept / "model"))
    tokenizer = load_tokenizer(config.model.tokenizer)
    model = build(config.model, tokenizer.vocab_size, seed=0, shape=ClipShape(frames=4, selected=1))
    load_weights(folder / "video" / "model", model)
    test = open_source(BRIEF, options.split, config.data, options.data)
    found = selected_frames(model, tokenizer, test, frames=16, text_length=32, device=options.device)
    rates = {"hit_rate": float(found.hits.mean()), "chance": float(found.chance.mean())}
    return {"seed": seed, "clips": len(found.hits), **rates}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scale", default="tiny")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=8, help="of training on several frames")
    parser.add_argument("--single-epochs", type=int, help="of training on single frames (default: the scale's)")
    parser.add_argument("--single", type=Path, help="folder where single-frame models are kept, and taken from")
    parser.add_argument("--split", default="test", choices=["val", "test"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--data", type=Path, default=Path(".smaug/data"))
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    began = time.process_time()
    with TemporaryDirectory() as folder:
        kept = options.single or Path(folder)
        rows = [measure(seed, options, kept / str(seed), Path(folder) / str(seed)) for seed in options.seeds]
    rates = np.array([row["hit_rate"] for row in rows])
    half = stats.t.ppf(0.975, len(rates) - 1) * stats.sem(rates) if len(rates) > 1 else float("nan")
    document = {
        "rows": rows,
        "hit_rate": float(rates.mean()),
        "interval_95": [float(rates.mean() - half), float(rates.mean() + half)],
        "interval_over": f"{len(rates)} seeds of both trainings",
        "chance": float(np.mean([row["chance"] for row in rows])),
        "epochs": options.epochs,
        "split": options.split,
        "cpu_seconds": round(time.process_time() - began),
        **describe_device(options.device),
    }
    text = json.dumps(document, indent=1)
    sys.stdout.write(text + "\n")
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
