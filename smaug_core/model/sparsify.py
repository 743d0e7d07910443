"""Visual token sparsification: keep the tokens [CLS] attends to, fuse the rest into one."""

import torch
from einops import repeat
from jaxtyping import Float, Int
from torch import Tensor

from smaug_core.model.precision import full_precision

FUSED = -1
"""Position id of a fused token, which stands for several places at once."""


def sparsify(
    x: Float[Tensor, "batch tokens dim"],
    position_ids: Int[Tensor, "batch patches"],
    attention: Float[Tensor, "batch patches"],
    keep: int,
) -> tuple[Float[Tensor, "batch 2+{keep} dim"], Int[Tensor, "batch 1+{keep}"]]:
    """Keep [CLS] and the `keep` tokens it attends to most; the others become one, weighted by attention.

    An earlier fused token takes part like any other. The weights of the sum are the attention values as they
    are (they do not add up to 1), and gradients flow through them.

    Args:
        x: token features after the layer's attention, [CLS] first.
        position_ids: the patch each token came from, `FUSED` for a fused one.
        attention: [CLS]'s attention to each token, averaged over heads.
        keep: tokens kept, 1 <= keep < tokens.

    Returns:
        [CLS], the kept tokens by falling attention, the fused token; and the position ids of all but [CLS].

    Raises:
        ValueError: `keep` leaves nothing to fuse, or nothing.

    Source: paper 3.2 and appendix B (Eq. 8); EViT (Liang et al. 2022), youweiliang/evit@5ca95a7, evit.py.
    """
    num_tokens = position_ids.shape[1]
    if not 1 <= keep < num_tokens:
        raise ValueError(f"keep must be in [1, {num_tokens - 1}], got {keep}")
    order = attention.argsort(dim=1, descending=True)
    kept, dropped = order[:, :keep], order[:, keep:]
    dim = x.shape[2]
    cls, patches = x[:, :1], x[:, 1:]
    kept_tokens = patches.gather(1, repeat(kept, "b k -> b k d", d=dim))
    dropped_tokens = patches.gather(1, repeat(dropped, "b k -> b k d", d=dim))
    weights = attention.gather(1, dropped).to(x.dtype)
    with full_precision(x):  # one row of weights each: the sum costs nothing beside the layer
        fused = torch.einsum("bk,bkd->bd", weights, dropped_tokens).unsqueeze(1)
    fused_ids = position_ids.new_full((len(x), 1), FUSED)
    return (
        torch.cat([cls, kept_tokens, fused], dim=1),
        torch.cat([position_ids.gather(1, kept), fused_ids], dim=1),
    )
