"""A trained model in use: embeds, scores and ranks one's own clips and captions."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float

from smaug_core.config import EvaluateConfig, ModelConfig
from smaug_core.data.media.location import MediaLocation
from smaug_core.data.tokenizer import load_tokenizer
from smaug_core.data.unknown_words import count_unknown
from smaug_core.errors import SmaugError
from smaug_core.evaluation.retrieval import Encoded, Scores, candidates, encode, score
from smaug_core.model.smaug import SMAUG
from smaug_core.run_context import RunContext
from smaug_core.settings import from_settings
from smaug_core.training.checkpoint import load_weights, read_config

logger = logging.getLogger(__name__)


class _Unwatched:
    """A watch that discards progress and never requests a stop."""

    def report(self, step: int, total: int, values: Mapping[str, float]) -> None: ...

    def useful(self, seconds: float) -> None: ...

    def spent(self) -> float:
        return 0.0

    def stop_requested(self) -> bool:
        return False


class Retriever:
    """A model from the folder of a finished training, with its tokenizer; made by `smaug_core.load`.

    Clips and pictures are given as paths, captions as written. Frames come from the middles of equal intervals, as in
    evaluation; where the model selects frames, it does so for each caption.

    Raises:
        CheckpointError: the folder holds no weights, or they are damaged.
    """

    def __init__(self, folder: Path, device: str = "cpu") -> None:
        if device.split(":")[0] not in ("cpu", "cuda"):
            raise SmaugError(f"device: expected cpu or cuda, got {device!r}")
        weights = folder if (folder / "config.json").exists() else folder / "model"
        made_for, shape = read_config(weights)
        config = from_settings(ModelConfig, made_for, f"{weights}: model")
        self.tokenizer = load_tokenizer(config.tokenizer)
        self._vocabulary = config.tokenizer
        self._warned_of: set[str] = set()
        self.model = SMAUG(config, self.tokenizer.vocab_size, shape)
        load_weights(weights, self.model)
        self.model.to(device).eval()
        self._context = RunContext(seed=None, weights=weights, out=weights, device=device, watch=_Unwatched())

    def embed_clips(self, clips: Sequence[Path | str], *, frames: int = 12) -> Float[np.ndarray, "clips frames embed"]:
        """Each frame as a vector of length 1 in the space shared with captions.

        Raises:
            ClipError: a file cannot be read.
        """
        return self._encode(clips, [""], frames).vectors.cpu().numpy()

    def embed_captions(self, captions: Sequence[str]) -> Float[np.ndarray, "captions embed"]:
        """Each caption as a vector of length 1; its cosines with a clip's frames, averaged, are their similarity."""
        if not captions:
            raise SmaugError("captions: expected at least one, got 0")
        self.check_words(captions)
        words, mask = (torch.from_numpy(part) for part in self.tokenizer.encode(captions, self._text_length))
        with torch.inference_mode():
            words, mask = words.to(self._context.device), mask.to(self._context.device)
            vectors: np.ndarray = self.model.embed_caption(self.model.text(words, mask), mask).cpu().numpy()
        return vectors

    def score(
        self, clips: Sequence[Path | str], captions: Sequence[str], *, frames: int = 12, rerank: int = 128
    ) -> Scores:
        """Score each clip with each caption: cosine over temperature, and the matching head's logit.

        The matching head scores the `rerank` best clips of each caption and captions of each clip; NaN elsewhere.

        Raises:
            ClipError: a file cannot be read.
        """
        self.check_words(captions)
        encoded = self._encode(clips, captions, frames)
        with torch.inference_mode():
            return score(self.model, encoded, self._config(frames, rerank), self._context)

    def rank(
        self, caption: str, clips: Sequence[Path | str], *, frames: int = 12, rerank: int = 128
    ) -> list[tuple[Path, float]]:
        """Rank the clips for a caption, the best first, each with its matching logit.

        Only the `rerank` most similar ones are matched; the others follow by similarity, with NaN.
        """
        if not clips:
            return []
        scores = self.score(clips, [caption], frames=frames, rerank=rerank)
        matched = candidates(scores.contrast.T, rerank)[0]
        match = np.where(matched, scores.match[:, 0], np.nan)
        order = np.lexsort((-scores.contrast[:, 0], -np.where(matched, match, -np.inf)))
        return [(Path(clips[place]), float(match[place])) for place in order]

    def check_words(self, captions: Sequence[str]) -> None:
        """Log a warning if more than 5 % of the captions' tokens are unknown; no word causes a second one."""
        counts = count_unknown(self.tokenizer, captions)
        if counts.is_high and not counts.most_frequent.keys() <= self._warned_of:
            logger.warning(counts.message("captions", self._vocabulary))
            self._warned_of |= counts.most_frequent.keys()

    @property
    def _text_length(self) -> int:
        return int(self.model.text.embeddings.position_embeddings.num_embeddings)

    def _config(self, frames: int, rerank: int) -> EvaluateConfig:
        return EvaluateConfig(dataset="yours", text_length=self._text_length, rerank=rerank, frames=frames)

    def _encode(self, clips: Sequence[Path | str], captions: Sequence[str], frames: int) -> Encoded:
        if not clips or not captions or frames < 1:
            numbers = f"{len(clips)} clips, {len(captions)} captions and {frames} frames"
            raise SmaugError(f"clips, captions, frames: expected at least one of each, got {numbers}")
        media = [MediaLocation(Path(clip)) for clip in clips]
        with torch.inference_mode():
            return encode(self.model, self.tokenizer, captions, media, self._config(frames, 1), self._context)
