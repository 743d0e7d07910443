"""Commands that make tables, claims and pages from recorded results."""

import json
import os
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from experiments.cli.options import FAILED, PATH, ROOT, Home, Json, home_folder
from experiments.console import Console, complain, print_json, say

if TYPE_CHECKING:
    from reports.report import Report
    from smaug_core.cost.flops import Part

report = typer.Typer(
    help="Make tables, claims and a page from recorded results.", no_args_is_help=True, rich_markup_mode=None
)
OUT = ROOT / "reports" / "out"

Folder = Annotated[Path, typer.Option(help="Output folder.", **PATH)]
Records = Annotated[
    Path | None,
    typer.Option("--from", help="Folder of portable records to read instead of the home folder's results.", **PATH),
]


@report.command()
def tables(
    table: Annotated[
        list[str], typer.Argument(help="Table numbers, e.g. 4 (default: all).", metavar="[TABLE]...")
    ] = [],  # noqa: B006
    out: Folder = OUT,
    records: Records = None,
    home: Home = None,
) -> None:
    """Write the paper's tables with measured results.

    Published and measured numbers stand side by side in Markdown, LaTeX and CSV; cells.csv holds every cell.
    """
    from reports.report import make_tables

    found, _, problems = _read(home, records)
    for path in make_tables(found, out, table or None):
        say(os.path.relpath(path))
    _end_with(problems)


@report.command()
def page(out: Folder = OUT, records: Records = None, home: Home = None) -> None:
    """Write all results as one HTML page.

    index.html holds tables with cells that open, hours spent, claims and figures; it needs no network.
    """
    from experiments.tracking.reader import MlflowReader
    from reports.html.page import make_page

    found, folder, problems = _read(home, records)
    path, more = make_page(found, MlflowReader(folder), out, steps=_steps(found))
    say(os.path.relpath(path))
    _end_with(dict.fromkeys([*problems, *more]))


@report.command()
def claims(json_: Json = False, records: Records = None, home: Home = None) -> None:
    """Check the paper's claims against its tables and results.

    Measured results are checked at each scale.
    """
    from reports.analysis.compare_rows import comparer, measured_scales
    from reports.analysis.verdicts import claim_rows, claim_text
    from reports.paper.claims import load_claims
    from reports.paper.tables import load_published

    found, _, problems = _read(home, records)
    rows = claim_rows(load_claims(), load_published(), comparer(found.tables), measured_scales(found.tables))
    if json_:
        print_json({"measurements": found.origin, "checks": [asdict(row) for row in rows]})
    else:
        _print_indented(claim_text(rows))
    _end_with(problems)


@report.command()
def diff(
    a: Annotated[Path, typer.Argument(help="A cells.csv file, or a folder that holds one.", **PATH | {"metavar": "A"})],
    b: Annotated[Path, typer.Argument(help="The file or folder to compare it with.", **PATH | {"metavar": "B"})],
    json_: Json = False,
) -> None:
    """Compare the cells of two reports.

    Exit with 1 if they differ.
    """
    from reports.render.diff import differences, lines, load_cells

    changes = differences(load_cells(a), load_cells(b))
    if json_:
        print_json([asdict(change) | {"within": change.within} for change in changes])
    else:
        for line in lines(changes):
            say(line)
    if changes:
        raise typer.Exit(FAILED)


@report.command()
def export(
    out: Annotated[Path | None, typer.Option(help="Output file (default: standard output).", **PATH)] = None,
    records: Records = None,
    home: Home = None,
) -> None:
    """Export every cell with its statistics as JSON.

    Each cell names its errors and the MLflow pages of its runs.
    """
    from reports.render.files import write_text
    from reports.render.json_export import export as exported

    found, _, problems = _read(home, records)
    text = (
        json.dumps(exported(found.tables, found.faults, ui=found.ui, origin=found.origin), indent=1, ensure_ascii=False)
        + "\n"
    )
    if out is None:
        say(text, end="")
    else:
        say(os.path.relpath(write_text(out, text)))
    _end_with(problems)


def _steps(found: "Report") -> dict[str, dict[str, "Part"]]:
    """Parts of a pre-training step, at the paper's scale and at the measured scales that have a file."""
    from experiments.config.scale import load_scale, scale_names
    from experiments.planning.model_summary import PAPER_SCALE, pretraining_step

    names = dict.fromkeys([PAPER_SCALE, *(table.scale for table in found.tables)])
    return {name: pretraining_step(load_scale(name)) for name in names if name in scale_names()}


def _serve(home: Path) -> str:
    """The command that shows MLflow's pages of a home folder; reports hold no paths of a machine."""
    from experiments.tracking.source import LEDGERS

    if home == home_folder(None):
        return "smaug ui"
    if home.is_relative_to(ROOT):
        return f"smaug ui --home {home.relative_to(ROOT)}"
    within = home.parts[-3:] if home.parent.name == LEDGERS else home.parts[-1:]
    return f"smaug ui --home .../{'/'.join(within)}"


def _read(home: Path | None, records: Path | None) -> tuple["Report", Path, list[str]]:
    """Read every table; return them, the home folder whose MLflow runs hold them, and all errors."""
    from experiments.tracking.source import recorded
    from reports.report import read_report

    source = recorded(home_folder(home), records)
    if source.notice:
        complain(source.notice)
    found = read_report(source.home, origin=source.origin, serve=_serve(source.home))
    problems = [*([source.problem] if source.problem else []), *map(str, found.faults)]
    return found, source.home, problems


def _print_indented(lines: Iterable[str]) -> None:
    """Print lines; wrap long ones at their own indent."""
    console = Console()
    for line in lines:
        text = line.lstrip()
        console.print_wrapped(text, indent=len(line) - len(text))


def _end_with(problems: Iterable[str]) -> None:
    """Print errors in recorded results, and exit with 1 if there are any."""
    found = list(problems)
    for problem in found:
        complain(problem)
    if found:
        raise typer.Exit(FAILED)
