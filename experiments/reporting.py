"""The verbs of the command line that make something of what is recorded."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from experiments.options import FAILED, ROOT, Home, complain, home_folder

if TYPE_CHECKING:
    from experiments.recorded import Recorded

report = typer.Typer(help="Tables and a page made of what is recorded.", no_args_is_help=True, rich_markup_mode=None)

Folder = Annotated[Path, typer.Option(help="folder to write to")]
Records = Annotated[
    Path | None, typer.Option("--from", help="a folder of portable records to report on, instead of the home folder")
]
OUT = ROOT / "reports" / "out"


@report.command()
def tables(
    table: Annotated[list[str], typer.Argument(help="numbers, e.g. 4 (default: all)", metavar="[TABLE]...")] = [],  # noqa: B006
    out: Folder = OUT,
    from_: Records = None,
    home: Home = None,
) -> None:
    """Write the paper's tables, published and measured side by side, and cells.csv."""
    from reports.render import make_tables, read_report

    source = _source(home, from_)
    read = read_report(source.home, origin=source.origin)
    for path in make_tables(read, out, table or None):
        typer.echo(os.path.relpath(path))
    _end_with([*map(str, read.faults), source.problem])


@report.command()
def page(out: Folder = OUT, from_: Records = None, home: Home = None) -> None:
    """Write index.html: all tables, with cells that open, and what was spent, on one page that needs no network."""
    from experiments.reading import Ledger
    from reports.page import make_page
    from reports.render import read_report

    source = _source(home, from_)
    read = read_report(source.home, origin=source.origin)
    path, faults = make_page(read, Ledger(source.home), out, serve=_serve(source.home))
    typer.echo(os.path.relpath(path))
    _end_with([*faults, source.problem])


def _source(home: Path | None, records: Path | None) -> "Recorded":
    """What is reported on; says so first where that needs saying."""
    from experiments.recorded import recorded

    found = recorded(home_folder(home), records)
    if found.notice:
        complain(found.notice)
    return found


def _serve(home: Path) -> str:
    """The command that shows MLflow's pages of a home folder; reports hold no paths of a machine."""
    if home == home_folder(None):
        return "smaug ui"
    return f"smaug ui --home {home.relative_to(ROOT) if home.is_relative_to(ROOT) else home.name}"


def _end_with(faults: Iterable[str]) -> None:
    """Say what is wrong with what was recorded, and fail if anything is."""
    found = [fault for fault in faults if fault]
    for fault in found:
        complain(fault)
    if found:
        raise typer.Exit(FAILED)
