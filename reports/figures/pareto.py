"""R@1 against hours: published values above, measured ones below, each with its Pareto front."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from math import dist
from typing import cast

from matplotlib.axes import Axes

from reports.analysis.cells import Cell, Column, Interval, Table
from reports.analysis.samples import Samples, over_seeds
from reports.figures.canvas import LOOKS, SMALL, WIDTH, Canvas, shortened
from reports.figures.figure import Data, Figure, figure_name
from reports.figures.labels import Box, place_labels
from reports.figures.svg import INK
from reports.render.footnotes import INTERVALS, MARKS
from reports.render.text import significant

TOTAL_HOURS = frozenset({"10"})
"""Tables whose rows share their pre-training and print no hours: those of fine-tuning are added."""
PANEL, GAP, LEFT, RIGHT = 158.0, 52.0, 44.0, 16.0
"""Height of a panel, between panels, and beside them, in points."""
FAR = 9.0
"""Distance in points from which a line joins a label to its point."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """One row: its hours and its R@1."""

    row: str
    hours: float
    r1: float
    hours_interval: Interval | None = None
    r1_interval: Interval | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Panel:
    """Points that compare: published ones, or those measured on one device."""

    title: str
    unit: str
    """Unit of the hours."""
    device: str
    """Empty of published ones."""
    points: tuple[Point, ...]


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Find the points that no other one dominates, by hours, then R@1.

    One dominates another if it takes no more hours and has no lower R@1, and is better in one of the two; so equal
    points are on the front together.

    Args:
        points: hours and R@1.
    """
    front = [
        place
        for place, (hours, r1) in enumerate(points)
        if not any(h <= hours and r >= r1 and (h, r) != (hours, r1) for h, r in points)
    ]
    return sorted(front, key=lambda place: (*points[place], place))


def pareto_figure(table: Table) -> Figure | None:
    """Draw a table's rows by hours and R@1; None if it has no such columns, or no values in them."""
    column = next((column for column in table.columns if column.slot.endswith(".t2v.r1")), None)
    if column is None or not (any(own.is_hours for own in table.columns) or table.name in TOTAL_HOURS):
        return None
    panels = [panel for panel in (_published(table, column), *_measured(table, column)) if panel.points]
    if not panels:
        return None
    name = figure_name("pareto", table.name, table.scale)
    fronts = [pareto_front([(point.hours, point.r1) for point in panel.points]) for panel in panels]
    return Figure(
        name=name,
        title=f"{_table_name(table)}: R@1 against {_hours_word(table)}",
        caption=_caption(table, column, panels),
        alt=_alt(panels, fronts),
        svg=_draw(name, panels, fronts, _hours_word(table)),
        data=_data(panels, fronts),
    )


def _table_name(table: Table) -> str:
    scale = f", scale {table.scale}" if table.scale else ""
    return f"{'Table ' if table.source else ''}{table.name}{scale}"


def _hours_word(table: Table) -> str:
    return "useful hours, fine-tuning included" if table.name in TOTAL_HOURS else "hours of pre-training"


def _published(table: Table, column: Column) -> Panel:
    hours = next((own for own in table.columns if own.is_hours), None)
    points = []
    for row in table.rows if hours is not None else ():
        spent, r1 = table.cell(row, hours.slot).published, table.cell(row, column.slot).published  # type: ignore[union-attr]
        if spent is not None and r1 is not None:
            points.append(Point(row=row, hours=spent, r1=r1))
    unit = "" if hours is None else hours.published_unit
    return Panel(title=f"Published, {column.published_dataset}", unit=unit, device="", points=tuple(points))


def _measured(table: Table, column: Column) -> Iterator[Panel]:
    """Make a panel for each device, since hours of two devices do not compare."""
    found = []
    for row in table.rows:
        r1, spent = table.cell(row, column.slot), _spent(table, row)
        if r1.measured is None or spent is None:
            continue
        hours, interval, unit, device = spent
        point = Point(row=row, hours=hours, r1=r1.measured, hours_interval=interval, r1_interval=r1.interval)
        found.append((unit, device, point))
    for (unit, device), group in groupby(sorted(found, key=lambda one: one[:2]), key=lambda one: one[:2]):
        title = f"Measured, {column.measured_dataset}"
        yield Panel(title=title, unit=unit, device=device, points=tuple(point for _, _, point in group))


def _spent(table: Table, row: str) -> tuple[float, Interval | None, str, str] | None:
    """Hours of a row, their interval, unit and device; None if they were not measured, or not in one unit."""
    if table.name not in TOTAL_HOURS:
        cell = table.cell(row, next(own.slot for own in table.columns if own.is_hours))
        return None if cell.measured is None else (cell.measured, cell.interval, cell.unit, cell.device)
    trials = [trial for trial in table.trials if trial.variant == row and trial.status == "FINISHED"]
    values = {trial.seeds: trial.metrics["row_hours.total"] for trial in trials if "row_hours.total" in trial.metrics}
    placed = {(trial.unit, trial.device) for trial in trials}
    if not values or len(values) < len(trials) or len(placed) > 1:
        return None
    spread = over_seeds(values)
    interval = None if spread is None else Interval(*spread[0], spread[1])
    return (Samples(values, {}, "").mean(), interval, *placed.pop())


def _draw(name: str, panels: Sequence[Panel], fronts: Sequence[Sequence[int]], hours_word: str) -> str:
    canvas = Canvas(name, 20 + len(panels) * (PANEL + GAP) - 12)
    for place, (panel, front) in enumerate(zip(panels, fronts, strict=True)):
        axes = canvas.axes(LEFT, 18 + place * (PANEL + GAP), WIDTH - LEFT - RIGHT, PANEL, shortened(panel.title, 60))
        axes.set_xlabel(f"{hours_word} ({panel.unit})")
        axes.set_ylabel("R@1 (%)")
        _limits(axes, panel.points)
        _panel(axes, panel, front, 1 if panel.device else 0)
    return canvas.svg()


def _limits(axes: Axes, points: Sequence[Point]) -> None:
    """Room for points, bars and labels."""
    for set_limits, values in (
        (axes.set_xlim, [end for point in points for end in (point.hours, *_ends(point.hours_interval))]),
        (axes.set_ylim, [end for point in points for end in (point.r1, *_ends(point.r1_interval))]),
    ):
        low, high = min(values), max(values)
        room = 0.16 * (high - low) or 0.1 * abs(high) or 1.0
        set_limits(low - room, high + room)


def _ends(interval: Interval | None) -> tuple[float, ...]:
    return () if interval is None else (interval.low, interval.high)


def _panel(axes: Axes, panel: Panel, front: Sequence[int], kind: int) -> None:
    look, points = LOOKS[kind], panel.points
    steps = [points[place] for place in front]
    axes.step(
        [p.hours for p in steps] + [axes.get_xlim()[1]],
        [p.r1 for p in steps] + [steps[-1].r1],
        where="post",
        color=look.colour,
        linewidth=1.1,
        linestyle=look.dashes,
    )
    for place, point in enumerate(points):
        for interval, across in ((point.r1_interval, False), (point.hours_interval, True)):
            if interval is not None:
                ends, held = (interval.low, interval.high), (point.hours if not across else point.r1,) * 2
                axes.plot(*((ends, held) if across else (held, ends)), color=INK, alpha=0.55, linewidth=0.9)
        face = look.colour if place in front else "none"
        axes.plot([point.hours], [point.r1], look.marker, color=look.colour, markersize=6, markerfacecolor=face)
    _labels(axes, points, front)


def _labels(axes: Axes, points: Sequence[Point], front: Sequence[int]) -> None:
    to_points = axes.transData.transform  # a drawing has 72 dots an inch, so that dots are points
    spots = [cast("tuple[float, float]", tuple(map(float, to_points((p.hours, p.r1))))) for p in points]
    right = float(axes.get_window_extent().x1)
    corners = [*(spots[place] for place in front), (right, spots[front[-1]][1])]
    bars = []
    for (x, y), (next_x, next_y) in pairwise(corners):
        bars += [Box(x, y - 1.5, next_x, y + 1.5), Box(next_x - 1.5, y, next_x + 1.5, next_y)]
    for point, (x, _) in zip(points, spots, strict=True):
        if point.r1_interval is not None:
            low, high = (
                float(to_points((point.hours, end))[1]) for end in (point.r1_interval.low, point.r1_interval.high)
            )
            bars.append(Box(x - 2, low, x + 2, high))
    ends = axes.get_window_extent()
    frame = Box(ends.x0, ends.y0, ends.x1, ends.y1)
    texts = [shortened(point.row, 34) for point in points]
    to_data = axes.transData.inverted().transform
    for (x, y), box, text in zip(spots, place_labels(spots, texts, bars, frame, SMALL), texts, strict=True):
        across, up = to_data(((box.left + box.right) / 2, (box.bottom + box.top) / 2))
        axes.text(across, up, text, fontsize=SMALL, color=INK, ha="center", va="center")
        near = box.nearest(x, y)
        if dist(near, (x, y)) > FAR:
            (left, low), (right, high) = to_data(near), to_data((x, y))
            axes.plot([left, right], [low, high], color=INK, linewidth=0.5, linestyle=":")


def _caption(table: Table, column: Column, panels: Sequence[Panel]) -> str:
    found = []
    for panel in panels:
        if panel.device:
            found.append(
                f"Measured at scale {table.scale} on {panel.device}: {panel.unit}, R@1 on {column.measured_dataset}."
            )
        else:
            found.append(f"Published: {table.source}; hours in {panel.unit}, R@1 on {column.published_dataset}.")
    if table.name in TOTAL_HOURS:
        found.append(
            "The paper prints no hours for this table, so nothing published is drawn; hours are the useful ones of"
            " pre-training and fine-tuning, as if the row had been trained alone."
        )
    if len(panels) > 1:
        found.append("The panels' hours and R@1 do not compare with each other.")
    found.append(
        "Filled points are on the Pareto front (the line): no other row is at least as fast and at least as good, and"
        " better in one. Hollow points are dominated."
    )
    kinds = sorted({i.kind for panel in panels for p in panel.points for i in (p.r1_interval, p.hours_interval) if i})
    found += [f"Bars: 95 % interval, {INTERVALS[kind]}." for kind in kinds]
    if any(panel.device for panel in panels):
        found.append("The front is that of the values; where bars overlap, it may be another one next time.")
    return " ".join([*found, *_marks(table, column, panels), *_left_out(table, column, panels)])


def _marks(table: Table, column: Column, panels: Sequence[Panel]) -> Iterator[str]:
    """List marks of points that do not compare with their neighbours."""
    slots = [own.slot for own in table.columns if own.is_hours] + [column.slot]
    for row in [point.row for panel in panels if panel.device for point in panel.points]:
        marks = dict.fromkeys(mark for slot in slots for mark in table.cell(row, slot).marks)
        if marks:
            yield f"Row {row}: {'; '.join(f'{mark} ({MARKS[mark]})' if mark in MARKS else mark for mark in marks)}."


def _left_out(table: Table, column: Column, panels: Sequence[Panel]) -> Iterator[str]:
    """List reasons why rows that were measured, or were to be, are not among the points."""
    if table.unreadable:
        yield f"{table.unreadable[0].upper()}{table.unreadable[1:]}."
    drawn = {point.row for panel in panels if panel.device for point in panel.points}
    tried = {trial.variant for trial in table.trials}
    for row in table.rows:
        if row in tried and row not in drawn:
            faults = _faults(table.cell(row, column.slot), table.cell(row, table.columns[0].slot))
            yield f"Row {row} is not drawn: {'; '.join(faults) or 'it is not finished, or its hours are not known'}."


def _faults(*cells: Cell) -> list[str]:
    return list(dict.fromkeys(fault for cell in cells for fault in cell.faults))


def _alt(panels: Sequence[Panel], fronts: Sequence[Sequence[int]]) -> str:
    found = []
    for panel, front in zip(panels, fronts, strict=True):
        values = "; ".join(f"{p.row}: {_hours(panel, p)} h, {p.r1:.1f}" for p in panel.points)
        rows = ", ".join(panel.points[place].row for place in front)
        all_of = "all rows" if len(front) == len(panel.points) else f"{len(front)} of {len(panel.points)} rows"
        where = panel.title + (f" on {panel.device}" if panel.device else "")
        found.append(
            f"{where}, hours in {panel.unit} and R@1 in percent: {values}. On the Pareto front, {all_of}: {rows}."
        )
    return " ".join(found)


def _data(panels: Sequence[Panel], fronts: Sequence[Sequence[int]]) -> Data:
    header = ("Panel", "Row", "Hours", "Unit", "R@1", "95 % interval of R@1", "Pareto front")
    rows = []
    for panel, front in zip(panels, fronts, strict=True):
        for place, point in enumerate(panel.points):
            ends = _ends(point.r1_interval)
            rows.append(
                (
                    "measured" if panel.device else "published",
                    point.row,
                    _hours(panel, point),
                    panel.unit,
                    f"{point.r1:.1f}",
                    f"{ends[0]:.1f} to {ends[1]:.1f}" if ends else "",
                    "yes" if place in front else "no",
                )
            )
    return Data(header, tuple(rows))


def _hours(panel: Panel, point: Point) -> str:
    """Published ones as the paper prints them."""
    return significant(point.hours) if panel.device else f"{point.hours:.1f}"
