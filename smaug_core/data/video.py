"""Media files to frames and back: decoding only what is asked for, never guessing around damage."""

import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import UInt8

from smaug_core.errors import ClipError

if TYPE_CHECKING:
    from av import VideoFrame

STILL_SUFFIXES = frozenset({".png", ".jpg", ".jpeg"})
MAX_KEYFRAME_EVERY = 30

Choose = Callable[[int], Sequence[int]]
"""From the number of frames of a clip to the frames wanted: ascending, repeats allowed."""


def read_frames(path: Path, choose: Choose) -> UInt8[np.ndarray, "frames height width 3"]:
    """The frames of a clip, or of a picture, that `choose` picks; RGB.

    Decoding starts at the key frame before a wanted frame, skips to a later key frame where one lies before the
    next wanted frame, and ends with the last wanted one.

    Raises:
        ClipError: the file is missing, damaged, shorter than its header says, or holds no frames.
    """
    if path.suffix.lower() in STILL_SUFFIXES:
        picture = _read_still(path)
        return np.repeat(picture[None], len(_checked(choose, 1)), axis=0)
    from av.video.reformatter import VideoReformatter

    to_rgb = VideoReformatter()
    decoded = [
        (to_rgb.reformat(frame, format="rgb24", threads=1).to_ndarray(), repeats)
        for frame, repeats in _decode(path, choose)
    ]
    return np.stack([frame for frame, repeats in decoded for _ in range(repeats)])


def decoded_digest(paths: Iterable[Path]) -> str:
    """SHA-256 of every decoded frame of some clips or pictures, in order.

    Clips are hashed before their colours are converted: that step rounds differently from processor to processor.
    """
    digest = sha256()
    for path in paths:
        if path.suffix.lower() in STILL_SUFFIXES:
            digest.update(_read_still(path).tobytes())
        else:
            for frame, _ in _decode(path, lambda available: range(available)):
                digest.update(frame.to_ndarray().tobytes())
    return digest.hexdigest()


def write_clip(
    path: Path,
    frames: UInt8[np.ndarray, "frames height width 3"],
    fps: int,
    *,
    keyframe_every: int = MAX_KEYFRAME_EVERY,
) -> None:
    """Write RGB frames of even size as H.264 (yuv420p) in an mp4 file; the same frames give the same bytes.

    Raises:
        ValueError: `keyframe_every` is not between 1 and 30.
        OSError: the file cannot be written.
    """
    import av

    if not 1 <= keyframe_every <= MAX_KEYFRAME_EVERY:
        raise ValueError(f"keyframe_every must be in [1, {MAX_KEYFRAME_EVERY}], got {keyframe_every}")
    # In memory first: a full disk is then an OSError of Python's with the path in it.
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream: Any = container.add_stream("libx264", rate=fps)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1
        stream.options = {
            "preset": "veryfast",
            "crf": "20",
            "g": str(keyframe_every),
            # Without cpu-independent, x264's rate control differs now and then from process to process.
            "x264-params": "scenecut=0:cpu-independent=1",
        }
        for picture in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    path.write_bytes(buffer.getvalue())


def _checked(choose: Choose, available: int) -> list[int]:
    wanted = list(choose(available))
    if not wanted or wanted != sorted(wanted) or wanted[0] < 0 or wanted[-1] >= available:
        raise ValueError(f"frames must be ascending within [0, {available - 1}], got {wanted}")
    return wanted


def _read_still(path: Path) -> UInt8[np.ndarray, "height width 3"]:
    from PIL import Image

    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))
    except FileNotFoundError as error:
        raise ClipError(f"{path}: no such file") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ClipError(f"{path}: not a readable picture ({error})") from error


def _decode(path: Path, choose: Choose) -> Iterator[tuple["VideoFrame", int]]:
    """The chosen frames of a clip as decoded, each once, with how often it was asked for."""
    import av

    try:
        with av.open(path) as container:
            if not container.streams.video:
                raise ClipError(f"{path}: holds no video stream")
            stream = container.streams.video[0]
            # More threads cost more to start than a clip of a few pictures takes to decode.
            stream.codec_context.thread_count = 1
            packets = [packet for packet in container.demux(stream) if packet.size]
            if not packets:
                raise ClipError(f"{path}: holds no frames")
            if len(packets) < stream.frames or any(packet.is_corrupt for packet in packets):
                raise ClipError(
                    f"{path}: truncated, holds {len(packets)} whole frames where its header says {stream.frames}"
                )
            yield from _decode_packets(path, stream.codec_context, packets, choose)
    except av.FFmpegError as error:
        if isinstance(error, FileNotFoundError):
            raise ClipError(f"{path}: no such file") from error
        raise ClipError(f"{path}: not a readable video ({error.strerror})") from error


def _decode_packets(path: Path, codec: Any, packets: list[Any], choose: Choose) -> Iterator[tuple["VideoFrame", int]]:
    shown = sorted(p.pts for p in packets if not p.is_discard)
    wanted = _checked(choose, len(shown))
    # A packet's place in the file is its place in decoding; the time stamp tells its place on the screen.
    key_places = [place for place, packet in enumerate(packets) if packet.is_keyframe]
    frames: dict[int, VideoFrame] = {}
    place, start = 0, shown[0]
    for index in dict.fromkeys(wanted):
        time = shown[index]
        key = max((k for k in key_places if packets[k].pts <= time), default=0)
        if key > place:
            codec.flush_buffers()
            frames.clear()
            place, start = key, packets[key].pts
        while time not in frames and place <= len(packets):
            # Past the last packet, None makes the decoder hand out what it holds back.
            packet = packets[place] if place < len(packets) else None
            for frame in codec.decode(packet):
                # Frames shown before the key frame may lack what they build on; they are not wanted.
                if frame.is_corrupt and frame.pts >= start:
                    raise ClipError(f"{path}: damaged, frame {shown.index(frame.pts)} of {len(shown)} is incomplete")
                frames[frame.pts] = frame
            place += 1
        if time not in frames:
            raise ClipError(f"{path}: damaged, frame {index} of {len(shown)} cannot be decoded")
        yield frames[time], wanted.count(index)
