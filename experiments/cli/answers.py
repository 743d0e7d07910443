"""Output of `plan` and `run`, as text and as JSON."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.console import Console, complain

if TYPE_CHECKING:
    from experiments.planning.plan import Plan
    from experiments.run import Drive
    from experiments.stages.stage import Stage
    from experiments.store.store import Store


def show_plan(made: "Plan", console: Console, *, every_stage: bool = False) -> None:
    """Print the stages of a plan by state, and their cost."""
    from experiments.config.seeds import describe_pairs
    from experiments.store.lookup import stage_labels

    document = made.to_json()
    stages = document["stages"]
    stages["new"] -= stages["resume"] + stages["running"] + stages["failed"] + stages["unreadable"]
    counts = ", ".join(f"{count} {state}" for state, count in stages.items() if count and state != "total")
    sweeps = ", ".join(dict.fromkeys(trial.sweep.name for trial in made.trials))
    lines = [
        f"{sweeps} at scale {made.trials[0].scale}: {document['trials']} trials,"
        f" {document['stages']['total']} stages ({counts})",
        f"seeds: {describe_pairs(made.seeds)}",
        f"to spend: {made.in_words(made.to_spend())}",
    ]
    names, hours = stage_labels(made.trials), document["hours"]
    for planned in made.stages if every_stage else []:
        price = "" if planned.hours is None else f"  {planned.hours:.3g} {planned.price.unit}"
        fingerprint = planned.stage.fingerprint
        lines.append(f"  {planned.state:10}  {fingerprint[:12]}  {names[fingerprint]}{price}")
    if every_stage and hours["row_by_row"] is not None:
        lines.append(
            f"each row on its own: {hours['row_by_row']:,.4g} {made.unit or 'h'}, of it pre-training"
            f" {hours['pretrain']['row_by_row']:,.4g}; left to spend, each stage once: {hours['to_spend']:,.4g}, of it"
            f" pre-training {hours['pretrain']['to_spend']:,.4g}"
        )
    for line in lines:
        console.print(line)


def plan_document(made: "Plan") -> dict[str, Any]:
    """JSON document of a plan."""
    from experiments.store.lookup import stage_labels

    document, names = made.to_json(), stage_labels(made.trials)
    return document | {"each": [each | {"label": names[each["fingerprint"]]} for each in document["each"]]}


def complain_of(outcome: "Drive", store: "Store", names: Mapping[str, str]) -> None:
    """Print the stages that did not finish, and why."""
    summary = outcome.summary
    for warning in unknown_words(summary.done, store):
        complain(warning)
    for stage, message in summary.failed:
        complain(f"{names[stage.fingerprint]} failed: {message}\n  its folder: {store.directory(stage)}")
    for stage, message in summary.cancelled:
        complain(f"{names[stage.fingerprint]} cancelled {message}")
    for stage, message in summary.held:
        complain(f"{names[stage.fingerprint]} not started: {message}")
    if not outcome.recorded:
        complain("no table: tables are made from MLflow; fix the error above, then run `make tables`")
    if summary.paused and summary.interrupted and not summary.failed:  # the engine was lost
        complain(f"stopped: {summary.paused}; the same command continues")
        return
    if summary.paused:
        complain(f"paused: {summary.paused}")
    if summary.interrupted:
        complain("stopped; the same command continues")


def unknown_words(stages: "Sequence[Stage]", store: "Store") -> list[str]:
    """Warnings about data sets of finished stages with many unknown words, each once."""
    from smaug_core.data.unknown_words import UnknownWords

    warnings: dict[str, None] = {}
    for stage in stages:
        result = store.record(stage).result
        for source, document in ({} if result is None else result.notes.get("unknown_words", {})).items():
            counts = UnknownWords(**document)
            if counts.is_high:
                warnings[counts.message(source, stage.settings["model"]["tokenizer"])] = None
    return list(warnings)


def show_end(outcome: "Drive", console: Console) -> None:
    """Print the number of stages run, and their predicted and actual hours."""
    summary, compared = outcome.summary, outcome.comparison
    console.print(f"{len(summary.done)} stages run, {len(summary.cached)} done before; {outcome.seconds:.0f} s")
    if compared.stages and compared.unit and compared.predicted:
        console.print(
            f"{compared.stages} stages were predicted at {compared.predicted:.3g} {compared.unit} and took"
            f" {compared.actual:.3g} ({compared.actual / compared.predicted - 1:+.0%})"
        )


def end_document(outcome: "Drive", store: "Store", names: Mapping[str, str]) -> dict[str, Any]:
    """JSON document of a finished run."""
    summary, compared = outcome.summary, outcome.comparison

    def with_reason(stages: Sequence[Any]) -> list[dict[str, str]]:
        return [
            {
                "fingerprint": stage.fingerprint,
                "name": stage.name,
                "label": names[stage.fingerprint],
                "message": why,
                "folder": str(store.directory(stage)),
            }
            for stage, why in stages
        ]

    return {
        "done": [stage.fingerprint for stage in summary.done],
        "cached": [stage.fingerprint for stage in summary.cached],
        "failed": with_reason(summary.failed),
        "cancelled": with_reason(summary.cancelled),
        "held": with_reason(summary.held),
        "blocked": with_reason(summary.blocked),
        "paused": summary.paused,
        "interrupted": summary.interrupted,
        "recorded": outcome.recorded,
        "seconds": outcome.seconds,
        "hours": {
            "spent": outcome.spent,
            "predicted": compared.predicted,
            "actual": compared.actual,
            "stages_compared": compared.stages,
            "unit": compared.unit,
        },
    }


def show_tables(made: "Plan", home: Path, console: Console) -> None:
    """Print the tables of a run's sweeps."""
    from reports.render.terminal import to_terminal
    from reports.report import read_report

    sweeps, scale = {trial.sweep.name for trial in made.trials}, made.trials[0].scale
    for table in read_report(home).tables:
        if table.trials and table.trials[0].sweep in sweeps and table.trials[0].scale == scale:
            to_terminal(table, console)
