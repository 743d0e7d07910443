"""How facts are told in MLflow's tags, and read back from them; without mlflow."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from experiments.records import StageFacts, TrialFacts


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialRow:
    """What MLflow holds of a trial: what a table is made of."""

    run_id: str
    status: str
    sweep: str
    title: str
    table: str | None
    row_label: str
    columns: tuple[str, ...]
    scale: str
    variant: str
    position: int
    """Place among the sweep's variants, from 0."""
    baseline: str
    seed: str
    metrics: dict[str, float]
    evaluations: dict[str, dict[str, Any]]
    """By slot: dataset, split, n_queries, n_clips, test_digest, ranking."""
    device: str
    """What pre-training ran on, e.g. `NVIDIA H200 x 4`; empty before it has begun."""
    unit: str
    """Of `row_hours.*`, e.g. `CPU h`."""
    code: str
    """Digest of the source that made the results."""
    marks: tuple[str, ...]


def identity_tags(document: dict[str, Any]) -> dict[str, str]:
    """What there may be one valid run of."""
    return {f"smaug.{key}": document[key] for key in ("sweep", "scale", "variant", "seed")}


def _device(host: dict[str, Any]) -> str:
    count = host["gpus"] or host["cpus"]
    return f"{host['device_name']} x {count}" if count > 1 else str(host["device_name"])


def stage_tags(facts: StageFacts) -> dict[str, str]:
    """The tags of a stage's run."""
    host, points = facts.host, facts.curve()
    tags = {
        "smaug.kind": facts.document["kind"],
        "smaug.unit": host["unit"],
        "smaug.device": _device(host),
        "smaug.host": host["host"],
        "smaug.attempts": str(len(facts.record.attempts)),
        "smaug.hours_estimated": str(facts.record.hours.estimated).lower(),
        "smaug.settings": json.dumps(facts.document["settings"])[:5000],
    }
    if points:
        tags["smaug.curve_step"] = str(points[-1]["step"])
    if facts.result is not None and facts.result["commit"]:
        tags["smaug.commit"] = str(facts.result["commit"])
    return tags


def trial_tags(facts: TrialFacts, stage_runs: dict[str, str]) -> dict[str, str]:
    """The tags of a trial's run, beside those of its identity; `stage_runs`: run ids by the stage's name."""
    document, evaluations, trained = facts.document, facts.evaluations(), facts.pretrained_on
    return {
        "smaug.title": document["title"],
        "smaug.table": document["table"] or "",
        "smaug.row": document["report"]["row"],
        "smaug.columns": json.dumps(document["report"]["columns"]),
        "smaug.position": str(document["position"]),
        "smaug.baseline": document["baseline"],
        "smaug.stage_runs": json.dumps(stage_runs),
        "smaug.device": "" if trained is None else _device(trained.host),
        "smaug.unit": "" if trained is None else trained.host["unit"],
        "smaug.evaluations": json.dumps(evaluations),
        "smaug.test_digest": json.dumps({task: notes["test_digest"] for task, notes in evaluations.items()}),
        "smaug.code": facts.code,
        "smaug.marks": json.dumps(document["marks"]),
    }


def row_of_run(run_id: str, status: str, run_tags: Mapping[str, str], metrics: Mapping[str, float]) -> TrialRow:
    """A trial as its run tells it: the inverse of `identity_tags` and `trial_tags`."""
    tags = {key.removeprefix("smaug."): value for key, value in run_tags.items() if key.startswith("smaug.")}
    return TrialRow(
        run_id=run_id,
        status=status,
        sweep=tags["sweep"],
        title=tags["title"],
        table=tags["table"] or None,
        row_label=tags["row"],
        columns=tuple(json.loads(tags["columns"])),
        scale=tags["scale"],
        variant=tags["variant"],
        position=int(tags["position"]),
        baseline=tags["baseline"],
        seed=tags["seed"],
        metrics=dict(metrics),
        evaluations=json.loads(tags["evaluations"]),
        device=tags["device"],
        unit=tags["unit"],
        code=tags["code"],
        marks=tuple(json.loads(tags["marks"])),
    )
