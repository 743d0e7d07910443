"""SMAUG: the parts wired together as in the paper's Figure 2."""

import math

import torch
import torch.nn.functional as F  # noqa: N812
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from smaug_core.config import ModelConfig
from smaug_core.data.batch import Batch
from smaug_core.model.decoder import PixelDecoder, sincos_positions
from smaug_core.model.encoder import create_encoder
from smaug_core.model.objectives import (
    IGNORED,
    contrastive_loss,
    frame_similarity,
    frames_to_keys,
    hard_negatives,
    matching_loss,
    pixel_loss,
    pixel_targets,
    word_loss,
)
from smaug_core.model.text import FusionEncoder, TextEncoder, WordHead
from smaug_core.model.vision import EncodedFrames


class SMAUG(nn.Module):
    """Masked autoencoder, text encoder and fusion encoder with visual token sparsification (paper 3.1, 3.2)."""

    def __init__(self, config: ModelConfig, vocab_size: int) -> None:
        super().__init__()
        self.config = config
        self.vision = create_encoder(config)
        self.decoder = PixelDecoder(config) if config.decoder_depth else None
        self.text = TextEncoder(config, vocab_size)
        self.fusion = FusionEncoder(config, vocab_size)
        self.vision_projection = nn.Linear(config.width, config.embed_dim)
        self.text_projection = nn.Linear(config.text_width, config.embed_dim)
        self.temperature = nn.Parameter(torch.tensor(config.temperature), requires_grad=config.learn_temperature)
        self.match_head = nn.Linear(config.text_width, 2)
        self.word_head = WordHead(config, vocab_size)

    def forward(self, batch: Batch, *, negatives_group: int) -> dict[str, Float[Tensor, ""]]:
        """The losses of a training step by name; their sum is the objective (Eq. 6).

        `vtc` and `vtm` always; `mlm` where words are hidden and `mvm` where patches are.
        """
        num_frames = batch.images.shape[1]
        frames = self.encode_frames(batch.images, visible=batch.visible)
        states, hidden_states = self._encode_captions(batch)
        captions = self.embed_caption(states, batch.word_mask)
        logits = frame_similarity(self.embed_frames(frames, num_frames), captions) / self.bounded_temperature()
        losses = {"vtc": contrastive_loss(logits, batch.media)}

        keys = frames_to_keys(frames.tokens, num_frames)
        losses |= self._fusion_losses(batch, logits, keys, states, hidden_states, negatives_group)
        if batch.hidden is not None and self.decoder is not None:
            losses["mvm"] = self._pixel_loss(batch, frames)
        return losses

    def encode_frames(
        self,
        images: Float[Tensor, "clips frames 3 height width"],
        *,
        visible: Int[Tensor, "clips visible"] | None = None,
        keep_rate: float | None = None,
    ) -> EncodedFrames:
        """Encode every frame on its own; row `clip * frames + frame` of the result is one frame."""
        if visible is not None:
            visible = visible.repeat_interleave(images.shape[1], dim=0)
        return self.vision(
            rearrange(images, "b k c h w -> (b k) c h w"),
            visible=visible,
            keep_rate=self.config.keep_rate if keep_rate is None else keep_rate,
        )

    def embed_frames(self, frames: EncodedFrames, num_frames: int) -> Float[Tensor, "clips frames dim"]:
        """Each frame as a vector of length 1 in the space shared with captions."""
        vectors = F.normalize(self.vision_projection(frames.summary).float(), dim=-1)
        return rearrange(vectors, "(b k) d -> b k d", k=num_frames)

    def embed_caption(
        self, states: Float[Tensor, "captions words dim"], mask: Bool[Tensor, "captions words"]
    ) -> Float[Tensor, "captions embed"]:
        """Each caption as a vector of length 1 in the space shared with frames."""
        return F.normalize(self.text_projection(self._gather(states, mask)).float(), dim=-1)

    def match_logits(
        self,
        states: Float[Tensor, "pairs words dim"],
        mask: Bool[Tensor, "pairs words"],
        keys: Float[Tensor, "#pairs tokens width"],
    ) -> Float[Tensor, "pairs 2"]:
        """Logits of "does not match" and "matches" for each pair of a caption and a clip's tokens."""
        return self.match_head(self._gather(self.fusion(states, mask, keys), mask)).float()

    def bounded_temperature(self) -> Float[Tensor, ""]:
        """The temperature within [0.001, 0.5]; outside, the bound's value still passes the gradient on."""
        with torch.no_grad():
            self.temperature.clamp_(0.001, 0.5)
        return self.temperature

    def _gather(
        self, states: Float[Tensor, "captions words dim"], mask: Bool[Tensor, "captions words"]
    ) -> Float[Tensor, "captions dim"]:
        """One vector for each caption, from those of its tokens."""
        if self.config.caption_vector == "cls":
            return states[:, 0]
        return (states * mask.unsqueeze(-1)).sum(dim=1) / mask.sum(dim=1, keepdim=True)

    def _encode_captions(
        self, batch: Batch
    ) -> tuple[Float[Tensor, "batch words dim"], Float[Tensor, "batch words dim"] | None]:
        """The clean captions and, where words are hidden, the masked ones, in one pass."""
        if batch.hidden_words is None:
            return self.text(batch.words, batch.word_mask), None
        both = torch.cat([batch.words, batch.hidden_words])
        clean, hidden = self.text(both, batch.word_mask.repeat(2, 1)).chunk(2)
        return clean, hidden

    def _fusion_losses(
        self,
        batch: Batch,
        logits: Float[Tensor, "batch batch"],
        keys: Float[Tensor, "batch tokens width"],
        states: Float[Tensor, "batch words dim"],
        hidden_states: Float[Tensor, "batch words dim"] | None,
        group: int,
    ) -> dict[str, Float[Tensor, ""]]:
        """Matching on true pairs, wrong clips and wrong captions, and word prediction, in one fusion pass."""
        num, mask = len(batch.media), batch.word_mask
        wrong_caption, has_caption = hard_negatives(logits, batch.media, batch.negative_draws[:, 0], group)
        wrong_clip, has_clip = hard_negatives(logits.T, batch.media, batch.negative_draws[:, 1], group)
        captions = [states, states, states[wrong_caption]]
        masks = [mask, mask, mask[wrong_caption]]
        clips = [keys, keys[wrong_clip], keys]
        if hidden_states is not None:
            captions, masks, clips = [*captions, hidden_states], [*masks, mask], [*clips, keys]
        fused_mask = torch.cat(masks)
        fused = self.fusion(torch.cat(captions), fused_mask, torch.cat(clips))

        is_match = torch.arange(3 * num, device=fused.device) < num
        counts = torch.cat([torch.ones_like(has_clip), has_clip, has_caption])
        gathered = self._gather(fused[: 3 * num], fused_mask[: 3 * num])
        losses = {"vtm": matching_loss(self.match_head(gathered), is_match, counts)}
        if batch.word_targets is not None:
            predicted = batch.word_targets != IGNORED
            table = self.text.embeddings.word_embeddings.weight
            losses["mlm"] = word_loss(self.word_head(fused[3 * num :][predicted], table), batch.word_targets[predicted])
        return losses

    def _pixel_loss(self, batch: Batch, frames: EncodedFrames) -> Float[Tensor, ""]:
        assert batch.hidden is not None and self.decoder is not None
        hidden = batch.hidden.repeat_interleave(batch.images.shape[1], dim=0)
        images = rearrange(batch.images, "b k c h w -> (b k) c h w")
        target = pixel_targets(images, hidden, self.config.patch_size, self.config.normalize_target)
        return pixel_loss(self.decoder(frames, hidden), target)


def build(config: ModelConfig, vocab_size: int, *, seed: int) -> SMAUG:
    """A model with new weights: normal with std 0.02 x sqrt(768 / width), biases 0, norms 1.

    0.02 belongs to width 768. At width 64 it leaves cross-attention so flat that the matching head does not
    learn; the root keeps the size of a layer's output. Exceptions that let a short training begin with what tells
    clips and captions apart, most of them measured in docs/tiny.md:

    - The vision encoder's positions start as MAE's sines and cosines: drawn ones are faint beside the patches.
    - The text encoder's layers start at 0.02 and its tables of positions and segments at 0, so that at first a
      caption is the sum of its words; else all captions are alike but for the few words that are learned first.
    - The matching head starts at 0: its two logits then stay each other's negatives (both get the same gradient with
      opposite signs), so that the logit of "matches", which ranks, orders pairs as the probability does.
    """
    model = SMAUG(config, vocab_size)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module_name, module in model.named_modules():
            std = _initial_std(module_name, config)
            for name, parameter in module.named_parameters(recurse=False):
                _initialise(module, name, parameter, std, generator)
        positions = model.vision.vit.pos_embed
        if positions is not None:  # BEiT's are relative
            positions[0, 1:] = sincos_positions(config.image_size // config.patch_size, config.width)
        model.match_head.weight.zero_()
        model.text.embeddings.position_embeddings.weight.zero_()
        model.text.embeddings.token_type_embeddings.weight.zero_()
    return model


def _initial_std(module_name: str, config: ModelConfig) -> float:
    """Deviation of new weights in a part of the model."""
    if module_name.startswith("text.layers."):
        return 0.02
    part = module_name.split(".")[0]
    width = config.text_width
    if part in ("vision", "vision_projection"):
        width = config.width
    elif part == "decoder":
        width = config.decoder_width
    return 0.02 * math.sqrt(768 / width)


def _initialise(module: nn.Module, name: str, parameter: nn.Parameter, std: float, generator: torch.Generator) -> None:
    if isinstance(module, nn.LayerNorm):
        parameter.fill_(1.0 if name == "weight" else 0.0)
    elif name in ("bias", "q_bias", "v_bias", "relative_position_bias_table"):
        parameter.zero_()
    elif name not in ("temperature", "gamma_1", "gamma_2"):
        parameter.normal_(0, std, generator=generator)
