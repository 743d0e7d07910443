"""The temporal encoder: the tokens of a clip's frames attend to each other over space and time (Eq. 3)."""

import torch
import torch.nn.functional as F  # noqa: N812
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from smaug_core.config import ModelConfig
from smaug_core.model.activation_checkpointing import Recomputing
from smaug_core.model.text import bert_layer


class TemporalEncoder(Recomputing):
    """A temporal embedding and BERT layers over the tokens of all frames that were selected.

    Attention is joint, not along time at each place: sparsification leaves every frame with places of its own. The
    embedding starts at 0, so a new temporal encoder does not know the order of frames.

    Source: Eq. 3; Singularity (model_retrieval_base.py:107), two BERT layers and a zero embedding.
    """

    def __init__(self, config: ModelConfig, num_frames: int) -> None:
        super().__init__()
        self.time_embed = nn.Parameter(torch.zeros(num_frames, config.width))
        self.layers = nn.ModuleList(
            bert_layer(config.width, config.heads, 4 * config.width, config.dropout)
            for _ in range(config.temporal_layers)
        )

    def forward(
        self,
        tokens: Float[Tensor, "clips selected tokens width"],
        places: Int[Tensor, "clips selected"],
        num_frames: int,
    ) -> Float[Tensor, "clips keys width"]:
        """Join the frames' tokens into one sequence for each clip.

        Args:
            tokens: of the selected frames, in order of time.
            places: which of the clip's `num_frames` frames they are.
            num_frames: frames that were selected from.
        """
        time = resize_time(self.time_embed, num_frames)[places]
        x = rearrange(tokens + time.unsqueeze(2), "b k n d -> b (k n) d")
        for layer in self.layers:
            x = self.through(layer, x)
        return x


def resize_time(table: Float[Tensor, "before width"], num_frames: int) -> Float[Tensor, "{num_frames} width"]:
    """A temporal embedding for another number of frames, by linear interpolation.

    Frames stand for equal intervals of a clip, so frame k of K lies at (k + 1/2) / K of its time, whatever K is;
    before the first and after the last known place the nearest one holds.
    """
    if len(table) == num_frames:
        return table
    resized = F.interpolate(table.T.unsqueeze(0), size=num_frames, mode="linear", align_corners=False)
    return resized.squeeze(0).T
