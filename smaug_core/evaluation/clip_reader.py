"""Reading of test clips for evaluation. Loader processes do it."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from smaug_core.data.media.frame_sampling import sample_frames
from smaug_core.data.media.location import MediaLocation
from smaug_core.data.media.video import read_frames
from smaug_core.data.transforms import Colours, resize
from smaug_core.errors import ClipError


@dataclass(frozen=True, slots=True)
class ReadClips:
    """Clips of one pass through the model."""

    frames: Float[Tensor, "clips frames 3 height width"] | None
    """None if one of them cannot be read."""
    unreadable: list[str]
    """Error of each clip that cannot be read."""

    def pin_memory(self) -> "ReadClips":
        """The same in page-locked memory."""
        return ReadClips(None if self.frames is None else self.frames.pin_memory(), self.unreadable)


@dataclass(frozen=True, slots=True)
class ClipReader:
    """Reader of the frames in the middles of equal parts of each clip."""

    num_frames: int
    image_size: int
    """Width and height in pixels."""
    colours: Colours
    """Mean and deviation that pixels are normalised by."""

    def __call__(self, clips: Sequence[MediaLocation]) -> ReadClips:
        """Read every clip, so that one error can name all that are unreadable."""
        frames, unreadable = [], []
        for clip in clips:
            try:
                pictures = read_frames(clip, lambda available: sample_frames(available, self.num_frames))
                frames.append(resize(pictures, self.image_size, self.colours))
            except ClipError as error:
                unreadable.append(str(error))
        return ReadClips(None if unreadable else torch.stack(frames), unreadable)
