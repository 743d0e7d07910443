"""Training batches in a fixed order, and the count of what could not be read."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smaug_core.data.batch import Batch
from smaug_core.data.batch_reader import BatchReader, BatchRecipe, BatchRequest, ReadBatch
from smaug_core.data.corpus import SampleSequence
from smaug_core.data.loading.loader import Loader
from smaug_core.data.manifest import Sample
from smaug_core.data.media.video import read_frames
from smaug_core.data.rng import draws_for
from smaug_core.data.tokenizer import Tokenizer
from smaug_core.distributed import World
from smaug_core.errors import ClipError, SmaugError

NAMED = 10
"""Unreadable files that a message or a result names."""
LOOKED_AT = 1000
"""Further files that are read to name more unreadable ones, when a training fails because of them."""


class TrainingBatches:
    """The batches of a training, by step. Step n is the same batch whether or not the training was resumed."""

    def __init__(
        self,
        samples: SampleSequence,
        tokenizer: Tokenizer,
        recipe: BatchRecipe,
        *,
        seed: int,
        world: World | None = None,
    ) -> None:
        """Sort `samples` into pictures and clips; each process of `world` is given its share of every batch.

        Raises:
            SmaugError: one of both has too few captions for a batch, or there are none.
        """
        self.samples, self.recipe, self.seed, self.world = samples, recipe, seed, world or World()
        self.reader = BatchReader(samples, tokenizer, recipe, seed, self.world)
        self.num_media = samples.num_media
        # With room for the rounding of a share such as 0.29 of 100.
        self.allowed = int(recipe.max_unreadable * self.num_media + 1e-6)
        self.unreadable: dict[str, str] = {}
        """Error of each unreadable clip, by its path; those of other processes once they are shared."""
        self._shared = 0
        kinds = (samples.rows_of(images=True), samples.rows_of(images=False))
        self.kinds = [kind for kind in kinds if len(kind)]
        if not self.kinds or min(map(len, self.kinds)) < recipe.batch_size:  # none is left out silently
            raise SmaugError(
                f"batch_size: {recipe.batch_size} is more than there are pictures ({len(kinds[0])}) or"
                f" clips ({len(kinds[1])}), and a batch holds one of both kinds; a smaller batch, or more data"
            )
        self.steps_per_epoch = sum(len(kind) // recipe.batch_size for kind in self.kinds)

    def loader(
        self, first: int, last: int, *, workers: int = 0, pin_memory: bool = False
    ) -> Loader[BatchRequest, ReadBatch]:
        """Start to read the batches of steps `first` to `last` - 1, by `workers` processes.

        Each goes through `use` before its step.

        Raises:
            LoaderDiedError: a loader process was killed.
        """
        self.reader.failed |= self.unreadable
        return Loader(self.reader, self._requests(first, last), workers=workers, pin_memory=pin_memory)

    def use(self, read: ReadBatch) -> Batch:
        """Count what is unreadable in a batch, in the order of steps, and return what a step needs of it.

        So the step at which a training stops does not depend on how far ahead batches are read.

        Raises:
            SmaugError: more clips and pictures are unreadable than may be, or all of this batch.
        """
        new = {clip: error for clip, error in read.unreadable.items() if clip not in self.unreadable}
        if new:
            self.unreadable |= new
            self._check_unreadable()
        if read.batch is None:
            first = next(iter(read.unreadable))
            raise SmaugError(f"no clip of a batch of {self.recipe.batch_size} could be read; the first: {first}")
        return read.batch

    def batch(self, samples: Sequence[Sample], epoch: int) -> Batch:
        """Read this process's share of a batch of these samples; raises as `use` does."""
        return self.use(self.reader.read(samples, epoch))

    def epoch_order(self, epoch: int) -> NDArray[np.int64]:
        """Numbers of the samples of each batch of an epoch: batches x samples.

        A batch is all pictures or all clips; incomplete ones are left out.

        Source: Singularity's MetaLoader (dataset/dataloader.py).
        """
        draws = draws_for(self.seed, epoch, "", "order")
        size = self.recipe.batch_size
        shuffled = [kind[draws.permutation(len(kind))] for kind in self.kinds]
        batches = np.concatenate([rows[: len(rows) // size * size].reshape(-1, size) for rows in shuffled])
        return batches[draws.permutation(len(batches))]

    def _requests(self, first: int, last: int) -> Iterator[BatchRequest]:
        for step in range(first, last):
            epoch, place = divmod(step, self.steps_per_epoch)
            if place == 0 or step == first:
                order = self.epoch_order(epoch)
            yield BatchRequest(epoch, order[place])

    @property
    def has_news(self) -> bool:
        """True if this process found unreadable clips that the others may not know of."""
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
        seen, left = set(self.unreadable), self.num_media - len(self.unreadable)
        last = max(0, left - LOOKED_AT)
        for row in itertools.chain.from_iterable(self.kinds):
            if left == last or len(self.unreadable) >= NAMED:
                break
            media = self.samples[int(row)].media
            if str(media) in seen:
                continue
            seen.add(str(media))
            left -= 1
            try:
                read_frames(media, lambda available: [0])  # the whole file is read, its first frame decoded
            except ClipError as error:
                self.unreadable[str(media)] = str(error)
        return left
