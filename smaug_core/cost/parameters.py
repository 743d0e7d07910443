"""Number of parameters of each part of the model, in closed form, without torch. The parts are those of `cost`."""

import re

from smaug_core.clip_shape import ClipShape
from smaug_core.config import ModelConfig
from smaug_core.errors import SmaugError

BERT_POSITIONS, BERT_SEGMENTS = 512, 2
"""Rows of BERT's tables beside that of its vocabulary."""


def parameter_counts(model: ModelConfig, vocab_size: int, clip: ClipShape) -> dict[str, int]:
    """Parameters by part; what a model for `clip` does not have is absent.

    The output matrix of the word head is the text encoder's table of words and counts there.

    Raises:
        SmaugError: `model.vision` is of a family whose parameters are not known here.
    """
    width, text_width, decoder_width = model.width, model.text_width, model.decoder_width
    counts = {"encoder": _encoder(model)}
    if clip.selects:
        ends = linear(width, width) + linear(text_width, width) + linear(width, 1)
        blocks = model.selector_layers * layer(width, hidden=model.selector_hidden)
        counts["selector"] = ends + clip.frames * width + blocks
    if clip.frames > 1:
        counts["temporal"] = clip.frames * width + model.temporal_layers * layer(width)
    if model.decoder_depth:
        ends = linear(width, decoder_width) + norm(decoder_width) + linear(decoder_width, 3 * model.patch_size**2)
        vectors = 2 * decoder_width  # a mask token, and what a fused token has in the place of a position
        counts["decoder"] = ends + vectors + model.decoder_depth * layer(decoder_width)
    tables = (vocab_size + BERT_POSITIONS + BERT_SEGMENTS) * text_width + norm(text_width)
    counts["text"] = tables + model.text_layers * layer(text_width)
    cross = 2 * linear(text_width, text_width) + 2 * linear(width, text_width) + norm(text_width)
    counts["fusion"] = model.fusion_layers * (layer(text_width) + cross)
    counts["word_head"] = linear(text_width, text_width) + norm(text_width) + vocab_size
    temperature = 1
    counts["heads"] = (
        linear(width, model.embed_dim) + linear(text_width, model.embed_dim) + linear(text_width, 2) + temperature
    )
    return counts


def linear(inputs: int, outputs: int, *, bias: bool = True) -> int:
    """A linear layer."""
    return inputs * outputs + (outputs if bias else 0)


def norm(width: int) -> int:
    """A layer norm: gains and offsets."""
    return 2 * width


def layer(width: int, *, hidden: int | None = None) -> int:
    """A transformer layer: four projections, a feed-forward part of `hidden` features (None: 4 x width), two norms."""
    hidden = 4 * width if hidden is None else hidden
    return 4 * linear(width, width) + linear(width, hidden) + linear(hidden, width) + 2 * norm(width)


def _encoder(model: ModelConfig) -> int:
    """The vision encoder; of a plain ViT and of CLIP's and BEiT's variants of it, by the names that timm gives them."""
    width, pixels = model.width, 3 * model.patch_size**2
    cls_token, layers = width, model.layers * layer(width)
    positions = (model.num_patches + 1) * width
    name = model.vision.split(".")[0]
    if re.fullmatch(r"vit_\w+_clip_\w+", name):  # a norm before the layers in the place of the patches' bias
        return linear(pixels, width, bias=False) + cls_token + positions + layers + 2 * norm(width)
    if re.fullmatch(r"vit_[a-z]+_patch\d+_\d+", name):
        return linear(pixels, width) + cls_token + positions + layers + norm(width)
    if re.fullmatch(r"beit(v2)?_\w+", name):
        side = model.image_size // model.patch_size
        distances = ((2 * side - 1) ** 2 + 3) * model.heads  # and those from, to and within [CLS]
        keys_bias, scales = width, 2 * width
        of_each_layer = distances - keys_bias + scales
        norms = 2 * norm(width)  # of a frame's vector, and of the tokens that captions attend to
        return linear(pixels, width) + cls_token + layers + model.layers * of_each_layer + norms
    raise SmaugError(
        f"model.vision: the parameters of {model.vision!r} have no closed form; expected CLIP's or a"
        " plain vision transformer, e.g. vit_base_patch16_clip_quickgelu_224, or BEiT"
    )
