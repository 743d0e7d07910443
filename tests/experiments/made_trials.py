"""Trials of the shipped sweep whose stages take no time and give the results they are told."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from experiments.config.scale import load_scale
from experiments.config.sweep import load_sweep
from experiments.stages.stage import Stage
from experiments.stages.trial import Trial, expand
from experiments.store.store import Store
from experiments.worker.main import run_stage
from experiments.worker.signals import StopFlag
from smaug_core.stage_protocol import Outcome
from tests import quick_stage

SWEEP = Path(__file__).resolve().parents[2] / "sweeps" / "masking_ratio.yaml"
DATASET = "moving_shapes/sentence"


class ToldStage(Stage):
    """A quick stage; an evaluation whose own setting is the `r1` that its ranks make."""

    def document(self) -> dict[str, Any]:
        return super().document() | {"entry": "tests.experiments.made_trials:run"}


def run(kind: str, settings: dict[str, Any], *, out: Path, **others: Any) -> Outcome:
    outcome = quick_stage.run(kind, settings, out=out, **others)
    if kind != "evaluate":
        return outcome
    own = settings["evaluate"]
    (out / "ranks.json").write_text(json.dumps({"t2v": ranks_of(own["r1"]), "v2t": {"q1": 1}}))
    metrics = {"t2v.r1": own["r1"], "t2v.r5": 50.0, "t2v.r10": 75.0, "match_contrast.t2v.r1": own["r1"] + 1}
    notes = {
        "dataset": DATASET,
        "split": "test",
        "n_queries": 200,
        "n_clips": 200,
        "test_digest": own.get("test_digest", "aaaa"),
        "ranking": "match",
        "unknown_words": own.get("unknown_words", {}),
    }
    return dataclasses.replace(outcome, metrics=metrics, files=["ranks.json"], notes=notes)


def ranks_of(r1: float) -> dict[str, int]:
    """Of 200 queries, with that R@1 in percent, at most 50; R@5 is 50 and R@10 is 75."""
    first = round(2 * r1)
    ranks = [1] * first + [4] * (100 - first) + [10] * 50 + [90] * 50
    return {f"q{place:03}": rank for place, rank in enumerate(ranks)}


def stage(kind: str, *, task: str | None = None, parents: tuple[Stage, ...] = (), **own: Any) -> Stage:
    return ToldStage(
        kind=kind,
        task=task,
        settings={kind: {"steps": 3, **own}},
        inputs={},
        parents=parents,
        seed=0,
        resources={"cpus": 1, "gpus": 0},
    )


def trial(variant: str = "50%", *, r1: float = 25.0, pretrain: Any = None, test: str = "aaaa") -> Trial:
    scale = load_scale("tiny")
    real = expand(load_sweep(SWEEP, scale), scale, only=[variant])[0]
    first = stage("pretrain", variant=variant, **(pretrain or {}))
    tuned = stage("finetune", task="msrvtt", parents=(first,))
    scored = stage("evaluate", task="msrvtt", parents=(tuned,), r1=r1, test_digest=test)
    return dataclasses.replace(real, stages=(first, tuned, scored))


def execute(home: Path, made: Trial, *, stages: int = 3) -> list[int]:
    """Run the first stages of a trial here, and give the exit codes."""
    store, codes = Store(home), []
    for one in made.stages[:stages]:
        directory = store.prepare(one)
        codes.append(run_stage(directory, data_root=home / "data", device="cpu", stop=StopFlag()))
    return codes
