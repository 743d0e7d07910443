"""Frame records: any frame is read alone, from a file or a shard, and damage is an error that names the record."""

import random
import struct
from pathlib import Path

import numpy as np
import pytest

from smaug_core.data.media.frame_record import HEADER, FrameRecord, encode_frame, write_frame_record
from smaug_core.data.media.location import MediaLocation
from smaug_core.data.media.video import decoded_digest, read_frames
from smaug_core.errors import ClipError, MissingClipError
from tests.data.media.made import every


def frames(count: int = 5, height: int = 24, width: int = 40) -> np.ndarray:
    """Frames that get brighter from left to right, each of its own colour."""
    made = np.zeros((count, height, width, 3), dtype=np.uint8)
    made[:, :, :, 0] = 50 * np.arange(count)[:, None, None]
    made[:, :, :, 1] = np.linspace(0, 255, width).astype(np.uint8)
    return made


def record(made: np.ndarray, fps: float = 2.0) -> bytes:
    return write_frame_record([encode_frame(frame, 95) for frame in made], fps)


@pytest.fixture
def file(tmp_path) -> Path:
    path = tmp_path / "clip.jpgs"
    path.write_bytes(record(frames()))
    return path


def test_frames_come_back_in_the_order_that_is_chosen(file):
    found = read_frames(file, every)
    assert found.shape == (5, 24, 40, 3) and np.abs(found.astype(int) - frames()).mean() < 3
    chosen = read_frames(file, lambda available: [0, available - 1, available - 1])
    assert np.array_equal(chosen, found[[0, 4, 4]])
    opened = FrameRecord(MediaLocation(file))
    assert (len(opened), opened.fps, opened.duration) == (5, 2.0, 2.5)
    assert decoded_digest([file]) == decoded_digest([file])


def test_a_record_in_a_shard_is_the_same(file, tmp_path):
    content = file.read_bytes()
    (tmp_path / "0.tar").write_bytes(b"x" * 700 + content + b"y" * 300)
    inside = MediaLocation(tmp_path / "0.tar", "a/clip.jpgs", 700, len(content))
    assert np.array_equal(read_frames(inside, every), read_frames(file, every))


def test_only_the_chosen_frames_are_read(file):
    content = bytearray(file.read_bytes())
    second = struct.unpack_from("<Q", content, HEADER.size + 8)[0]
    content[second : second + 40] = bytes(40)
    file.write_bytes(content)
    assert read_frames(file, lambda available: [0, 2]).shape == (2, 24, 40, 3)
    with pytest.raises(ClipError, match=r"clip\.jpgs: frame 1 is no readable JPEG"):
        read_frames(file, lambda available: [1])


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda whole: b"", "expected 20 bytes at 0, got 0: truncated"),
        (lambda whole: whole[:30], "is damaged: expected frames in 30 bytes, got 5"),
        (lambda whole: whole[:-1], "is truncated or damaged: its index does not fit"),
        (lambda whole: whole + b"x", "is truncated or damaged: its index does not fit"),
        (lambda whole: b"RIFF" + whole[4:], "is no record of frames: expected b'JPGS' at its start, got b'RIFF'"),
        (lambda whole: whole[:4] + b"\2" + whole[5:], "expected a record of version 1, got 2; prepare it again"),
        (lambda whole: HEADER.pack(b"JPGS", 1, 0, 2.0) + whole[20:], "is damaged: expected frames in"),
        (lambda whole: HEADER.pack(b"JPGS", 1, 2**32 - 1, 2.0) + whole[20:], "is damaged: expected frames in"),
        (lambda whole: HEADER.pack(b"JPGS", 1, 5, float("nan")) + whole[20:], "is damaged: expected frames in"),
        (lambda whole: whole[:28] + bytes(8) + whole[36:], "is truncated or damaged: its index does not fit"),
    ],
)
def test_a_damaged_record_is_named(file, damage, named):
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(ClipError) as raised:
        read_frames(file, every)
    assert str(raised.value).startswith(f"{file}: ") and named in str(raised.value)


def test_a_missing_record_and_frames_of_several_sizes(tmp_path):
    with pytest.raises(MissingClipError, match=r"clip\.jpgs: no such file"):
        read_frames(tmp_path / "clip.jpgs", every)
    mixed = [encode_frame(frames(1, height)[0], 95) for height in (24, 32)]
    (tmp_path / "clip.jpgs").write_bytes(write_frame_record(mixed, 2.0))
    with pytest.raises(ClipError, match=r"clip\.jpgs: is damaged: its frames differ in size"):
        read_frames(tmp_path / "clip.jpgs", every)


def test_mutated_records_give_frames_or_an_error_that_names_them(file):
    whole, random_ = file.read_bytes(), random.Random(0)
    outcomes = set()
    for _ in range(500):
        damaged = bytearray(whole[: random_.choice([len(whole), random_.randrange(1, len(whole))])])
        for _ in range(random_.choice([1, 3])):
            near = random_.choice([len(damaged), min(70, len(damaged))])
            damaged[random_.randrange(near)] = random_.randrange(256)
        file.write_bytes(damaged)
        try:
            found = read_frames(file, every)
        except ClipError as error:
            assert str(error).startswith(f"{file}: ")
            outcomes.add("error")
        else:
            assert found.dtype == np.uint8 and found.ndim == 4
            outcomes.add("frames")
    assert outcomes == {"error", "frames"}
