"""The nouns of a report: tables, their columns and cells, and their faults."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from experiments.tracking.reader import TrialRow
from reports.analysis.samples import IntervalKind, Samples
from reports.paper.tables import HOURS


@dataclass(frozen=True, slots=True)
class Interval:
    """95 % interval."""

    low: float
    high: float
    kind: IntervalKind


@dataclass(frozen=True, kw_only=True, slots=True)
class Column:
    """One quantity of a table."""

    slot: str
    """E.g. `msrvtt.t2v.r1`."""
    header: str
    """E.g. `R@1`."""
    published_unit: str
    """`%`, `A6000 GPU h`; empty if nothing was published."""
    measured_unit: str
    """`%`, `CPU h`; empty if nothing was measured, or in several units."""
    published_dataset: str
    """Dataset that the paper evaluates on; empty for hours."""
    measured_dataset: str
    """Dataset that was evaluated on here; empty for hours and if nothing was measured."""

    @property
    def is_hours(self) -> bool:
        """True if it is time spent, which only compares on equal devices."""
        return self.slot == HOURS

    @property
    def task(self) -> str:
        """The slot's task, e.g. `msrvtt`."""
        return self.slot.split(".")[0]

    @property
    def lower_is_better(self) -> bool:
        """True if a lower value is better, as of hours and ranks."""
        return self.is_hours or self.slot.endswith("median_rank")


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """Location of a run in MLflow."""

    run_id: str
    experiment_id: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """One quantity of one row."""

    published: float | None
    dash: bool
    """The paper prints the row and no value here."""
    measured: float | None
    """Mean over seeds of pre-training, each the mean over its seeds of fine-tuning."""
    unit: str
    """Interval of the measured value."""
    interval: Interval | None
    n_seeds: int
    n_queries: int | None
    delta: float | None
    """Measured minus the baseline row's, over the seeds that both have; None if they do not compare."""
    delta_interval: Interval | None
    p: float | None
    """P value of the difference to the baseline row, over queries; Holm's correction within the table's column."""
    p_raw: float | None
    """The same, uncorrected."""
    ratio: float | None
    """Measured hours divided by the baseline row's; None on unequal devices."""
    published_ratio: float | None
    dataset: str
    scale: str
    device: str
    marks: tuple[str, ...]
    """Marks: reasons why it does not compare with its neighbours."""
    faults: tuple[str, ...]
    """Faults of the records of this cell."""
    runs: tuple[Run, ...]

    @property
    def difference(self) -> float | None:
        """Measured minus published, if both are percentages; None for hours of two devices."""
        if self.measured is None or self.published is None or self.unit != "%":
            return None
        return self.measured - self.published


@dataclass(frozen=True, kw_only=True, slots=True)
class CellFault:
    """A fault of the records, and the cells that it affects."""

    table: str
    scale: str
    row: str
    """Empty if it concerns the whole table."""
    column: str
    """Empty if it concerns the whole row."""
    what: str

    def __str__(self) -> str:
        """Text of the fault in one line."""
        scale = f" (scale {self.scale})" if self.scale else ""
        place = ", ".join(part for part in (self.row and f"row {self.row}", self.column) if part)
        return f"table {self.table}{scale}{', ' if place else ''}{place}: {self.what}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """A table of one sweep at one scale, or of published numbers alone."""

    name: str
    """The paper's number, else the sweep's name."""
    title: str
    row_label: str
    measured_by: str
    """Table whose sweep measures it: itself, or the one that prints the same rows."""
    baseline: str | None
    scale: str
    """Empty if nothing was measured."""
    columns: tuple[Column, ...]
    rows: dict[str, tuple[Cell, ...]]
    """Cells of each row by its name, one for each column."""
    texts: Mapping[str, Mapping[str, str]]
    """Further texts that the paper prints of a row, by row and header, e.g. `#Frame`."""
    groups: Mapping[str, Sequence[str]]
    """Headings between the rows, with the rows below each; all rows that the paper prints, or none."""
    cited: frozenset[str]
    """Rows that quote other work; no sweep trains them."""
    source: str
    """Place of the published numbers in the paper; empty if there are none."""
    cannot_tell: Sequence[str]
    """Facts that the paper shows by colour alone, which its text lacks."""
    trials: tuple[TrialRow, ...]
    samples: Mapping[tuple[str, str], Samples]
    """Measurements by row and slot, if there are any."""
    unreadable: str
    """Error for which no measurement could be read; empty if they could."""
    troubles: tuple[str, ...]
    """Further faults of the whole table."""

    def faults(self) -> list[CellFault]:
        """All faults of the table, each once: a fault that all rows share is one of the column."""
        if self.unreadable:
            return [CellFault(table=self.name, scale="", row="", column="", what=self.unreadable)]
        found = {
            (row, column.slot, what): None
            for row, cells in self.rows.items()
            for column, cell in zip(self.columns, cells, strict=True)
            for what in cell.faults
        }
        return [
            *(CellFault(table=self.name, scale=self.scale, row="", column="", what=what) for what in self.troubles),
            *(
                CellFault(table=self.name, scale=self.scale, row=row, column=slot, what=what)
                for row, slot, what in found
            ),
        ]

    def cell(self, row: str, slot: str) -> Cell:
        """The cell of a row and a column.

        Raises:
            KeyError: there is none.
        """
        cells = {column.slot: cell for column, cell in zip(self.columns, self.rows[row], strict=True)}
        return cells[slot]
