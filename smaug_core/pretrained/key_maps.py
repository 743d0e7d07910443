"""Tensor names of a vision encoder and of BERT in public checkpoints, mapped to those of this model."""

import re
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Naming:
    """One project's names for tensors that this model has, too."""

    project: str
    """Name of the project."""
    has: str
    """A tensor that only this project's checkpoints hold under this name."""
    prefixes: tuple[str, ...] = ("",)
    """Prefixes that every name may have, depending on the part of the model that was saved."""
    renames: tuple[tuple[str, tuple[str, ...]], ...]
    """Pairs of a pattern for a whole name of ours and the names that stand for it; several are joined by rows."""
    unused: str
    """Pattern of the tensors that have no place in this model, by design."""

    def prefix(self, names: Iterable[str]) -> str | None:
        """The prefix under which `names` are this project's; None if they are not."""
        known = set(names)
        return next((prefix for prefix in self.prefixes if prefix + self.has in known), None)

    def theirs(self, ours: str, prefix: str) -> tuple[str, ...]:
        """Names under `prefix` of the tensors that enter our tensor `ours`; empty if the project has none."""
        for pattern, templates in self.renames:
            match = re.fullmatch(pattern, ours)
            if match:
                return tuple(prefix + match.expand(template) for template in templates)
        return ()


_WEIGHT_OR_BIAS = r"(weight|bias)"

TIMM_VIT = Naming(
    project="timm",
    has="patch_embed.proj.weight",
    renames=((r"(.+)", (r"\1",)),),
    unused=rf"head\.{_WEIGHT_OR_BIAS}",
)

OPENAI_CLIP = Naming(
    project="OpenAI's CLIP",
    has="conv1.weight",
    prefixes=("visual.",),
    renames=(
        (r"patch_embed\.proj\.weight", (r"conv1.weight",)),
        (r"cls_token", (r"class_embedding",)),
        (r"pos_embed", (r"positional_embedding",)),
        (rf"norm_pre\.{_WEIGHT_OR_BIAS}", (r"ln_pre.\1",)),
        (rf"norm\.{_WEIGHT_OR_BIAS}", (r"ln_post.\1",)),
        (rf"blocks\.(\d+)\.norm([12])\.{_WEIGHT_OR_BIAS}", (r"transformer.resblocks.\1.ln_\2.\3",)),
        (rf"blocks\.(\d+)\.attn\.qkv\.{_WEIGHT_OR_BIAS}", (r"transformer.resblocks.\1.attn.in_proj_\2",)),
        (rf"blocks\.(\d+)\.attn\.proj\.{_WEIGHT_OR_BIAS}", (r"transformer.resblocks.\1.attn.out_proj.\2",)),
        (rf"blocks\.(\d+)\.mlp\.fc1\.{_WEIGHT_OR_BIAS}", (r"transformer.resblocks.\1.mlp.c_fc.\2",)),
        (rf"blocks\.(\d+)\.mlp\.fc2\.{_WEIGHT_OR_BIAS}", (r"transformer.resblocks.\1.mlp.c_proj.\2",)),
    ),
    unused=(
        r"visual\.proj|transformer\.resblocks\..+|token_embedding\.weight|positional_embedding|ln_final\.\w+"
        r"|text_projection|logit_scale|input_resolution|context_length|vocab_size"
    ),
)

TRANSFORMERS_CLIP = Naming(
    project="transformers' CLIP",
    has="embeddings.patch_embedding.weight",
    prefixes=("vision_model.", ""),
    renames=(
        (r"patch_embed\.proj\.weight", (r"embeddings.patch_embedding.weight",)),
        (r"cls_token", (r"embeddings.class_embedding",)),
        (r"pos_embed", (r"embeddings.position_embedding.weight",)),
        (rf"norm_pre\.{_WEIGHT_OR_BIAS}", (r"pre_layrnorm.\1",)),  # transformers' own spelling
        (rf"norm\.{_WEIGHT_OR_BIAS}", (r"post_layernorm.\1",)),
        (rf"blocks\.(\d+)\.norm([12])\.{_WEIGHT_OR_BIAS}", (r"encoder.layers.\1.layer_norm\2.\3",)),
        (
            rf"blocks\.(\d+)\.attn\.qkv\.{_WEIGHT_OR_BIAS}",
            tuple(rf"encoder.layers.\1.self_attn.{part}_proj.\2" for part in "qkv"),
        ),
        (rf"blocks\.(\d+)\.attn\.proj\.{_WEIGHT_OR_BIAS}", (r"encoder.layers.\1.self_attn.out_proj.\2",)),
        (rf"blocks\.(\d+)\.mlp\.fc([12])\.{_WEIGHT_OR_BIAS}", (r"encoder.layers.\1.mlp.fc\2.\3",)),
    ),
    unused=(r"text_model\..+|(text|visual)_projection\.weight|logit_scale|(vision_model\.)?embeddings\.position_ids"),
)

_BEIT_ATTENTION = r"encoder.layer.\1.attention.attention"

TRANSFORMERS_BEIT = Naming(
    project="transformers' BEiT",
    has="embeddings.patch_embeddings.projection.weight",
    prefixes=("beit.", ""),
    renames=(
        (rf"patch_embed\.proj\.{_WEIGHT_OR_BIAS}", (r"embeddings.patch_embeddings.projection.\1",)),
        (r"cls_token", (r"embeddings.cls_token",)),
        (rf"fc_norm\.{_WEIGHT_OR_BIAS}", (r"pooler.layernorm.\1",)),
        (rf"blocks\.(\d+)\.norm1\.{_WEIGHT_OR_BIAS}", (r"encoder.layer.\1.layernorm_before.\2",)),
        (rf"blocks\.(\d+)\.norm2\.{_WEIGHT_OR_BIAS}", (r"encoder.layer.\1.layernorm_after.\2",)),
        (r"blocks\.(\d+)\.gamma_([12])", (r"encoder.layer.\1.lambda_\2",)),
        (
            r"blocks\.(\d+)\.attn\.qkv\.weight",
            tuple(rf"{_BEIT_ATTENTION}.{part}.weight" for part in ("query", "key", "value")),
        ),
        (r"blocks\.(\d+)\.attn\.q_bias", (rf"{_BEIT_ATTENTION}.query.bias",)),
        (r"blocks\.(\d+)\.attn\.v_bias", (rf"{_BEIT_ATTENTION}.value.bias",)),
        (
            r"blocks\.(\d+)\.attn\.relative_position_bias_table",
            (rf"{_BEIT_ATTENTION}.relative_position_bias.relative_position_bias_table",),
        ),
        (rf"blocks\.(\d+)\.attn\.proj\.{_WEIGHT_OR_BIAS}", (r"encoder.layer.\1.attention.output.dense.\2",)),
        (rf"blocks\.(\d+)\.mlp\.fc1\.{_WEIGHT_OR_BIAS}", (r"encoder.layer.\1.intermediate.dense.\2",)),
        (rf"blocks\.(\d+)\.mlp\.fc2\.{_WEIGHT_OR_BIAS}", (r"encoder.layer.\1.output.dense.\2",)),
    ),
    unused=rf"classifier\.{_WEIGHT_OR_BIAS}|.+\.relative_position_index",
)

TIMM_BEIT = Naming(
    project="timm",
    has=TIMM_VIT.has,
    renames=TIMM_VIT.renames,
    unused=rf"{TIMM_VIT.unused}|.+\.relative_position_index",
)

VIT_NAMINGS = (TIMM_VIT, OPENAI_CLIP, TRANSFORMERS_CLIP)
BEIT_NAMINGS = (TIMM_BEIT, TRANSFORMERS_BEIT)


def recognise(namings: Iterable[Naming], names: Iterable[str]) -> tuple[Naming, str] | None:
    """Find the naming that `names` follow, and their prefix; None if there is none."""
    known = list(names)
    for naming in namings:
        prefix = naming.prefix(known)
        if prefix is not None:
            return naming, prefix
    return None


BERT_WORDS = "embeddings.word_embeddings.weight"

BERT_UNUSED = (
    rf"pooler\.dense\.{_WEIGHT_OR_BIAS}|cls\.seq_relationship\.{_WEIGHT_OR_BIAS}|embeddings\.position_ids"
    rf"|cls\.predictions\.decoder\.{_WEIGHT_OR_BIAS}"
)
"""BERT's tensors that this model lacks: its pooler, its next-sentence head, and copies of the tied word table."""


def bert_name(ours: str, text_layers: int) -> str | None:
    """BERT's name for our tensor; None for tensors that BERT lacks (cross-attention).

    Layers from `text_layers` on are the fusion encoder's (paper 3.5).
    """
    part, _, name = ours.partition(".")
    if part == "word_head":
        return f"cls.predictions.{name}"
    if name.startswith("embeddings."):
        return name
    _, number, inner = name.split(".", 2)
    if inner.startswith("crossattention."):
        return None
    layer = int(number) + (text_layers if part == "fusion" else 0)
    return f"encoder.layer.{layer}.{inner}"


def plain_bert_name(name: str) -> str:
    """BERT's name without the prefix of its pre-training models, and with today's names in layer norms."""
    name = name.removeprefix("bert.")
    name = re.sub(r"LayerNorm\.gamma$", "LayerNorm.weight", name)
    return re.sub(r"LayerNorm\.beta$", "LayerNorm.bias", name)
