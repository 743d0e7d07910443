"""Ranks and recall: pure functions of arrays."""

import numpy as np
from jaxtyping import Bool, Float, Int

from smaug_core.errors import SmaugError


def ranks(
    scores: Float[np.ndarray, "queries candidates"],
    fallback: Float[np.ndarray, "queries candidates"],
    scored: Bool[np.ndarray, "queries candidates"],
    correct: Bool[np.ndarray, "queries candidates"],
) -> Int[np.ndarray, " queries"]:
    """Rank of each query's best correct candidate, 1 = first; ties count against the model.

    Args:
        scores: the score that decides among the candidates that were `scored`; higher is better.
        fallback: the score that orders the others, all of which come after the scored ones.
        scored: candidates that have a score.
        correct: right answers; a query with several is judged by the one that ranks best.

    Raises:
        SmaugError: a score that is used is not a number.
        ValueError: a query has no correct candidate.
    """
    if not np.isfinite(scores[scored]).all() or not np.isfinite(fallback).all():
        raise SmaugError("scores: some are not finite numbers; the model's weights are damaged, or it diverged")
    if not correct.any(axis=1).all():
        raise ValueError(f"queries {np.flatnonzero(~correct.any(axis=1)).tolist()} have no correct candidate")
    first = np.where(scored, scores, -np.inf)
    second = np.where(scored, 0.0, fallback)  # among scored candidates only the first score counts
    best = np.full(len(scores), np.iinfo(np.int64).max)
    for query, candidate in np.argwhere(correct):
        mine_first, mine_second = first[query, candidate], second[query, candidate]
        ahead = (first[query] > mine_first) | ((first[query] == mine_first) & (second[query] >= mine_second))
        best[query] = min(best[query], 1 + int((ahead & ~correct[query]).sum()))
    return best


def recall(query_ranks: Int[np.ndarray, " queries"]) -> dict[str, float]:
    """R@1, R@5 and R@10 in percent, and the median rank, by the names `r1 r5 r10 median_rank`."""
    found = {f"r{k}": 100 * float((query_ranks <= k).mean()) for k in (1, 5, 10)}
    return found | {"median_rank": float(np.median(query_ranks))}
