"""The four training objectives (paper 3.3, appendix C), each a function of tensors; all computed in fp32."""

import torch
import torch.nn.functional as F  # noqa: N812
from einops import rearrange, repeat
from jaxtyping import Bool, Float, Int
from torch import Tensor

from smaug_core.model.masking import patchify

IGNORED = -100
"""Word target of a position that is not predicted."""


def frame_similarity(
    frames: Float[Tensor, "clips frames dim"], captions: Float[Tensor, "captions dim"]
) -> Float[Tensor, "clips captions"]:
    """Mean over a clip's frames of their cosines with each caption; inputs have length 1.

    Source: Singularity (jayleicn/singularity@10a7f70, model_retrieval_base.py:288): the mean of the cosines,
    not the cosine of the mean.
    """
    return torch.einsum("vkd,td->vkt", frames.float(), captions.float()).mean(dim=1)


def contrastive_loss(logits: Float[Tensor, "clips captions"], media: Int[Tensor, " clips"]) -> Float[Tensor, ""]:
    """VTC: cross-entropy of clip-to-caption and caption-to-clip softmaxes, averaged (Eq. 10-12).

    Args:
        logits: similarity over temperature; row i and column i are a pair.
        media: pairs of the same clip share their positives, in equal parts (as Singularity does).
    """
    same = (media[:, None] == media[None, :]).to(logits.dtype)
    target = same / same.sum(dim=1, keepdim=True)
    video_to_text = F.cross_entropy(logits, target)
    text_to_video = F.cross_entropy(logits.T, target)
    return (video_to_text + text_to_video) / 2


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
    chosen = torch.searchsorted(reach, draws.double().unsqueeze(1) * total, right=True).squeeze(1)
    return chosen.clamp(max=num - 1), total.squeeze(1) > 0


def matching_loss(
    logits: Float[Tensor, "pairs 2"], is_match: Bool[Tensor, " pairs"], counts: Bool[Tensor, " pairs"]
) -> Float[Tensor, ""]:
    """VTM: cross-entropy of match against no match, over the pairs that count (appendix C)."""
    losses = F.cross_entropy(logits.float(), is_match.long(), reduction="none")
    return (losses * counts).sum() / counts.sum().clamp(min=1)


def word_loss(logits: Float[Tensor, "words vocabulary"], targets: Int[Tensor, " words"]) -> Float[Tensor, ""]:
    """MLM: cross-entropy of the replaced words, divided by their number in the global batch (appendix C)."""
    return F.cross_entropy(logits.float(), targets, reduction="sum") / max(1, len(targets))


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


def frames_to_keys(tokens: Float[Tensor, "rows tokens dim"], frames: int) -> Float[Tensor, "clips keys dim"]:
    """Join the tokens of a clip's frames into one sequence that captions attend to (early fusion)."""
    return rearrange(tokens, "(b k) n d -> b (k n) d", k=frames)
