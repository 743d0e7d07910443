"""Statistics of a number: intervals, a paired test, and Holm's correction; pure functions of arrays.

All random numbers come from one fixed seed, so that the same data give the same results. Resampling goes by the
distinct values: of n queries that score 0 or 100, only the count of each in a resample matters, and is drawn at once.
scipy.stats.bootstrap and permutation_test, with which the tests compare, draw every query: 98 and 319 ms a cell where
these take 1 ms (256 queries), which thousands of recorded runs do not allow.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from math import sqrt
from statistics import fmean, stdev

import numpy as np
from numpy.typing import NDArray
from scipy import stats

DRAWS = 10_000
"""Resamples of a bootstrap, and flips of a permutation test."""
SEED = 0
LEVEL = 0.95

Numbers = NDArray[np.float64]


def student_interval(values: Sequence[float]) -> tuple[float, float]:
    """95 % interval of the mean of independent values, by Student's t.

    Raises:
        ValueError: fewer than two values.
    """
    if len(values) < 2:
        raise ValueError(f"{len(values)} values have no spread; an interval needs two")
    half = float(stats.t.ppf((1 + LEVEL) / 2, len(values) - 1)) * stdev(values) / sqrt(len(values))
    return fmean(values) - half, fmean(values) + half


def bootstrap_mean(scores: Numbers) -> tuple[float, float] | None:
    """95 % interval of the mean over other queries like these: percentiles of 10,000 resamples.

    None if all scores are equal: resampling them gives the same mean every time, which carries no information about the
    next query.

    Args:
        scores: (queries,), e.g. 0 or 100 for R@1.
    """
    values, counts = np.unique(scores, return_counts=True)
    return None if len(values) < 2 else _bootstrap_mean(tuple(values.tolist()), tuple(counts.tolist()))


def bootstrap(scores: Numbers, statistic: Callable[[Numbers], Numbers]) -> tuple[float, float] | None:
    """95 % interval of any statistic over other queries like these; None where all scores are equal.

    Args:
        scores: (queries, seeds); queries are drawn, each with all its seeds.
        statistic: (resamples, queries, seeds) to (resamples,).
    """
    if (scores == scores[:1]).all():
        return None
    draws = np.random.default_rng(SEED)
    found = [statistic(scores[draws.integers(len(scores), size=(100, len(scores)))]) for _ in range(DRAWS // 100)]
    return _percentiles(np.concatenate(found))


def sign_flip_p(differences: Numbers) -> float:
    """Two-sided p of a mean paired difference of zero, by flipping the sign of each query's difference 10,000 times.

    Under the null hypothesis a query's difference is as likely to have the other sign. Ties count against it, and the
    observed signs count as one of the flips, so p is never 0 and the test never rejects too often.

    Args:
        differences: (queries,), one row's score minus the other's.
    """
    sizes, counts = np.unique(np.abs(differences[differences != 0]).round(9), return_counts=True)
    return _sign_flip_p(tuple(sizes.tolist()), tuple(counts.tolist()), abs(float(differences.sum())))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction of p values that belong to one family, in the order given."""
    order = sorted(range(len(p_values)), key=lambda place: p_values[place])
    corrected, least = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(order):
        least = max(least, min(1.0, (len(p_values) - rank) * p_values[place]))
        corrected[place] = least
    return corrected


@lru_cache(maxsize=100_000)
def _bootstrap_mean(values: tuple[float, ...], counts: tuple[int, ...]) -> tuple[float, float]:
    n = sum(counts)
    drawn = np.random.default_rng(SEED).multinomial(n, np.array(counts) / n, size=DRAWS)
    return _percentiles(drawn @ np.array(values) / n)


@lru_cache(maxsize=100_000)
def _sign_flip_p(sizes: tuple[float, ...], counts: tuple[int, ...], observed: float) -> float:
    draws = np.random.default_rng(SEED)
    flipped = np.zeros(DRAWS)
    for size, count in zip(sizes, counts, strict=True):
        flipped += size * (2 * draws.binomial(count, 0.5, size=DRAWS) - count)
    as_far = int((np.abs(flipped) >= observed - 1e-6).sum())
    return (1 + as_far) / (1 + DRAWS)


def _percentiles(found: Numbers) -> tuple[float, float]:
    low, high = np.percentile(found, [100 * (1 - LEVEL) / 2, 100 * (1 + LEVEL) / 2])
    return float(low), float(high)
