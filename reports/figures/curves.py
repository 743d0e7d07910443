"""Training curves of pre-training: a panel for the loss and for each of its parts, a line for each row of a table."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import ceil, floor, isfinite, log10, nan
from statistics import fmean

from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, NullLocator

from experiments.tracking.reader import StageRow
from reports.analysis.cells import Table
from reports.figures.canvas import LOOKS, SMALL, WIDTH, Canvas, PlotStyle, said, wrapped
from reports.figures.figure import Data, Figure, figure_name
from reports.figures.labels import spread, text_width
from reports.figures.svg import INK
from reports.render.text import significant
from smaug_core.stage_protocol import PRETRAIN, PRETRAIN_VIDEO

KINDS = {PRETRAIN: "on single frames", PRETRAIN_VIDEO: "on several frames"}
"""Stages of pre-training, as they are called in a trial."""
LOSS = "loss"
PARTS = {
    "vtc": "contrastive (vtc)",
    "vtm": "matching (vtm)",
    "mlm": "masked words (mlm)",
    "mvm": "masked patches (mvm)",
}
MOST_POINTS = 40
"""Maximum number of points of a line; a curve of every batch is mostly noise."""
MOST_LINES = len(LOOKS)
LEFT, TALL, LOW, BETWEEN = 34.0, 150.0, 92.0, 40.0
LONGEST_LABEL = 20
ROUND = ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 5, 7), (1, 2, 3, 4, 6, 8), tuple(half / 2 for half in range(2, 20)))
"""First digits of ticks, from few to many."""

Curve = Sequence[tuple[int, float]]
"""Steps and values, in order."""
CurveReader = Callable[[StageRow, str], Curve]


@dataclass(frozen=True, kw_only=True, slots=True)
class CurveLine:
    """A stage, drawn once for all rows that share it."""

    stage: StageRow
    rows: tuple[str, ...]
    curves: Mapping[str, Curve]
    """Recorded curves by name; a part that the stage does not train is absent."""

    @property
    def end(self) -> tuple[int, float]:
        """The last point of the loss that is drawn."""
        return [point for point in self.curves[LOSS] if drawable(point[1])][-1]

    @property
    def label(self) -> str:
        """The rows' names."""
        return ", ".join(self.rows)


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """The stages of one kind that a table's rows need."""

    tables: tuple[Table, ...]
    """The first names the rows; the others need the same stages or fewer."""
    kind: str
    rows: Mapping[str, tuple[str, ...]]
    """Rows that need a stage, by the stage's run."""
    others: tuple[str, ...]
    """Rows whose stage the ledger does not have."""


def curve_figures(tables: Sequence[Table], stages: Mapping[str, StageRow], read: CurveReader) -> Iterator[Figure]:
    """The figures of all tables, each set of stages once.

    Args:
        tables: measured or not.
        stages: by run.
        read: gives what was recorded of a stage under a name; called once for each stage and name.
    """
    known: dict[tuple[str, str], Curve] = {}

    def once(stage: StageRow, name: str) -> Curve:
        if (stage.run_id, name) not in known:
            known[stage.run_id, name] = thinned(read(stage, name))
        return known[stage.run_id, name]

    for group in groups_of(tables, stages):
        yield _figure(group, stages, once)


def groups_of(tables: Sequence[Table], stages: Mapping[str, StageRow]) -> list[Group]:
    """Group tables by stages: a table whose stages are all in another one's figure is named there instead."""
    found: list[Group] = []
    for table in tables:
        for kind in KINDS:
            group = _group(table, kind, stages)
            if group.rows or group.others:
                found.append(group)
    whole: list[Group] = []
    # The largest first; of equal ones, as the tables stand.
    for group in sorted(found, key=lambda one: -len(one.rows)):
        place = next((n for n, other in enumerate(whole) if _within(group, other)), None)
        if place is None:
            whole.append(group)
        else:
            other = whole[place]
            whole[place] = replace(other, tables=(*other.tables, *group.tables))
    order = {(table.name, table.scale): place for place, table in enumerate(tables)}

    def place_of(table: Table) -> int:
        return order[table.name, table.scale]

    ordered = [replace(one, tables=(one.tables[0], *sorted(one.tables[1:], key=place_of))) for one in whole]
    return sorted(ordered, key=lambda one: (place_of(one.tables[0]), list(KINDS).index(one.kind)))


def thinned(curve: Curve, most: int = MOST_POINTS) -> list[tuple[int, float]]:
    """A curve of at most `most` points: each the mean of its neighbours, as many for all to within one."""
    count = min(most, len(curve))
    ends = [place * len(curve) // count for place in range(count + 1)] if count else []
    parts = [curve[start:end] for start, end in pairwise(ends)]
    return [(part[-1][0], fmean(value for _, value in part)) for part in parts]


def drawable(value: float) -> bool:
    """Return whether a loss has a place on a logarithmic axis: a training that diverged reports nan."""
    return isfinite(value) and value > 0


def log_ticks(low: float, high: float) -> list[float]:
    """Round numbers on a logarithmic axis from `low` to `high`, both positive: few, but three where that many are."""
    powers = range(floor(log10(low)), ceil(log10(high)) + 1)
    for digits in ROUND:
        ticks = [float(f"{digit * 10.0**power:.6g}") for power in powers for digit in digits]
        inside = [tick for tick in ticks if low <= tick <= high]
        if len(inside) >= 3:
            break
    return inside[:: ceil(len(inside) / 6) or 1]


def _group(table: Table, kind: str, stages: Mapping[str, StageRow]) -> Group:
    """The first seed of each row."""
    rows: dict[str, tuple[str, ...]] = {}
    others = []
    for row in table.rows:
        trial = next((trial for trial in table.trials if trial.variant == row and kind in trial.stage_runs), None)
        if trial is None:
            continue
        run = trial.stage_runs[kind]
        if run in stages:
            rows[run] = (*rows.get(run, ()), row)
        else:
            others.append(row)
    return Group(tables=(table,), kind=kind, rows=rows, others=tuple(others))


def _within(group: Group, other: Group) -> bool:
    return (
        group.kind == other.kind
        and group.tables[0].scale == other.tables[0].scale
        and group.rows.keys() <= other.rows.keys()
        and not group.others
    )


def _figure(group: Group, stages: Mapping[str, StageRow], read: CurveReader) -> Figure:
    table = group.tables[0]
    lines, not_drawn = [], [f"row {row} (the ledger has no run of its stage)" for row in group.others]
    for run, rows in group.rows.items():
        stage = stages[run]
        names = [name for name in (LOSS, *PARTS) if name in stage.metrics]
        curves = {name: curve for name in names if (curve := read(stage, name))}
        line = CurveLine(stage=stage, rows=rows, curves=curves)
        if any(drawable(value) for _, value in curves.get(LOSS, ())):
            lines.append(line)
        else:
            not_drawn.append(f"row {line.label} (no loss that can be drawn was recorded of run {run})")
    lines, beyond = lines[:MOST_LINES], lines[MOST_LINES:]
    not_drawn += [f"row {line.label} (more than {MOST_LINES} lines cannot be distinguished)" for line in beyond]
    name = figure_name("curves", table.name, table.scale, group.kind)
    return Figure(
        name=name,
        title=f"{_titles(group)}, scale {table.scale}: training curves of pre-training {KINDS[group.kind]}",
        caption=_caption(group, lines, not_drawn),
        alt=_alt(group, lines),
        svg=_draw(name, lines) if lines else said(name, "No curve was recorded."),
        data=_data(lines),
    )


def _titles(group: Group) -> str:
    names = sorted((table.name for table in group.tables), key=lambda name: (len(name), name))
    numbered = "Table" if len(names) == 1 else "Tables"
    return f"{numbered} {', '.join(names)}" if group.tables[0].source else ", ".join(names)


def _draw(name: str, lines: Sequence[CurveLine]) -> str:
    parts = [part for part in PARTS if any(part in line.curves for line in lines)]
    rows = ceil(len(parts) / 2)
    canvas = Canvas(name, 18 + TALL + rows * (LOW + BETWEEN) + 32)
    labels = [wrapped(line.label, LONGEST_LABEL) for line in lines]
    beside = max((text_width(part, SMALL) for label in labels for part in label.split("\n")), default=0) + 22
    axes = canvas.axes(LEFT, 18, WIDTH - LEFT - beside, TALL, "loss, all parts together")
    _panel(axes, lines, LOSS)
    _direct_labels(axes, lines, labels, beside)
    width = (WIDTH - 2 * LEFT - 14) / 2
    for place, part in enumerate(parts):
        left, top = LEFT + (place % 2) * (width + LEFT + 6), 18 + TALL + BETWEEN + (place // 2) * (LOW + BETWEEN)
        axes = canvas.axes(left, top, width, LOW, PARTS[part])
        _panel(axes, lines, part)
        if place >= len(parts) - 2:
            axes.set_xlabel("step")
    return canvas.svg()


def _panel(axes: Axes, lines: Sequence[CurveLine], name: str) -> None:
    axes.set_yscale("log")
    values = []
    for line, look in zip(lines, LOOKS, strict=False):
        curve = [(step, value) for step, value in line.curves.get(name, ()) if drawable(value)]
        values += [value for _, value in curve]
        _plot(axes, curve, look)
    if values:
        axes.set_ylim(min(values) * 0.93, max(values) * 1.07)
        ticks = log_ticks(min(values) * 0.93, max(values) * 1.07)
        axes.yaxis.set_major_locator(FixedLocator(ticks))
        axes.yaxis.set_ticklabels([f"{tick:g}" for tick in ticks])
    axes.yaxis.set_minor_locator(NullLocator())


def _plot(axes: Axes, curve: Curve, look: PlotStyle) -> None:
    axes.plot([s for s, _ in curve], [v for _, v in curve], color=look.colour, linestyle=look.dashes, linewidth=1.2)


def _direct_labels(axes: Axes, lines: Sequence[CurveLine], labels: Sequence[str], beside: float) -> None:
    """The name of each line at the right, joined to its end."""
    axes.set_xlim(0, max((line.curves[LOSS][-1][0] for line in lines), default=1))
    axes.autoscale(False)
    frame, to_points = axes.get_window_extent(), axes.transData.transform
    ends = [tuple(map(float, to_points(line.end))) for line in lines]
    gap = 1.25 * SMALL * max((1 + label.count("\n") for label in labels), default=1)
    heights = spread([y for _, y in ends], gap, float(frame.y0) + 4, float(frame.y1) - 4)
    right = float(frame.x1)
    for (x, y), height, text, look in zip(ends, heights, labels, LOOKS, strict=False):
        corners = [(x, y), (right + 5, height), (right + 14, height), (right + 17, height)]
        data = [tuple(map(float, axes.transData.inverted().transform(corner))) for corner in corners]
        axes.plot(
            [a for a, _ in data[:3]],
            [b for _, b in data[:3]],
            color=look.colour,
            linewidth=0.6,
            alpha=0.8,
            clip_on=False,
        )
        axes.text(data[3][0], data[3][1], text, fontsize=SMALL, color=INK, ha="left", va="center", linespacing=1.05)


def _caption(group: Group, lines: Sequence[CurveLine], not_drawn: Sequence[str]) -> str:
    table = group.tables[0]
    devices = ", ".join(dict.fromkeys(line.stage.device for line in lines))
    found = [
        f"Measured at scale {table.scale}{f' on {devices}' if devices else ''}; the paper publishes no curves.",
        f"The loss of pre-training {KINDS[group.kind]} and its parts by step, logarithmic; every point is the mean of"
        f" neighbouring batches, at most {MOST_POINTS} points a line. Losses of different masking or models are of"
        " different tasks: they show that training converges, not which row is better.",
    ]
    if len(group.tables) > 1:
        named = "Table " if table.source else ""
        others = ", ".join(other.name for other in group.tables[1:])
        found.append(f"Rows are named as in {named}{table.name}; those of {others} need no other stages.")
    if shared := [line.label for line in lines if len(line.rows) > 1]:
        found.append(f"Trained once for several rows: {'; '.join(shared)}.")
    if any(len({trial.seed for trial in table.trials if trial.variant == row}) > 1 for row in table.rows):
        found.append("The first seed of each row; MLflow has the others.")
    for part in PARTS:
        if without := [line.label for line in lines if part not in line.curves]:
            found.append(f"No {part} of {', '.join(without)}: nothing was recorded under that name.")
    for line in lines:
        for name, curve in line.curves.items():
            if lost := [step for step, value in curve if not drawable(value)]:
                found.append(f"{name} of {line.label} is no positive number near steps {', '.join(map(str, lost))}.")
    if not_drawn:
        found.append(f"Not drawn: {'; '.join(not_drawn)}.")
    return " ".join(found)


def _alt(group: Group, lines: Sequence[CurveLine]) -> str:
    texts = [
        f"{line.label} from {_number(line.curves[LOSS][0][1])} to {_number(line.curves[LOSS][-1][1])} in"
        f" {line.curves[LOSS][-1][0]} steps"
        for line in lines
    ]
    drawn = "; ".join(texts) if texts else "no line is drawn, since nothing was recorded"
    return f"Loss of pre-training {KINDS[group.kind]}: {drawn}. The table has its parts."


def _data(lines: Sequence[CurveLine]) -> Data:
    rows = [
        (
            line.label,
            line.stage.name,
            name,
            str(curve[-1][0]),
            _number(curve[0][1]),
            _number(min((value for _, value in curve if isfinite(value)), default=nan)),
            _number(curve[-1][1]),
        )
        for line in lines
        for name, curve in line.curves.items()
    ]
    return Data(("Row", "Stage", "Loss", "Steps", "First", "Lowest", "Last"), tuple(rows))


def _number(value: float) -> str:
    return significant(value) if drawable(value) else f"{value:g}"
