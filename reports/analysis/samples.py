"""Measurements of one cell: a value for each trial, and the score of each query if ranks were recorded."""

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from statistics import fmean
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from experiments.tracking.reader import TrackingError, TrialRow
from reports.analysis.statistics import Numbers, bootstrap, bootstrap_mean, student_interval

ENOUGH_SEEDS = 3
"""Minimum number of seeds for an interval over seeds."""
ROUNDING = 1e-6
"""Largest difference between a metric and the mean of its queries' scores, in points."""
RECALL, MEDIAN_RANK = re.compile(r"r(\d+)"), "median_rank"

IntervalKind = Literal["full seeds", "fine-tuning seeds", "queries"]
"""Kinds of intervals: over new trainings, new fine-tunings, or other queries for the same weights."""
Seeds = tuple[str, str]
"""Seeds of pre-training and of fine-tuning."""
RankReader = Callable[[TrialRow, str], Mapping[str, int]]
"""The ranks of a trial's queries in a slot, by query id; raises TrackingError if there are none."""


@dataclass(frozen=True, eq=False, slots=True)
class Ranks:
    """Rank of every query's clip, from 1."""

    queries: tuple[str, ...]
    """Ids, sorted."""
    values: NDArray[np.int64]
    """(queries,)"""


class RankBook:
    """Ranks of trials, each read once, whichever columns count them."""

    def __init__(self, read: RankReader) -> None:
        """Start without any ranks."""
        self._read = read
        self._found: dict[tuple[str, str], Ranks] = {}
        self._queries: dict[tuple[str, ...], tuple[str, ...]] = {}
        """Each set of queries once: thousands of trials share it."""

    def ranks(self, trial: TrialRow, task: str) -> Ranks:
        """The ranks of a trial's queries in a slot; raises what reading them raises."""
        key = trial.run_id, task
        if key not in self._found:
            ranks = self._read(trial, task)
            queries = tuple(sorted(ranks))
            shared = self._queries.setdefault(queries, queries)
            self._found[key] = Ranks(shared, np.array([ranks[query] for query in shared], dtype=np.int64))
        return self._found[key]


@dataclass(frozen=True, eq=False, slots=True)
class QueryScores:
    """Scores of every query, in the order of their ids."""

    queries: tuple[str, ...]
    values: Numbers
    """(queries,): 0 or 100 of R@K, the rank of a median rank."""
    is_rank: bool

    @property
    def summary(self) -> float:
        """The metric that they make."""
        return float(np.median(self.values) if self.is_rank else self.values.mean())


@dataclass(frozen=True, eq=False, slots=True)
class Samples:
    """One cell's trials, by seeds."""

    values: Mapping[Seeds, float]
    scores: Mapping[Seeds, QueryScores]
    """Scores of every trial, or empty."""
    digest: str
    """Digest of the test set; empty for hours."""

    def means(self) -> dict[str, float]:
        """Mean over the seeds of fine-tuning, by seed of pre-training."""
        found: dict[str, list[float]] = {}
        for (first, _), value in self.values.items():
            found.setdefault(first, []).append(value)
        return {seed: fmean(values) for seed, values in found.items()}

    def mean(self) -> float:
        """Over seeds of pre-training, each the mean over its seeds of fine-tuning."""
        return fmean(self.means().values())

    def only(self, seeds: Collection[Seeds]) -> "Samples":
        """Samples of some seeds only."""
        return Samples(
            {own: value for own, value in self.values.items() if own in seeds},
            {own: scores for own, scores in self.scores.items() if own in seeds},
            self.digest,
        )

    def by_query(self) -> Numbers:
        """Scores averaged over seeds, (queries,), weighted like `mean`."""
        weights = self._weights()
        total: Numbers = sum(weights[seeds] * scores.values for seeds, scores in self.scores.items())  # type: ignore[assignment]
        return total

    def over_queries(self) -> tuple[float, float] | None:
        """95 % interval over queries; None without scores, or if all are equal."""
        if not self.scores:
            return None
        if not any(scores.is_rank for scores in self.scores.values()):
            return bootstrap_mean(self.by_query())
        weights = self._weights()
        ranks = np.stack([scores.values for scores in self.scores.values()], axis=1)
        shares = np.array([weights[seeds] for seeds in self.scores])
        return bootstrap(ranks, lambda drawn: np.median(drawn, axis=1) @ shares)

    def _weights(self) -> dict[Seeds, float]:
        tuned = Counter(first for first, _ in self.values)
        return {seeds: 1 / (len(tuned) * tuned[seeds[0]]) for seeds in self.values}


def has_spread(values: Sequence[float]) -> bool:
    """Return whether values differ; if not, as R@10 of 100 for every seed, nothing is known of their spread."""
    return max(values) - min(values) > ROUNDING


def over_seeds(values: Mapping[Seeds, float]) -> tuple[tuple[float, float], IntervalKind] | None:
    """95 % interval over seeds and its kind; None if there are too few of them, or all gave the same number.

    Seeds of pre-training take precedence: their spread includes that of fine-tuning.
    """
    means = list(Samples(values, {}, "").means().values())
    if len(means) >= ENOUGH_SEEDS and has_spread(means):
        return student_interval(means), "full seeds"
    if len(means) == 1 and len(values) >= ENOUGH_SEEDS and has_spread(list(values.values())):
        return student_interval(list(values.values())), "fine-tuning seeds"
    return None


def scores_of(slot: str, ranks: Ranks) -> QueryScores:
    """The scores that a column counts."""
    kind = slot.rsplit(".", 1)[-1]
    if kind == MEDIAN_RANK:
        return QueryScores(ranks.queries, ranks.values.astype(np.float64), True)
    matched = RECALL.fullmatch(kind)
    if matched is None:
        raise ValueError(f"{slot}: neither R@K nor a median rank")
    return QueryScores(ranks.queries, np.where(ranks.values <= int(matched[1]), 100.0, 0.0), False)


def has_ranks(slot: str) -> bool:
    """Return whether the ranks that trials leave, those of clips for each text, give a column's scores."""
    task, direction, kind = (*slot.split("."), "", "")[:3]
    return (
        slot == f"{task}.{direction}.{kind}"
        and direction == "t2v"
        and (kind == MEDIAN_RANK or RECALL.fullmatch(kind) is not None)
    )


def collect(slot: str, metric: str, trials: Sequence[TrialRow], book: RankBook) -> tuple[Samples | None, list[str]]:
    """Collect what the trials of one row measured in one column, and its faults; None if these invalidate the mean.

    Args:
        slot: the column.
        metric: its name in MLflow.
        trials: of one row, some perhaps unfinished.
        book: gives ranks.
    """
    faults = [*_doubles(trials), *_missing(metric, trials), *_impossible(slot, metric, trials)]
    task = slot.split(".")[0]
    having = [trial for trial in trials if metric in trial.metrics]
    digests = {trial.evaluations[task]["test_digest"] for trial in having if task in trial.evaluations}
    if len(digests) > 1:
        faults.append(f"its runs were evaluated on different test sets: {', '.join(trial.run_id for trial in having)}")
    if faults or not having:
        return None, faults
    values = {trial.seeds: trial.metrics[metric] for trial in having}
    scores, unscored, contradicted = _scores(slot, values, having, book) if has_ranks(slot) else ({}, [], [])
    if contradicted:
        return None, contradicted
    return Samples(values, scores, next(iter(digests), "")), unscored


def _doubles(trials: Sequence[TrialRow]) -> Iterator[str]:
    seen: dict[tuple[str, str], TrialRow] = {}
    for trial in trials:
        other = seen.setdefault((trial.sweep, trial.seed), trial)
        if other is not trial:
            yield (
                f"runs {other.run_id} and {trial.run_id} both claim seed {trial.seed};"
                " delete one, or tag it smaug.superseded_by with the other's id"
            )


def _missing(metric: str, trials: Sequence[TrialRow]) -> Iterator[str]:
    for trial in trials:
        if trial.status == "FINISHED" and metric not in trial.metrics:
            known = ", ".join(sorted(trial.metrics))
            yield f"run {trial.run_id} is finished and has no metric {metric!r}; it has {known}"


def _impossible(slot: str, metric: str, trials: Sequence[TrialRow]) -> Iterator[str]:
    """Find values that no run can have measured; `slot` names what they count."""
    kind = slot.rsplit(".", 1)[-1]
    low, high = (0.0, inf) if kind == "hours" else (1.0, inf) if kind == MEDIAN_RANK else (0.0, 100.0)
    for trial in trials:
        value = trial.metrics.get(metric, high)
        possible = low <= value <= high and (value < inf or metric not in trial.metrics)
        if not possible or (kind == "hours" and value == 0):
            yield f"run {trial.run_id}: its metric {metric} is {value:g}, which cannot have been measured"


def _scores(
    slot: str, values: Mapping[Seeds, float], trials: Sequence[TrialRow], book: RankBook
) -> tuple[dict[Seeds, QueryScores], list[str], list[str]]:
    """Read scores by seeds, none if ranks are missing; return them with missing ranks and contradictions as texts."""
    found: dict[Seeds, QueryScores] = {}
    task = slot.split(".")[0]
    unscored, contradicted = [], []
    for trial in trials:
        try:
            found[trial.seeds] = scores = scores_of(slot, book.ranks(trial, task))
        except TrackingError as error:
            unscored.append(f"no interval and no test: {error}")
            continue
        value = values[trial.seeds]
        if abs(scores.summary - value) > ROUNDING:
            contradicted.append(
                f"run {trial.run_id}: its metric {slot} says {value:.6g}, its ranks make {scores.summary:.6g}"
            )
    if len({scores.queries for scores in found.values()}) > 1:
        contradicted.append(f"its runs ranked different queries: {', '.join(trial.run_id for trial in trials)}")
    return ({} if unscored else found), unscored, contradicted
