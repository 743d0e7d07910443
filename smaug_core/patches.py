"""Patches of frames: cutting frames into patches and masking a random share of them."""

from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor


def patchify(
    images: Float[Tensor, "batch colours height width"], patch_size: int
) -> Float[Tensor, "batch patches pixels"]:
    """Cut each image into square patches, row by row; a patch lists its pixels row by row, colours last.

    Source: the order of MAE (He et al. 2022), so that predicted patches can be put back in place.
    """
    return rearrange(images, "b c (h p) (w q) -> b (h w) (p q c)", p=patch_size, q=patch_size).contiguous()


def unpatchify(
    patches: Float[Tensor, "batch patches pixels"], patch_size: int
) -> Float[Tensor, "batch colours height width"]:
    """Put the patches of square images back together: the inverse of `patchify`."""
    side = round(patches.shape[1] ** 0.5)
    return rearrange(patches, "b (h w) (p q c) -> b c (h p) (w q)", h=side, p=patch_size, q=patch_size).contiguous()


def split_patches(
    noise: Float[Tensor, "batch patches"], visible: int
) -> tuple[Int[Tensor, "batch {visible}"], Int[Tensor, "batch hidden"]]:
    """Positions that stay visible (those with the lowest noise) and positions that are hidden.

    The frames of one clip share a row of noise, so they hide the same places (tube masking, paper 3.1.1).
    """
    order = noise.argsort(dim=1)
    return order[:, :visible], order[:, visible:]
