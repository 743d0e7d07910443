"""The text-guided frame selector (Eq. 4, 5): chooses the frames of a clip that matter for a caption."""

from dataclasses import dataclass

import torch
from einops import repeat
from jaxtyping import Float, Int
from torch import Tensor, nn

from smaug_core.config import ModelConfig
from smaug_core.model.temporal import resize_time
from smaug_core.model.vision import Block


class FrameSelector(nn.Module):
    """Scores each frame of a clip for a caption: a linear layer, transformer blocks, a linear layer (paper 3.5).

    It sees one vector for each frame and one for the caption, not all tokens: that fits the times of Table 6, which
    rule out blocks over all tokens (docs/model.md).
    """

    def __init__(self, config: ModelConfig, num_frames: int) -> None:
        super().__init__()
        width = config.width
        self.embed_frame = nn.Linear(width, width)
        self.embed_caption = nn.Linear(config.text_width, width)
        self.time_embed = nn.Parameter(torch.zeros(num_frames, width))
        self.blocks = nn.ModuleList(
            Block(width, config.selector_heads, mlp_ratio=config.selector_hidden / width, qkv_bias=True)
            for _ in range(config.selector_layers)
        )
        self.score = nn.Linear(width, 1)

    def forward(
        self, frames: Float[Tensor, "pairs frames width"], captions: Float[Tensor, "pairs dim"]
    ) -> Float[Tensor, "pairs frames"]:
        """The score of every frame; only differences within a row matter."""
        x = self.embed_frame(frames) + resize_time(self.time_embed, frames.shape[1])
        x = torch.cat([x, self.embed_caption(captions).unsqueeze(1)], dim=1)
        for block in self.blocks:
            x = block(x)
        return self.score(x[:, :-1]).squeeze(-1).float()


@dataclass(frozen=True, slots=True)
class Selection:
    """The frames that were picked for each pair of a clip and a caption."""

    places: Int[Tensor, "pairs selected"]
    """Indices of the frames, in order of time."""
    shares: Float[Tensor, "pairs selected frames"]
    """For each of them the softmax over the frames that could have been picked in its place; for gradients only."""


def pick_frames(
    scores: Float[Tensor, "pairs frames"],
    num_selected: int,
    *,
    draws: Float[Tensor, "pairs frames"] | None,
    temperature: float,
) -> Selection:
    """Pick `num_selected` different frames of each clip, the likelier the higher their score.

    With `draws` frames come one after the other without replacement, each with the probability of a softmax over
    those that are left (Plackett-Luce), by the Gumbel top-k trick; without, the best ones.

    Args:
        scores: of every frame.
        num_selected: 1 <= num_selected <= frames.
        draws: uniform in (0, 1); none: the choice is deterministic.
        temperature: of `shares`, not of the choice.

    Raises:
        ValueError: `num_selected` is out of range.

    Source: Eq. 5 of the paper (Gumbel-Softmax in training, hard top-k at inference); the sampling follows Kool et
    al. 2019 (Gumbel top-k), the gradient the straight-through estimator of Jang et al. 2017.
    """
    num_frames = scores.shape[1]
    if not 1 <= num_selected <= num_frames:
        raise ValueError(f"num_selected must be in [1, {num_frames}], got {num_selected}")
    perturbed = scores.float()
    if draws is not None:
        perturbed = perturbed - torch.log(-torch.log(draws.clamp(1e-7, 1 - 1e-7)))
    picked = perturbed.argsort(dim=1, descending=True)[:, :num_selected]
    shares = []
    left = perturbed / temperature
    for place in picked.unbind(dim=1):
        shares.append(left.softmax(dim=1))
        left = left.scatter(1, place.unsqueeze(1), -torch.inf)
    order = picked.argsort(dim=1)
    return Selection(
        places=picked.gather(1, order),
        shares=torch.stack(shares, dim=1).gather(1, repeat(order, "p k -> p k f", f=num_frames)),
    )


def take_frames(
    tokens: Float[Tensor, "pairs frames tokens width"], selection: Selection
) -> Float[Tensor, "pairs selected tokens width"]:
    """The tokens of the picked frames, unchanged; backward, the scores learn as if they had been mixed by `shares`.

    The gradient of a token reaches the frame it was taken from, and no other.
    """
    picked = gather_frames(tokens, selection.places)
    if not selection.shares.requires_grad:
        return picked
    nothing = (selection.shares - selection.shares.detach()).to(tokens.dtype)  # 0 exactly, but with a gradient
    return picked + torch.einsum("pkf,pfnd->pknd", nothing, tokens.detach())


def gather_frames(
    tokens: Float[Tensor, "pairs frames tokens width"], places: Int[Tensor, "pairs selected"]
) -> Float[Tensor, "pairs selected tokens width"]:
    """The tokens of the frames at `places` of each clip."""
    index = repeat(places, "p k -> p k n d", n=tokens.shape[2], d=tokens.shape[3])
    return tokens.gather(1, index)
