"""Every setting of the model, its training and its evaluation: the only place with defaults.

A field without a default is one that a scale must choose (sizes, schedule, precision). Importing this
module costs nothing: plans and command lines are built on it without torch.
"""

from dataclasses import dataclass, field

from smaug_core.settings import (
    KEEP_RATES,
    Check,
    at_least,
    clip_checks,
    multiple_of,
    require,
    share_checks,
    text_length_check,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig:
    """The embedded data `moving_shapes`; read only where that data enters a stage."""

    seed: int
    """Seed of everything that is drawn: attributes, motion, noise, wording."""
    size: int
    """Width and height of a frame, in pixels."""
    frames: int
    """Frames per clip of `sentence`."""
    train_clips: int
    """Captioned clips in the training split of `sentence`."""
    train_stills: int
    """Captioned single pictures of `stills`, in the place of an image-text corpus."""
    more_stills: int
    """Captioned single pictures of `more_stills`, in the place of what a larger corpus adds."""
    paragraph_frames: int
    """Frames per clip of `paragraph`."""
    paragraph_train_clips: int
    """Clips in the training split of `paragraph`."""
    brief_frames: int
    """Frames per clip of `brief`, a quarter of which show what the caption names."""
    brief_train_clips: int
    """Clips in the training split of `brief`."""
    val_clips: int
    """Clips of each source on which settings are chosen."""
    test_clips: int
    """Clips of each source that are reported; no two show the same thing."""

    def __post_init__(self) -> None:
        trained = ("train_clips", "train_stills", "more_stills", "paragraph_train_clips", "brief_train_clips")
        require(
            *(at_least(1, f"data.{name}", getattr(self, name)) for name in (*trained, "val_clips", "test_clips")),
            (self.size >= 16 and self.size % 2 == 0, "data.size", self.size, "an even number from 16 (H.264 needs it)"),
            at_least(11, "data.frames", self.frames),  # two events, with empty frames around them
            at_least(21, "data.paragraph_frames", self.paragraph_frames),  # four events
            at_least(16, "data.brief_frames", self.brief_frames),  # a quarter of it can be seen to blink
            at_least(0, "data.seed", self.seed),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    """SMAUG's parts and their sizes; read by every stage."""

    vision: str
    """timm name of the vision transformer, e.g. `vit_base_patch16_clip_quickgelu_224.openai`."""
    image_size: int
    """Width and height of a frame as the encoder sees it, in pixels."""
    patch_size: int
    """Width and height of a patch, in pixels."""
    width: int
    """Feature size of the vision encoder."""
    layers: int
    """Layers of the vision encoder."""
    heads: int
    """Attention heads of the vision encoder."""
    text_width: int
    """Feature size of the text and the fusion encoder."""
    text_heads: int
    """Attention heads of the text and the fusion encoder."""
    text_layers: int
    """Layers of the text encoder (paper 3.5: the first 9 of BERT-base)."""
    fusion_layers: int
    """Layers of the fusion encoder, each with cross-attention (paper 3.5: the last 3 of BERT-base)."""
    tokenizer: str
    """`moving_shapes` for the vocabulary in this package, else a directory with BERT's vocab.txt, or the name of a
    hub's model that has one."""
    embed_dim: int
    """Size of the space in which clips and captions are contrasted."""
    decoder_width: int
    """Feature size of the pixel decoder."""
    decoder_heads: int
    """Attention heads of the pixel decoder."""
    dropout: float
    """Dropout of the text, fusion and temporal layers, on features and on attention."""
    selector_hidden: int
    """Hidden size of the frame selector's feed-forward layers (paper 3.5: 2048)."""
    decoder_depth: int = 3
    """Layers of the pixel decoder; 0 removes masked visual modelling (paper 3.5, Table 11)."""
    keep_rate: float = 0.8
    """Share of the patch tokens kept at each sparsification; 1 switches it off (paper 4.2, Table 5)."""
    sparsify_layers: tuple[int, ...] = (4, 7, 10)
    """Encoder layers that sparsify, counted from 1 (paper 3.2)."""
    selector_layers: int = 2
    """Transformer layers of the frame selector (paper 3.5)."""
    selector_heads: int = 2
    """Attention heads of the frame selector (paper 3.5)."""
    selector_temperature: float = 1.0
    """Temperature of the softmax whose gradient the frame selector learns from."""
    selection_per: str = "pair"
    """Whose text selects the frames of a wrong pair: `pair`, its own caption, or `clip`, the clip's own.

    `clip` encodes the selected frames once for each clip; but it lets the matching head recognise a wrong pair by
    frames that its caption would not have selected, which never occur in a test.
    """
    temporal_layers: int = 2
    """Layers of the temporal encoder over the selected frames' tokens (Singularity)."""
    normalize_target: bool = False
    """Normalise the pixels of each patch before they are predicted (MAE's norm_pix_loss)."""
    temperature: float = 0.07
    """Start of the contrastive temperature (appendix C), kept within [0.001, 0.5]."""
    caption_vector: str = "cls"
    """Summary of a caption, alone and fused with frames: `cls`, its first token (appendix C), or `mean`, of all.

    Layers that start from random weights have not learned to gather a caption in one token.
    """
    learn_temperature: bool = True
    """Train the temperature, as Singularity does; the paper only gives its value."""

    def __post_init__(self) -> None:
        sizes = ("layers", "text_layers", "fusion_layers", "embed_dim", "selector_hidden", "selector_layers")
        exist = all(1 <= layer <= self.layers for layer in self.sparsify_layers)
        require(
            *(at_least(1, f"model.{name}", getattr(self, name)) for name in sizes),
            at_least(0, "model.decoder_depth", self.decoder_depth),
            at_least(1, "model.temporal_layers", self.temporal_layers),
            multiple_of(self, "width", "selector_heads"),
            (self.selector_temperature > 0, "model.selector_temperature", self.selector_temperature, "above 0"),
            (self.selection_per in ("pair", "clip"), "model.selection_per", self.selection_per, "pair or clip"),
            (0.0001 <= self.keep_rate <= 1, "model.keep_rate", self.keep_rate, KEEP_RATES),
            multiple_of(self, "image_size", "patch_size"),
            multiple_of(self, "width", "heads"),
            (self.width % 4 == 0, "model.width", self.width, "a multiple of 4, for sines and cosines of two axes"),
            (self.decoder_width % 4 == 0, "model.decoder_width", self.decoder_width, "a multiple of 4, as model.width"),
            multiple_of(self, "text_width", "text_heads"),
            multiple_of(self, "decoder_width", "decoder_heads"),
            (
                exist,
                "model.sparsify_layers",
                self.sparsify_layers,
                f"between 1 and model.layers = {self.layers}",
            ),
            (self.caption_vector in ("cls", "mean"), "model.caption_vector", self.caption_vector, "cls or mean"),
            (0 <= self.dropout < 1, "model.dropout", self.dropout, "in [0, 1)"),
            (0.001 <= self.temperature <= 0.5, "model.temperature", self.temperature, "in [0.001, 0.5]"),
        )

    @property
    def sees_whole_frames(self) -> bool:
        """True if the encoder is BEiT, whose positions are relative: nothing can be masked or dropped."""
        return self.vision.startswith("beit")

    @property
    def num_patches(self) -> int:
        """Patches of one frame."""
        return (self.image_size // self.patch_size) ** 2


@dataclass(frozen=True, kw_only=True, slots=True)
class ScheduleConfig:
    """AdamW with linear warm-up and cosine decay; shared by every training stage."""

    epochs: int
    """Passes over the training data."""
    batch_size: int
    """Clips per optimiser step over all devices: the contrastive loss depends on it."""
    lr: float
    """Peak learning rate."""
    min_lr: float
    """Learning rate at the end of the cosine."""
    warmup_epochs: float
    """Epochs of linear warm-up."""
    beta2: float
    """Second momentum of AdamW."""
    precision: str
    """`fp32`, or `bf16` for autocast with similarities, softmax weights and pixel loss in fp32."""
    text_length: int
    """Caption tokens kept, [CLS] and [SEP] included."""
    negatives_group: int
    """Consecutive clips of a batch among which hard negatives for matching are drawn."""
    vtc_negatives: str = "batch"
    """Clips and captions that a clip is contrasted with: the whole `batch`, or its `group` alone (Singularity's local
    negatives)."""
    weight_decay: float = 0.02
    """Decay of weight matrices; biases, norms, embeddings and the temperature are exempt."""
    max_unreadable: float = 0.001
    """Share of the clips and pictures of an epoch that may be unreadable before the training stops. Each is counted,
    and the next readable one of its batch, with its own caption, takes its place. Fingerprints do not depend on it."""

    def checks(self, where: str, **shares: float) -> list[Check]:
        """Check what every training schedule must fulfil, and more shares; `where` starts the settings' names."""
        groups = 2 <= self.negatives_group and self.batch_size % self.negatives_group == 0
        one_of = f"at least 2 and a divisor of {where}.batch_size = {self.batch_size}"
        return [
            at_least(1, f"{where}.epochs", self.epochs),
            (self.batch_size >= 2, f"{where}.batch_size", self.batch_size, "at least 2: negatives come from the batch"),
            (groups, f"{where}.negatives_group", self.negatives_group, one_of),
            (self.lr >= 0, f"{where}.lr", self.lr, "at least 0"),
            (0 <= self.min_lr <= self.lr, f"{where}.min_lr", self.min_lr, f"between 0 and {where}.lr = {self.lr}"),
            (self.warmup_epochs >= 0, f"{where}.warmup_epochs", self.warmup_epochs, "at least 0"),
            (0 < self.beta2 < 1, f"{where}.beta2", self.beta2, "in (0, 1)"),
            (self.precision in ("fp32", "bf16"), f"{where}.precision", self.precision, "fp32 or bf16"),
            text_length_check(f"{where}.text_length", self.text_length),
            (self.vtc_negatives in ("batch", "group"), f"{where}.vtc_negatives", self.vtc_negatives, "batch or group"),
            (self.weight_decay >= 0, f"{where}.weight_decay", self.weight_decay, "at least 0"),
            *share_checks(where, max_unreadable=self.max_unreadable, **shares),
        ]


@dataclass(frozen=True, kw_only=True, slots=True)
class PretrainConfig(ScheduleConfig):
    """Single-frame pre-training (paper 3.3 to 3.5)."""

    corpus: tuple[str, ...]
    """Sources that are mixed, e.g. `moving_shapes/stills`; a sweep names a slot such as `5M`."""
    mask_ratio: float = 0.5
    """Share of each frame's patches hidden from the encoder (paper 4.2, Table 4)."""
    mlm_ratio: float = 0.15
    """Share of the caption's words to be predicted (appendix C)."""
    vision_weights: str | None = None
    """Initial weights of the vision encoder: `timm` for the weights that `model.vision` names, the name of a hub's
    model, a directory or a file; none: new weights."""
    text_weights: str | None = None
    """Initial weights of the text and the fusion encoder: BERT as the name of a hub's model, a directory or a file."""

    def __post_init__(self) -> None:
        require(*self.checks("pretrain", mask_ratio=self.mask_ratio, mlm_ratio=self.mlm_ratio))


@dataclass(frozen=True, kw_only=True, slots=True)
class PretrainVideoConfig(ScheduleConfig):
    """Multi-frame pre-training on clips, from the single-frame model (paper 3.5; Singularity's second stage)."""

    corpus: tuple[str, ...]
    """Sources of clips; a sweep names a slot such as `video`. Pictures are refused."""
    frames: int | None = None
    """Frames per clip, 4 or 8 in the paper; none: there is no such stage."""
    selected: int | None = None
    """Frames that the selector hands on (kappa); none: all of them, without a selector."""
    mask_ratio: float = 0.5
    """Share of the patches hidden, the same places in every frame of a clip (tube masking, paper 3.1.1)."""
    mlm_ratio: float = 0.15
    """Share of the caption's words to be predicted."""

    def __post_init__(self) -> None:
        where = "pretrain_video"
        require(
            *self.checks(where, mask_ratio=self.mask_ratio, mlm_ratio=self.mlm_ratio),
            *clip_checks(where, self.frames, self.selected, least=2),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class FinetuneConfig(ScheduleConfig):
    """Fine-tuning for retrieval: contrast and matching only, nothing masked (paper 4.1)."""

    dataset: str
    """Data whose training split is used, e.g. `moving_shapes/sentence`; filled by the scale."""
    frames: int | None = None
    """Frames per clip; none: as many as the weights it starts from were trained on."""
    selected: int | None = None
    """Frames that the selector hands on; none: as many as in the weights it starts from, or all of other `frames`."""
    image_size_ratio: float = 1.0
    """Width and height of a frame relative to pre-training, e.g. 1.2857 for 288 after 224 pixels (Table 10)."""

    def __post_init__(self) -> None:
        require(
            *self.checks("finetune"),
            *clip_checks("finetune", self.frames, self.selected, least=1),
            (0 < self.image_size_ratio <= 4, "finetune.image_size_ratio", self.image_size_ratio, "in (0, 4]"),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluateConfig:
    """Text-to-video and video-to-text retrieval (paper 4.1; protocol of Singularity)."""

    dataset: str
    """Data whose split is ranked; filled by the scale."""
    text_length: int
    """Caption tokens kept, [CLS] and [SEP] included."""
    rerank: int
    """Candidates of each query that the matching head scores again (Singularity: 128)."""
    frames: int = 12
    """Frames per clip, from the middles of equal intervals."""
    selected: str = "literal"
    """Frames that reach the words: `literal`, as many as in training, or `all`."""
    keep_rate: float | None = None
    """Keeping rate at test time; none takes the model's."""
    ranking: str = "match"
    """Score that orders the reported ranks: `match`, `match+contrast` or `contrast`; all are recorded."""
    split: str = "test"
    """`test`, or `val` to choose settings."""

    def __post_init__(self) -> None:
        keep_rate_holds = self.keep_rate is None or 0.0001 <= self.keep_rate <= 1
        require(
            at_least(1, "evaluate.frames", self.frames),
            at_least(1, "evaluate.rerank", self.rerank),
            text_length_check("evaluate.text_length", self.text_length),
            (self.selected in ("literal", "all"), "evaluate.selected", self.selected, "literal or all"),
            (self.ranking in RANKINGS, "evaluate.ranking", self.ranking, "one of " + ", ".join(RANKINGS)),
            (self.split in ("test", "val"), "evaluate.split", self.split, "test or val"),
            (keep_rate_holds, "evaluate.keep_rate", self.keep_rate, f"{KEEP_RATES}, or null for the model's"),
        )


RANKINGS = ("match", "match+contrast", "contrast")


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """The whole tree of one trial; a stage is given only the sub-trees it reads."""

    model: ModelConfig
    pretrain: PretrainConfig
    pretrain_video: PretrainVideoConfig | None = None
    """Absent where training stays with single frames."""
    data: DataConfig | None = None
    """Absent where no embedded data is used."""
    finetune: dict[str, FinetuneConfig] = field(default_factory=dict)
    """Fine-tuning by task slot, e.g. `msrvtt`; a task without an entry is evaluated zero-shot."""
    evaluate: dict[str, EvaluateConfig] = field(default_factory=dict)
    """Evaluation by task slot."""

    def __post_init__(self) -> None:
        most = 1 - 1 / self.model.num_patches
        for where, stage in (("pretrain", self.pretrain), ("pretrain_video", self.pretrain_video)):
            if stage is not None:
                right = f"at most {most:.4f}, so that one of {self.model.num_patches} patches stays visible"
                require((stage.mask_ratio <= most + 1e-9, f"{where}.mask_ratio", stage.mask_ratio, right))
        if self.model.sees_whole_frames:
            video_ratio = 0.0 if self.pretrain_video is None else self.pretrain_video.mask_ratio
            right = f"0 with model.vision = {self.model.vision!r}, which sees whole frames"
            require(
                (self.pretrain.mask_ratio == 0, "pretrain.mask_ratio", self.pretrain.mask_ratio, right),
                (video_ratio == 0, "pretrain_video.mask_ratio", video_ratio, right),
                (self.model.keep_rate == 1, "model.keep_rate", self.model.keep_rate, right.replace("0", "1", 1)),
            )
