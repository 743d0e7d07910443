"""Transforms of decoded frames to the encoder's input: crop, resize, flip, normalise."""

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from einops import rearrange
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Colours:
    """Mean and deviation that an encoder's pictures are normalised by, for red, green and blue in [0, 1]."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


CLIP = Colours((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
"""Normalisation of CLIP's encoder (openai/CLIP@d05afc4, clip/clip.py)."""

CROP_AREA = (0.5, 1.0)
"""Share of the picture a training crop covers (Singularity, dataset/__init__.py:39)."""
CROP_ASPECT = (3 / 4, 4 / 3)
"""Width over height of a training crop, drawn on a log scale (torchvision's default)."""


def crop_box(height: int, width: int, draws: np.random.Generator) -> tuple[int, int, int, int]:
    """Top, left, height and width of a random crop, by torchvision's RandomResizedCrop: ten tries, then centre."""
    for _ in range(10):
        area = height * width * draws.uniform(*CROP_AREA)
        aspect = math.exp(draws.uniform(math.log(CROP_ASPECT[0]), math.log(CROP_ASPECT[1])))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            return int(draws.integers(0, height - h + 1)), int(draws.integers(0, width - w + 1)), h, w
    w = min(width, round(height * CROP_ASPECT[1]))
    h = min(height, round(width / CROP_ASPECT[0]))
    return (height - h) // 2, (width - w) // 2, h, w


def augment(
    frames: UInt8[np.ndarray, "frames height width 3"],
    size: int,
    draws: np.random.Generator,
    *,
    flip: bool,
    colours: Colours,
) -> Float[Tensor, "frames 3 {size} {size}"]:
    """A random crop, the same in all frames of the clip, and where allowed a mirror image half of the time."""
    top, left, height, width = crop_box(frames.shape[1], frames.shape[2], draws)
    mirrored = flip and draws.random() < 0.5
    cropped = frames[:, top : top + height, left : left + width]
    return resize(cropped[:, :, ::-1] if mirrored else cropped, size, colours)


def resize(
    frames: UInt8[np.ndarray, "frames height width 3"], size: int, colours: Colours
) -> Float[Tensor, "frames 3 {size} {size}"]:
    """Bicubic, antialiased, to a square (the aspect ratio is not kept, as in Singularity), then normalised."""
    pixels = torch.from_numpy(np.ascontiguousarray(frames)).float().div_(255)
    pixels = rearrange(pixels, "k h w c -> k c h w")
    if pixels.shape[2:] != (size, size):
        pixels = F.interpolate(pixels, size=(size, size), mode="bicubic", antialias=True)
    return (pixels.clamp_(0, 1) - _column(colours.mean)) / _column(colours.std)


def to_picture(frames: Float[Tensor, "frames 3 height width"], colours: Colours) -> NDArray[np.uint8]:
    """Undo the normalisation: uint8 frames, height x width x 3."""
    pixels = (frames * _column(colours.std) + _column(colours.mean)).clamp(0, 1).mul(255).round().byte()
    return rearrange(pixels, "k c h w -> k h w c").cpu().numpy()


def _column(values: tuple[float, float, float]) -> Float[Tensor, "3 1 1"]:
    return torch.tensor(values).reshape(3, 1, 1)
