"""The smallest sweep that is real from end to end, and the command line as a process of its own."""

import io
import os
import shutil
import subprocess
import sys
from pathlib import Path

from experiments.config.scale import load_scale
from experiments.console import Console
from experiments.run import prepare_data
from experiments.stages.graph import cut_stages
from experiments.stages.stage import Stage

ROOT = Path(__file__).resolve().parents[2]
SWEEP = "sweeps/masking_ratio.yaml"
SCALE = """\
scale: smoke
title: Two layers, 56 clips; seconds on one CPU core.
corpora: {5M: [moving_shapes/sentence], video: ['moving_shapes/sentence']}
tasks:
  msrvtt: {dataset: moving_shapes/sentence}
data: {seed: 0, size: 32, frames: 16, train_clips: 32, train_stills: 1, more_stills: 1, paragraph_frames: 21,
  paragraph_train_clips: 1, brief_frames: 16, brief_train_clips: 1, val_clips: 1, test_clips: 24}
model:
  vision: vit_base_patch16_clip_quickgelu_224
  image_size: 32
  patch_size: 8
  width: 16
  layers: 2
  heads: 2
  text_width: 16
  text_heads: 2
  text_layers: 1
  fusion_layers: 1
  tokenizer: moving_shapes
  embed_dim: 16
  decoder_width: 16
  decoder_heads: 2
  dropout: 0.0
  selector_hidden: 16
  sparsify_layers: [1, 2]
pretrain:
  corpus: 5M
  epochs: 2
  batch_size: 16
  lr: 1.0e-3
  min_lr: 1.0e-5
  warmup_epochs: 0.5
  beta2: 0.98
  precision: fp32
  text_length: 32
  negatives_group: 16
pretrain_video:
  corpus: video
  epochs: 1
  batch_size: 16
  lr: 1.0e-3
  min_lr: 1.0e-5
  warmup_epochs: 0.25
  beta2: 0.98
  precision: fp32
  text_length: 32
  negatives_group: 16
finetune:
  epochs: 1
  batch_size: 16
  lr: 1.0e-3
  min_lr: 1.0e-5
  warmup_epochs: 0.0
  beta2: 0.98
  precision: fp32
  text_length: 32
  negatives_group: 16
evaluate: {text_length: 32, rerank: 4, frames: 2}
resources:
  pretrain: {cpus: 1, gpus: 0}
  pretrain_video: {cpus: 1, gpus: 0}
  finetune: {cpus: 1, gpus: 0}
  evaluate: {cpus: 1, gpus: 0}
"""


class Smoke:
    """A home folder, and the scale file beside it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.home, self.scale = folder, folder / "home", folder / "smoke.yaml"
        self.scale.write_text(SCALE)

    def environment(self, **more: str) -> dict[str, str]:
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("SMAUG_", "MLFLOW_"))}
        return kept | {"SMAUG_HOME": str(self.home), "COLUMNS": "200", "CUDA_VISIBLE_DEVICES": ""} | more

    def __call__(self, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        """Run `smaug`."""
        command = [sys.executable, "-c", "from experiments.cli.app import main; main()", *arguments]
        return subprocess.run(
            command, capture_output=True, text=True, cwd=self.folder, env=self.environment(**env), timeout=300
        )

    def sweep(self, *arguments: str, verb: str = "run", **env: str) -> subprocess.CompletedProcess[str]:
        """Run `smaug run` or `smaug plan` over the shipped sweep."""
        engine = ["--engine", "inline"] if verb == "run" else []
        return self(verb, SWEEP, "--scale", str(self.scale), *engine, *arguments, **env)

    def copy(self, folder: Path) -> "Smoke":
        """The same data and results, and nothing recorded in MLflow."""
        other = Smoke(folder)
        for part in ("data", "store", "trials"):
            shutil.copytree(self.home / part, other.home / part)
        return other

    def stage(self, kind: str, number: int = 0) -> Path:
        """Folder of a stage."""
        return sorted((self.home / "store" / kind).iterdir())[number]

    def attempts(self) -> list[str]:
        """Every attempt at any stage."""
        store = self.home / "store"
        return sorted(str(path.relative_to(store)) for path in store.glob("*/*/attempts/0*"))


def prepared_training(folder: Path) -> Stage:
    """A pre-training whose batches up to four processes can share; its data is in `data` of the folder."""
    file = folder / "smoke.yaml"
    file.write_text(SCALE.replace("negatives_group: 16", "negatives_group: 4"))
    scale = load_scale(str(file))
    prepare_data([scale.base_config()], folder / "data", Console(file=io.StringIO()))
    return next(stage for stage in cut_stages(scale.base_config(), scale.resources, 0, 0) if stage.kind == "pretrain")
