"""Pictures side by side as one PNG, small enough to be kept with a result, large enough to be seen."""

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, UInt8

if TYPE_CHECKING:
    from PIL.Image import Image

LEAST_SIDE, MOST_SIDE = 96, 224
"""Pixels of a picture's shorter side in a strip."""
GAP = 4
"""White pixels between pictures."""
FRAME = 6
"""Pixels of the border around every picture of a strip with marks: dark where it is marked, else white."""
INK, PAPER = (20, 20, 20), (255, 255, 255)
COLOURS = 64
"""Size of a file's palette: a third to a half of the bytes of true colours."""


def scale_of(side: int) -> float:
    """Factor by which a picture with this shorter side is enlarged: a whole number, unless it is too large.

    The smallest whole number that makes it `LEAST_SIDE`, as long as that is no more than `MOST_SIDE`.
    """
    if side > MOST_SIDE:
        return MOST_SIDE / side
    return float(max(1, min(-(-LEAST_SIDE // side), MOST_SIDE // side)))


def strip(
    pictures: Sequence[UInt8[np.ndarray, "height width 3"]], marked: Bool[np.ndarray, " pictures"] | None = None
) -> "Image":
    """Pictures of one size from left to right.

    Args:
        pictures: at least one.
        marked: those get a thick dark border and a tick in the corner; none: no picture has a border.
    """
    from PIL import Image

    border = 0 if marked is None else FRAME
    panels = [_enlarged(picture) for picture in pictures]
    width, height = panels[0].size
    step = width + 2 * border + GAP
    whole = Image.new("RGB", (step * len(panels) - GAP, height + 2 * border), PAPER)
    for place, panel in enumerate(panels):
        if marked is not None and marked[place]:
            whole.paste(INK, (place * step, 0, place * step + width + 2 * border, height + 2 * border))
        whole.paste(panel, (place * step + border, border))
        if marked is not None and marked[place]:
            _tick(whole, place * step, max(12, height // 5))
    return whole


def png(picture: "Image", most_bytes: int) -> tuple[bytes, int, int]:
    """A picture in `COLOURS` as a PNG file of at most `most_bytes`, and its width and height; halved until it fits."""
    from PIL.Image import Dither

    while True:
        file = io.BytesIO()
        picture.quantize(COLOURS, dither=Dither.NONE).save(file, "PNG", optimize=True)
        if file.tell() <= most_bytes:
            return file.getvalue(), picture.width, picture.height
        picture = picture.reduce(2)


def _enlarged(picture: UInt8[np.ndarray, "height width 3"]) -> "Image":
    from PIL import Image

    whole = Image.fromarray(picture)
    scale = scale_of(min(whole.size))
    size = (round(whole.width * scale), round(whole.height * scale))
    return whole.resize(size, Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.BOX)


def _tick(whole: "Image", left: int, size: int) -> None:
    """A white tick on a dark square, in the upper left corner of a panel: seen without colours."""
    from PIL import ImageDraw

    draw = ImageDraw.Draw(whole)
    draw.rectangle((left, 0, left + size + FRAME - 1, size + FRAME - 1), fill=INK)
    corner, unit = (left + FRAME // 2, FRAME // 2), size / 10
    points = [(corner[0] + x * unit, corner[1] + y * unit) for x, y in ((2, 5.5), (4.2, 8), (8.5, 2.5))]
    draw.line(points, fill=PAPER, width=max(2, size // 8), joint="curve")
