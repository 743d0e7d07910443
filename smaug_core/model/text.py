"""The text encoder and the fusion encoder: BERT's layers, the last ones with cross-attention to the frames."""

from typing import cast

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from smaug_core import torchvision_on_cpu
from smaug_core.config import ModelConfig
from smaug_core.model.activation_checkpointing import Recomputing

torchvision_on_cpu.make_importable()

from transformers import BertConfig  # noqa: E402
from transformers.models.bert.modeling_bert import (  # noqa: E402
    BertEmbeddings,
    BertLayer,
    BertPredictionHeadTransform,
)


class TextEncoder(Recomputing):
    """BERT's embeddings and first layers (paper 3.1.2); bidirectional, padding masked."""

    def __init__(self, config: ModelConfig, vocab_size: int) -> None:
        super().__init__()
        bert = bert_config(config, vocab_size)
        self.embeddings = BertEmbeddings(bert)
        self.layers = nn.ModuleList(BertLayer(bert) for _ in range(config.text_layers))

    def forward(
        self, ids: Int[Tensor, "batch words"], mask: Bool[Tensor, "batch words"]
    ) -> Float[Tensor, "batch words dim"]:
        """Encode token ids; `mask` is true where there is a word."""
        x = self.embeddings(ids)
        for layer in self.layers:
            x = self.through(layer, x, attention_mask=mask[:, None, None, :])
        return x


class FusionEncoder(Recomputing):
    """BERT's last layers, each attending to the frames' tokens between self-attention and feed-forward."""

    def __init__(self, config: ModelConfig, vocab_size: int) -> None:
        super().__init__()
        bert = bert_config(config, vocab_size)
        bert.is_decoder = True  # transformers builds cross-attention for decoders only
        bert.add_cross_attention = True
        self.layers = nn.ModuleList(BertLayer(bert) for _ in range(config.fusion_layers))
        for layer in cast("list[BertLayer]", self.layers):
            layer.attention.self.is_causal = False  # words see each other in both directions here
            cross = layer.crossattention.self
            cross.key = nn.Linear(config.width, config.text_width)
            cross.value = nn.Linear(config.width, config.text_width)

    def forward(
        self,
        words: Float[Tensor, "batch words dim"],
        mask: Bool[Tensor, "batch words"],
        frames: Float[Tensor, "#batch tokens width"],
    ) -> Float[Tensor, "batch words dim"]:
        """Fuse each caption with the tokens of the clip in the same row; one row of tokens serves them all."""
        for layer in self.layers:
            words = self.through(layer, words, attention_mask=mask[:, None, None, :], encoder_hidden_states=frames)
        return words


class WordHead(nn.Module):
    """Predicts hidden words; the output matrix is the text encoder's word table (as in BERT)."""

    def __init__(self, config: ModelConfig, vocab_size: int) -> None:
        super().__init__()
        self.transform = BertPredictionHeadTransform(bert_config(config, vocab_size))
        self.bias = nn.Parameter(torch.zeros(vocab_size))

    def forward(
        self, states: Float[Tensor, "words dim"], word_table: Float[Tensor, "vocabulary dim"]
    ) -> Float[Tensor, "words vocabulary"]:
        """Logits over the vocabulary for each state."""
        return F.linear(self.transform(states), word_table, self.bias)


def bert_config(config: ModelConfig, vocab_size: int) -> BertConfig:
    """The settings of BERT's layers at the configured sizes."""
    width = config.text_width
    return _bert(width, config.text_heads, 4 * width, config.dropout, vocab_size=vocab_size)


def bert_layer(width: int, heads: int, hidden: int, dropout: float) -> BertLayer:
    """One of BERT's layers, in which all tokens attend to each other."""
    return BertLayer(_bert(width, heads, hidden, dropout))


def _bert(width: int, heads: int, hidden: int, dropout: float, **more: int) -> BertConfig:
    bert = BertConfig(
        hidden_size=width,
        num_attention_heads=heads,
        intermediate_size=hidden,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        **more,
    )
    bert._attn_implementation = "sdpa"
    return bert
