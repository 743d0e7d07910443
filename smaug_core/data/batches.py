"""Training batches in a fixed order: the samples of each step, and every random number they need."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from smaug_core.cost.token_counts import num_visible
from smaug_core.data.batch import IGNORED, Batch, places_of_words
from smaug_core.data.datasets import Item
from smaug_core.data.frame_sampling import sample_frames
from smaug_core.data.media.video import read_frames
from smaug_core.data.rng import draws_for
from smaug_core.data.tokenizer import Tokenizer
from smaug_core.data.transforms import Colours, augment
from smaug_core.distributed import World
from smaug_core.errors import ClipError, SmaugError
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


NAMED = 10
"""Unreadable files that a message or a result names."""
LOOKED_AT = 1000
"""Further files that are read to name more unreadable ones, when a training fails because of them."""


class TrainingBatches:
    """The batches of a training, by step. Step n is the same batch whether or not the training was resumed."""

    def __init__(
        self, items: list[Item], tokenizer: Tokenizer, recipe: BatchRecipe, *, seed: int, world: World | None = None
    ) -> None:
        """Sort `items` into pictures and clips; each process of `world` is given its share of every batch.

        Raises:
            SmaugError: one of both has too few items for a batch, or there are none.
        """
        self.tokenizer, self.recipe, self.seed, self.world = tokenizer, recipe, seed, world or World()
        self.num_media = len({item.media for item in items})
        # With room for the rounding of a share such as 0.29 of 100.
        self.allowed = int(recipe.max_unreadable * self.num_media + 1e-6)
        self.unreadable: dict[str, str] = {}
        """Error of each unreadable clip, by its path; those of other processes once they are shared."""
        self._shared = 0
        kinds = ([i for i in items if i.is_image], [i for i in items if not i.is_image])
        self.kinds = [kind for kind in kinds if kind]
        if not self.kinds or min(map(len, self.kinds)) < recipe.batch_size:  # none is left out silently
            raise SmaugError(
                f"batch_size: {recipe.batch_size} is more than there are pictures ({len(kinds[0])}) or"
                f" clips ({len(kinds[1])}), and a batch holds one of both kinds; a smaller batch, or more data"
            )
        self.steps_per_epoch = sum(len(kind) // recipe.batch_size for kind in self.kinds)

    def from_step(self, first: int, last: int) -> Iterator[Batch]:
        """Yield the batches of steps `first` to `last` - 1, decoded on demand."""
        for step in range(first, last):
            epoch, place = divmod(step, self.steps_per_epoch)
            if place == 0 or step == first:
                order = self.epoch_order(epoch)
            yield self.batch(order[place], epoch)

    def epoch_order(self, epoch: int) -> list[list[Item]]:
        """Batches of an epoch: each all pictures or all clips, shuffled; incomplete batches are left out.

        Source: Singularity's MetaLoader (dataset/dataloader.py).
        """
        draws = draws_for(self.seed, epoch, "", "order")
        size = self.recipe.batch_size
        batches = []
        for kind in self.kinds:
            order = draws.permutation(len(kind))
            for start in range(0, len(kind) - size + 1, size):
                batches.append([kind[i] for i in order[start : start + size]])
        return [batches[i] for i in draws.permutation(len(batches))]

    def batch(self, items: list[Item], epoch: int) -> Batch:
        """Decode, augment and tokenise this process's share of one batch."""
        readable = [self._readable(item, items, epoch) for item in items[self.world.share(len(items))]]
        items = [item for item, _ in readable]
        words, word_mask = self.tokenizer.encode([item.caption for item in items], self.recipe.text_length)
        hidden_words, word_places, word_targets = self._hide_words(items, epoch, words, word_mask)
        visible, hidden = self._hide_patches(items, epoch)
        negatives = [draws_for(self.seed, epoch, i.id, "negatives").random(2) for i in items]
        return Batch(
            images=torch.stack([images for _, images in readable]),
            media=torch.tensor([media_number(item) for item in items]),
            words=torch.from_numpy(words),
            word_mask=torch.from_numpy(word_mask),
            negative_draws=torch.from_numpy(np.stack(negatives)).float(),
            selection_draws=self._selection_draws(items, epoch),
            hidden_words=hidden_words,
            word_places=word_places,
            word_targets=word_targets,
            visible=visible,
            hidden=hidden,
        )

    @property
    def has_news(self) -> bool:
        """Whether this process found unreadable clips that the others may not know of."""
        return len(self.unreadable) > self._shared

    def share_unreadable(self) -> None:
        """Share the unreadable clips of every process with all others; every process must call this.

        Raises:
            SmaugError: together they are more than may fail.
        """
        by_process = self.world.collect(self.unreadable)
        self.know_unreadable({clip: fault for found in by_process for clip, fault in found.items()})

    def know_unreadable(self, found: Mapping[str, str]) -> None:
        """Restore the errors of unreadable clips, the same in every process, e.g. from before an interruption.

        Raises:
            SmaugError: they are more than may fail.
        """
        self.unreadable = dict(found)
        self._shared = len(self.unreadable)
        self._check_unreadable()

    def notes(self) -> dict[str, Any]:
        """Record of unreadable clips for a result: their number, and the errors of the first ten, by path."""
        return {
            "unreadable": dict(sorted(self.unreadable.items())[:NAMED]),
            "n_unreadable": len(self.unreadable),
        }

    def _check_unreadable(self) -> None:
        if len(self.unreadable) <= self.allowed:
            return
        not_read = self._look_on()
        count, faults = len(self.unreadable), [fault for _, fault in sorted(self.unreadable.items())]
        more = f"; and {count - NAMED} more" if count > NAMED else ""
        rest = f"; {not_read} others were not read yet" if not_read else ""
        raise SmaugError(
            f"{count} of {self.num_media} clips and pictures could not be read, {self.allowed} allowed"
            f" (max_unreadable = {self.recipe.max_unreadable}): {'; '.join(faults[:NAMED])}{more}{rest}"
        )

    def _look_on(self) -> int:
        """Read the other media in their order until ten are unreadable or 1,000 were read; gives how many are left.

        The training fails in any case: one error then names all files to replace, in most data sets.
        """
        others = {str(item.media): item.media for kind in self.kinds for item in kind}
        left = [path for name, path in others.items() if name not in self.unreadable]
        looked = 0
        while looked < min(LOOKED_AT, len(left)) and len(self.unreadable) < NAMED:
            try:
                read_frames(left[looked], lambda available: [0])  # the whole file is read, its first frame decoded
            except ClipError as error:
                self.unreadable[str(left[looked])] = str(error)
            looked += 1
        return len(left) - looked

    def _readable(self, item: Item, batch: list[Item], epoch: int) -> tuple[Item, Tensor]:
        """Read an item's frames; an unreadable clip is counted and replaced by the next one of the global batch.

        A clip that failed once is not tried again.
        """
        start = batch.index(item)
        for candidate in batch[start:] + batch[:start]:
            if str(candidate.media) in self.unreadable:
                continue
            try:
                return candidate, self._frames(candidate, epoch)
            except ClipError as error:
                self.unreadable[str(candidate.media)] = str(error)
                self._check_unreadable()
        raise SmaugError(f"no clip of a batch of {len(batch)} could be read; the first: {item.media}")

    def _frames(self, item: Item, epoch: int) -> Tensor:
        wanted = self.recipe.frames
        places = draws_for(self.seed, epoch, item.id, "frames").random(wanted).tolist()
        frames = read_frames(item.media, lambda available: sample_frames(available, wanted, places))
        crop = draws_for(self.seed, epoch, item.id, "crop")
        return augment(frames, self.recipe.image_size, crop, flip=item.flip, colours=self.recipe.colours)

    def _hide_patches(self, items: list[Item], epoch: int) -> tuple[Tensor | None, Tensor | None]:
        visible = num_visible(self.recipe.num_patches, self.recipe.mask_ratio)
        if visible == self.recipe.num_patches:
            return None, None
        noise = [draws_for(self.seed, epoch, item.id, "mask").random(self.recipe.num_patches) for item in items]
        return split_patches(torch.from_numpy(np.stack(noise)).float(), visible)

    def _selection_draws(self, items: list[Item], epoch: int) -> Tensor | None:
        """Draw a number for each frame in each of the three pairs that a clip is part of."""
        frames = self.recipe.frames
        if frames == 1:
            return None
        draws = [draws_for(self.seed, epoch, item.id, "selection").random((3, frames)) for item in items]
        return torch.from_numpy(np.stack(draws)).float()

    def _hide_words(
        self, items: list[Item], epoch: int, words: NDArray[np.int64], mask: NDArray[np.bool_]
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Replace words of the captions; return the captions, the positions of the words, and their true ids."""
        if self.recipe.mlm_ratio == 0:
            return None, None, None
        longest = words.shape[1]
        draws = np.stack(
            [
                draws_for(self.seed, epoch, item.id, "words").random((self.recipe.text_length, 3))[:longest]
                for item in items
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


def media_number(item: Item) -> int:
    """Number that is equal for captions of the same clip or picture, in any process."""
    digest = blake2b(str(item.media).encode(), digest_size=7).digest()
    return int.from_bytes(digest, "little")
