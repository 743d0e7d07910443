"""Inputs of one training step: clips, captions, and every random choice, already drawn."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import torch.nn.functional as F  # noqa: N812
from jaxtyping import Bool, Float, Int
from torch import Tensor

IGNORED = -100
"""Target of a position that adds nothing to a loss; cross-entropy's default."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """A global batch. It holds its random numbers, so the model is a deterministic function (dropout aside)."""

    images: Float[Tensor, "batch frames 3 height width"]
    """Augmented, normalised frames."""
    media: Int[Tensor, " batch"]
    """Equal numbers mark the same clip or picture: such pairs are never negatives."""
    words: Int[Tensor, "batch words"]
    """Token ids, padded to the longest caption of the batch."""
    word_mask: Bool[Tensor, "batch words"]
    """True for tokens, False for padding."""
    negative_draws: Float[Tensor, "batch 2"]
    """Uniform in [0, 1): picks each clip's negative caption, and each caption's negative clip."""
    selection_draws: Float[Tensor, "batch 3 frames"] | None = None
    """Uniform in (0, 1): which frames are selected for the true pair, the caption with a wrong clip, and the clip with
    a wrong caption; None for single frames."""
    hidden_words: Int[Tensor, "batch words"] | None = None
    """Token ids with some words replaced; None if no words are to be predicted."""
    word_places: Int[Tensor, " predicted"] | None = None
    """Positions of the replaced words in the captions, laid end to end; padded as in `places_of_words`."""
    word_targets: Int[Tensor, " predicted"] | None = None
    """The true ids of the replaced words, -100 for padding."""
    visible: Int[Tensor, "batch visible"] | None = None
    """Patches that the encoder sees, the same in every frame of a clip; None if nothing is masked."""
    hidden: Int[Tensor, "batch hidden"] | None = None
    """Patches whose pixels are to be predicted."""

    def to(self, device: str) -> "Batch":
        """The same batch on another device."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> "Batch":
        """The same batch in page-locked memory, from which copies to a GPU need not be waited for."""
        return self._each(Tensor.pin_memory)

    def _each(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        held: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}
        for name, tensor in held.items():
            held[name] = tensor if tensor is None else change(tensor)
        return Batch(**held)


def places_of_words(
    targets: Int[Tensor, "batch words"],
) -> tuple[Int[Tensor, " predicted"], Int[Tensor, " predicted"]]:
    """Positions of the words to be predicted, in the captions laid end to end, and their true ids.

    Reading their number from the GPU would stall a step, and a new shape in every batch would cost a compilation. So
    they are counted here, on the CPU, and padded to the next power of two, with position 0 and the target `IGNORED`.

    Args:
        targets: the true ids of the words to be predicted, `IGNORED` elsewhere.
    """
    flat = targets.flatten()
    places = (flat != IGNORED).nonzero().squeeze(1)
    padding = (0, (1 << max(0, len(places) - 1).bit_length()) - len(places))
    return F.pad(places, padding), F.pad(flat[places], padding, value=IGNORED)
