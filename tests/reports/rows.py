"""Trials as the ledger tells them, with numbers chosen by hand."""

from typing import Any

from experiments.tracking.reader import TrackingError, TrialRow

POSITIONS = {"10%": 0, "25%": 1, "50%": 2, "65%": 3}


def row(variant: str, *, hours: float | None = None, r1: float | None = None, **changes: Any) -> TrialRow:
    metrics = {} if hours is None else {"row_hours.pretrain": hours, "row_hours.total": 2 * hours}
    if r1 is not None:
        metrics |= {"msrvtt.t2v.r1": r1, "msrvtt.t2v.r5": min(100.0, r1 + 20), "msrvtt.t2v.r10": min(100.0, r1 + 30)}
    told: dict[str, Any] = {
        "run_id": f"run-{variant}-{changes.get('seed', '0')}"
        + (f"-{scale}" if (scale := changes.get("scale")) else ""),
        "experiment_id": "1",
        "artifacts": "",
        "stage_runs": {},
        "status": "FINISHED" if r1 is not None else "KILLED",
        "sweep": "masking_ratio",
        "title": "Ablation study on using different masking ratios",
        "table": "4",
        "row_label": "Masking Ratio",
        "columns": ("pretrain.hours", "msrvtt.t2v.r1", "msrvtt.t2v.r5", "msrvtt.t2v.r10"),
        "scale": "tiny",
        "variant": variant,
        "position": POSITIONS.get(variant, 9),
        "baseline": "50%",
        "seed": "0",
        "metrics": metrics,
        "evaluations": {} if r1 is None else {"msrvtt": evaluation()},
        "device": "Xeon",
        "unit": "CPU h",
        "code": "c0de",
        "marks": (),
    }
    return TrialRow(**told | changes)


def evaluation(**changes: Any) -> dict[str, Any]:
    told = {
        "dataset": "moving_shapes/sentence",
        "split": "test",
        "n_queries": 1000,
        "n_clips": 1000,
        "test_digest": "aaaa",
        "ranking": "match",
    }
    return told | changes


def no_ranks(trial: TrialRow, task: str) -> dict[str, int]:
    raise TrackingError(f"run {trial.run_id} must hold ranks/{task}.json")


def ranks_by_run(ranks: dict[str, list[int]]) -> Any:
    """Reads ranks of queries q00, q01, ... that are given by run."""
    return lambda trial, task: {f"q{place:02}": rank for place, rank in enumerate(ranks[trial.run_id])}


def made_ranks(trial: TrialRow, task: str) -> dict[str, int]:
    """Ranks of 1,000 queries that make what a trial's metrics say."""
    hits = [round(10 * trial.metrics[f"{task}.t2v.r{k}"]) for k in (1, 5, 10)]
    ranks = [1] * hits[0] + [5] * (hits[1] - hits[0]) + [10] * (hits[2] - hits[1]) + [50] * (1000 - hits[2])
    return {f"q{place:03}": rank for place, rank in enumerate(ranks)}
