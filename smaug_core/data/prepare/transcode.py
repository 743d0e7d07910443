"""Transcoding of one clip or picture: JPEG frames in a record, an mp4 with key frames only, or a smaller picture."""

from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from jaxtyping import UInt8

from smaug_core.data.media import frame_record
from smaug_core.data.media.decoding import decode, time_base
from smaug_core.data.media.display import Display, Size
from smaug_core.data.media.frame_record import encode_frame, write_frame_record
from smaug_core.data.media.location import MediaLocation
from smaug_core.data.media.stills import SUFFIXES as PICTURES
from smaug_core.data.media.stills import read_still
from smaug_core.data.media.video import encode_clip
from smaug_core.errors import ClipError

if TYPE_CHECKING:
    from av import VideoFrame

FPS = 2
"""Frames kept of each second of a clip, as Singularity keeps them."""
QUALITY = 95
"""Of JPEG."""
MOST_FRAMES = 20_000
"""Frames of a converted clip: almost three hours."""
Frames = Literal["jpeg", "intra", "copy"]
"""What becomes of a clip: a record of JPEG frames, an mp4 of key frames alone, or nothing."""
FRAMES = get_args(Frames)


@dataclass(frozen=True, slots=True)
class Preparation:
    """Preparation of a data set's media."""

    frames: Frames
    short_side: int
    """Pixels; smaller media keep their size."""
    is_image: bool

    def __str__(self) -> str:
        """The same in words, as `dataset.yaml` and the digest have them."""
        if self.frames == "copy":
            return "none"
        kind = "jpeg" if self.is_image else f"{self.frames} {FPS} fps"
        return f"{kind} {self.short_side}" + (f" q{QUALITY}" if self.frames == "jpeg" else "")

    @property
    def suffix(self) -> str:
        """Ending of a converted file."""
        if self.is_image:
            return ".jpg"
        return frame_record.SUFFIX if self.frames == "jpeg" else ".mp4"

    def convert(self, media: MediaLocation) -> tuple[bytes, float | None]:
        """Return the bytes of the converted clip or picture, and a clip's seconds.

        Raises:
            ClipError: it cannot be read, or is no clip or picture as expected.
        """
        if self.is_image != (media.suffix in PICTURES):
            raise ClipError(f"{media}: expected a {'picture' if self.is_image else 'clip'}, got {media.suffix!r}")
        if self.is_image:
            return encode_frame(shrunk(read_still(media), self.short_side), QUALITY), None
        if media.suffix == frame_record.SUFFIX:
            return media.read(), frame_record.FrameRecord(media).duration
        frames = _SampledFrames(self.short_side, time_base(media), as_jpeg=self.frames == "jpeg")
        decode(media, frames.choose, frames.take)
        shown = frames.finish()
        if len(shown) > MOST_FRAMES:
            raise ClipError(f"{media}: expected at most {MOST_FRAMES / FPS:.0f} s, got more")
        if self.frames == "jpeg":
            return write_frame_record(shown, float(FPS)), len(shown) / FPS
        return encode_clip(np.stack(shown), FPS, keyframe_every=1), len(shown) / FPS


class _SampledFrames:
    """Frames at the sampled times of a clip, chosen while it is decoded.

    At each time, the last frame that is nearer to it than to the next one; where there is none, the frame before.
    Source: ffmpeg's filter fps.
    """

    def __init__(self, short_side: int, tick: Fraction, *, as_jpeg: bool) -> None:
        self._short_side, self._tick, self._as_jpeg = short_side, tick, as_jpeg

    def choose(self, available: int) -> range:
        """Start: the clip is about to be decoded, maybe again."""
        self._display, self._shown = Display(), list[Any]()
        self._times: list[Fraction] = []
        self._newest: tuple[VideoFrame, Size] | None = None
        self._place = 0
        return range(available)

    def take(self, frame: "VideoFrame", size: Size) -> None:
        """Look at the next frame; it is converted only if it is shown at a sampled time."""
        self._times.append(Fraction(len(self._times), 25) if frame.pts is None else frame.pts * self._tick)
        place = min(_nearest(self._times[-1] - self._times[0]), MOST_FRAMES + 1)
        if place > self._place:
            self._show_until(place)
        self._newest = frame, size

    def finish(self) -> list[Any]:
        """Return the frames, converted. The last one is shown as long as the others are on average."""
        shown_s = (self._times[-1] - self._times[0]) * Fraction(len(self._times), max(1, len(self._times) - 1))
        count = max(1, _nearest(shown_s))
        self._show_until(max(count, self._place))
        return self._shown[:count]

    def _show_until(self, place: int) -> None:
        if self._newest is not None and place > self._place:
            picture = shrunk(self._display.show(*self._newest), self._short_side)
            made = encode_frame(picture, QUALITY) if self._as_jpeg else picture
            self._shown += [made] * (place - self._place)
        self._place = place


def _nearest(seconds: Fraction) -> int:
    """Number of the sampled time nearest to a time, of two the later."""
    return (seconds * FPS + Fraction(1, 2)).__floor__()


def shrunk(
    picture: UInt8[np.ndarray, "height width 3"], short_side: int
) -> UInt8[np.ndarray, "new_height new_width 3"]:
    """A picture whose shorter side has at most so many pixels, both sides even where they have more than one."""
    from PIL import Image

    height, width = picture.shape[:2]
    scale = min(1.0, short_side / min(height, width))
    size = tuple(max(2, 2 * round(side * scale / 2)) for side in (width, height))
    if size == (width, height):
        return picture
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BICUBIC))
