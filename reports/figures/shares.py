"""Shares: of a row's hours by what they were spent on, and of a training step by the parts of the model."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, fsum
from statistics import fmean

from matplotlib.axes import Axes

from experiments.tracking.reader import StageRow, TrialRow
from reports.analysis.cells import Table
from reports.figures.canvas import LOOKS, SMALL, WIDTH, Canvas, PlotStyle, said, shortened
from reports.figures.figure import Data, Figure, figure_name
from reports.figures.labels import text_width
from reports.figures.svg import INK
from reports.render.text import significant
from smaug_core.cost.flops import Part, total_macs
from smaug_core.stage_protocol import EVALUATE, KINDS

USES = (
    "pre-training, single frames",
    "pre-training, several frames",
    "fine-tuning",
    "evaluation",
    "overhead",
    "lost",
)
BY_KIND = dict(zip(KINDS, USES, strict=False))
PART_NAMES = {
    "encoder": "vision encoder",
    "decoder": "decoder",
    "text": "text encoder",
    "fusion": "fusion encoder",
    "word_head": "word head (MLM)",
    "selector": "frame selector",
    "temporal": "temporal encoder",
    "heads": "other heads",
}
"""Parts of the model in a step, as `smaug_core.cost.flops` calls them."""
LOOK_OF: Mapping[str, PlotStyle] = {
    **dict(zip(USES, LOOKS, strict=False)),
    **dict(zip(PART_NAMES.values(), LOOKS, strict=True)),
}
"""The same in every figure."""
ROW, LEGEND_LINE, LONGEST_LABEL = 17.0, 13.0, 34


@dataclass(frozen=True, slots=True)
class Bar:
    """A row and its shares, by name, in the order of the legend."""

    label: str
    values: Mapping[str, float]


def hours_figures(table: Table, stages: Mapping[str, StageRow]) -> Iterator[Figure]:
    """A figure for each unit that a table's rows were measured in.

    Args:
        table: measured or not.
        stages: by run.
    """
    bars: dict[str, list[Bar]] = {}
    not_drawn = []
    for row in table.rows:
        trials = [trial for trial in table.trials if trial.variant == row]
        units = {stages[run].unit for trial in trials for run in trial.stage_runs.values() if run in stages}
        if why := _unusable(trials, units, stages):
            not_drawn.append(f"{row} ({why})")
        elif trials:
            hours = [hours_by_use(trial, stages) for trial in trials]
            bars.setdefault(units.pop(), []).append(Bar(row, {use: fmean(h[use] for h in hours) for use in USES}))
    for unit, held in bars.items():
        yield _hours_figure(table, unit, held, stages, not_drawn)
    if not_drawn and not bars:
        name = figure_name("hours", table.name, table.scale)
        yield Figure(
            name=name,
            title=_hours_title(table),
            caption=f"Not drawn: {'; '.join(not_drawn)}.",
            alt="No row's hours could be drawn; the caption says why.",
            svg=said(name, "No row's hours are known."),
            data=Data(("Row",), tuple((what,) for what in not_drawn)),
        )


def hours_by_use(trial: TrialRow, stages: Mapping[str, StageRow]) -> dict[str, float]:
    """Hours of a trial's stages: useful ones by kind, overhead and lost ones of all; an evaluation's count as such.

    An evaluation makes no weights, so that the ledger has no useful hours of it; what it took is shown, lost hours
    aside.
    """
    hours = dict.fromkeys(USES, 0.0)
    for run in trial.stage_runs.values():
        stage = stages[run]
        useful, lost, overhead = (stage.hours.get(name, 0.0) for name in ("useful", "lost", "overhead"))
        hours["lost"] += lost
        if stage.kind == EVALUATE:
            hours[BY_KIND[stage.kind]] += useful + overhead
        else:
            hours[BY_KIND[stage.kind]] += useful
            hours["overhead"] += overhead
    return hours


def step_figure(steps: Mapping[str, Mapping[str, Part]]) -> Figure | None:
    """Draw each part's share of a training step, in closed form; None if there are no steps.

    Args:
        steps: by scale, what a step of its pre-training consists of (`smaug_core.cost.flops.step_cost`).
    """
    if not steps:
        return None
    bars = [
        Bar(scale, {PART_NAMES[name]: parts[name].macs / 1e9 for name in PART_NAMES if name in parts})
        for scale, parts in steps.items()
    ]
    totals = {scale: total_macs(dict(parts)) / 1e9 for scale, parts in steps.items()}
    names = [name for name in PART_NAMES.values() if any(name in bar.values for bar in bars)]
    shares = [Bar(bar.label, {n: 100 * bar.values.get(n, 0.0) / totals[bar.label] for n in names}) for bar in bars]
    ends = [f"{significant(totals[bar.label])} GMAC" for bar in bars]
    texts = [
        f"scale {bar.label}, {significant(totals[bar.label])} GMAC: "
        + ", ".join(f"{n} {bar.values[n]:.0f} %" for n in names)
        for bar in shares
    ]
    data = [
        (bar.label, n, significant(bar.values[n]), f"{100 * bar.values[n] / totals[bar.label]:.1f}")
        for bar in bars
        for n in bar.values
    ]
    return Figure(
        name="shares-step",
        title="What a step of pre-training on single frames computes, by the model's parts",
        caption="Multiply-accumulates in closed form, not measured time: the forward pass of one sample at the scale's"
        " default settings; backward takes twice as much of every part. Norms, activations and memory traffic are not"
        " counted.",
        alt=f"Shares of the multiply-accumulates of a step. {'; '.join(texts)}.",
        svg=_draw("shares-step", shares, names, "% of the multiply-accumulates of a step", ends),
        data=Data(("Scale", "Part", "GMAC", "Share (%)"), tuple(data)),
    )


def _unusable(trials: Sequence[TrialRow], units: Collection[str], stages: Mapping[str, StageRow]) -> str:
    """Reason why a row has no bar; empty if it has one, or was never run."""
    if any(trial.status != "FINISHED" for trial in trials):
        return "unfinished"
    if any(run not in stages for trial in trials for run in trial.stage_runs.values()):
        return "the ledger does not have all its stages"
    if len(units) > 1:
        return f"in several units: {', '.join(sorted(units))}"
    if trials and not units:
        return "the ledger names no stage of it"
    spent = [hours for trial in trials for hours in hours_by_use(trial, stages).values()]
    return "no hours yet" if trials and not any(spent) else ""


def _hours_title(table: Table) -> str:
    return f"{'Table ' if table.source else ''}{table.name}, scale {table.scale}: what a row's hours were spent on"


def _hours_figure(
    table: Table, unit: str, bars: Sequence[Bar], stages: Mapping[str, StageRow], not_drawn: Sequence[str]
) -> Figure:
    uses = [use for use in USES if any(bar.values[use] > 0 for bar in bars)]
    runs = {run for trial in table.trials for run in trial.stage_runs.values() if run in stages}
    devices = ", ".join(sorted({stages[run].device for run in runs if stages[run].unit == unit}))
    name = figure_name("hours", table.name, table.scale, unit.split()[0].lower())
    texts = [
        f"{bar.label} {significant(fsum(bar.values.values()))}: "
        + ", ".join(f"{use} {_share(bar, use):.0f} %" for use in uses)
        for bar in bars
    ]
    shared = "; rows that share a stage each show its hours, so rows do not add up to what was spent"
    estimated = any(stages[run].estimated for run in runs)
    return Figure(
        name=name,
        title=_hours_title(table),
        caption=f"Measured at scale {table.scale} on {devices}, {unit}, as if each row had been trained alone{shared}."
        " Useful hours of pre-training and fine-tuning are those of the steps in the final weights; lost: steps done"
        " again after a crash; overhead: start-up and waiting of these stages; evaluation: all it took."
        + (" Seeds are averaged." if len({trial.seed for trial in table.trials}) > 1 else "")
        + (" Hours of an attempt that died are estimated." if estimated else "")
        + ("" if "lost" in uses else " Nothing was lost.")
        + (f" Not drawn: {'; '.join(not_drawn)}." if not_drawn else ""),
        alt=f"{unit} of each row and their shares. {'; '.join(texts)}.",
        svg=_draw(name, bars, uses, unit, [significant(fsum(bar.values.values())) for bar in bars]),
        data=Data(
            ("Row", *(f"{use} ({unit})" for use in uses), f"All ({unit})"),
            tuple(
                (bar.label, *(significant(bar.values[use]) for use in uses), significant(fsum(bar.values.values())))
                for bar in bars
            ),
        ),
    )


def _share(bar: Bar, name: str) -> float:
    return 100 * bar.values[name] / (fsum(bar.values.values()) or 1.0)


def _draw(name: str, bars: Sequence[Bar], names: Sequence[str], quantity: str, ends: Sequence[str]) -> str:
    """Stacked bars, the first row on top, each with its total; what colours and hatchings mean stands above them."""
    lines = ceil(len(names) / 2)
    top = 8 + lines * LEGEND_LINE + 6
    labels = [shortened(bar.label, LONGEST_LABEL) for bar in bars]
    left = max(text_width(label, SMALL) for label in labels) + 12
    width = WIDTH - left - 6
    canvas = Canvas(name, top + len(bars) * ROW + 40)
    _legend(canvas.axes(0, 4, WIDTH, lines * LEGEND_LINE), names, lines)
    axes = canvas.axes(left, top, width, len(bars) * ROW)
    axes.grid(False, axis="y")
    axes.spines["left"].set_visible(False)
    axes.set_ylim(len(bars) - 0.5, -0.5)
    axes.set_yticks(range(len(bars)), labels)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel(quantity)
    starts = [0.0] * len(bars)
    for part in names:
        widths = [bar.values[part] for bar in bars]
        _bars(axes, range(len(bars)), widths, starts, part)
        starts = [start + width for start, width in zip(starts, widths, strict=True)]
    room = max(text_width(end, SMALL) for end in ends) + 8
    axes.set_xlim(0, (max(starts) or 1.0) * width / (width - room))
    for place, (start, end) in enumerate(zip(starts, ends, strict=True)):
        axes.annotate(
            end, (start, place), xytext=(4, 0), textcoords="offset points", va="center", fontsize=SMALL, color=INK
        )
    return canvas.svg()


def _bars(axes: Axes, places: Sequence[float], widths: Sequence[float], starts: Sequence[float], name: str) -> None:
    look = LOOK_OF[name]
    face = "none" if look.colour == INK else look.colour
    axes.barh(places, widths, 0.68, starts, facecolor=face, hatch=look.hatch, edgecolor=INK, linewidth=0.6)


def _legend(axes: Axes, names: Sequence[str], lines: int) -> None:
    axes.set_axis_off()
    axes.set_xlim(0, WIDTH)
    axes.set_ylim(lines, 0)
    for place, name in enumerate(names):
        left, line = 6 + (place % 2) * WIDTH / 2, place // 2 + 0.5
        _bars(axes, [line], [16], [left], name)
        axes.text(left + 22, line, name, fontsize=SMALL, color=INK, va="center")
