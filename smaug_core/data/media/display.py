"""Decoded frames as players show them: turned by their display matrix, in RGB, all of one size."""

import math
import struct
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import UInt8

if TYPE_CHECKING:
    from av import VideoFrame

Size = tuple[int, int]
"""Height and width as shown."""

UPRIGHT = (1, 0, 0, 1)


class Display:
    """Rotates and converts the frames of one clip; the first one decides the size of all.

    Source: ffmpeg's autorotate and autoscale (fftools/ffmpeg_filter.c).
    """

    def __init__(self) -> None:
        """Start without a size."""
        from av.video.reformatter import VideoReformatter

        self._to_rgb = VideoReformatter()

    def show(self, frame: "VideoFrame", size: Size) -> UInt8[np.ndarray, "height width 3"]:
        """The frame upright in RGB, scaled where its own size is another."""
        from av.video.reformatter import Interpolation

        matrix = _matrix(frame)
        angle = _angle(matrix)
        height, width = size[::-1] if _lies(angle) else size
        if not math.isnan(angle) and angle % 90:
            frame = _rotated(frame, angle)
        if (frame.height, frame.width) == (height, width):
            rgb = self._to_rgb.reformat(frame, format="rgb24", threads=1)
        else:
            rgb = self._to_rgb.reformat(
                frame, width, height, format="rgb24", threads=1, interpolation=Interpolation.BICUBIC
            )
        return _turned(rgb.to_ndarray(), angle, matrix)


def shown_size(frame: "VideoFrame") -> Size:
    """Height and width of a frame once it is turned."""
    return (frame.width, frame.height) if _lies(_angle(_matrix(frame))) else (frame.height, frame.width)


def _matrix(frame: "VideoFrame") -> tuple[int, int, int, int]:
    """Rotating part of the display matrix: maps x and y of the frame to x and y on the screen."""
    from av.sidedata.sidedata import Type

    try:
        found = frame.side_data.get(Type.DISPLAYMATRIX)
    except ValueError:  # beside it is a kind of data that PyAV has no name for
        turn = math.radians(-frame.rotation)
        sine, cosine = round(65536 * math.sin(turn)), round(65536 * math.cos(turn))
        return cosine, sine, -sine, cosine
    if found is None:
        return UPRIGHT
    a, b, _, c, d, *_ = struct.unpack("=9i", bytes(found))
    return a, b, c, d


def _angle(matrix: tuple[int, int, int, int]) -> float:
    """Clockwise degrees in [0, 360), whole; not a number for a matrix that shows nothing."""
    a, b, c, d = matrix
    if not (a or c) or not (b or d):
        return math.nan
    return float(round(math.degrees(math.atan2(b / math.hypot(b, d), a / math.hypot(a, c)))) % 360)


def _lies(angle: float) -> bool:
    return angle in (90, 270)


def _turned(
    rgb: UInt8[np.ndarray, "height width 3"], angle: float, matrix: tuple[int, int, int, int]
) -> UInt8[np.ndarray, "shown_height shown_width 3"]:
    """A picture turned by a multiple of 90 degrees, and mirrored where the matrix says so."""
    a, _, c, d = matrix
    if angle == 90:
        return rgb.swapaxes(0, 1) if c > 0 else np.rot90(rgb, -1)
    if angle == 270:
        return np.rot90(rgb.swapaxes(0, 1), 2) if c < 0 else np.rot90(rgb, 1)
    if angle == 180 and a < 0:
        rgb = rgb[:, ::-1]
    if angle in (0, 180) and d < 0:
        rgb = rgb[::-1]
    return rgb


def _rotated(frame: "VideoFrame", angle: float) -> "VideoFrame":
    """The frame turned within its own size, with black corners."""
    from av.filter import Graph

    graph = Graph()
    any_time = Fraction(1, 1000)  # not every frame has a time, and none is needed
    source = graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=any_time)
    graph.link_nodes(source, graph.add("rotate", f"{angle}*PI/180"), graph.add("buffersink")).configure()
    graph.vpush(frame)
    return graph.vpull()
