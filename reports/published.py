"""What the paper published, as `reports/paper/table_N.yaml` tells it."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from smaug_core.errors import SmaugError

PAPER = Path(__file__).resolve().parent / "paper"
SWEEPS = Path(__file__).resolve().parent.parent / "sweeps"


class ReportError(SmaugError):
    """A table cannot be made from what is recorded."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Published:
    """One table of the paper."""

    table: str
    title: str
    source: str
    row: str
    """Header of the rows' names."""
    default: str | None = None
    """The row of the paper's default settings, where the table has one."""
    datasets: dict[str, str] = field(default_factory=dict)
    """The dataset that each task's columns are on."""
    columns: dict[str, dict[str, str]] = field(default_factory=dict)
    """By slot: `header` and `unit`, in the paper's order."""
    rows: dict[str, dict[str, float | None]] = field(default_factory=dict)
    """By name, in the paper's order: value by slot."""
    texts: dict[str, str] = field(default_factory=dict)
    row_texts: dict[str, dict[str, str]] = field(default_factory=dict)
    groups: dict[str, list[str]] = field(default_factory=dict)
    cited: list[str] = field(default_factory=list)
    cannot_tell: str = ""
    same_runs: dict[str, Any] = field(default_factory=dict)

    def column(self, slot: str) -> dict[str, float]:
        """What was published of a column, by row."""
        return {row: value for row, values in self.rows.items() if (value := values.get(slot)) is not None}


def load_published(folder: Path = PAPER) -> dict[str, Published]:
    """Every table that was transcribed, by its number, in order.

    Raises:
        ReportError: a row has a column that the file does not declare, or lacks one.
    """
    read = YAML(typ="safe", pure=True)
    tables = [Published(**read.load(path.read_text())) for path in folder.glob("table_*.yaml")]
    for table in tables:
        for name, values in table.rows.items():
            if values.keys() != table.columns.keys():
                raise ReportError(
                    f"table_{table.table}.yaml: row {name!r} has {', '.join(values)};"
                    f" the columns are {', '.join(table.columns)}"
                )
    return {table.table: table for table in sorted(tables, key=lambda t: (len(t.table), t.table))}


def sweep_files(folder: Path = SWEEPS) -> dict[str, str]:
    """By table number (or the sweep's name, where it rebuilds none): the sweep file that measures it."""
    read = YAML(typ="safe", pure=True)
    found = {}
    for path in sorted(folder.glob("*.yaml")):
        held = read.load(path.read_text())
        if isinstance(held, dict) and "sweep" in held:
            found[str(held.get("table") or held["sweep"])] = f"sweeps/{path.name}"
    return found
