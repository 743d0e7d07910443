"""The report as one page of HTML that needs nothing else: no network, no server, no other file."""

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment as Templates
from jinja2 import FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from experiments.reading import Ledger, StageRow, TrackingError
from reports.environment import Environment, environment_of
from reports.files import write_text
from reports.grid import Grid, grids_of
from reports.markdown import LOCAL_UI
from reports.published import sweep_files
from reports.render import Report
from reports.spending import Spending, Spent, spend
from reports.wording import decimals_of

TEMPLATES = Path(__file__).resolve().parent / "templates"
TITLE = "SMAUG, published and measured"
FILE = "index.html"


@dataclass(frozen=True, kw_only=True, slots=True)
class Page:
    """All that the page shows."""

    ledger: str
    """Which one it is, without passwords and folders."""
    is_local: bool
    """MLflow's pages are there only while somebody serves them on this machine."""
    faults: tuple[str, ...]
    nothing: str
    """Why nothing is measured, and what would change it; of interest where that is so."""
    spending: Spending
    grids: list[Grid]
    environment: Environment

    @property
    def has_measured(self) -> bool:
        """Whether there is any measured cell."""
        return any(grid.has_measured for grid in self.grids)

    def hours(self, spent: Spent) -> dict[str, str]:
        """Each part of what was spent, with as many decimals as the least of its unit needs."""
        every = [*self.spending.unused, *(one for sweep in self.spending.sweeps for one in sweep.spent)]
        decimals = max((decimals_of(one.billed) for one in every if one.unit == spent.unit), default=0)
        parts = {name: getattr(spent, name) for name in ("billed", "useful", "lost", "overhead", "alone", "saved")}
        return {name: "" if value is None else f"{value:.{decimals}f}" for name, value in parts.items()}

    def bar(self, spent: Spent) -> list[tuple[str, str, str]]:
        """Name, start and width of each part, in thousandths of the whole."""
        found, start = [], 0.0
        for name in ("useful", "lost", "overhead"):
            width = 1000 * getattr(spent, name) / spent.billed if spent.billed else 0.0
            found.append((name, f"{start:.1f}", f"{width:.1f}"))
            start += width
        return found


def make_page(report: Report, home: Path, out: Path) -> tuple[Path, tuple[str, ...]]:
    """Write `index.html`; give its path and all that is wrong with what was recorded.

    Raises:
        ReportError: the folder cannot be written.
    """
    ledger = Ledger(home)
    page = page_of(report, ledger)
    return write_text(out / FILE, to_html(page)), page.faults


def page_of(report: Report, ledger: Ledger) -> Page:
    """What the page shows of a report and of the ledger that it was read from."""
    stages, unread = _stages(report, ledger)
    trials = list({trial.run_id: trial for table in report.tables for trial in table.trials}.values())
    files = sweep_files()
    spending = spend(trials, stages)
    return Page(
        ledger=report.origin,
        is_local=report.ui == LOCAL_UI,
        faults=(*map(str, report.faults), *unread, *spending.faults),
        nothing=f"No sweep has a result in it yet; {_first_command(files)} measures the first table.",
        spending=spending,
        grids=grids_of(report.tables, files, report.ui),
        environment=environment_of(trials, stages, report.tables, files),
    )


def to_html(page: Page) -> str:
    """The whole page; the same for the same runs."""
    templates = Templates(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters["breakable"] = breakable
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
    """A name that may be broken into lines behind its slashes and underscores."""
    return Markup(escape(text).replace("/", Markup("/<wbr>")).replace("_", Markup("_<wbr>")))


def _stages(report: Report, ledger: Ledger) -> tuple[list[StageRow], list[str]]:
    """All stages, or why there are none."""
    if report.unreadable or not ledger.exists:
        return [], []
    try:
        return ledger.stages(), []
    except TrackingError as error:
        return [], [f"what was spent could not be read: {error}"]


def _first_command(files: Mapping[str, str]) -> str:
    return f"python sweeps/run.py {files.get('4', 'sweeps/FILE.yaml')}"


def _source(name: str) -> str:
    return (TEMPLATES / name).read_text(encoding="utf-8")


def _digest(source: str) -> str:
    """What a content security policy knows an inline element by."""
    return f"sha256-{base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()}"
