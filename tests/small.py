"""A model small enough for tests, with the paper's twelve layers so that 4, 7 and 10 sparsify."""

import torch

from smaug_core.config import ModelConfig
from smaug_core.counting import num_visible
from smaug_core.data.batch import Batch
from smaug_core.model.masking import split_patches

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
)


def make_batch(*, num=6, frames=1, mask_ratio=0.5, hide_words=True, seed=0, media=None) -> Batch:
    """Random pictures and captions; caption length 4 to 7 of 7."""
    generator = torch.Generator().manual_seed(seed)
    words = torch.randint(5, VOCABULARY, (num, 7), generator=generator)
    lengths = torch.randint(4, 8, (num,), generator=generator)
    mask = torch.arange(7) < lengths[:, None]
    targets = torch.full_like(words, -100)
    targets[:, 2] = words[:, 2]
    visible, hidden = split_patches(torch.rand(num, 36, generator=generator), num_visible(36, mask_ratio))
    return Batch(
        images=torch.randn(num, frames, 3, 48, 48, generator=generator),
        media=torch.arange(num) if media is None else media,
        words=words,
        word_mask=mask,
        negative_draws=torch.rand(num, 2, generator=generator),
        hidden_words=torch.where(targets == -100, words, 4) if hide_words else None,
        word_targets=targets if hide_words else None,
        visible=visible if mask_ratio else None,
        hidden=hidden if mask_ratio else None,
    )
