"""Media files to frames and back: only the wanted frames are decoded, and damage is an error."""

import io
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from smaug_core.data.media.decoding import Choose, checked, decode
from smaug_core.data.media.display import Display
from smaug_core.data.media.frame_record import SUFFIX as RECORD
from smaug_core.data.media.frame_record import FrameRecord
from smaug_core.data.media.location import MediaLocation, located
from smaug_core.data.media.stills import SUFFIXES, read_still

MAX_KEYFRAME_EVERY = 30


def read_frames(media: MediaLocation | Path, choose: Choose) -> UInt8[np.ndarray, "frames height width 3"]:
    """The frames of a clip, or of a picture, that `choose` picks: as ffmpeg shows them, in RGB.

    Frames are counted in the order in which a player shows them, without those that an edit list cuts off or a codec
    hides. They are upright, and of the size of the clip's first frame.

    Raises:
        ClipError: the file is missing, damaged, truncated, or holds no frames.
    """
    location = located(media)
    if location.suffix in SUFFIXES:
        picture = read_still(location)
        return np.repeat(picture[None], len(checked(choose, 1)), axis=0)
    if location.suffix == RECORD:
        record = FrameRecord(location)
        return record.frames(checked(choose, len(record)))
    wanted, frames = decode(location, choose, Display().show)
    return np.stack([frames[index] for index in wanted])


def decoded_digest(media: Iterable[MediaLocation | Path]) -> str:
    """SHA-256 of every decoded frame of some clips or pictures, in order.

    Clips are hashed before their colours are converted: that step rounds differently from processor to processor.
    """
    digest = sha256()
    for location in map(located, media):
        if location.suffix in SUFFIXES:
            digest.update(read_still(location).tobytes())
        elif location.suffix == RECORD:
            digest.update(read_frames(location, range).tobytes())
        else:
            wanted, frames = decode(location, range, lambda frame, size: frame.to_ndarray().tobytes())
            for index in wanted:
                digest.update(frames[index])
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
    # In memory first: a full disk is then an OSError of Python's with the path in it.
    path.write_bytes(encode_clip(frames, fps, keyframe_every=keyframe_every))


def encode_clip(
    frames: UInt8[np.ndarray, "frames height width 3"], fps: int, *, keyframe_every: int = MAX_KEYFRAME_EVERY
) -> bytes:
    """Return what `write_clip` writes."""
    import av

    if not 1 <= keyframe_every <= MAX_KEYFRAME_EVERY:
        raise ValueError(f"keyframe_every must be in [1, {MAX_KEYFRAME_EVERY}], got {keyframe_every}")
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
    return buffer.getvalue()
