"""Choice of the vision encoder that `model.vision` names."""

from smaug_core import torchvision_on_cpu
from smaug_core.config import ModelConfig
from smaug_core.model.beit import BeitEncoder
from smaug_core.model.vision import VisionEncoder

torchvision_on_cpu.make_importable()

from timm.models import is_model_in_modules  # noqa: E402

FrameEncoder = VisionEncoder | BeitEncoder
"""Turns frames into tokens, and a vector for each frame."""


def create_encoder(config: ModelConfig) -> FrameEncoder:
    """The encoder for the timm model `config.vision` at the configured sizes, with new weights.

    Raises:
        SmaugError: timm has no such model; it is of a kind that neither encoder wraps; or it is BEiT and the
            settings ask for sparsification.
    """
    if is_model_in_modules(config.vision.split(".")[0], ["beit"]):
        return BeitEncoder(config)
    return VisionEncoder(config)
