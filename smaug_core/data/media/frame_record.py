"""Frame records: a clip as JPEG frames in one file or shard member, `.jpgs`, of which any frame is read alone.

Little-endian: `JPGS`, the version (u32), the number of frames (u32), frames per second (f64), the first byte of each
frame and the end (u64 each), and the frames.
"""

import struct
from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8

from smaug_core.data.media.location import MediaLocation
from smaug_core.errors import ClipError

SUFFIX = ".jpgs"
MAGIC, VERSION = b"JPGS", 1
HEADER = struct.Struct("<4sIId")
MOST_PIXELS = 2 * 89_478_485
"""Of a frame: Pillow's limit for pictures."""


def write_frame_record(frames: Sequence[bytes], fps: float) -> bytes:
    """Return a record of JPEG frames in the order in which they are shown."""
    first = HEADER.size + 8 * (len(frames) + 1)
    offsets = np.cumsum([first, *map(len, frames)], dtype="<u8")
    return b"".join([HEADER.pack(MAGIC, VERSION, len(frames), fps), offsets.tobytes(), *frames])


class FrameRecord:
    """A record, open for reading: its index is read at once, each frame when it is wanted."""

    def __init__(self, media: MediaLocation) -> None:
        """Read the index.

        Raises:
            ClipError: the record is missing, truncated, damaged, or of another version.
        """
        self._media = media
        magic, version, count, self.fps = HEADER.unpack(self._read(0, HEADER.size))
        if magic != MAGIC:
            raise ClipError(f"{media}: is no record of frames: expected {MAGIC!r} at its start, got {magic!r}")
        if version != VERSION:
            raise ClipError(f"{media}: expected a record of version {VERSION}, got {version}; prepare it again")
        size = media.size()
        first = HEADER.size + 8 * (count + 1)
        if not count or first > size or not 0 < self.fps < np.inf:
            raise ClipError(f"{media}: is damaged: expected frames in {size} bytes, got {count} at {self.fps} a second")
        self._offsets = np.frombuffer(self._read(HEADER.size, first - HEADER.size), dtype="<u8")
        sizes = np.diff(self._offsets.astype(np.float64))
        if self._offsets[0] != first or self._offsets[-1] != size or (sizes <= 0).any():
            raise ClipError(f"{media}: is truncated or damaged: its index does not fit its {size} bytes")

    def __len__(self) -> int:
        return len(self._offsets) - 1

    @property
    def duration(self) -> float:
        """Seconds."""
        return float(len(self) / self.fps)

    def frames(self, wanted: Sequence[int]) -> UInt8[np.ndarray, "frames height width 3"]:
        """Decode frames, in RGB.

        Raises:
            ClipError: one is damaged, or of another size than the others.
        """
        decoded = {index: self._decoded(index) for index in dict.fromkeys(wanted)}
        if len({frame.shape for frame in decoded.values()}) > 1:
            raise ClipError(f"{self._media}: is damaged: its frames differ in size")
        return np.stack([decoded[index] for index in wanted])

    def _decoded(self, index: int) -> UInt8[np.ndarray, "height width 3"]:
        import simplejpeg

        start, end = int(self._offsets[index]), int(self._offsets[index + 1])
        content = self._read(start, end - start)
        try:
            height, width, *_ = simplejpeg.decode_jpeg_header(content)
            if height * width > MOST_PIXELS:
                raise ClipError(
                    f"{self._media}: frame {index} has {width} x {height} pixels; expected {MOST_PIXELS} at most"
                )
            frame: UInt8[np.ndarray, "height width 3"] = simplejpeg.decode_jpeg(content, colorspace="RGB")
        except ValueError as error:
            raise ClipError(f"{self._media}: frame {index} is no readable JPEG ({error})") from error
        return frame

    def _read(self, start: int, length: int) -> bytes:
        return self._media.read_range(start, length)


def encode_frame(frame: UInt8[np.ndarray, "height width 3"], quality: int) -> bytes:
    """Encode an RGB frame as JPEG, 4:2:0."""
    import simplejpeg

    encoded: bytes = simplejpeg.encode_jpeg(np.ascontiguousarray(frame), quality=quality, colorsubsampling="420")
    return encoded
