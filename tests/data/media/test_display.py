"""Display matrices: clips stand upright and unmirrored as players show them."""

import math
import struct
from pathlib import Path

import av
import numpy as np
import pytest

from smaug_core.data.media.video import read_frames
from tests.data.media.made import COUNT, always, every, numbered, numbers_in, patched, written

FIXED = 65536
"""One, in a matrix of an mp4 file."""
RIGHT_ANGLES = [
    *[(1, 0, 0, 1), (0, 1, -1, 0), (-1, 0, 0, -1), (0, -1, 1, 0)],
    *[(-1, 0, 0, 1), (1, 0, 0, -1), (0, 1, 1, 0), (0, -1, -1, 0)],
]
"""Four rotations, and the same with a mirror: x and y on the screen are ax + cy and bx + dy."""


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    frames = numbered()
    for rows, columns, colour in ((0, 0, (255, 0, 0)), (0, 56, (0, 255, 0)), (24, 0, (0, 0, 255))):
        frames[:, rows : rows + 8, columns : columns + 8] = colour
    return written(tmp_path_factory.mktemp("clips") / "clip.mp4", frames)


def with_matrix(clip: Path, path: Path, a: float, b: float, c: float, d: float) -> Path:
    path.write_bytes(clip.read_bytes())
    numbers = [round(value * FIXED) for value in (a, b, 0, c, d, 0, 0, 0)]
    return patched(path, b"tkhd", 44, struct.pack(">9i", *numbers, 1 << 30))


def moved(frames: np.ndarray, a: int, b: int, c: int, d: int) -> np.ndarray:
    """Each pixel where the matrix puts it."""
    y, x = np.indices(frames.shape[1:3])
    across, down = a * x + c * y, b * x + d * y
    across, down = across - across.min(), down - down.min()
    shown = np.zeros((len(frames), down.max() + 1, across.max() + 1, 3), np.uint8)
    shown[:, down, across] = frames
    return shown


@pytest.mark.parametrize("matrix", RIGHT_ANGLES)
@pytest.mark.parametrize("scale", [1, 1.5])
def test_rotations_and_mirrors_are_undone(clip, tmp_path, matrix, scale):
    path = with_matrix(clip, tmp_path / "turned.mp4", *(scale * value for value in matrix))
    assert np.array_equal(read_frames(path, every), moved(read_frames(clip, every), *matrix))
    assert np.array_equal(read_frames(path, always(17)), moved(read_frames(clip, always(17)), *matrix))


@pytest.mark.parametrize("degrees", [30, 137, 315])
def test_other_angles_turn_within_the_frame(clip, tmp_path, degrees):
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    path = with_matrix(clip, tmp_path / "tilted.mp4", cosine, sine, -sine, cosine)
    frames, straight = read_frames(path, every), read_frames(clip, every)
    assert frames.shape == straight.shape and len(frames) == COUNT
    assert (frames[:, 0, 0] < 20).all()  # the corner comes from outside
    for x, y in ((8, 0), (-6, 4), (0, -9)):  # from the middle
        down, across = round(16 + sine * x + cosine * y), round(32 + cosine * x - sine * y)
        if 2 <= down < 30:
            off = np.abs(frames[:, down, across].astype(int) - straight[:, 16 + y, 32 + x])
            assert np.median(off) < 25


@pytest.mark.parametrize("matrix", [(0, 0, 0, 0), (1, 0, 0, 0), (0, 1, 0, 1)])
def test_a_matrix_that_shows_nothing_turns_nothing(clip, tmp_path, matrix):
    path = with_matrix(clip, tmp_path / "flat.mp4", *matrix)
    assert np.array_equal(read_frames(path, every), read_frames(clip, every))


def test_the_rotation_of_other_containers_counts_too(clip, tmp_path):
    turned = with_matrix(clip, tmp_path / "turned.mp4", 0, 1, -1, 0)
    path = tmp_path / "turned.mov"
    with av.open(turned) as old, av.open(path, "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for packet in old.demux(video=0):
            if packet.size:
                packet.stream = stream
                new.mux(packet)
    with av.open(path) as container:
        rotation = next(container.decode(video=0)).rotation
    shown = read_frames(path, every)
    assert shown.shape[1:3] == ((64, 32) if rotation else (32, 64))
    assert rotation or numbers_in(shown) == list(range(COUNT))
