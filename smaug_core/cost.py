"""Tokens and multiply-accumulates of a training step in closed form, without torch.

Counted are matrix products: projections, attention, feed-forward, heads. Norms, activations, softmaxes and
gathers are left out. A training step costs about three times its forward pass (all parts are trained).
"""

from dataclasses import dataclass

from smaug_core.config import ModelConfig
from smaug_core.counting import num_kept, num_visible


@dataclass(frozen=True, slots=True)
class Part:
    """One part of the model in the forward pass of one sample."""

    tokens: int
    """Tokens that enter it, [CLS] included."""
    macs: int
    """Multiply-accumulates; one is two FLOPs."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StepShape:
    """What a training step looks like, as far as its cost goes."""

    mask_ratio: float
    """Share of the patches hidden; 0 for fine-tuning, which has no pixel and no word prediction."""
    text_tokens: int
    """Tokens of a caption, padding included."""
    hidden_words: int
    """Words to be predicted in a caption; 0 leaves out the masked pass."""
    vocab_size: int


def block(queries: int, width: int, *, after: int | None = None) -> int:
    """One transformer layer on `queries` tokens, of which `after` reach its feed-forward part (none: all)."""
    after = queries if after is None else after
    return 4 * queries * width**2 + 2 * queries**2 * width + 8 * after * width**2


def token_schedule(model: ModelConfig, mask_ratio: float) -> list[tuple[int, int]]:
    """Patch tokens (fused ones included, [CLS] not) that enter and leave each layer of the encoder."""
    tokens = num_visible(model.num_patches, mask_ratio)
    schedule = []
    for layer in range(1, model.layers + 1):
        entering = tokens
        if layer in model.sparsify_layers:
            kept = num_kept(tokens, model.keep_rate)
            tokens = kept + 1 if kept < tokens else tokens
        schedule.append((entering, tokens))
    return schedule


def step_cost(model: ModelConfig, shape: StepShape) -> dict[str, Part]:
    """Each part's share of the forward pass of one sample in a training step."""
    schedule = token_schedule(model, shape.mask_ratio)
    visible, surviving = schedule[0][0], 1 + schedule[-1][1]
    hidden = model.num_patches - visible
    masked_pass = shape.hidden_words > 0
    width, text_width, words = model.width, model.text_width, shape.text_tokens
    parts = {
        "encoder": Part(1 + visible, _encoder(model, schedule)),
        "text": Part(words, (1 + masked_pass) * model.text_layers * block(words, text_width)),
        "fusion": Part(words, (3 + masked_pass) * _fusion(model, words, surviving)),
        "heads": Part(1, width * model.embed_dim + text_width * model.embed_dim + 3 * 2 * text_width),
    }
    if masked_pass:
        parts["words"] = Part(shape.hidden_words, shape.hidden_words * text_width * (text_width + shape.vocab_size))
    if hidden and model.decoder_depth:
        parts["decoder"] = Part(surviving + hidden, _decoder(model, surviving, hidden))
    return parts


def total_macs(parts: dict[str, Part]) -> int:
    """Multiply-accumulates of all parts."""
    return sum(part.macs for part in parts.values())


def _encoder(model: ModelConfig, schedule: list[tuple[int, int]]) -> int:
    macs = schedule[0][0] * 3 * model.patch_size**2 * model.width
    for entering, leaving in schedule:
        macs += block(1 + entering, model.width, after=1 + leaving)
        if leaving < entering:
            macs += (1 + entering) * model.width  # [CLS]'s attention row, formed once more on its own
            macs += (entering - (leaving - 1)) * model.width  # the fused token
    return macs


def _fusion(model: ModelConfig, words: int, keys: int) -> int:
    """One pass of the fusion encoder: queries from the words, keys and values from the frame's tokens."""
    width = model.text_width
    cross = 2 * words * width**2 + 2 * words * keys * width + 2 * keys * model.width * width
    return model.fusion_layers * (block(words, width) + cross)


def _decoder(model: ModelConfig, surviving: int, hidden: int) -> int:
    width = model.decoder_width
    embed = surviving * model.width * width
    head = hidden * width * 3 * model.patch_size**2
    return embed + model.decoder_depth * block(surviving + hidden, width) + head
