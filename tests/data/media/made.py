"""Clips whose frames show their own number, written as people's cameras and tools write them."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import av
import numpy as np

COUNT = 40
BITS = 6


def numbered(count: int = COUNT) -> np.ndarray:
    """Frames that show their own number: six bars, bright where a bit is set."""
    frames = np.full((count, 32, 64, 3), 20, dtype=np.uint8)
    for number in range(count):
        for bit in range(BITS):
            if number >> bit & 1:
                frames[number, 4:28, 10 * bit + 2 : 10 * bit + 10] = 230
    return frames


def numbers_in(frames: np.ndarray) -> list[int]:
    """The numbers that frames show."""
    bright = [frames[:, 12:20, 10 * bit + 5 : 10 * bit + 7].mean(axis=(1, 2, 3)) > 125 for bit in range(BITS)]
    return [int(n) for n in sum(on.astype(int) << bit for bit, on in enumerate(bright))]


def always(*wanted: int) -> Callable[[int], list[int]]:
    return lambda available: list(wanted)


def every(available: int) -> range:
    return range(available)


def written(
    path: Path, frames: np.ndarray, codec: str = "libx264", *, container: str | None = None, **how: Any
) -> Path:
    """A file of these frames; `how` goes to the encoder."""
    options = {"preset": "veryfast", "g": "10", "bf": "2", "sc_threshold": "0"} if codec == "libx264" else {}
    with av.open(path, "w", format=container) as target:
        stream: Any = target.add_stream(codec, rate=25, options=options | how.pop("options", {}))
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = how.pop("pix_fmt", "yuv420p")
        stream.codec_context.thread_count = 1
        for picture in frames:
            target.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        target.mux(stream.encode(None))
    return path


def copied(
    source: Path,
    path: Path,
    keep: Callable[[int], bool] = lambda place: True,
    change: Callable[[Any], None] = lambda packet: None,
    *,
    container: str | None = None,
    options: Mapping[str, str] | None = None,
) -> Path:
    """The packets of a clip, by their place, in another file."""
    with av.open(source) as old, av.open(path, "w", format=container, options=dict(options or {})) as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for place, packet in enumerate(packet for packet in old.demux(video=0) if packet.size):
            if keep(place):
                change(packet)
                packet.stream = stream
                new.mux(packet)
    return path


def patched(path: Path, mark: bytes, offset: int, content: bytes) -> Path:
    """The file with other bytes at a distance from the first place of a mark."""
    data = bytearray(path.read_bytes())
    place = data.index(mark) + offset
    data[place : place + len(content)] = content
    path.write_bytes(data)
    return path
