"""Example pictures of a trained model: frames rebuilt (Figures 4 to 7), frames chosen (Figure 3).

No stage imports this, so that it may change without making results stale.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from smaug_core.cost.token_counts import num_visible
from smaug_core.data.manifest import Sample
from smaug_core.data.media.frame_sampling import sample_frames
from smaug_core.data.media.video import read_frames
from smaug_core.data.rng import draws_for
from smaug_core.data.tokenizer import Tokenizer
from smaug_core.data.transforms import resize, to_picture
from smaug_core.errors import SmaugError
from smaug_core.model.smaug import SMAUG, EncodedClips
from smaug_core.patches import patchify, split_patches, unpatchify

SEED = 0
"""Seed of the masks: the same model always shows the same pictures."""
GREY = 128
"""Red, green and blue of a hidden patch."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Reconstruction:
    """One frame as it is, as the encoder sees it, and as the decoder completes it."""

    original: UInt8[np.ndarray, "height width 3"]
    masked: UInt8[np.ndarray, "height width 3"]
    """Hidden patches are grey."""
    restored: UInt8[np.ndarray, "height width 3"]
    """Hidden patches as predicted, the others untouched."""


@dataclass(frozen=True, slots=True)
class Choice:
    """The frames of a clip, and which of them the selector hands on for a caption."""

    frames: UInt8[np.ndarray, "frames height width 3"]
    scores: Float[np.ndarray, " frames"]
    """Scores of the selector; only differences matter."""
    chosen: Bool[np.ndarray, " frames"]
    relevant: Bool[np.ndarray, " frames"] | None
    """Whether each frame shows what the caption names; None if the source does not record it."""


def spread(items: Sequence[T], num: int) -> list[T]:
    """`num` of the items, or all if there are fewer, evenly spread; always the same ones."""
    taken = min(num, len(items))
    return [items[place * len(items) // taken] for place in range(taken)]


def check_reconstructs(model: SMAUG, mask_ratio: float) -> None:
    """Check that the model was trained to predict masked patches.

    Raises:
        SmaugError: it was not, as the message says.
    """
    if model.decoder is None:
        raise SmaugError(
            "the model has no pixel decoder: expected a model trained with model.decoder_depth of at least 1, got 0"
        )
    if num_visible(model.config.num_patches, mask_ratio) == model.config.num_patches:
        raise SmaugError(
            f"mask_ratio: {mask_ratio} hides none of {model.config.num_patches} patches, so there is nothing to"
            " reconstruct; expected a model trained with a higher mask ratio"
        )


def check_selects(model: SMAUG) -> None:
    """Check that the model selects among the frames of a clip.

    Raises:
        SmaugError: it does not, as the message says.
    """
    if model.selector is None:
        frames = model.shape.frames
        before = "trained on single frames" if frames == 1 else f"trained on {frames} frames and hands on all of them"
        raise SmaugError(
            f"the model has no frame selector: expected one trained with pretrain_video.selected below"
            f" pretrain_video.frames, got one {before}"
        )


@torch.inference_mode()
def reconstruct(
    model: SMAUG, tokenizer: Tokenizer, sample: Sample, *, mask_ratio: float, text_length: int, device: str
) -> Reconstruction:
    """Hide patches of one frame as in training, and let the model fill them in.

    The frame is the middle one; of a model that selects frames, which learns to rebuild no others, the first that it
    selects for the caption. The mask depends on the sample and `SEED` alone.

    Args:
        model: trained; it is put on `device`, without dropout.
        tokenizer: of its captions.
        sample: the clip or picture, with its caption.
        mask_ratio: share of the patches that are hidden.
        text_length: caption tokens kept.
        device: as torch names it.

    Raises:
        SmaugError: the model does not predict patches.
        ClipError: the file cannot be read.

    Source: the pictures of MAE (He et al. 2022), with normalised targets put back by the true patch's own statistics.
    """
    check_reconstructs(model, mask_ratio)
    model.to(device).eval()
    images, _ = _look(model, sample, device)
    num_patches = model.config.num_patches
    noise = draws_for(SEED, 0, sample.id, "mask").random(num_patches)
    visible, hidden = (
        places.to(device)
        for places in split_patches(torch.from_numpy(noise).float().unsqueeze(0), num_visible(num_patches, mask_ratio))
    )
    clips = model.encode_clips(images.unsqueeze(0), visible=visible)
    place = len(images) // 2
    if model.selector is not None:
        place = int(_pick(model, tokenizer, sample, clips, text_length).nonzero()[0, 0])
    assert model.decoder is not None
    predicted = model.decoder(clips.tokens[:, place], clips.position_ids[:, place], hidden)
    return rebuilt(model, images[place : place + 1], hidden, predicted)


def rebuilt(
    model: SMAUG,
    image: Float[Tensor, "1 3 height width"],
    hidden: Int[Tensor, "1 hidden"],
    predicted: Float[Tensor, "1 hidden pixels"],
) -> Reconstruction:
    """Rescale predicted patches, put them into a normalised frame and make pictures."""
    size, colours = model.config.patch_size, model.vision.colours
    true = patchify(image, size)
    if model.config.normalize_target:
        variance, mean = torch.var_mean(true[:, hidden[0]], dim=-1, keepdim=True)
        predicted = predicted * (variance + 1e-6).sqrt() + mean
    filled = true.clone()
    filled[:, hidden[0]] = predicted.to(true.dtype)
    covered = torch.zeros_like(true)
    covered[:, hidden[0]] = 1
    original, restored = (to_picture(part.cpu(), colours)[0] for part in (image, unpatchify(filled, size)))
    is_hidden = unpatchify(covered, size)[0, 0].bool().cpu().numpy()
    return Reconstruction(original, np.where(is_hidden[:, :, None], np.uint8(GREY), original), restored)


@torch.inference_mode()
def choose(model: SMAUG, tokenizer: Tokenizer, sample: Sample, *, text_length: int, device: str) -> Choice:
    """Let the model select frames for a caption, as many out of as many as it was trained to; nothing is hidden.

    Args:
        model: trained; it is put on `device`, without dropout.
        tokenizer: of its captions.
        sample: the clip with its caption.
        text_length: caption tokens kept.
        device: as torch names it.

    Raises:
        SmaugError: the model has no selector.
        ClipError: the file cannot be read.
    """
    check_selects(model)
    model.to(device).eval()
    images, looked_at = _look(model, sample, device)
    clips = model.encode_clips(images.unsqueeze(0))
    assert model.selector is not None
    caption = _summary(model, tokenizer, sample, text_length, device)
    scores = model.selector(clips.summaries, caption)[0].cpu().numpy()
    return Choice(
        frames=to_picture(images.cpu(), model.vision.colours),
        scores=scores,
        chosen=_pick(model, tokenizer, sample, clips, text_length).cpu().numpy(),
        relevant=np.isin(looked_at, sample.relevant) if sample.relevant else None,
    )


def _look(model: SMAUG, sample: Sample, device: str) -> tuple[Float[Tensor, "frames 3 height width"], list[int]]:
    """Read the frames of a clip for a model, normalised, and their indices."""
    looked_at: list[int] = []

    def middles(available: int) -> list[int]:
        looked_at[:] = sample_frames(available, model.shape.frames)
        return looked_at

    frames = read_frames(sample.media, middles)
    return resize(frames, model.config.image_size, model.vision.colours).to(device), looked_at


def _summary(
    model: SMAUG, tokenizer: Tokenizer, sample: Sample, text_length: int, device: str | torch.device
) -> Float[Tensor, "1 dim"]:
    words, mask = (torch.from_numpy(part).to(device) for part in tokenizer.encode([sample.caption], text_length))
    return model.summarise(model.text(words, mask), mask)


def _pick(
    model: SMAUG, tokenizer: Tokenizer, sample: Sample, clips: EncodedClips, text_length: int
) -> Bool[Tensor, " frames"]:
    """Select the frames of the one clip in `clips` for the sample's caption."""
    caption = _summary(model, tokenizer, sample, text_length, clips.summaries.device)
    chosen = torch.zeros(clips.num_frames, dtype=torch.bool, device=caption.device)
    chosen[model.select(clips.summaries, caption).places[0]] = True
    return chosen
