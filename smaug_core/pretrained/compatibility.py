"""Checks that weights were trained as the model computes, from files beside them, where tensors do not show it."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from smaug_core import torchvision_on_cpu
from smaug_core.config import ModelConfig
from smaug_core.data.tokenizer import tokenizer_digest
from smaug_core.errors import CheckpointError
from smaug_core.hub import find_beside

torchvision_on_cpu.make_importable()

import timm  # noqa: E402
from timm.layers.activations import QuickGELU  # noqa: E402
from timm.models.vision_transformer import VisionTransformer  # noqa: E402


def settings_beside(source: str) -> dict[str, Any]:
    """Settings in the config.json of `source`; empty if there is none.

    Raises:
        CheckpointError: the file is no JSON object.
    """
    path = find_beside(source, "config.json")
    if path is None:
        return {}
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error})") from error
    if not isinstance(settings, dict):
        raise CheckpointError(f"{path}: expected the settings of a model by name, got a {type(settings).__name__}")
    return settings


def check_bert(source: str, config: ModelConfig) -> None:
    """Compare the config.json and the vocab.txt of a BERT, where it has them, with the model's settings.

    Raises:
        CheckpointError: one of them differs.
    """
    ours = {
        "model_type": "bert",
        "num_attention_heads": config.text_heads,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-12,
        "position_embedding_type": "absolute",
    }
    _compare(source, settings_beside(source), ours)
    vocabulary = find_beside(source, "vocab.txt")
    if vocabulary is not None:
        theirs = hashlib.sha256(vocabulary.read_bytes()).hexdigest()
        if theirs != tokenizer_digest(config.tokenizer):
            raise CheckpointError(
                f"{vocabulary}: is not the vocabulary of model.tokenizer = {config.tokenizer!r}, so word ids would mean"
                " other words; expected the directory that holds this vocab.txt"
            )


def check_beit(source: str, config: ModelConfig) -> None:
    """Compare the config.json of transformers' BEiT, where it has one, with the model's settings.

    Raises:
        CheckpointError: one of them differs.
    """
    theirs = settings_beside(source)
    ours = {"num_attention_heads": config.heads, "hidden_act": "gelu", "use_mean_pooling": True}
    _compare(source, theirs, ours)


def check_vit(source: str, vit: VisionTransformer, config: ModelConfig, *, is_clip: bool) -> None:
    """Compare heads, epsilon and activation with those that the weights were trained with.

    OpenAI's CLIP was trained with QuickGELU, and its tensors fit the model with GELU as well.

    Args:
        source: where the weights are from.
        vit: the timm model.
        config: the settings of `vit`; the tag in `vision` names the weights in timm's registry.
        is_clip: only a CLIP's tensors have such names, so that either activation may be right.

    Raises:
        CheckpointError: one of them differs, or the activation of a CLIP is unknown and the model computes with GELU.
    """
    theirs = settings_beside(source)
    theirs = theirs.get("vision_config", theirs)
    _compare(source, theirs, {"num_attention_heads": config.heads, "layer_norm_eps": vit.norm.eps})
    is_quick = isinstance(vit.blocks[0].mlp.act, QuickGELU)
    was_quick = _was_quick(theirs, config.vision)
    if was_quick is None and not is_quick and (is_clip or "_clip_" in config.vision):
        raise CheckpointError(
            f"{source}: it is unknown whether this CLIP was trained with GELU or QuickGELU; expected a tag in"
            f" model.vision, such as vit_base_patch16_clip_quickgelu_224.openai, got {config.vision!r}"
        )
    if was_quick is not None and was_quick != is_quick:
        was, computes = ("QuickGELU", "GELU") if was_quick else ("GELU", "QuickGELU")
        right = "with quickgelu, e.g. vit_base_patch16_clip_quickgelu_224.openai" if was_quick else "without quickgelu"
        raise CheckpointError(
            f"{source}: the weights were trained with {was}, but model.vision = {config.vision!r} computes {computes};"
            f" expected the timm name {right}"
        )


def _was_quick(theirs: Mapping[str, Any], vision: str) -> bool | None:
    """Return whether weights were trained with QuickGELU: by transformers' config.json, timm's, or timm's tag."""
    if str(theirs.get("model_type", "")).startswith("clip"):
        return theirs.get("hidden_act", "quick_gelu") == "quick_gelu"  # the default in transformers
    tag = theirs.get("pretrained_cfg", {}).get("tag")
    for tagged in (f"{theirs.get('architecture')}.{tag}", vision):
        plain = tagged.replace("_clip_quickgelu_", "_clip_")
        if "." in tagged and timm.is_model_pretrained(plain):
            notes = timm.get_pretrained_cfg(plain).notes or ()
            return any("QuickGELU" in note for note in notes)  # "natively QuickGELU, use quickgelu model variant"
    return None


def _compare(source: str, theirs: Mapping[str, Any], ours: Mapping[str, object]) -> None:
    faults = [
        f"{name}: expected {value!r}, as the model has, got {theirs[name]!r}"
        for name, value in ours.items()
        if name in theirs and theirs[name] != value
    ]
    if faults:
        raise CheckpointError(f"{source}: weights of another model: " + "; ".join(faults))
