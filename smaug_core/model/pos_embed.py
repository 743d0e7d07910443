"""Position tables for images of another size than they were trained on."""

from collections.abc import Mapping

from torch import Tensor, nn

from smaug_core import torchvision_on_cpu

torchvision_on_cpu.make_importable()

from timm.layers import resample_abs_pos_embed, resize_rel_pos_bias_table  # noqa: E402

_NUM_APART = {"pos_embed": 1, "relative_position_bias_table": 3}
"""Rows of a table that belong to no place: [CLS]'s own; those to [CLS], from [CLS], and of [CLS] to itself."""


def resize_positions(tensors: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """The tensors of a state dict, their position tables resized to those of `model` where the sizes differ.

    Absolute positions are resampled bicubically, BEiT's relative ones on a grid that widens with the distance; both
    by timm. A table that only differs in size of image is resized; any other is left for whoever loads it to refuse.

    Args:
        tensors: by the names of `model.state_dict()`; those that are no position tables stay as they are.
        model: made for square images.
    """
    expected = model.state_dict()
    return {name: _resized(name, tensor, expected) for name, tensor in tensors.items()}


def _resized(name: str, table: Tensor, expected: Mapping[str, Tensor]) -> Tensor:
    kind = name.rpartition(".")[2]
    if name not in expected or kind not in _NUM_APART:
        return table
    shape = expected[name].shape
    if table.dim() != len(shape) or table.shape[-1] != shape[-1]:
        return table
    old, side = (_side(rows - _NUM_APART[kind]) for rows in (table.shape[-2], shape[-2]))
    if old is None or side is None or old == side:
        return table
    if kind == "pos_embed":
        return resample_abs_pos_embed(table, new_size=[side, side], num_prefix_tokens=1)
    window = (side + 1) // 2  # distances reach from 1 - window to window - 1
    return resize_rel_pos_bias_table(table, (window, window), tuple(shape))


def _side(places: int) -> int | None:
    """Side of a square with so many places; none if there is no such square."""
    side = round(max(0, places) ** 0.5)
    return side if side >= 1 and side * side == places else None
