"""Shape of the clips that a model sees: frames, those that reach the words, and their size after fine-tuning."""

from dataclasses import dataclass, replace

from smaug_core.config import ModelConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class ClipShape:
    """Frames of a clip that a model is trained on, and how many of them reach the words."""

    frames: int = 1
    """Frames per clip; with more than one there is a temporal encoder."""
    selected: int = 1
    """Frames that the selector hands on (kappa); without a selector, all of them."""

    @property
    def selects(self) -> bool:
        """True if there is a frame selector."""
        return self.selected < self.frames


def clip_shape(frames: int | None, selected: int | None, before: ClipShape | None = None) -> ClipShape:
    """The shape that settings ask for; what they leave open is as in the weights `before`."""
    before = before or ClipShape()
    if frames is None or frames == before.frames:
        return ClipShape(frames=before.frames, selected=before.selected if selected is None else selected)
    return ClipShape(frames=frames, selected=frames if selected is None else selected)


def image_size_after(model: ModelConfig, ratio: float) -> ModelConfig:
    """The same model for frames `ratio` times as wide, to the nearest whole number of patches."""
    patches = max(1, round(model.image_size * ratio / model.patch_size))
    return replace(model, image_size=patches * model.patch_size)
