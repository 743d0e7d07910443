"""Difference of two cells over the seeds and queries that both have, with its interval and test."""

from dataclasses import dataclass

from reports.analysis.cells import Interval
from reports.analysis.samples import IntervalKind, Samples, over_seeds
from reports.analysis.statistics import Numbers, bootstrap_mean, sign_flip_p


@dataclass(frozen=True, kw_only=True, slots=True)
class Compared:
    """One cell against another, over the seeds that both have."""

    delta: float
    interval: Interval | None
    p: float | None


def compare(samples: Samples, base: Samples) -> Compared | None:
    """Difference of two cells, paired by seed and by query; None if they share no seed.

    The test is over queries, of the difference averaged over seeds; None for hours, for median ranks, or if the two
    have different queries.
    """
    both = [seeds for seeds in samples.values if seeds in base.values]
    if not both:
        return None
    here, there = samples.only(both), base.only(both)
    differences = {seeds: here.values[seeds] - there.values[seeds] for seeds in both}
    paired = _paired(here, there)
    by_seeds = over_seeds(differences)
    if by_seeds is not None:
        interval: Interval | None = _as_interval(*by_seeds)
    elif paired is not None and (found := bootstrap_mean(paired)) is not None:
        interval = Interval(*found, "queries")
    else:
        interval = None
    return Compared(
        delta=Samples(differences, {}, "").mean(),
        interval=interval,
        p=None if paired is None else sign_flip_p(paired),
    )


def _paired(here: Samples, there: Samples) -> Numbers | None:
    scores = [*here.scores.values(), *there.scores.values()]
    if not here.scores or not there.scores or here.digest != there.digest or any(one.is_rank for one in scores):
        return None
    if not same_queries(here, there):
        return None
    return here.by_query() - there.by_query()


def same_queries(here: Samples, there: Samples) -> bool:
    """Return whether both have scores of the same queries."""
    queries = {scores.queries for scores in (*here.scores.values(), *there.scores.values())}
    return len(queries) == 1


def interval_of(samples: Samples) -> Interval | None:
    """Return the 95 % interval of a mean: over seeds where there are several, else over queries."""
    by_seeds = over_seeds(samples.values)
    if by_seeds is not None:
        return _as_interval(*by_seeds)
    found = samples.over_queries()
    return None if found is None else Interval(*found, "queries")


def _as_interval(bounds: tuple[float, float], kind: IntervalKind) -> Interval:
    return Interval(*bounds, kind)
