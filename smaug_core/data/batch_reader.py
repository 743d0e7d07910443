"""Reading of one training batch: its clips, captions and random numbers. Loader processes do it."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from smaug_core.cost.token_counts import num_visible
from smaug_core.data.batch import IGNORED, Batch, places_of_words
from smaug_core.data.manifest import Sample
from smaug_core.data.media.frame_sampling import sample_frames
from smaug_core.data.media.video import read_frames
from smaug_core.data.rng import draws_for
from smaug_core.data.tokenizer import Tokenizer
from smaug_core.data.transforms import Colours, augment
from smaug_core.distributed import World
from smaug_core.errors import ClipError
from smaug_core.patches import split_patches


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchRecipe:
    """Settings of a training batch."""

    batch_size: int
    frames: int
    """Frames per clip."""
    image_size: int
    """Width and height in pixels."""
    colours: Colours
    """Mean and deviation that pixels are normalised by."""
    num_patches: int
    text_length: int
    """Tokens kept of a caption."""
    mask_ratio: float
    """Share of the patches masked; 0 masks none."""
    mlm_ratio: float
    """Share of the words to be predicted; 0 predicts none."""
    max_unreadable: float
    """Share of the clips and pictures that may be unreadable before training stops."""


@dataclass(frozen=True, slots=True)
class BatchRequest:
    """A batch of a training."""

    epoch: int
    rows: NDArray[np.int64]
    """Numbers of the samples of the whole batch, of which each process of the training reads its share."""


@dataclass(frozen=True, slots=True)
class ReadBatch:
    """This process's share of a batch, and what was unreadable."""

    batch: Batch | None
    """None if no clip of the whole batch could be read."""
    unreadable: dict[str, str]
    """Error of each unreadable clip that was met, by its path."""

    def pin_memory(self) -> "ReadBatch":
        """The same in page-locked memory."""
        return ReadBatch(self.batch and self.batch.pin_memory(), self.unreadable)


@dataclass(slots=True)
class BatchReader:
    """Reads any batch of a training: the same one in whatever process, and whatever was read before."""

    samples: Sequence[Sample]
    tokenizer: Tokenizer
    recipe: BatchRecipe
    seed: int
    world: World
    """Its rank's share of every batch is read."""
    failed: dict[str, str] = field(default_factory=dict)
    """Errors of the clips that are known to be unreadable, by path; they are not tried again."""

    def __call__(self, request: BatchRequest) -> ReadBatch:
        """Decode, augment and tokenise this process's share of one batch."""
        return self.read([self.samples[row] for row in request.rows.tolist()], request.epoch)

    def read(self, whole: Sequence[Sample], epoch: int) -> ReadBatch:
        """The same, of these samples."""
        unreadable: dict[str, str] = {}
        share = range(len(whole))[self.world.share(len(whole))]
        readable = [self._readable(whole, place, epoch, unreadable) for place in share]
        found = [each for each in readable if each is not None]
        if len(found) < len(readable):
            return ReadBatch(None, unreadable)
        samples = [sample for sample, _ in found]
        return ReadBatch(self._batch(samples, [images for _, images in found], epoch), unreadable)

    def _batch(self, samples: list[Sample], images: list[Tensor], epoch: int) -> Batch:
        words, word_mask = self.tokenizer.encode([sample.caption for sample in samples], self.recipe.text_length)
        hidden_words, word_places, word_targets = self._hide_words(samples, epoch, words, word_mask)
        visible, hidden = self._hide_patches(samples, epoch)
        negatives = [draws_for(self.seed, epoch, sample.id, "negatives").random(2) for sample in samples]
        return Batch(
            images=torch.stack(images),
            media=torch.tensor([sample.number for sample in samples]),
            words=torch.from_numpy(words),
            word_mask=torch.from_numpy(word_mask),
            negative_draws=torch.from_numpy(np.stack(negatives)).float(),
            selection_draws=self._selection_draws(samples, epoch),
            hidden_words=hidden_words,
            word_places=word_places,
            word_targets=word_targets,
            visible=visible,
            hidden=hidden,
        )

    def _readable(
        self, whole: Sequence[Sample], place: int, epoch: int, unreadable: dict[str, str]
    ) -> tuple[Sample, Tensor] | None:
        """Read a sample's frames; an unreadable clip is replaced by the next one of the whole batch.

        None if no clip of it can be read.
        """
        for candidate in [*whole[place:], *whole[:place]]:
            name = str(candidate.media)
            if name not in self.failed:
                try:
                    return candidate, self._frames(candidate, epoch)
                except ClipError as error:
                    self.failed[name] = str(error)
            unreadable[name] = self.failed[name]
        return None

    def _frames(self, sample: Sample, epoch: int) -> Tensor:
        wanted = self.recipe.frames
        places = draws_for(self.seed, epoch, sample.id, "frames").random(wanted).tolist()
        frames = read_frames(sample.media, lambda available: sample_frames(available, wanted, places))
        crop = draws_for(self.seed, epoch, sample.id, "crop")
        return augment(frames, self.recipe.image_size, crop, flip=sample.flip, colours=self.recipe.colours)

    def _hide_patches(self, samples: list[Sample], epoch: int) -> tuple[Tensor | None, Tensor | None]:
        visible = num_visible(self.recipe.num_patches, self.recipe.mask_ratio)
        if visible == self.recipe.num_patches:
            return None, None
        noise = [draws_for(self.seed, epoch, sample.id, "mask").random(self.recipe.num_patches) for sample in samples]
        return split_patches(torch.from_numpy(np.stack(noise)).float(), visible)

    def _selection_draws(self, samples: list[Sample], epoch: int) -> Tensor | None:
        """Draw a number for each frame in each of the three pairs that a clip is part of."""
        frames = self.recipe.frames
        if frames == 1:
            return None
        draws = [draws_for(self.seed, epoch, sample.id, "selection").random((3, frames)) for sample in samples]
        return torch.from_numpy(np.stack(draws)).float()

    def _hide_words(
        self, samples: list[Sample], epoch: int, words: NDArray[np.int64], mask: NDArray[np.bool_]
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Replace words of the captions; return the captions, the positions of the words, and their true ids."""
        if self.recipe.mlm_ratio == 0:
            return None, None, None
        longest = words.shape[1]
        draws = np.stack(
            [
                draws_for(self.seed, epoch, sample.id, "words").random((self.recipe.text_length, 3))[:longest]
                for sample in samples
            ]
        )
        hidden, targets = hide_words(words, mask, draws, self.recipe.mlm_ratio, self.tokenizer)
        return torch.from_numpy(hidden), *places_of_words(torch.from_numpy(targets))


def hide_words(
    words: NDArray[np.int64],
    mask: NDArray[np.bool_],
    draws: NDArray[np.float64],
    ratio: float,
    tokenizer: Tokenizer,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Choose words to predict and replace 80 % of them by [MASK], 10 % by a random word, 10 % by themselves.

    [CLS], [SEP] and padding are never chosen.

    Args:
        words: token ids, batch x words.
        mask: true where there is a word.
        draws: uniform in [0, 1), batch x words x 3: chosen or not, how replaced, by which word.
        ratio: chance of each word to be chosen.
        tokenizer: gives the special ids and the size of the vocabulary.

    Returns:
        The ids with replacements, and the true ids of the chosen words (`IGNORED` elsewhere).

    Source: BERT's rule as in Singularity (model_pretrain.py:22), which does choose [SEP].
    """
    special = np.isin(words, [tokenizer.cls_id, tokenizer.sep_id, tokenizer.pad_id])
    chosen = mask & ~special & (draws[..., 0] < ratio)
    random_words = (draws[..., 2] * tokenizer.vocab_size).astype(np.int64)
    replaced = np.where(draws[..., 1] < 0.8, tokenizer.mask_id, random_words)
    replaced = np.where(draws[..., 1] < 0.9, replaced, words)
    return np.where(chosen, replaced, words), np.where(chosen, words, IGNORED)
