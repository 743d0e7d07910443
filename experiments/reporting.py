"""The verbs of the command line that make something of what is recorded."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from experiments.options import FAILED, ROOT, Home, complain, home_folder

report = typer.Typer(help="Tables and a page made of what is recorded.", no_args_is_help=True, rich_markup_mode=None)

Folder = Annotated[Path, typer.Option(help="folder to write to")]
OUT = ROOT / "reports" / "out"


@report.command()
def tables(
    table: Annotated[list[str], typer.Argument(help="numbers, e.g. 4 (default: all)", metavar="[TABLE]...")] = [],  # noqa: B006
    out: Folder = OUT,
    home: Home = None,
) -> None:
    """Write the paper's tables, published and measured side by side, and cells.csv."""
    from reports.render import make_tables, read_report

    read = read_report(_synced(home))
    for path in make_tables(read, out, table or None):
        typer.echo(os.path.relpath(path))
    _end_with(map(str, read.faults))


@report.command()
def page(out: Folder = OUT, home: Home = None) -> None:
    """Write index.html: tables whose cells open, and what was spent, on one page that needs no network."""
    from reports.page import make_page
    from reports.render import read_report

    folder = _synced(home)
    path, faults = make_page(read_report(folder), folder, out)
    typer.echo(os.path.relpath(path))
    _end_with(faults)


def _synced(home: Path | None) -> Path:
    """The home folder, with all that its store holds recorded."""
    from experiments.tracking import sync

    folder = home_folder(home)
    if (folder / "store").exists():
        sync(folder)
    return folder


def _end_with(faults: Iterable[str]) -> None:
    """Say what is wrong with what was recorded, and fail if anything is."""
    found = list(faults)
    for fault in found:
        complain(fault)
    if found:
        raise typer.Exit(FAILED)
