"""The rows of the paper's tables of hours, as plain Python: a benchmark machine need not read the sweep files.

A test holds them against the sweep files, the scales and the published tables.
"""

from dataclasses import dataclass, replace
from typing import Any

from smaug_core.clip_shape import ClipShape
from smaug_core.config import ModelConfig
from smaug_core.data.tokenizer import EMBEDDED_VOCABULARIES

SINGLE_FRAME_SAMPLES = {"5M": 10 * 5_440_000, "17M": 10 * 18_406_000}
"""Epochs x captions of single-frame pre-training, by corpus."""
CLIP_SAMPLES = 5 * 2_490_000
"""Epochs x captions of multi-frame pre-training."""
BEIT = {"vision": "beit_base_patch16_224.in22k_ft_in22k", "keep_rate": 1.0, "decoder_depth": 0}


@dataclass(frozen=True, kw_only=True, slots=True)
class Size:
    """A scale, as far as a step on one device shows it."""

    model: ModelConfig
    batch: int
    """Single frames of a step; clips are a quarter of it."""
    text_tokens: int
    hidden_words: int
    vocab_size: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """One kind of training step."""

    model: ModelConfig
    clip: ClipShape
    mask_ratio: float

    @property
    def name(self) -> str:
        """What sets it apart, e.g. `4→2 frames, mask 50%, keep 0.8, decoder 3`."""
        count = f"{self.clip.frames}→{self.clip.selected}" if self.clip.selects else f"{self.clip.frames}"
        told = f"{count} {'frame' if count == '1' else 'frames'}, mask {self.mask_ratio:.0%}"
        told += f", keep {self.model.keep_rate:g}, decoder {self.model.decoder_depth}"
        return f"{told}, BEiT" if self.model.vision.startswith("beit") else told


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """What one row of a table trains: changes of the model, masking, frames, and how much of it."""

    hours: float
    """Published, on one A6000."""
    model: dict[str, Any]
    mask_ratio: float = 0.5
    """Of both stages."""
    clip: ClipShape | None = None
    """Frames of the second stage; none: there is no such stage."""
    corpus: str = "5M"

    def stages(self, size: Size) -> list[tuple[Case, int]]:
        """The steps it consists of, and how many samples go through each."""
        model = replace(size.model, **self.model)
        single = Case(model=model, clip=ClipShape(), mask_ratio=self.mask_ratio)
        found = [(single, SINGLE_FRAME_SAMPLES[self.corpus])]
        if self.clip is not None:
            found.append((replace(single, clip=self.clip), CLIP_SAMPLES))
        return found


def clip(frames: int, selected: int) -> ClipShape:
    """Frames of a clip, and how many of them are selected."""
    return ClipShape(frames=frames, selected=selected)


DEFAULT = ("4", "50%")
ROWS: dict[tuple[str, str], Row] = {
    ("4", "10%"): Row(hours=70.8, model={}, mask_ratio=0.1),
    ("4", "25%"): Row(hours=64.6, model={}, mask_ratio=0.25),
    ("4", "50%"): Row(hours=50.4, model={}),
    ("4", "65%"): Row(hours=44.3, model={}, mask_ratio=0.65),
    ("5", "0.6"): Row(hours=44.8, model={"keep_rate": 0.6}),
    ("5", "0.7"): Row(hours=47.6, model={"keep_rate": 0.7}),
    ("5", "0.8"): Row(hours=50.4, model={}),
    ("5", "0.9"): Row(hours=53.8, model={"keep_rate": 0.9}),
    ("6", "1"): Row(hours=50.4, model={}),
    ("6", "4→1"): Row(hours=75.3, model={}, clip=clip(4, 1)),
    ("6", "4→2"): Row(hours=77.8, model={}, clip=clip(4, 2)),
    ("6", "4→3"): Row(hours=80.2, model={}, clip=clip(4, 3)),
    ("6", "4"): Row(hours=82.5, model={}, clip=clip(4, 4)),
    ("6", "8→4"): Row(hours=100.3, model={}, clip=clip(8, 4)),
    ("7", "none"): Row(hours=144.5, model={"keep_rate": 1.0, "decoder_depth": 0}, mask_ratio=0.0, clip=clip(4, 4)),
    ("7", "MAE"): Row(hours=93.5, model={"keep_rate": 1.0}, clip=clip(4, 4)),
    ("7", "MAE + VTS"): Row(hours=82.5, model={}, clip=clip(4, 4)),
    ("7", "MAE + VTS + FS"): Row(hours=77.8, model={}, clip=clip(4, 2)),
    ("8", "Singularity 5M"): Row(hours=83.4, model=BEIT, mask_ratio=0.0),
    ("8", "Ours 5M"): Row(hours=75.3, model={}, clip=clip(4, 1)),
    ("8", "Singularity 17M"): Row(hours=285.3, model=BEIT, mask_ratio=0.0, corpus="17M"),
    ("8", "Ours 17M"): Row(hours=198.2, model={}, clip=clip(4, 1), corpus="17M"),
    ("11", "1"): Row(hours=46.8, model={"decoder_depth": 1}),
    ("11", "3"): Row(hours=50.4, model={}),
    ("11", "6"): Row(hours=60.2, model={"decoder_depth": 6}),
    ("11", "12"): Row(hours=79.7, model={"decoder_depth": 12}),
}
"""By table and row."""

SIZES = {
    "paper": Size(
        model=ModelConfig(
            vision="vit_base_patch16_clip_quickgelu_224.openai",
            image_size=224,
            patch_size=16,
            width=768,
            layers=12,
            heads=12,
            text_width=768,
            text_heads=12,
            text_layers=9,
            fusion_layers=3,
            tokenizer="bert-base-uncased",
            embed_dim=256,
            decoder_width=512,
            decoder_heads=16,
            dropout=0.1,
            selector_hidden=2048,
        ),
        batch=128,
        text_tokens=32,
        hidden_words=4,
        vocab_size=30_522,
    ),
    "tiny": Size(
        model=ModelConfig(
            vision="vit_base_patch16_clip_quickgelu_224",
            image_size=48,
            patch_size=8,
            width=64,
            layers=12,
            heads=2,
            text_width=64,
            text_heads=2,
            text_layers=3,
            fusion_layers=3,
            tokenizer="moving_shapes",
            embed_dim=64,
            decoder_width=32,
            decoder_heads=2,
            dropout=0.0,
            selector_hidden=128,
            caption_vector="mean",
        ),
        batch=32,
        text_tokens=14,  # of its captions, [CLS] and [SEP] included
        hidden_words=2,
        vocab_size=len(EMBEDDED_VOCABULARIES["moving_shapes"].read_text(encoding="utf-8").split()),
    ),
}
"""By scale; at `paper` the batch is what one of its four GPUs holds."""
