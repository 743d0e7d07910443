"""The report as one page of HTML without network, server or other files."""

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment as Templates
from jinja2 import FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from experiments.store.device_hours import PARTS, Total
from experiments.tracking.reader import MlflowReader, StageRow, TrackingError
from reports.analysis.compare_rows import comparer, measured_scales
from reports.analysis.environment import Environment, environment_of
from reports.analysis.spending import Spending, Spent, in_paper_order, spend
from reports.analysis.verdicts import claim_rows
from reports.figures.build import NO_STEPS, make_figures, write_figures
from reports.figures.figure import Figure
from reports.html.claims_view import Judgement, judgement_of
from reports.html.gallery import Albums, albums_of
from reports.html.table_view import Grid, grids_of
from reports.paper.claims import load_claims
from reports.paper.contradictions import Contradiction, load_contradictions
from reports.paper.tables import PublishedSettings, load_published, load_settings, sweep_files
from reports.render.files import write_text
from reports.render.markdown import LOCAL_UI
from reports.render.text import decimals_of
from reports.report import Report
from smaug_core.cost.flops import Part

TEMPLATES = Path(__file__).resolve().parent / "templates"
TITLE = "SMAUG, published and measured"
FILE = "index.html"
NO_BREAK = "\N{NO-BREAK SPACE}"

Steps = Mapping[str, Mapping[str, Part]]
"""Parts of a step of pre-training, by scale."""


FIGURES = {
    "pareto": "R@1 against hours",
    "curves": "Training curves",
    "hours": "Hours by use",
    "shares": "Computation of a step",
}
"""Headings of figures, by the prefix of their names."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FigureGroup:
    """Figures of one kind."""

    key: str
    title: str
    figures: tuple[Figure, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Page:
    """Content of the page."""

    origin: str
    """Source of the measurements."""
    serve: str
    """Command that serves MLflow's pages on this machine; empty if a server does."""
    faults: tuple[str, ...]
    nothing: str
    """Reason for which nothing is measured, and the command that changes it; shown only if nothing is measured."""
    spending: Spending
    grids: list[Grid]
    settings: tuple[PublishedSettings, ...]
    judgement: Judgement
    contradictions: tuple[Contradiction, ...]
    figures: tuple[Figure, ...]
    albums: Albums
    environment: Environment

    @property
    def figure_groups(self) -> list[FigureGroup]:
        """The figures by kind, in their order."""
        groups: dict[str, list[Figure]] = {}
        for figure in self.figures:
            groups.setdefault(figure.name.split("-")[0], []).append(figure)
        return [
            FigureGroup(key=f"figures-{kind}", title=FIGURES.get(kind, kind), figures=tuple(found))
            for kind, found in groups.items()
        ]

    @property
    def has_measured(self) -> bool:
        """True if there is any measured cell."""
        return any(grid.has_measured for grid in self.grids)

    def hours(self, spent: Total) -> dict[str, str]:
        """Parts of the spent hours, with as many decimals as the smallest of its unit needs."""
        every = [
            *self.spending.unused,
            *self.spending.archived,
            *(one for sweep in self.spending.sweeps for one in sweep.spent),
        ]
        decimals = max((decimals_of(one.billed) for one in every if one.unit == spent.unit), default=0)
        names = [*PARTS, *(("alone", "saved") if isinstance(spent, Spent) else ())]
        parts = {name: getattr(spent, name) for name in names}
        return {name: "" if value is None else f"{value:.{decimals}f}" for name, value in parts.items()}

    def energy(self, spent: Total) -> str:
        """Energy in kWh; empty if it was not counted."""
        return "" if spent.kwh is None else f"{spent.kwh:.3g}"

    def bar(self, spent: Spent) -> list[tuple[str, str, str]]:
        """Name, start and width of each part, in thousandths of the whole."""
        found, start = [], 0.0
        for name in ("useful", "lost", "overhead"):
            width = 1000 * getattr(spent, name) / spent.billed if spent.billed else 0.0
            found.append((name, f"{start:.1f}", f"{width:.1f}"))
            start += width
        return found


def make_page(
    report: Report, ledger: MlflowReader, out: Path, *, steps: Steps = NO_STEPS
) -> tuple[Path, tuple[str, ...]]:
    """Write `index.html`, and its figures for print; return its path and all faults of the records.

    Args:
        report: to be shown.
        ledger: where it was read.
        out: folder to write to.
        steps: by scale, what a step of pre-training consists of.

    Raises:
        ReportError: the folder cannot be written.
    """
    page = page_of(report, ledger, steps=steps)
    write_figures(page.figures, out)
    return write_text(out / FILE, to_html(page)), page.faults


def page_of(report: Report, ledger: MlflowReader, *, steps: Steps = NO_STEPS) -> Page:
    """Collect the content of the page from a report and the ledger that it was read from."""
    stages, archived, unread = _stages(report, ledger)
    own = [table for table in report.tables if table.measured_by == table.name]
    trials = in_paper_order({trial.run_id: trial for table in own for trial in table.trials}.values())
    files, scales = sweep_files(), measured_scales(report.tables)
    claims = claim_rows(load_claims(), load_published(), comparer(report.tables), scales)
    spending, albums = spend(trials, stages, archived), albums_of(trials, stages, ledger.examples, report.ui)
    figures, undrawn = _figures(report, stages, ledger, steps)
    return Page(
        origin=report.origin,
        serve=report.serve if report.ui == LOCAL_UI else "",
        faults=(*map(str, report.faults), *unread, *spending.faults, *albums.faults, *undrawn),
        nothing=f"No sweep has a result in it yet; {_first_command(files)} measures the first table.",
        spending=spending,
        grids=grids_of(report.tables, files, report.ui),
        settings=tuple(load_settings().values()),
        judgement=judgement_of(claims),
        contradictions=load_contradictions().contradictions,
        figures=tuple(figures),
        albums=albums,
        environment=environment_of(trials, stages, report.tables, files),
    )


def to_html(page: Page) -> str:
    """Render the whole page; the same for the same runs."""
    templates = Templates(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters |= {"breakable": breakable, "coded": coded, "drawn": drawn, "unbroken": unbroken}
    style, script = (_source(name) for name in ("page.css", "page.js"))
    return templates.get_template("page.html.j2").render(
        page=page,
        title=TITLE,
        style=Markup(style),
        script=Markup(script),
        style_digest=_digest(style),
        script_digest=_digest(script),
    )


def breakable(text: str) -> Markup:
    """Allow line breaks in a name behind its slashes and underscores."""
    return Markup(escape(text).replace("/", Markup("/<wbr>")).replace("_", Markup("_<wbr>")))


def coded(text: str) -> Markup:
    """Mark the parts of a sentence in backticks as code."""
    pieces = enumerate(text.split("`"))
    return Markup("").join(Markup("<code>{}</code>").format(piece) if place % 2 else piece for place, piece in pieces)


def unbroken(text: str) -> str:
    """Allow line breaks in an interval or a comparison behind its comma only: a p stays with its value."""
    return text.replace(" ", NO_BREAK).replace(f",{NO_BREAK}", ", ")


def drawn(figure: Figure) -> Markup:
    """Embed a figure's SVG unchanged: `reports.figures` writes it from an XML tree, so no text of it is markup."""
    return Markup(figure.svg)


def _stages(report: Report, ledger: MlflowReader) -> tuple[list[StageRow], list[StageRow], list[str]]:
    """Read all stages that count and those archived, or the reason why there are none."""
    if report.unreadable or not ledger.exists:
        return [], [], []
    try:
        found = ledger.stages(), ledger.archived()
        return *found, [f"run {run.run_id} cannot be read: {run.what}" for run in ledger.damaged.values()]
    except TrackingError as error:
        return [], [], [f"what was spent could not be read: {error}"]


def _figures(
    report: Report, stages: list[StageRow], ledger: MlflowReader, steps: Steps
) -> tuple[list[Figure], list[str]]:
    """Draw every figure, or give the reason why there are none."""
    try:
        return make_figures(report, stages, ledger.curve, steps), []
    except TrackingError as error:
        return [], [f"figures could not be drawn: {error}"]


def _first_command(files: Mapping[str, str]) -> str:
    return f"python sweeps/run.py {files.get('4', 'sweeps/FILE.yaml')}"


def _source(name: str) -> str:
    return (TEMPLATES / name).read_text(encoding="utf-8")


def _digest(source: str) -> str:
    """Digest of an inline element for the content security policy."""
    return f"sha256-{base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()}"
