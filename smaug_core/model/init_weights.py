"""New weights: initial values of parts of a model that were not trained before."""

import math

import torch
from torch import nn

from smaug_core.clip_shape import ClipShape
from smaug_core.config import ModelConfig
from smaug_core.model.decoder import sincos_positions
from smaug_core.model.smaug import SMAUG

ZERO = ("bias", "q_bias", "v_bias", "relative_position_bias_table", "time_embed")
"""Names of parameters that start at 0."""


def build(config: ModelConfig, vocab_size: int, *, seed: int, shape: ClipShape | None = None) -> SMAUG:
    """A model with new weights: normal with std 0.02 x sqrt(768 / width), biases 0, norms 1.

    0.02 belongs to width 768. At width 64 it leaves cross-attention so flat that the matching head does not
    learn; the root keeps the size of a layer's output. Exceptions that let a short training begin with what
    distinguishes clips and captions, most of them measured in docs/tiny.md:

    - The vision encoder's positions start as MAE's sines and cosines: drawn ones are faint beside the patches.
    - The text encoder's layers start at 0.02 and its tables of positions and segments at 0, so that at first a
      caption is the sum of its words; else all captions are alike but for the few words that are learned first.
    - The matching head starts at 0: its two logits then stay each other's negatives (both get the same gradient with
      opposite signs), so that the logit of "matches", which ranks, orders pairs as the probability does.
    - A new selector likes all frames equally, and the layers of a new temporal encoder add nothing: it starts as a
      layer norm of tokens that come from one. So a video model starts as the single-frame model it continues; with
      drawn layers the fusion encoder first reads noise, and by what it says of noise the selector settles on a habit.
    """
    model = SMAUG(config, vocab_size, shape)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module_name, module in model.named_modules():
            std = _initial_std(module_name, config)
            for name, parameter in module.named_parameters(recurse=False):
                _initialise(module, name, parameter, std, generator)
        positions = model.vision.vit.pos_embed
        if positions is not None:  # BEiT's are relative
            positions[0, 1:] = sincos_positions(config.image_size // config.patch_size, config.width)
        model.match_head.weight.zero_()
        if model.selector is not None:
            model.selector.score.weight.zero_()
        if model.temporal is not None:
            for name, parameter in model.temporal.named_parameters():
                if name.endswith("output.dense.weight"):  # of attention and of feed-forward
                    parameter.zero_()
        model.text.embeddings.position_embeddings.weight.zero_()
        model.text.embeddings.token_type_embeddings.weight.zero_()
    return model


def _initial_std(module_name: str, config: ModelConfig) -> float:
    """Standard deviation of new weights in a part of the model."""
    if module_name.startswith("text.layers."):
        return 0.02
    part = module_name.split(".")[0]
    width = config.text_width
    if part in ("vision", "vision_projection", "temporal", "selector"):
        width = config.width
    elif part == "decoder":
        width = config.decoder_width
    return 0.02 * math.sqrt(768 / width)


def _initialise(module: nn.Module, name: str, parameter: nn.Parameter, std: float, generator: torch.Generator) -> None:
    if isinstance(module, nn.LayerNorm):
        parameter.fill_(1.0 if name == "weight" else 0.0)
    elif name in ZERO:
        parameter.zero_()
    elif name not in ("temperature", "gamma_1", "gamma_2"):
        parameter.normal_(0, std, generator=generator)
