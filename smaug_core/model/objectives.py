"""The four training objectives (paper 3.3, appendix C), each a function of tensors; all computed in fp32."""

import torch
import torch.nn.functional as F  # noqa: N812
from einops import repeat
from jaxtyping import Bool, Float, Int
from torch import Tensor

from smaug_core.data.batch import IGNORED
from smaug_core.model.precision import full_precision
from smaug_core.patches import patchify


def frame_similarity(
    frames: Float[Tensor, "clips frames dim"], captions: Float[Tensor, "captions dim"]
) -> Float[Tensor, "clips captions"]:
    """Mean over a clip's frames of their cosines with each caption; inputs have length 1.

    Source: Singularity (jayleicn/singularity@10a7f70, model_retrieval_base.py:288): the mean of the cosines,
    not the cosine of the mean.
    """
    with full_precision(frames):
        return torch.einsum("vkd,td->vkt", frames.float(), captions.float()).mean(dim=1)


def contrastive_loss(
    video_to_text: Float[Tensor, "here all"],
    text_to_video: Float[Tensor, "here all"],
    same: Bool[Tensor, "here all"],
    rivals: Bool[Tensor, "here all"],
) -> Float[Tensor, ""]:
    """VTC: cross-entropy of clip-to-caption and caption-to-clip softmaxes, averaged (Eq. 10-12).

    Args:
        video_to_text: similarity over temperature of the clips here (rows) with all captions.
        text_to_video: the same of the captions here with all clips.
        same: pairs of the same clip; a row shares its positives in equal parts (as Singularity does).
        rivals: what a row is contrasted with, itself included; all, or its group.
    """
    target = (same & rivals).to(video_to_text.dtype)
    target = target / target.sum(dim=1, keepdim=True)
    lost = torch.finfo(video_to_text.dtype).min  # not -inf, of which the loss would make 0 x -inf
    rows = [logits.masked_fill(~rivals, lost) for logits in (video_to_text, text_to_video)]
    return (F.cross_entropy(rows[0], target) + F.cross_entropy(rows[1], target)) / 2


@torch.no_grad()
def hard_negatives(
    logits: Float[Tensor, "queries candidates"],
    media: Int[Tensor, " queries"],
    draws: Float[Tensor, " queries"],
    group: int,
) -> tuple[Int[Tensor, " queries"], Bool[Tensor, " queries"]]:
    """Draw for each query one wrong candidate of its group, likelier the more similar it is.

    Candidates of the query's own clip have probability 0. Weights are softmax + 1e-4, in fp64, so that none
    vanishes at a low temperature.

    Args:
        logits: similarity over temperature.
        media: which clip each row, and each column, belongs to.
        draws: uniform in [0, 1), one for each query; equal draws give equal choices on any number of devices.
        group: candidates are the `group` consecutive rows that the query is one of.

    Returns:
        The chosen column of each query, and whether it had any wrong candidate at all.

    Source: ALBEF's mining as in Singularity (model_retrieval_base.py:302), with BLIP's place for the 1e-4.
    """
    num = len(media)
    place = torch.arange(num, device=media.device)
    same_group = place[:, None] // group == place[None, :] // group
    allowed = same_group & (media[:, None] != media[None, :])
    scores = logits.double().masked_fill(~same_group, -torch.inf)
    weights = torch.where(allowed, scores.softmax(dim=1) + 1e-4, 0.0)
    reach = weights.cumsum(dim=1)
    total = reach[:, -1:]
    wanted = draws.double().clamp(max=1 - 2**-24).unsqueeze(1) * total  # in fp32 a draw may have been rounded to 1
    chosen = torch.searchsorted(reach, wanted, right=True).squeeze(1)
    return chosen.clamp(max=num - 1), total.squeeze(1) > 0


def matching_loss(
    logits: Float[Tensor, "pairs 2"],
    is_match: Bool[Tensor, " pairs"],
    counts: Bool[Tensor, " pairs"],
    total: Float[Tensor, ""],
) -> Float[Tensor, ""]:
    """VTM: cross-entropy of match against no match, over the pairs that count (appendix C), divided by `total` > 0."""
    losses = F.cross_entropy(logits.float(), is_match.long(), reduction="none")
    return (losses * counts).sum() / total


def word_loss(
    logits: Float[Tensor, "words vocabulary"], targets: Int[Tensor, " words"], total: Float[Tensor, ""]
) -> Float[Tensor, ""]:
    """MLM: cross-entropy of the replaced words (appendix C), divided by `total` > 0; `IGNORED` targets add nothing."""
    return F.cross_entropy(logits.float(), targets, reduction="sum", ignore_index=IGNORED) / total


def pixel_targets(
    images: Float[Tensor, "batch 3 height width"],
    hidden: Int[Tensor, "batch hidden"],
    patch_size: int,
    normalize: bool,
) -> Float[Tensor, "batch hidden pixels"]:
    """The pixels of the hidden patches; normalised to mean 0 and deviation 1 within each patch if asked.

    Source: MAE's norm_pix_loss: unbiased variance over all values of a patch, 1e-6 added before the root.
    """
    patches = patchify(images, patch_size)
    target = patches.gather(1, repeat(hidden, "b n -> b n d", d=patches.shape[2])).float()
    if normalize:
        variance, mean = torch.var_mean(target, dim=-1, keepdim=True)
        target = (target - mean) / (variance + 1e-6).sqrt()
    return target


def pixel_loss(
    predicted: Float[Tensor, "batch hidden pixels"], target: Float[Tensor, "batch hidden pixels"]
) -> Float[Tensor, ""]:
    """MVM: mean squared error over the hidden patches (appendix C)."""
    return F.mse_loss(predicted.float(), target)
