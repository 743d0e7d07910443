"""Parts of a new model filled from public checkpoints: CLIP or BEiT for the vision encoder, BERT for the others.

A tensor that is missing, left over or of another shape is an error, unless it is new or unused by design; those are
returned by name.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor

from smaug_core import torchvision_on_cpu
from smaug_core.config import ModelConfig
from smaug_core.errors import CheckpointError
from smaug_core.hub import TIMM, find_weights, timm_hub_name
from smaug_core.model.beit import BeitEncoder
from smaug_core.model.pos_embed import resize_positions
from smaug_core.model.smaug import SMAUG
from smaug_core.pretrained.compatibility import check_beit, check_bert, check_vit
from smaug_core.pretrained.key_maps import (
    BEIT_NAMINGS,
    BERT_UNUSED,
    BERT_WORDS,
    OPENAI_CLIP,
    TRANSFORMERS_CLIP,
    VIT_NAMINGS,
    bert_name,
    plain_bert_name,
    recognise,
)
from smaug_core.pretrained.tensor_file import read_tensors

torchvision_on_cpu.make_importable()

import timm  # noqa: E402


@dataclass(frozen=True, kw_only=True, slots=True)
class Loaded:
    """Tensors copied into a model, and those left out on either side."""

    source: str
    """The file, directory or hub name."""
    taken: int
    """Tensors of the model that were filled."""
    new: tuple[str, ...]
    """Tensors of the same parts of the model that the checkpoint has nothing for, by design."""
    unused: tuple[str, ...]
    """Tensors of the checkpoint that have no place in the model, by design."""


def load_vision(model: SMAUG, source: str, config: ModelConfig) -> Loaded:
    """Fill the vision encoder; its positions are resized to the model's image size.

    Args:
        model: changed only if everything fits.
        source: `timm` for the weights that the tag in `config.vision` names, or a hub name, a directory or a file.
            The names in it may be timm's, OpenAI's (CLIP) or transformers' (CLIP, BEiT).
        config: the settings that `model` was built with.

    Raises:
        CheckpointError: there are no such weights, they were trained with another activation or number of heads, or
            a tensor is missing, left over, or of another shape.
    """
    if source == TIMM:
        source = _timm_weights(config.vision)
    tensors = read_tensors(find_weights(source))
    is_beit = isinstance(model.vision, BeitEncoder)
    namings = BEIT_NAMINGS if is_beit else VIT_NAMINGS
    recognised = recognise(namings, tensors)
    if recognised is None:
        kind = "BEiT" if is_beit else "vision transformer"
        projects = ", ".join(naming.project for naming in namings)
        raise CheckpointError(
            f"{source}: holds no {kind} under the names of {projects}; its tensors are {_some(tensors)}"
        )
    naming, prefix = recognised
    if is_beit:
        check_beit(source, config)
    else:
        check_vit(source, model.vision.vit, config, is_clip=naming in (OPENAI_CLIP, TRANSFORMERS_CLIP))
    names = {
        ours: naming.theirs(ours.removeprefix("vision.vit."), prefix)
        for ours in model.state_dict()
        if ours.startswith("vision.vit.")
    }
    new = [ours for ours in model.state_dict() if ours.startswith("vision.") and ours not in names]
    return _fill(model, tensors, names, new=new, unused=naming.unused, source=source)


def load_text(model: SMAUG, source: str, config: ModelConfig) -> Loaded:
    """Fill the text and the fusion encoder from BERT, and the word head where the checkpoint has one.

    Cross-attention is new.

    Args:
        model: changed only if everything fits.
        source: hub name, directory or file of a BERT with `text_layers + fusion_layers` layers.
        config: the settings that `model` was built with.

    Raises:
        CheckpointError: there are no such weights, they have another number of layers or heads or another
            vocabulary, or a tensor is missing, left over, or of another shape.
    """
    tensors = _plain_bert(source)
    _check_words(source, tensors, model, config)
    _check_layers(source, tensors, config)
    _check_tied(source, tensors)
    check_bert(source, config)
    has_head = any(name.startswith("cls.predictions.") for name in tensors)
    names, new = {}, []
    for ours in model.state_dict():
        if ours.startswith(("text.", "fusion.", "word_head.")):
            theirs = bert_name(ours, config.text_layers)
            if theirs is None or (ours.startswith("word_head.") and not has_head):
                new.append(ours)
            else:
                names[ours] = (theirs,)
    return _fill(model, tensors, names, new=new, unused=BERT_UNUSED, source=source)


def _fill(
    model: SMAUG,
    tensors: Mapping[str, Tensor],
    names: Mapping[str, tuple[str, ...]],
    *,
    new: Iterable[str],
    unused: str,
    source: str,
) -> Loaded:
    """Copy `tensors` into `model`, each to where `names` says, if all of them fit and all are accounted for."""
    expected = model.state_dict()
    used = {name for parts in names.values() for name in parts}
    by_design = {name for name in tensors.keys() - used if re.fullmatch(unused, name)}
    faults = [f"{name} is missing" for name in used - tensors.keys()]
    faults += [f"nothing is there for {ours}" for ours, parts in names.items() if not parts]
    faults += [f"{name} is not part of the model" for name in tensors.keys() - used - by_design]
    faults += [
        f"{name} holds {tensors[name].dtype}, not floating-point numbers"
        for name in used & tensors.keys()
        if not tensors[name].is_floating_point()
    ]
    joined = {
        ours: _join([tensors[name] for name in parts], expected[ours].dim())
        for ours, parts in names.items()
        if parts and tensors.keys() >= set(parts)
    }
    fitting = resize_positions(joined, model)
    faults += [
        " + ".join(f"{name} {list(tensors[name].shape)}" for name in names[ours])
        + f" cannot be {ours} {list(expected[ours].shape)}"
        for ours, tensor in fitting.items()
        if tensor.shape != expected[ours].shape
    ]
    if faults:
        raise CheckpointError(f"{source}: weights do not fit: " + "; ".join(sorted(faults)))
    model.load_state_dict(expected | {ours: tensor.to(expected[ours].dtype) for ours, tensor in fitting.items()})
    return Loaded(source=source, taken=len(fitting), new=tuple(new), unused=tuple(sorted(by_design)))


def _join(parts: list[Tensor], dim: int) -> Tensor:
    """The rows of all parts, with axes of size 1 in front where `dim` asks for more; of no use if widths differ."""
    if len({part.shape[1:] for part in parts}) > 1:
        return parts[0]
    joined = torch.cat(parts) if len(parts) > 1 else parts[0]
    return joined.reshape(*[1] * (dim - joined.dim()), *joined.shape)


def _timm_weights(vision: str) -> str:
    """The hub name of the weights that the tag in `vision` names."""
    name = timm_hub_name(vision)
    if not timm.is_model_pretrained(vision):
        known = ", ".join(timm.list_pretrained(vision.split(".")[0] + ".*")) or "none"
        raise CheckpointError(f"model.vision: timm has no weights {vision!r}; of this model it has {known}")
    return name


def _plain_bert(source: str) -> dict[str, Tensor]:
    """BERT's tensors under plain names."""
    given = read_tensors(find_weights(source))
    plain = {plain_bert_name(name): tensor for name, tensor in given.items()}
    if len(plain) < len(given):
        raise CheckpointError(f"{source}: holds tensors of BERT twice, with and without the prefix bert.")
    if BERT_WORDS not in plain:
        raise CheckpointError(f"{source}: holds no BERT ({BERT_WORDS} is missing); its tensors are {_some(given)}")
    return plain


def _check_words(source: str, tensors: Mapping[str, Tensor], model: SMAUG, config: ModelConfig) -> None:
    theirs, ours = tensors[BERT_WORDS].shape[0], model.text.embeddings.word_embeddings.num_embeddings
    if theirs != ours:
        raise CheckpointError(
            f"{source}: BERT knows {theirs} words, but model.tokenizer = {config.tokenizer!r} has {ours}; expected"
            " the directory with this BERT's vocab.txt"
        )


def _check_layers(source: str, tensors: Mapping[str, Tensor], config: ModelConfig) -> None:
    found = {int(match[1]) for name in tensors if (match := re.match(r"encoder\.layer\.(\d+)\.", name))}
    wanted = config.text_layers + config.fusion_layers
    if len(found) != wanted:
        raise CheckpointError(
            f"{source}: BERT has {len(found)} layers, but model.text_layers + model.fusion_layers is"
            f" {config.text_layers} + {config.fusion_layers}; expected a sum of {len(found)}"
        )


def _check_tied(source: str, tensors: Mapping[str, Tensor]) -> None:
    """Refuse a word head whose output matrix is not the word table: here it always is."""
    copies = {
        "cls.predictions.decoder.weight": BERT_WORDS,
        "cls.predictions.decoder.bias": "cls.predictions.bias",
    }
    for copy, original in copies.items():
        if copy in tensors and original in tensors and not torch.equal(tensors[copy], tensors[original]):
            raise CheckpointError(f"{source}: {copy} differs from {original}; expected tied weights")


def _some(names: Iterable[str]) -> str:
    """The first names, for a message."""
    return ", ".join(islice(sorted(names), 3)) + " ..."
