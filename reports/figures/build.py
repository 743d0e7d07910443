"""Every figure of a report, and their files."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from experiments.tracking.reader import StageRow
from reports.figures.curves import CurveReader, curve_figures
from reports.figures.figure import Figure
from reports.figures.pareto import pareto_figure
from reports.figures.shares import hours_figures, step_figure
from reports.figures.svg import standalone
from reports.render.files import write_text
from reports.report import Report
from smaug_core.cost.flops import Part

NO_STEPS: Mapping[str, Mapping[str, Part]] = {}


def make_figures(
    report: Report, stages: Iterable[StageRow], curve: CurveReader, steps: Mapping[str, Mapping[str, Part]] = NO_STEPS
) -> list[Figure]:
    """R@1 against hours, training curves, shares of hours, and of a step where steps are given; in this order.

    Args:
        report: the tables; where nothing measured could be read, published numbers alone are drawn.
        stages: all that the ledger holds.
        curve: gives what was reported of a stage, as `Ledger.curve` does.
        steps: by scale, what a step of pre-training consists of (`smaug_core.cost.flops.step_cost`).

    Raises:
        TrackingError: a curve cannot be read.
    """
    by_run = {stage.run_id: stage for stage in stages}
    tables = [table for table in report.tables if table.measured_by == table.name]  # else its rows are another's
    found = [pareto_figure(table) for table in tables]
    found += curve_figures(tables, by_run, curve)
    found += [figure for table in tables for figure in hours_figures(table, by_run)]
    found.append(step_figure(steps))
    return [figure for figure in found if figure is not None]


def write_figures(figures: Sequence[Figure], out: Path) -> list[Path]:
    """Write `figures/NAME.svg` for print, dark on white; give the paths.

    Raises:
        ReportError: the folder cannot be written.
    """
    return [
        write_text(out / "figures" / f"{figure.name}.svg", standalone(figure.svg, figure.title, figure.alt))
        for figure in figures
    ]
