"""Room on the disk: what a stage will take, in closed form, and whether there is so much. Imports no torch."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments.stages.kinds import STAGE_KINDS
from experiments.stages.stage import Stage
from smaug_core.clip_shape import ClipShape, clip_shape, image_size_after
from smaug_core.config import ModelConfig
from smaug_core.cost.parameters import parameter_counts
from smaug_core.settings import from_settings
from smaug_core.stage_protocol import PRETRAIN, PRETRAIN_VIDEO

BYTES_PER_NUMBER = 4
"""Weights and moments are kept in single precision, whatever precision the steps are computed in."""
NUMBERS_PER_WEIGHT = 3
"""In a checkpoint: the weight itself, and Adam's two moments."""
CHECKPOINTS = 3
"""On the disk at the same time: those that are kept (`smaug_core.training.checkpoint.KEPT`), and one being written."""
RECORDS_BYTES = 16 * 2**20
"""For what every stage writes beside weights: curves, logs, ranks."""


def room_needed(stage: Stage) -> int:
    """Bytes that a stage has on the disk at most, while it runs and once it is done.

    Of a training: the checkpoints, the final weights, and its records; of an evaluation its records. A stage without
    the settings of a model is not known here and needs nothing.

    Raises:
        SmaugError: the vocabulary is not here, or the encoder is of a family whose size is not known.
    """
    if "model" not in stage.settings:
        return 0
    if not STAGE_KINDS[stage.kind].trains:
        return RECORDS_BYTES
    weights = BYTES_PER_NUMBER * _parameters(stage)
    return CHECKPOINTS * NUMBERS_PER_WEIGHT * weights + weights + RECORDS_BYTES


def room_problem(stage: Stage, directory: Path) -> str | None:
    """Return why a stage should not start in its folder; None if there is room.

    What an earlier attempt left in the folder makes room for what takes its place.

    Raises:
        SmaugError: as `room_needed`.
    """
    needed = room_needed(stage)
    if needed == 0:
        return None
    free = shutil.disk_usage(existing(directory)).free
    if free >= needed or free + size_of(directory) >= needed:  # the first needs no look at every file
        return None
    return (
        f"{stage.name}: needs {in_words(needed)} at {directory}, {in_words(free)} free;"
        " `smaug gc` shows what can go, or choose another --home"
    )


def existing(path: Path) -> Path:
    """The path, or the nearest folder above it that is there."""
    return next(folder for folder in (path, *path.parents) if folder.exists())


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files below a folder; links count as links; what may not be read, nothing."""
    try:
        if path.is_symlink() or not path.is_dir():
            return path.lstat().st_size
        with os.scandir(path) as entries:
            return sum(size_of(Path(entry.path)) for entry in entries)
    except (FileNotFoundError, PermissionError):  # it may vanish meanwhile
        return 0


def in_words(size: int) -> str:
    """A number of bytes for people, in powers of 1000 as disks are sold: `3.1 GB`."""
    for exponent, unit in ((4, "TB"), (3, "GB"), (2, "MB"), (1, "kB")):
        if size >= 1000**exponent:
            return f"{size / 1000**exponent:.1f} {unit}"
    return f"{size} bytes"


def _parameters(stage: Stage) -> int:
    from experiments.stages.workload import vocabulary_size

    own: Mapping[str, Any] = stage.settings[stage.kind]
    model = image_size_after(
        from_settings(ModelConfig, stage.settings["model"], "model"), own.get("image_size_ratio", 1.0)
    )
    return sum(parameter_counts(model, vocabulary_size(model.tokenizer), _shape(stage)).values())


def _shape(stage: Stage) -> ClipShape:
    """The frames that the stage trains on; what its settings leave open is as in the stage it starts from."""
    own = stage.settings[stage.kind]
    if stage.kind == PRETRAIN:
        return ClipShape()
    before = _shape(stage.parents[0]) if stage.parents and stage.parents[0].kind == PRETRAIN_VIDEO else ClipShape()
    return clip_shape(own["frames"], own["selected"], before)
