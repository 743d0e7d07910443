"""SMAUG: the parts wired together as in the paper's Figure 2."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from einops import rearrange, repeat
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from smaug_core.clip_shape import ClipShape
from smaug_core.config import ModelConfig
from smaug_core.data.batch import IGNORED, Batch
from smaug_core.distributed import World
from smaug_core.model.activation_checkpointing import Recomputing
from smaug_core.model.decoder import PixelDecoder
from smaug_core.model.encoder import create_encoder
from smaug_core.model.objectives import (
    matching_loss,
    pixel_loss,
    pixel_targets,
    word_loss,
)
from smaug_core.model.pairs import Pairs, contrast, pair_up, similarities
from smaug_core.model.selector import FrameSelector, Selection, gather_frames, pick_frames, take_frames
from smaug_core.model.temporal import TemporalEncoder
from smaug_core.model.text import FusionEncoder, TextEncoder, WordHead


@dataclass(frozen=True, slots=True)
class EncodedClips:
    """Output of the encoder for a batch of clips, independent of captions."""

    tokens: Float[Tensor, "clips frames tokens width"]
    """[CLS] and the surviving tokens of every frame."""
    summaries: Float[Tensor, "clips frames width"]
    """One vector for each frame."""
    position_ids: Int[Tensor, "clips frames patches"]
    """The patch each token but [CLS] came from; `FUSED` for fused ones."""

    @property
    def num_frames(self) -> int:
        """Frames of each clip."""
        return self.tokens.shape[1]

    def to(self, device: str) -> "EncodedClips":
        """The same clips on another device."""
        return EncodedClips(self.tokens.to(device), self.summaries.to(device), self.position_ids.to(device))

    def each(self) -> list["EncodedClips"]:
        """Every clip on its own."""
        rows = zip(*(part.unsqueeze(1) for part in (self.tokens, self.summaries, self.position_ids)), strict=True)
        return [EncodedClips(*row) for row in rows]


class SMAUG(nn.Module):
    """Masked autoencoder, text encoder and fusion encoder, with sparsification of tokens and frames (paper 3).

    Args:
        config: the parts and their sizes.
        vocab_size: tokens that captions are made of.
        shape: frames of a clip it is trained on. One frame: no temporal encoder; all frames: no selector.
    """

    def __init__(self, config: ModelConfig, vocab_size: int, shape: ClipShape | None = None) -> None:
        super().__init__()
        self.config, self.shape = config, shape or ClipShape()
        frames = self.shape.frames
        self.vision = create_encoder(config)
        self.selector = FrameSelector(config, frames) if self.shape.selects else None
        self.temporal = TemporalEncoder(config, frames) if frames > 1 else None
        self.decoder = PixelDecoder(config) if config.decoder_depth else None
        self.text = TextEncoder(config, vocab_size)
        self.fusion = FusionEncoder(config, vocab_size)
        self.vision_projection = nn.Linear(config.width, config.embed_dim)
        self.text_projection = nn.Linear(config.text_width, config.embed_dim)
        self.temperature = nn.Parameter(torch.tensor(config.temperature), requires_grad=config.learn_temperature)
        self.match_head = nn.Linear(config.text_width, 2)
        self.word_head = WordHead(config, vocab_size)

    def forward(
        self, batch: Batch, *, negatives_group: int, vtc_negatives: str = "batch", world: World | None = None
    ) -> dict[str, Float[Tensor, ""]]:
        """The losses of a training step by name; their sum is the objective (Eq. 6).

        `vtc` and `vtm` always; `mlm` where words are hidden and `mvm` where patches are. With several processes,
        `batch` is this one's share, and the mean of the losses over all processes is that of the global batch.
        """
        world = world or World()
        clips = self.encode_clips(batch.images, visible=batch.visible)
        states, hidden_states = self._encode_captions(batch)
        frame_vectors, captions = self.embed_frames(clips), self.embed_caption(states, batch.word_mask)
        temperature = self.bounded_temperature()
        clip_logits, caption_logits = (logits / temperature for logits in similarities(frame_vectors, captions, world))
        groups = None if vtc_negatives == "batch" else negatives_group
        losses = {"vtc": contrast(clip_logits, caption_logits, batch.media, groups, world)}

        here = slice(world.rank * len(captions), (world.rank + 1) * len(captions))
        pairs = pair_up(batch, clip_logits[:, here], negatives_group)
        keys, selection = self._keys_of_pairs(batch, pairs, clips, states)
        losses |= self._fuse(batch, pairs, keys, states, hidden_states, world)
        if batch.hidden is not None and self.decoder is not None:
            losses["mvm"] = self._reconstruct(batch, clips, selection)
        return losses

    def recompute_layers(self, wanted: bool) -> None:
        """Return whether layers are recomputed in the backward pass: less memory, the same numbers."""
        for module in self.modules():
            if isinstance(module, Recomputing):
                module.recompute = wanted

    def encode_clips(
        self,
        images: Float[Tensor, "clips frames 3 height width"],
        *,
        visible: Int[Tensor, "clips visible"] | None = None,
        keep_rate: float | None = None,
    ) -> EncodedClips:
        """Encode every frame on its own; the frames of a clip show the same places (tube masking, paper 3.1.1)."""
        num_frames = images.shape[1]
        if visible is not None:
            visible = visible.repeat_interleave(num_frames, dim=0)
        frames = self.vision(
            rearrange(images, "b k c h w -> (b k) c h w"),
            visible=visible,
            keep_rate=self.config.keep_rate if keep_rate is None else keep_rate,
        )
        return EncodedClips(
            tokens=rearrange(frames.tokens, "(b k) n d -> b k n d", k=num_frames),
            summaries=rearrange(frames.summary, "(b k) d -> b k d", k=num_frames),
            position_ids=rearrange(frames.position_ids, "(b k) n -> b k n", k=num_frames),
        )

    def embed_frames(self, clips: EncodedClips) -> Float[Tensor, "clips frames dim"]:
        """Each frame as a vector of length 1 in the space shared with captions; no caption selects among them."""
        return F.normalize(self.vision_projection(clips.summaries).float(), dim=-1)

    def embed_caption(
        self, states: Float[Tensor, "captions words dim"], mask: Bool[Tensor, "captions words"]
    ) -> Float[Tensor, "captions embed"]:
        """Each caption as a vector of length 1 in the space shared with frames."""
        return F.normalize(self.text_projection(self.summarise(states, mask)).float(), dim=-1)

    def summarise(
        self, states: Float[Tensor, "captions words dim"], mask: Bool[Tensor, "captions words"]
    ) -> Float[Tensor, "captions dim"]:
        """One vector for each caption, from the states of its tokens."""
        if self.config.caption_vector == "cls":
            return states[:, 0]
        return (states * mask.unsqueeze(-1)).sum(dim=1) / mask.sum(dim=1, keepdim=True)

    def select(
        self,
        summaries: Float[Tensor, "pairs frames width"],
        captions: Float[Tensor, "pairs dim"],
        draws: Float[Tensor, "pairs frames"] | None = None,
    ) -> Selection:
        """The frames that matter for the caption in the same row; `captions` come from `summarise` (Eq. 4, 5)."""
        assert self.selector is not None
        scores = self.selector(summaries, captions)
        return pick_frames(scores, self.shape.selected, draws=draws, temperature=self.config.selector_temperature)

    def join_frames(
        self,
        tokens: Float[Tensor, "pairs selected tokens width"],
        places: Int[Tensor, "pairs selected"],
        num_frames: int,
    ) -> Float[Tensor, "pairs keys width"]:
        """One sequence of tokens for words to attend to, from those of the frames at `places` of `num_frames`."""
        if self.temporal is None or num_frames == 1:
            return rearrange(tokens, "b k n d -> b (k n) d")
        return self.temporal(tokens, places, num_frames)

    def match_logits(
        self,
        states: Float[Tensor, "pairs words dim"],
        mask: Bool[Tensor, "pairs words"],
        keys: Float[Tensor, "#pairs tokens width"],
    ) -> Float[Tensor, "pairs 2"]:
        """Logits of "does not match" and "matches" for each pair of a caption and a clip's tokens."""
        return self.match_head(self.summarise(self.fusion(states, mask, keys), mask)).float()

    def bounded_temperature(self) -> Float[Tensor, ""]:
        """The temperature within [0.001, 0.5]; outside, the bound's value still passes the gradient on."""
        with torch.no_grad():
            self.temperature.clamp_(0.001, 0.5)
        return self.temperature

    def _encode_captions(
        self, batch: Batch
    ) -> tuple[Float[Tensor, "batch words dim"], Float[Tensor, "batch words dim"] | None]:
        """The clean captions and, where words are hidden, the masked ones, in one pass."""
        if batch.hidden_words is None:
            return self.text(batch.words, batch.word_mask), None
        both = torch.cat([batch.words, batch.hidden_words])
        clean, hidden = self.text(both, batch.word_mask.repeat(2, 1)).chunk(2)
        return clean, hidden

    def _keys_of_pairs(
        self, batch: Batch, pairs: Pairs, clips: EncodedClips, states: Float[Tensor, "batch words dim"]
    ) -> tuple[Float[Tensor, "pairs keys width"], Selection | None]:
        """The tokens that each pair's words attend to; and which frames each pair, or each clip, selected."""
        num_frames = clips.num_frames
        if self.selector is None or num_frames == 1:
            places = torch.arange(num_frames, device=states.device).expand(len(clips.tokens), -1)
            return self.join_frames(clips.tokens, places, num_frames)[pairs.clips], None
        captions = self.summarise(states, batch.word_mask)
        assert batch.selection_draws is not None
        draws = rearrange(batch.selection_draws, "b pairs k -> pairs b k")
        if self.config.selection_per == "clip":
            selection = self.select(clips.summaries, captions, draws[0])
            selected = take_frames(clips.tokens, selection)
            return self.join_frames(selected, selection.places, num_frames)[pairs.clips], selection
        selection = self.select(
            clips.summaries[pairs.clips], captions[pairs.captions], rearrange(draws, "pairs b k -> (pairs b) k")
        )
        selected = take_frames(clips.tokens[pairs.clips], selection)
        return self.join_frames(selected, selection.places, num_frames), selection

    def _fuse(
        self,
        batch: Batch,
        pairs: Pairs,
        keys: Float[Tensor, "pairs keys width"],
        states: Float[Tensor, "batch words dim"],
        hidden_states: Float[Tensor, "batch words dim"] | None,
        world: World,
    ) -> dict[str, Float[Tensor, ""]]:
        """Matching, and the prediction of hidden words from the true pair's tokens, in one pass of fusion."""
        num, num_pairs = len(batch.media), len(pairs.clips)
        words, mask = states[pairs.captions], batch.word_mask[pairs.captions]
        if hidden_states is not None:
            words, mask = torch.cat([words, hidden_states]), torch.cat([mask, batch.word_mask])
            keys = torch.cat([keys, keys[:num]])
        fused = self.fusion(words, mask, keys)

        is_match = torch.arange(num_pairs, device=fused.device) < num
        logits = self.match_head(self.summarise(fused[:num_pairs], mask[:num_pairs]))
        share = _share(pairs.counts, world)
        losses = {"vtm": matching_loss(logits, is_match, pairs.counts, share)}
        if batch.word_places is not None and batch.word_targets is not None:
            table = self.text.embeddings.word_embeddings.weight
            guesses = self.word_head(fused[num_pairs:].flatten(0, 1)[batch.word_places], table)
            share = _share(batch.word_targets != IGNORED, world)
            losses["mlm"] = word_loss(guesses, batch.word_targets, share)
        return losses

    def _reconstruct(self, batch: Batch, clips: EncodedClips, selection: Selection | None) -> Float[Tensor, ""]:
        """MVM on the frames that the true caption selected; it sends no gradient to the selector."""
        assert batch.hidden is not None and self.decoder is not None
        tokens, position_ids, images = clips.tokens, clips.position_ids, batch.images
        if selection is not None:
            places = selection.places[: len(images)]
            tokens = gather_frames(tokens, places)
            position_ids = position_ids.gather(1, repeat(places, "b k -> b k n", n=position_ids.shape[2]))
            images = images[torch.arange(len(images), device=images.device)[:, None], places]
        hidden = batch.hidden.repeat_interleave(images.shape[1], dim=0)
        predicted = self.decoder(
            rearrange(tokens, "b k n d -> (b k) n d"), rearrange(position_ids, "b k n -> (b k) n"), hidden
        )
        pixels = rearrange(images, "b k c h w -> (b k) c h w")
        target = pixel_targets(pixels, hidden, self.config.patch_size, self.config.normalize_target)
        return pixel_loss(predicted, target)


def _share(counted: Bool[Tensor, "*shape"], world: World) -> Float[Tensor, ""]:
    """Divisor of a sum over the counted places of this process, so that the mean over processes is that of all."""
    return world.total(counted.float().sum()).clamp(min=1) / world.size
