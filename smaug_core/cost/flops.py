"""Tokens and multiply-accumulates of a training step in closed form, without torch.

Counted are matrix products: projections, attention, feed-forward, heads. Left out are norms, activations, softmaxes,
gathers, and the similarities of a batch, which grow with its size (0.006 % of a step at the paper's scale).
"""

from dataclasses import dataclass, replace

from smaug_core.clip_shape import ClipShape, clip_shape, image_size_after
from smaug_core.config import Config, EvaluateConfig, FinetuneConfig, ModelConfig, PretrainConfig, PretrainVideoConfig
from smaug_core.cost.token_counts import num_kept, num_visible
from smaug_core.errors import SmaugError
from smaug_core.stage_protocol import FINETUNE, PRETRAIN, PRETRAIN_VIDEO

TRAINING = 3
"""Cost of a training step relative to its forward pass: all parts are trained, and backward takes two products."""
TRUE_PAIR, WRONG_PAIRS = 1, 2
"""Pairs of the matching head for each clip; the words to be predicted are fused with the true pair once more."""


@dataclass(frozen=True, slots=True)
class Part:
    """One part of the model in the forward pass of one sample."""

    tokens: int
    """Tokens of a sequence that enters it, [CLS] included."""
    macs: int
    """Multiply-accumulates; one is two FLOPs."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StepShape:
    """Sizes of a training step that decide its cost."""

    mask_ratio: float
    """Share of the patches hidden; 0 for fine-tuning and for models without masked visual modelling."""
    text_tokens: int
    """Tokens of a caption, padding included."""
    hidden_words: int
    """Positions of a caption that the word head sees; 0, as in fine-tuning, leaves out the masked pass."""
    vocab_size: int
    clip: ClipShape = ClipShape()
    """Frames of a sample, and how many of them are selected."""


def step_of(stage: PretrainConfig | PretrainVideoConfig | FinetuneConfig, vocab_size: int) -> StepShape:
    """A step of a stage with captions of its full `text_length`, of whose words the usual share is hidden."""
    patches, words = (0.0, 0.0) if isinstance(stage, FinetuneConfig) else (stage.mask_ratio, stage.mlm_ratio)
    return StepShape(
        mask_ratio=patches,
        text_tokens=stage.text_length,
        hidden_words=round(words * (stage.text_length - 2)),
        vocab_size=vocab_size,
        clip=ClipShape() if isinstance(stage, PretrainConfig) else clip_shape(stage.frames, stage.selected),
    )


def cost(config: Config, vocab_size: int, *, step: str = "plain") -> dict[str, dict[str, Part]]:
    """Parts of a training step of every stage of a configuration: by stage, then by part.

    Args:
        config: frames that fine-tuning takes over from pre-training are resolved.
        vocab_size: tokens of `model.tokenizer`.
        step: `plain`, the step as it is written; there is no other yet.

    Raises:
        SmaugError: another `step`.
    """
    if step != "plain":
        raise SmaugError(f"step: {step!r} has no cost model; expected 'plain'")
    stages = {PRETRAIN: config.pretrain, PRETRAIN_VIDEO: config.pretrain_video}
    tuned = {f"{FINETUNE}.{task}": tuning for task, tuning in config.finetune.items()}
    costs = {}
    for name, stage in (stages | tuned).items():
        if stage is not None:
            ratio = stage.image_size_ratio if isinstance(stage, FinetuneConfig) else 1.0
            costs[name] = step_cost(image_size_after(config.model, ratio), step_of(stage, vocab_size))
    return costs


def published_accounting(model: ModelConfig, shape: StepShape) -> tuple[ModelConfig, StepShape]:
    """The same step as the paper's hours count it: the word head on every position, selection once for each clip.

    Captions are padded to `text_tokens`, 32 in pre-training, as in Singularity, on which SMAUG's code was built. The
    evidence is the fit: at the rate of the default row (50.4 h), all rows of Table 6 come out within 0.7 h of the
    printed hours, those of Tables 4, 5 and 8 within 7 % (docs/model.md).
    """
    return replace(model, selection_per="clip"), replace(shape, hidden_words=shape.text_tokens)


def block(queries: int, width: int, *, after: int | None = None, hidden: int | None = None) -> int:
    """One transformer layer on `queries` tokens.

    Args:
        queries: tokens that attend to each other.
        width: their features.
        after: how many of them reach the feed-forward part; None: all.
        hidden: features inside the feed-forward part; None: four times `width`.
    """
    after = queries if after is None else after
    hidden = 4 * width if hidden is None else hidden
    return 4 * queries * width**2 + 2 * queries**2 * width + 2 * after * width * hidden


def token_schedule(model: ModelConfig, mask_ratio: float) -> list[tuple[int, int]]:
    """Patch tokens (fused ones included, [CLS] not) that enter and leave each layer of the encoder."""
    tokens = num_visible(model.num_patches, mask_ratio)
    schedule = []
    for layer in range(1, model.layers + 1):
        entering = tokens
        if layer in model.sparsify_layers:
            kept = num_kept(tokens, model.keep_rate)
            tokens = kept + 1 if kept < tokens else tokens
        schedule.append((entering, tokens))
    return schedule


def step_cost(model: ModelConfig, shape: StepShape) -> dict[str, Part]:
    """Each part's share of the forward pass of one sample in a training step; parts that do not run are absent."""
    schedule = token_schedule(model, shape.mask_ratio)
    visible, surviving = schedule[0][0], 1 + schedule[-1][1]
    hidden = model.num_patches - visible
    frames, selected, words = shape.clip.frames, shape.clip.selected, shape.text_tokens
    pairs = TRUE_PAIR + WRONG_PAIRS
    selections = pairs if shape.clip.selects and model.selection_per == "pair" else 1
    fused = pairs + bool(shape.hidden_words)
    keys = selected * surviving
    parts = {"encoder": Part(1 + visible, frames * _encoder(model, schedule))}
    if shape.clip.selects:
        parts["selector"] = Part(frames + 1, selections * _selector(model, shape.clip, surviving))
    if frames > 1:
        parts["temporal"] = Part(keys, selections * model.temporal_layers * block(keys, model.width))
    if hidden and model.decoder_depth:
        parts["decoder"] = Part(surviving + hidden, selected * _decoder(model, surviving, hidden))
    passes = 1 + bool(shape.hidden_words)
    parts["text"] = Part(words, passes * model.text_layers * block(words, model.text_width))
    parts["fusion"] = Part(words, fused * _fusion(model, words, keys))
    if shape.hidden_words:
        logits = shape.hidden_words * model.text_width * (model.text_width + shape.vocab_size)
        parts["word_head"] = Part(shape.hidden_words, logits)
    parts["heads"] = Part(1, _heads(model, frames, pairs))
    return parts


def evaluation_macs(
    model: ModelConfig, trained: ClipShape, test: EvaluateConfig, *, clips: int, captions: int, pairs: int
) -> int:
    """A whole evaluation: every clip and every caption encoded once, and `pairs` of them matched.

    Args:
        model: at the size of the frames that are evaluated.
        trained: frames of the model's last training.
        test: frames, text length, keeping rate.
        clips: how many.
        captions: how many.
        pairs: of a clip and a caption, scored by the matching head.
    """
    model = model if test.keep_rate is None else replace(model, keep_rate=test.keep_rate)
    schedule = token_schedule(model, 0.0)
    surviving, words = 1 + schedule[-1][1], test.text_length
    selects = trained.selects and test.selected == "literal" and test.frames > trained.selected
    keys = (trained.selected if selects else test.frames) * surviving
    clip = test.frames * (_encoder(model, schedule) + model.width * model.embed_dim)
    pair = _fusion(model, words, keys) + 2 * model.text_width
    joined = model.temporal_layers * block(keys, model.width) if trained.frames > 1 else 0
    if selects:
        shape = ClipShape(frames=test.frames, selected=trained.selected)
        pair += joined + _selector(model, shape, surviving)
    else:
        clip += joined
    caption = model.text_layers * block(words, model.text_width) + model.text_width * model.embed_dim
    return clips * clip + captions * caption + pairs * pair


def total_macs(parts: dict[str, Part]) -> int:
    """Multiply-accumulates of all parts."""
    return sum(part.macs for part in parts.values())


def _encoder(model: ModelConfig, schedule: list[tuple[int, int]]) -> int:
    """One frame; only its visible patches are embedded."""
    macs = schedule[0][0] * 3 * model.patch_size**2 * model.width
    for entering, leaving in schedule:
        macs += block(1 + entering, model.width, after=1 + leaving)
        if leaving < entering:
            macs += (1 + entering) * model.width  # [CLS]'s attention row, formed once more on its own
            macs += (entering - (leaving - 1)) * model.width  # the fused token
    return macs


def _selector(model: ModelConfig, clip: ClipShape, surviving: int) -> int:
    """One caption choosing among the frames of one clip."""
    width, sequence = model.width, clip.frames + 1
    ends = clip.frames * width**2 + model.text_width * width + clip.frames * width
    blocks = model.selector_layers * block(sequence, width, hidden=model.selector_hidden)
    gradient_path = clip.selected * clip.frames * surviving * width  # tokens mixed by weights that sum to nothing
    return ends + blocks + gradient_path


def _decoder(model: ModelConfig, surviving: int, hidden: int) -> int:
    """One frame: surviving tokens and one mask token for each hidden patch; dropped patches are absent."""
    width = model.decoder_width
    embed = surviving * model.width * width
    head = hidden * width * 3 * model.patch_size**2
    return embed + model.decoder_depth * block(surviving + hidden, width) + head


def _fusion(model: ModelConfig, words: int, keys: int) -> int:
    """One pass of the fusion encoder: queries from the words, keys and values from the frames' tokens."""
    width = model.text_width
    cross = 2 * words * width**2 + 2 * words * keys * width + 2 * keys * model.width * width
    return model.fusion_layers * (block(words, width) + cross)


def _heads(model: ModelConfig, frames: int, pairs: int) -> int:
    """Every frame and the caption in the contrasted space, and two logits for each pair."""
    return (frames * model.width + model.text_width) * model.embed_dim + pairs * 2 * model.text_width
