"""The pixel decoder of masked visual modelling: surviving tokens in, pixels of the hidden patches out."""

import torch
from einops import repeat
from jaxtyping import Float, Int
from torch import Tensor, nn

from smaug_core.config import ModelConfig
from smaug_core.model.activation_checkpointing import Recomputing
from smaug_core.model.sparsify import FUSED
from smaug_core.model.vision import Block


class PixelDecoder(Recomputing):
    """A linear layer, transformer blocks and a linear layer (paper 3.5).

    Each token brings its own position: sparsification reorders and drops tokens, so positions are added by id
    and never by place in the sequence. The sequence holds [CLS], the survivors and one mask token per hidden
    patch; visible patches that were dropped are absent, and a fused token carries a learned vector instead of
    a position.
    """

    positions: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width, pixels = config.decoder_width, 3 * config.patch_size**2
        self.embed = nn.Linear(config.width, width)
        self.mask_token = nn.Parameter(torch.zeros(width))
        self.fused_position = nn.Parameter(torch.zeros(width))
        side = config.image_size // config.patch_size
        self.register_buffer("positions", sincos_positions(side, width), persistent=False)
        self.blocks = nn.ModuleList(
            Block(width, config.decoder_heads, qkv_bias=True) for _ in range(config.decoder_depth)
        )
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, pixels)

    def forward(
        self,
        tokens: Float[Tensor, "batch tokens dim"],
        position_ids: Int[Tensor, "batch patches"],
        hidden: Int[Tensor, "batch hidden"],
    ) -> Float[Tensor, "batch hidden pixels"]:
        """Predict the pixels of the patches at the positions `hidden`, in that order.

        Args:
            tokens: of the encoder, [CLS] first.
            position_ids: the patch each token but [CLS] came from, `FUSED` for a fused one.
            hidden: patches that the encoder did not see.
        """
        x = self.embed(tokens)
        x = torch.cat([x[:, :1], x[:, 1:] + self._position(position_ids)], dim=1)
        masks = self.mask_token + self.positions[hidden]
        x = torch.cat([x, masks.to(x.dtype)], dim=1)
        for block in self.blocks:
            x = self.through(block, x)
        return self.head(self.norm(x[:, -hidden.shape[1] :]))

    def _position(self, position_ids: Int[Tensor, "batch tokens"]) -> Float[Tensor, "batch tokens width"]:
        is_fused = (position_ids == FUSED).unsqueeze(-1)
        return torch.where(is_fused, self.fused_position, self.positions[position_ids.clamp(min=0)])


def sincos_positions(side: int, width: int) -> Float[Tensor, "patches {width}"]:
    """Fixed two-dimensional sine-cosine positions of a square grid, row by row.

    Half of the features encode the column and half the row, each as sines then cosines of falling frequencies.

    Raises:
        ValueError: `width` is not a multiple of 4.

    Source: the definition in MoCo v3 (Chen et al. 2021), which MAE's decoder uses too.
    """
    if width % 4:
        raise ValueError(f"width must be a multiple of 4, got {width}")
    frequencies = 1 / 10_000 ** (torch.arange(width // 4, dtype=torch.float64) / (width / 4))
    angles = torch.outer(torch.arange(side, dtype=torch.float64), frequencies)
    line = torch.cat([angles.sin(), angles.cos()], dim=1)
    columns = repeat(line, "w d -> (h w) d", h=side)
    rows = repeat(line, "h d -> (h w) d", w=side)
    return torch.cat([columns, rows], dim=1).float()
