"""The vision encoder: a timm vision transformer that sees visible patches only and sparsifies on its way."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from einops import rearrange, repeat
from jaxtyping import Float, Int
from torch import Tensor, nn

from smaug_core import torchvision_on_cpu
from smaug_core.config import ModelConfig
from smaug_core.cost.token_counts import num_kept
from smaug_core.data.transforms import Colours
from smaug_core.errors import SmaugError
from smaug_core.model.activation_checkpointing import Recomputing
from smaug_core.model.precision import full_precision
from smaug_core.model.sparsify import sparsify
from smaug_core.patches import patchify

torchvision_on_cpu.make_importable()

import timm  # noqa: E402
from timm.models.vision_transformer import Attention, VisionTransformer  # noqa: E402
from timm.models.vision_transformer import Block as Block  # noqa: E402


@dataclass(frozen=True, slots=True)
class EncodedFrames:
    """Output of the encoder for a batch of frames."""

    tokens: Float[Tensor, "batch tokens dim"]
    """[CLS] and the surviving tokens, in no particular order, after the output norm."""
    position_ids: Int[Tensor, "batch patches"]
    """The patch each token but [CLS] came from; `FUSED` for fused ones."""
    summary: Float[Tensor, "batch dim"]
    """Vector of a whole frame for the contrast with captions."""


class VisionEncoder(Recomputing):
    """Encodes frames one by one from their visible patches (paper 3.1.1, 3.2).

    The parameters are those of the timm model under `vit`, so its checkpoints load by name. With every patch
    visible and a keeping rate of 1 the tokens equal `vit.forward_features`.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.vit = create_vit(config)
        self.colours = colours_of(config.vision)
        self.patch_size = config.patch_size
        self.sparsify_layers = frozenset(config.sparsify_layers)

    def forward(
        self,
        images: Float[Tensor, "batch 3 height width"],
        *,
        visible: Int[Tensor, "batch visible"] | None,
        keep_rate: float,
    ) -> EncodedFrames:
        """Encode the patches at the positions `visible` (none: all of them) of each image."""
        x, position_ids = self._embed(images, visible)
        for number, block in enumerate(self.vit.blocks, start=1):
            num_tokens = position_ids.shape[1]
            keep = num_kept(num_tokens, keep_rate) if number in self.sparsify_layers else num_tokens
            if keep == num_tokens:
                x = self.through(block, x)
            else:
                x, position_ids = self.through(sparsifying_block, block, x, position_ids, keep)
        tokens = self.vit.norm(x)
        return EncodedFrames(tokens, position_ids, tokens[:, 0])

    def _embed(
        self, images: Float[Tensor, "batch 3 height width"], visible: Int[Tensor, "batch visible"] | None
    ) -> tuple[Float[Tensor, "batch tokens dim"], Int[Tensor, "batch visible"]]:
        """Project the visible patches only: a convolution over patches is a linear map of their pixels."""
        num_patches = self.vit.pos_embed.shape[1] - 1
        check_size(images, self.patch_size, num_patches)
        patches = patchify(images, self.patch_size)
        if visible is None:
            visible = every_position(images, num_patches)
        else:
            patches = patches.gather(1, repeat(visible, "b n -> b n d", d=patches.shape[2]))
        projection = self.vit.patch_embed.proj
        weight = rearrange(projection.weight, "d c p q -> d (p q c)")
        x = F.linear(patches, weight, projection.bias)
        x = x + self.vit.pos_embed[0, 1:][visible]
        cls = self.vit.cls_token + self.vit.pos_embed[:, :1]
        x = torch.cat([cls.expand(len(x), -1, -1), x], dim=1)
        return self.vit.norm_pre(x), visible


def check_size(images: Float[Tensor, "batch 3 height width"], patch_size: int, num_patches: int) -> None:
    """Raise a ValueError if the images are of another size than the positions were made for."""
    height, width = images.shape[2:]
    found = (height // patch_size) * (width // patch_size)
    if found != num_patches:
        raise ValueError(
            f"images of {height} x {width} pixels give {found} patches; the position table holds {num_patches}"
        )


def every_position(
    images: Float[Tensor, "batch 3 height width"], num_patches: int
) -> Int[Tensor, "batch {num_patches}"]:
    """The positions of all patches of each image, in their order."""
    return repeat(torch.arange(num_patches, device=images.device), "n -> b n", b=len(images))


def sparsifying_block(
    block: Block, x: Float[Tensor, "batch tokens dim"], position_ids: Int[Tensor, "batch patches"], keep: int
) -> tuple[Float[Tensor, "batch 2+{keep} dim"], Int[Tensor, "batch 1+{keep}"]]:
    """One transformer layer that drops tokens between its attention and its MLP (paper Figure 2b; EViT)."""
    attended, cls_attention = attend(block.attn, block.norm1(x))
    x = x + block.drop_path1(block.ls1(attended))
    x, position_ids = sparsify(x, position_ids, cls_attention, keep)
    return x + block.drop_path2(block.ls2(block.mlp(block.norm2(x)))), position_ids


def attend(
    attn: Attention, x: Float[Tensor, "batch tokens dim"]
) -> tuple[Float[Tensor, "batch tokens dim"], Float[Tensor, "batch patches"]]:
    """A layer's attention, and how much [CLS] attends to every other token, averaged over heads.

    Only [CLS]'s row of the attention matrix is formed; the rest stays inside the fused kernel. The row is
    normalised over all tokens, [CLS] included, and is computed in at least fp32.
    """
    q, k, v = rearrange(attn.qkv(x), "b n (three h d) -> three b h n d", three=3, h=attn.num_heads)
    q, k = attn.q_norm(q), attn.k_norm(k)
    mixed = F.scaled_dot_product_attention(q, k, v)
    with full_precision(q):
        scores = torch.einsum("bhd,bhnd->bhn", q[:, :, 0].float(), k.float()) * attn.scale
        cls_attention = scores.softmax(dim=-1).mean(dim=1)[:, 1:]
    return attn.proj(rearrange(mixed, "b h n d -> b n (h d)")), cls_attention


def create_vit(config: ModelConfig) -> VisionTransformer:
    """The timm vision transformer `config.vision` at the configured sizes, with new weights.

    Raises:
        SmaugError: timm has no such model, or it is not a plain vision transformer with a class token.
    """
    vit = create_timm_model(config)
    fault = _unsupported(vit)
    if fault:
        raise SmaugError(
            f"model.vision: {config.vision!r} {fault}; masking needs a timm VisionTransformer with one class"
            " token, absolute positions and standard blocks, e.g. vit_base_patch16_clip_quickgelu_224"
        )
    return vit


def create_timm_model(config: ModelConfig, **arguments: object) -> nn.Module:
    """The timm model `config.vision` at the configured sizes, with new weights and without a head.

    Args:
        config: its sizes go to timm, `vision` without the tag that names weights.
        arguments: further arguments of timm's model.

    Raises:
        SmaugError: timm has no such model, or it is of a kind that takes no such sizes.
    """
    name = config.vision.split(".")[0]
    if not timm.is_model(name):
        near = timm.list_models(f"*{name[:8]}*")[:5] or ["vit_base_patch16_clip_quickgelu_224"]
        raise SmaugError(f"model.vision: timm has no model {config.vision!r}; near it: {', '.join(near)}")
    sizes = {
        "img_size": config.image_size,
        "patch_size": config.patch_size,
        "embed_dim": config.width,
        "depth": config.layers,
        "num_heads": config.heads,
    }
    try:
        return timm.create_model(name, pretrained=False, num_classes=0, **sizes, **arguments)
    except TypeError as error:
        raise SmaugError(f"model.vision: {config.vision!r} is no vision transformer ({error})") from error


def colours_of(vision: str) -> Colours:
    """Mean and deviation by which timm's pretrained model normalises pixels.

    Raises:
        SmaugError: the name has a tag that timm does not know.
    """
    try:
        known = timm.get_pretrained_cfg(vision, allow_unregistered=False)
    except RuntimeError as error:
        tags = ", ".join(timm.list_pretrained(vision.split(".")[0] + ".*"))
        raise SmaugError(f"model.vision: timm has no weights {vision!r}; of this model it has {tags}") from error
    return Colours(tuple(known.mean), tuple(known.std))


def _unsupported(vit: nn.Module) -> str | None:
    if not isinstance(vit, VisionTransformer):
        return f"is a {type(vit).__name__}"
    if vit.cls_token is None or vit.num_prefix_tokens != 1 or vit.pos_embed is None or vit.no_embed_class:
        return "has no class token with a place in the position table"
    for block in vit.blocks:
        if type(block) is not Block or type(block.attn) is not Attention or block.attn.gate is not None:
            return f"has blocks of another kind ({type(block).__name__}, {type(block.attn).__name__})"
    return None
