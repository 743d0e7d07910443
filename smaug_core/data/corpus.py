"""The captions of a training or an evaluation: rows of one or several manifests."""

from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from smaug_core.data.manifest import Manifest, Sample


class SampleSequence(Sequence[Sample], ABC):
    """Captions that a training can use: any sequence that counts its clips and separates pictures from clips."""

    @property
    @abstractmethod
    def num_media(self) -> int:
        """Clips and pictures."""

    @abstractmethod
    def rows_of(self, *, images: bool) -> NDArray[np.int64]:
        """Numbers of the rows whose media are pictures, or else clips, ascending."""


class Corpus(SampleSequence):
    """The rows of several manifests, one after the other."""

    def __init__(self, manifests: Sequence[Manifest]) -> None:
        self.manifests = tuple(manifests)
        self._ends = list(accumulate(map(len, self.manifests)))
        self._first_media = [0, *accumulate(manifest.num_media for manifest in self.manifests)]

    def __reduce__(self) -> tuple[type["Corpus"], tuple[tuple[Manifest, ...]]]:
        return Corpus, (self.manifests,)

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, number: int) -> Sample:  # type: ignore[override]  # one row at a time
        place = bisect_right(self._ends, number)
        if number < 0 or place == len(self._ends):
            raise IndexError(f"expected a row from 0 to {len(self) - 1}, got {number}")
        manifest = self.manifests[place]
        sample = manifest[number - self._ends[place] + len(manifest)]
        return replace(sample, number=sample.number + self._first_media[place])

    @property
    def num_media(self) -> int:
        """Clips and pictures."""
        return self._first_media[-1]

    def rows_of(self, *, images: bool) -> NDArray[np.int64]:
        """Numbers of the rows whose media are pictures, or else clips."""
        ranges = [
            np.arange(end - len(manifest), end)
            for manifest, end in zip(self.manifests, self._ends, strict=True)
            if manifest.kind.is_image == images
        ]
        return np.concatenate(ranges) if ranges else np.arange(0)
