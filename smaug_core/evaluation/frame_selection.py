"""Evaluation of the frame selector: the share of selected frames that show what the caption names."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float

from smaug_core.data.manifest import Sample
from smaug_core.data.media.frame_sampling import sample_frames
from smaug_core.data.media.video import read_frames
from smaug_core.data.tokenizer import Tokenizer
from smaug_core.data.transforms import resize
from smaug_core.errors import SmaugError
from smaug_core.model.smaug import SMAUG


@dataclass(frozen=True, slots=True)
class Selected:
    """Selection for each caption that has a relevant frame among the candidates."""

    hits: Float[np.ndarray, " captions"]
    """Share of the selected frames that are relevant."""
    chance: Float[np.ndarray, " captions"]
    """The same share for frames selected at random: relevant frames over all candidates."""


@torch.inference_mode()
def selected_frames(
    model: SMAUG, tokenizer: Tokenizer, samples: Sequence[Sample], *, frames: int, text_length: int, device: str
) -> Selected:
    """Let the model select for each caption among `frames` frames of its clip, as in evaluation.

    The recorded relevance of `moving_shapes` is used here only: no loss uses it.

    Raises:
        SmaugError: the model has no selector, or no caption has a relevant frame.
        ClipError: a clip cannot be read.
    """
    if model.selector is None:
        raise SmaugError(f"the model has no selector: it was trained on {model.shape.frames} frames and hands on all")
    model.to(device).eval()
    hits, chance = [], []
    for sample in samples:
        looked_at: list[int] = []

        def choose(available: int, looked_at: list[int] = looked_at) -> list[int]:
            looked_at[:] = sample_frames(available, frames)
            return looked_at

        images = resize(read_frames(sample.media, choose), model.config.image_size, model.vision.colours)
        relevant = np.isin(looked_at, sample.relevant)
        if not relevant.any():
            continue
        clip = model.encode_clips(images.unsqueeze(0).to(device))
        words, mask = (torch.from_numpy(part).to(device) for part in tokenizer.encode([sample.caption], text_length))
        places = model.select(clip.summaries, model.summarise(model.text(words, mask), mask)).places
        hits.append(relevant[places[0].cpu().numpy()].mean())
        chance.append(relevant.mean())
    if not hits:
        raise SmaugError(f"none of {len(samples)} captions has a relevant frame among {frames}")
    return Selected(np.array(hits), np.array(chance))
