"""Pairs of clips and captions: the contrast over all of them, and the pairs for the matching head."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from smaug_core.data.batch import Batch
from smaug_core.distributed import World
from smaug_core.model.objectives import contrastive_loss, frame_similarity, hard_negatives


@dataclass(frozen=True, slots=True)
class Pairs:
    """Pairs of a clip and a caption for the matching head, the true ones first."""

    clips: Int[Tensor, " pairs"]
    captions: Int[Tensor, " pairs"]
    counts: Bool[Tensor, " pairs"]
    """False for a pair that should be wrong where there was nothing wrong to draw."""


def similarities(
    frames: Float[Tensor, "here frames embed"], captions: Float[Tensor, "here embed"], world: World
) -> tuple[Float[Tensor, "here all"], Float[Tensor, "here all"]]:
    """The clips here with the captions of all processes, and the captions here with all clips."""
    return (
        frame_similarity(frames, world.gather(captions)),
        frame_similarity(world.gather(frames), captions).T,
    )


def contrast(
    clip_logits: Float[Tensor, "here all"],
    caption_logits: Float[Tensor, "here all"],
    media: Int[Tensor, " here"],
    group: int | None,
    world: World,
) -> Float[Tensor, ""]:
    """VTC of the clips and captions here, against those of all processes or, with `group`, of that many in a row."""
    all_media = world.gather(media)
    rivals = torch.ones_like(clip_logits, dtype=torch.bool)
    if group is not None:
        groups = torch.arange(len(all_media), device=media.device) // group
        rivals = groups[world.rank * len(media) :][: len(media), None] == groups[None, :]
    return contrastive_loss(clip_logits, caption_logits, media[:, None] == all_media[None, :], rivals)


def pair_up(batch: Batch, logits: Float[Tensor, "batch batch"], group: int) -> Pairs:
    """True pairs, then each caption with a wrong clip, then each clip with a wrong caption (VTM, appendix C)."""
    wrong_caption, has_caption = hard_negatives(logits, batch.media, batch.negative_draws[:, 0], group)
    wrong_clip, has_clip = hard_negatives(logits.T, batch.media, batch.negative_draws[:, 1], group)
    own = torch.arange(len(batch.media), device=logits.device)
    return Pairs(
        clips=torch.cat([own, wrong_clip, own]),
        captions=torch.cat([own, own, wrong_caption]),
        counts=torch.cat([torch.ones_like(has_clip), has_clip, has_caption]),
    )
