"""A recipe of the embedded data that is as small as it may be."""

from dataclasses import replace

from smaug_core.config import DataConfig
from smaug_core.data.moving_shapes.scenes import MIN_FRAMES

SMALLEST = DataConfig(
    seed=1,
    size=32,
    frames=MIN_FRAMES["sentence"],
    train_clips=6,
    train_stills=5,
    more_stills=3,
    paragraph_frames=MIN_FRAMES["paragraph"],
    paragraph_train_clips=4,
    brief_frames=MIN_FRAMES["brief"],
    brief_train_clips=5,
    val_clips=3,
    test_clips=4,
)


def recipe(**changes: int) -> DataConfig:
    """The smallest recipe, with some settings changed."""
    return replace(SMALLEST, **changes)
