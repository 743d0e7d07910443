"""Tables from the ledger, and the files made from them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from experiments.tracking.reader import DamagedRun, MlflowReader, TrackingError, TrialRow
from reports.analysis.build_tables import build_tables
from reports.analysis.cells import CellFault, Table
from reports.paper.tables import ReportError, load_published, sweep_files
from reports.render.csv_files import cells_csv, to_csv
from reports.render.files import file_name, write_text
from reports.render.latex import to_latex
from reports.render.markdown import pages_of, place_of, to_markdown


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """Every table, and its source."""

    tables: list[Table]
    ui: str
    """Address of MLflow's pages."""
    origin: str
    """Name of the source of the measurements, without any password."""
    damaged: tuple[DamagedRun, ...] = ()
    """Runs of trials without readable identity."""
    unreadable: str
    """Error for which nothing could be read; empty if it could."""
    serve: str = "smaug ui"
    """The command that serves MLflow's pages, unless the ledger is a server."""

    @property
    def faults(self) -> list[CellFault]:
        """All faults of the records."""
        if self.unreadable:
            return [CellFault(table="all", scale="", row="", column="", what=self.unreadable)]
        found = [fault for table in self.tables for fault in table.faults()]
        texts = " ".join(fault.what for fault in found)
        lost = [run for run in self.damaged if run.run_id not in texts]
        return [*found, *(_lost(run) for run in lost)]

    def named(self, names: Sequence[str] | None) -> list[str]:
        """Return the requested names of tables, or all.

        Raises:
            ReportError: one is unknown.
        """
        known = list(dict.fromkeys(table.name for table in self.tables))
        for name in names or ():
            if name not in known:
                raise ReportError(f"table {name!r} is unknown; there are {', '.join(known)}")
        return known if names is None else list(names)


def _lost(run: DamagedRun) -> CellFault:
    """Fault of a damaged run that is in no table."""
    names = {name: run.tags.get(name, "") for name in ("table", "sweep", "scale", "variant")}
    return CellFault(
        table=names["table"] or names["sweep"] or "unknown",
        scale=names["scale"],
        row=names["variant"],
        column="",
        what=f"run {run.run_id} cannot be read: {run.what}",
    )


def read_report(home: Path, *, origin: str = "", serve: str = "smaug ui") -> Report:
    """Read every table from the ledger of a home folder; published numbers only if nothing is recorded.

    Faults of the ledger are shown in the tables, and so is the error if it cannot be reached.

    Args:
        home: the home folder.
        origin: where its ledger has the measurements from (default: the ledger itself).
        serve: the command that serves MLflow's pages.
    """
    ledger = MlflowReader(home)
    trials: list[TrialRow] = []
    unreadable = ""
    try:
        trials = ledger.trials() if ledger.exists else []
    except TrackingError as error:
        unreadable = f"nothing measured could be read: {error}"
    damaged = list(ledger.damaged.values())
    tables = build_tables(load_published(), trials, ledger.ranks, damaged=damaged, unreadable=unreadable)
    return Report(
        tables=tables,
        ui=pages_of(ledger.uri),
        origin=origin or f"MLflow's ledger, {place_of(ledger.uri)}",
        damaged=tuple(damaged),
        unreadable=unreadable,
        serve=serve,
    )


def make_tables(report: Report, out: Path, names: Sequence[str] | None = None) -> list[Path]:
    """Write `table_N.md`, `.tex` and `.csv` of the named tables (default: all), and cells.csv of all; return the paths.

    Raises:
        ReportError: no such table, or the folder cannot be written.
    """
    files, paths = sweep_files(), []
    for name in report.named(names):
        same = [table for table in report.tables if table.name == name]
        texts = {
            "md": "\n".join(to_markdown(table, files, report.ui, report.serve) for table in same),
            "tex": "\n".join(to_latex(table, files) for table in same),
            "csv": to_csv(same),
        }
        paths += [write_text(out / f"table_{file_name(name)}.{kind}", text) for kind, text in texts.items()]
    return [*paths, write_text(out / "cells.csv", cells_csv(report.tables))]
