"""Every figure of a report, and their files."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from experiments.reading import Ledger, StageRow
from reports.figures.curves import curve_figures
from reports.figures.figure import Figure
from reports.figures.pareto import pareto_figure
from reports.figures.shares import hours_figures, step_figure
from reports.figures.svg import standalone
from reports.files import write_text
from reports.render import Report
from smaug_core.cost import Part

NO_STEPS: Mapping[str, Mapping[str, Part]] = {}


def make_figures(report: Report, ledger: Ledger, steps: Mapping[str, Mapping[str, Part]] = NO_STEPS) -> list[Figure]:
    """R@1 against hours, training curves, shares of hours, and of a step where steps are given; in this order.

    Args:
        report: the tables; where nothing measured could be read, published numbers alone are drawn.
        ledger: where the report was read.
        steps: by scale, what a step of pre-training consists of (`smaug_core.cost.step_cost`).

    Raises:
        TrackingError: the ledger was readable for the report and is not any more.
    """
    readable = not report.unreadable and ledger.exists
    stages: dict[str, StageRow] = {stage.run_id: stage for stage in ledger.stages()} if readable else {}
    tables = [table for table in report.tables if table.measured_by == table.name]  # else its rows are another's
    found = [pareto_figure(table) for table in tables]
    found += curve_figures(tables, stages, ledger.curve)
    found += [figure for table in tables for figure in hours_figures(table, stages)]
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
