"""A model small enough for tests, with the paper's twelve layers so that 4, 7 and 10 sparsify."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from smaug_core.config import FinetuneConfig, ModelConfig, PretrainConfig, PretrainVideoConfig
from smaug_core.cost.token_counts import num_visible
from smaug_core.data.batch import Batch, places_of_words
from smaug_core.data.corpus import SampleSequence
from smaug_core.data.manifest import Sample
from smaug_core.data.media.location import MediaLocation
from smaug_core.data.media.video import write_clip
from smaug_core.patches import split_patches
from smaug_core.run_context import RunContext
from smaug_core.stage_protocol import Watch

VOCABULARY = 50


CONFIG = ModelConfig(
    vision="vit_base_patch16_clip_quickgelu_224",
    image_size=48,
    patch_size=8,
    width=32,
    layers=12,
    heads=2,
    text_width=24,
    text_heads=2,
    text_layers=2,
    fusion_layers=2,
    tokenizer="moving_shapes",
    embed_dim=16,
    decoder_width=16,
    decoder_heads=2,
    dropout=0.0,
    selector_hidden=32,
)


SCHEDULE: dict[str, Any] = {
    "batch_size": 4,
    "lr": 1e-3,
    "min_lr": 1e-5,
    "beta2": 0.98,
    "precision": "fp32",
    "text_length": 32,
    "negatives_group": 4,
}
PRETRAIN = PretrainConfig(corpus=("made",), epochs=2, warmup_epochs=0.5, **SCHEDULE)
PRETRAIN_VIDEO = PretrainVideoConfig(corpus=("made",), frames=4, selected=2, epochs=1, warmup_epochs=0.5, **SCHEDULE)
FINETUNE = FinetuneConfig(dataset="made", epochs=1, warmup_epochs=0.0, **SCHEDULE)


def run_context(out: Path, watch: Watch, *, seed=0, weights=None, **more) -> RunContext:
    """A run on the CPU in this process."""
    return RunContext(seed=seed, weights=weights, out=out, device="cpu", watch=watch, **more)


def make_batch(*, num=6, frames=1, mask_ratio=0.5, hide_words=True, seed=0, media=None) -> Batch:
    """Random pictures and captions; caption length 4 to 7 of 7."""
    generator = torch.Generator().manual_seed(seed)
    words = torch.randint(5, VOCABULARY, (num, 7), generator=generator)
    lengths = torch.randint(4, 8, (num,), generator=generator)
    mask = torch.arange(7) < lengths[:, None]
    targets = torch.full_like(words, -100)
    targets[:, 2] = words[:, 2]
    word_places, word_targets = places_of_words(targets) if hide_words else (None, None)
    visible, hidden = split_patches(torch.rand(num, 36, generator=generator), num_visible(36, mask_ratio))
    return Batch(
        images=torch.randn(num, frames, 3, 48, 48, generator=generator),
        media=torch.arange(num) if media is None else media,
        words=words,
        word_mask=mask,
        negative_draws=torch.rand(num, 2, generator=generator),
        selection_draws=torch.rand(num, 3, frames, generator=generator) if frames > 1 else None,
        hidden_words=torch.where(targets == -100, words, 4) if hide_words else None,
        word_places=word_places,
        word_targets=word_targets,
        visible=visible if mask_ratio else None,
        hidden=hidden if mask_ratio else None,
    )


class SampleList(list[Sample], SampleSequence):
    """Captions as a corpus has them."""

    def __getitem__(self, rows):
        found = super().__getitem__(rows)
        return SampleList(found) if isinstance(rows, slice) else found

    @property
    def num_media(self) -> int:
        return len({sample.media for sample in self})

    def rows_of(self, *, images: bool) -> np.ndarray:
        return np.array([row for row, sample in enumerate(self) if sample.is_image == images], dtype=np.int64)


def make_items(folder: Path, *, clips: int, stills: int, frames: int = 8) -> SampleList:
    """Real H.264 clips and PNG pictures of a bright square on noise, each with its own caption."""
    rng = np.random.default_rng(0)
    colours = ("red", "green", "blue", "yellow", "white", "black")
    items = SampleList()
    for number in range(clips + stills):
        is_image = number >= clips
        pictures = rng.integers(0, 90, (1 if is_image else frames, 64, 64, 3), dtype=np.uint8)
        pictures[:, 8 : 40 + number, 8:40] = rng.integers(0, 256, 3, dtype=np.uint8)
        media = folder / f"{number:06d}.{'png' if is_image else 'mp4'}"
        if is_image:
            Image.fromarray(pictures[0]).save(media)
        else:
            write_clip(media, pictures, 8)
        caption = f"a {colours[number % 6]} square over a {colours[number // 6 % 6]} background"
        items.append(
            Sample(
                id=f"made/{number}",
                media=MediaLocation(media),
                number=number,
                caption=caption,
                is_image=is_image,
                flip=False,
                relevant=(0,),
            )
        )
    return items
