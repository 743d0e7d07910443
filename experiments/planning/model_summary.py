"""Summary of a scale's model: its parts, the cost of a training step, and the hours of the paper's rows."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from experiments.config.scale import Scale
from experiments.config.settings import with_overrides
from experiments.config.sweep import load_sweep
from experiments.console import Console
from experiments.planning.cost_model import Rate
from experiments.stages.trial import config_of
from experiments.stages.workload import vocabulary_size
from smaug_core.config import Config, PretrainConfig, PretrainVideoConfig
from smaug_core.cost.flops import TRAINING, Part, published_accounting, step_cost, step_of, token_schedule, total_macs
from smaug_core.cost.parameters import parameter_counts
from smaug_core.data.datasets import published_size

TOLERANCE = 0.07
"""Share of the published hours by which a prediction may be off without being called a failure."""
PUBLISHED_UNIT = "A6000 GPU h"
"""Of the paper's hours."""
PAPER_SCALE = "paper"
"""The scale at which hours can be compared with the published ones."""
ACCOUNTING = {
    "parts": "one sample, forward: what a training step executes, with captions of the full text_length",
    "rows": "one sample of the last pre-training stage, forward; as the paper's hours count it: the word head on every"
    " position, frames selected once for each clip",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One row of a published table that prints hours of pre-training."""

    table: str
    row: str
    published_hours: float
    """On the paper's device, one A6000."""
    predicted_hours: float
    """From the closed form, at the rate of the default row."""
    gmac: float
    """Forward pass of one sample in the last stage of pre-training, in 1e9 multiply-accumulates."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PublishedHours:
    """Hours of the paper's tables."""

    hours: Mapping[str, Mapping[str, float]]
    """By table and row."""
    sweeps: Mapping[str, Path]
    """By table: the sweep file that rebuilds it."""
    default: tuple[str, str]
    """Table and row of the default settings, whose hours give the rate."""


def describe(scale: Scale, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Parts, parameters, tokens and multiply-accumulates of the last pre-training stage of a scale.

    Raises:
        SmaugError: a setting is not allowed, the vocabulary is not here, or the encoder's size is not known.
    """
    config = config_of(scale, overrides)
    stage = config.pretrain_video or config.pretrain
    shape = step_of(stage, vocabulary_size(config.model.tokenizer))
    parts = step_cost(config.model, shape)
    counts = parameter_counts(config.model, shape.vocab_size, shape.clip)
    summary = {name: _part(parts.get(name), count) for name, count in counts.items()}
    return {
        "scale": scale.name,
        "title": scale.title,
        "clip": asdict(shape.clip),
        "vocabulary": shape.vocab_size,
        "parts": summary,
        "total": {"parameters": sum(counts.values()), "gmac": total_macs(parts) / 1e9},
        "encoder_tokens_by_layer": [leaving for _, leaving in token_schedule(config.model, shape.mask_ratio)],
        "rows": [],
        "rows_left_out": "only the unchanged scale paper is set beside the paper's hours",
        "accounting": ACCOUNTING,
    }


def pretraining_step(scale: Scale) -> dict[str, Part]:
    """Return the parts of a training step on single frames at a scale's own settings, for figures.

    Raises:
        SmaugError: the vocabulary is not here.
    """
    config = scale.base_config()
    return step_cost(config.model, step_of(config.pretrain, vocabulary_size(config.model.tokenizer)))


def with_rows(summary: dict[str, Any], scale: Scale, published: PublishedHours) -> dict[str, Any]:
    """The same description with every row of the paper's tables of hours, and the rate they are predicted at."""
    table, row = published.default
    macs_per_hour = paper_rate(scale, published).macs_per_hour
    rate = {"tflops": 2 * macs_per_hour / 3600 / 1e12, "from": f"table {table}, row {row}"}
    rows = list(_rows(scale, published, macs_per_hour))
    fails = [
        f"table {r.table}, row {r.row}" for r in rows if abs(r.predicted_hours / r.published_hours - 1) > TOLERANCE
    ]
    return summary | {"rows": [asdict(row) for row in rows], "rows_left_out": "", "rate": rate, "fails": fails}


def paper_rate(scale: Scale, published: PublishedHours) -> Rate:
    """The rate that the hours of the default row imply; `scale`: the paper's."""
    table, row = published.default
    return Rate(macs_per_hour=run_macs(scale.base_config()) / published.hours[table][row], unit=PUBLISHED_UNIT)


def _rows(scale: Scale, published: PublishedHours, macs_per_hour: float) -> Iterator[Row]:
    for table, hours in published.hours.items():
        sweep = load_sweep(published.sweeps[table], scale)
        for row, changes in sweep.variants.items():
            config = scale.config(with_overrides(scale.tree, changes), sweep.tasks)
            yield Row(
                table=table,
                row=row,
                published_hours=hours[row],
                predicted_hours=run_macs(config) / macs_per_hour,
                gmac=_published_macs(config, config.pretrain_video or config.pretrain) / 1e9,
            )


def run_macs(config: Config) -> int:
    """Multiply-accumulates of a whole pre-training, counted as the paper's hours: every stage, epoch and caption.

    Raises:
        SmaugError: a corpus whose size was never published.
    """
    stages = (config.pretrain, config.pretrain_video)
    return sum(TRAINING * s.epochs * captions(s.corpus) * _published_macs(config, s) for s in stages if s is not None)


def captions(corpus: tuple[str, ...]) -> int:
    """Captions of all sources of a corpus, as published.

    Raises:
        SmaugError: a source is unknown, or is rendered.
    """
    return sum(published_size(source) for source in corpus)


def show(summary: dict[str, Any], console: Console) -> None:
    """Print a description."""
    clip = summary["clip"]
    frames = f"{clip['frames']} frames" if clip["frames"] > 1 else "single frames"
    if clip["selected"] < clip["frames"]:
        frames += f", {clip['selected']} selected"
    console.print(f"{summary['scale']}: {summary['title']}")
    parts = [
        (name, f"{part['parameters']:,}", str(part["tokens"]), f"{part['gmac']:.3f}")
        for name, part in summary["parts"].items()
    ]
    parts.append(("all", f"{summary['total']['parameters']:,}", "", f"{summary['total']['gmac']:.3f}"))
    console.print_table(f"Pre-training on {frames}", ("part", "parameters", "tokens", "GMAC"), parts, total=True)
    tokens = " ".join(map(str, summary["encoder_tokens_by_layer"]))
    console.print(f"patch tokens after each layer of the encoder: {tokens}")
    console.print(f"parts: {ACCOUNTING['parts']}")
    if not summary["rows"]:
        console.print(f"no hours: {summary['rows_left_out']}")
        return
    rows = []
    for row in summary["rows"]:
        published, predicted = row["published_hours"], row["predicted_hours"]
        hours = [f"{row['gmac']:.2f}", f"{published:.1f}", f"{predicted:.1f}", f"{predicted / published - 1:+.1%}"]
        rows.append([row["table"], row["row"], *hours])
    columns = ("table", "row", "GMAC", "published", "predicted", "off by")
    console.print_table("Hours of pre-training", columns, rows, names=2)
    rate = summary["rate"]
    console.print(f"rows: {ACCOUNTING['rows']}")
    worst = ", ".join(summary["fails"])
    console.print(f"fails (off by more than {TOLERANCE:.0%}): {worst}; docs/model.md says why")
    console.print(f"rate: {rate['tflops']:.1f} TFLOP/s on one A6000, from {rate['from']}")


def _published_macs(config: Config, stage: PretrainConfig | PretrainVideoConfig) -> int:
    shape = step_of(stage, vocabulary_size(config.model.tokenizer))
    return total_macs(step_cost(*published_accounting(config.model, shape)))


def _part(part: Part | None, parameters: int) -> dict[str, Any]:
    """A part without cost is one that the stage does not run."""
    tokens, macs = (0, 0) if part is None else (part.tokens, part.macs)
    return {"parameters": parameters, "gmac": macs / 1e9, "tokens": tokens}
