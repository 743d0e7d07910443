"""The vision encoder of the Singularity baseline: BEiT on every patch, neither masked nor sparsified."""

from functools import partial

from jaxtyping import Float, Int
from torch import Tensor, nn

from smaug_core import torchvision_on_cpu
from smaug_core.config import ModelConfig
from smaug_core.cost.token_counts import num_kept
from smaug_core.errors import SmaugError
from smaug_core.model.activation_checkpointing import Recomputing
from smaug_core.model.vision import EncodedFrames, check_size, colours_of, create_timm_model, every_position

torchvision_on_cpu.make_importable()

from timm.layers import LayerNorm  # noqa: E402
from timm.models.beit import Beit  # noqa: E402

DROP_PATH = 0.1
"""Stochastic depth of the last layer while training, rising from 0 at the first one (Singularity's BEiT)."""

NORM_EPS = 1e-12
"""Epsilon of every layer norm, as in transformers' BEiT, which Singularity uses (timm's has 1e-6)."""


class BeitEncoder(Recomputing):
    """Encodes whole frames one by one.

    The parameters are those of the timm model under `vit`, and a new layer norm for the tokens that captions attend
    to. The summary of a frame leaves that norm out: it is the mean over patch tokens, under BEiT's own `fc_norm`.

    Source: Singularity (jayleicn/singularity@10a7f70, models/model_retrieval_base.py:94-105, 206-223), whose
    pooling is transformers' BeitPooler with use_mean_pooling.
    """

    def __init__(self, config: ModelConfig) -> None:
        """Take the timm model `config.vision` at the configured sizes, with new weights.

        Raises:
            SmaugError: `config` asks for sparsification.
        """
        super().__init__()
        if config.sparsify_layers:
            _refuse_sparsity(config.vision, "model.keep_rate", config.keep_rate, config.num_patches)
        norm = partial(LayerNorm, eps=NORM_EPS)
        vit = create_timm_model(config, norm_layer=norm, drop_path_rate=DROP_PATH)
        assert isinstance(vit, Beit)
        self.vit = vit
        self.colours = colours_of(config.vision)
        self.name = config.vision
        self.patch_size = config.patch_size
        self.sparsifies = bool(config.sparsify_layers)
        self.norm = nn.LayerNorm(config.width, eps=NORM_EPS)

    def forward(
        self,
        images: Float[Tensor, "batch 3 height width"],
        *,
        visible: Int[Tensor, "batch visible"] | None,
        keep_rate: float,
    ) -> EncodedFrames:
        """Encode images whole; `visible` and `keep_rate` are those of the encoder that masks and sparsifies.

        Raises:
            SmaugError: patches are hidden, or `keep_rate` would drop tokens.
        """
        num_patches = self.vit.patch_embed.num_patches
        if visible is not None:
            raise SmaugError(
                f"model.vision: {self.name!r} sees whole frames, but {visible.shape[1]} of {num_patches} patches are"
                " visible; expected pretrain.mask_ratio = 0, or a vision transformer with absolute positions"
            )
        if self.sparsifies:
            _refuse_sparsity(self.name, "keep_rate", keep_rate, num_patches)
        check_size(images, self.patch_size, num_patches)
        self.vit.set_grad_checkpointing(self.recompute)
        tokens = self.vit.forward_features(images)
        summary = self.vit.fc_norm(tokens[:, 1:].mean(dim=1))
        return EncodedFrames(self.norm(tokens), every_position(images, num_patches), summary)


def _refuse_sparsity(name: str, where: str, keep_rate: float, num_patches: int) -> None:
    if num_kept(num_patches, keep_rate) < num_patches:
        raise SmaugError(
            f"{where}: {keep_rate} is not allowed with model.vision = {name!r}, which keeps every token; expected 1,"
            " or a vision transformer with absolute positions"
        )
