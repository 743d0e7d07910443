"""The nouns of a report: tables, their columns and cells, and what is wrong with them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from experiments.tracking.reader import TrialRow
from reports.analysis.samples import IntervalKind, Samples
from reports.paper.tables import HOURS

DEFAULT_SCALE = "tiny"
"""Scale of `sweeps/run.py` without --scale."""


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
    """`%`, `A6000 GPU h`; empty where nothing was published."""
    measured_unit: str
    """`%`, `CPU h`; empty where nothing was measured, or in several units."""
    published_dataset: str
    """What the paper evaluates on; empty for hours."""
    measured_dataset: str
    """What was evaluated on here; empty for hours and where nothing was measured."""

    @property
    def is_hours(self) -> bool:
        """Whether it is time spent, which only compares on equal devices."""
        return self.slot == HOURS

    @property
    def task(self) -> str:
        """The slot's task, e.g. `msrvtt`."""
        return self.slot.split(".")[0]

    @property
    def lower_is_better(self) -> bool:
        """Of hours and ranks."""
        return self.is_hours or self.slot.endswith("median_rank")


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """Where MLflow keeps a run."""

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
    """Of the measured value."""
    interval: Interval | None
    n_seeds: int
    n_queries: int | None
    delta: float | None
    """Measured minus the baseline row's, over the seeds that both have; none where they do not compare."""
    delta_interval: Interval | None
    p: float | None
    """Of a difference to the baseline row, over queries; Holm's correction within the table's column."""
    p_raw: float | None
    """The same, uncorrected."""
    ratio: float | None
    """Measured hours by the baseline row's; none on unequal devices."""
    published_ratio: float | None
    dataset: str
    scale: str
    device: str
    marks: tuple[str, ...]
    """What keeps it from being read like its neighbours."""
    faults: tuple[str, ...]
    """What is wrong with what was recorded for it."""
    runs: tuple[Run, ...]

    @property
    def difference(self) -> float | None:
        """Measured minus published, where both are percent of something; hours of two devices have none."""
        if self.measured is None or self.published is None or self.unit != "%":
            return None
        return self.measured - self.published


@dataclass(frozen=True, kw_only=True, slots=True)
class CellFault:
    """Something wrong with what was recorded, and where it shows."""

    table: str
    scale: str
    row: str
    """Empty where it concerns the whole table."""
    column: str
    """Empty where it concerns the whole row."""
    what: str

    def __str__(self) -> str:
        """For people, in one line."""
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
    """The table whose sweep measures it: itself, or the one that prints the same rows."""
    baseline: str | None
    scale: str
    """Empty where nothing was measured."""
    columns: tuple[Column, ...]
    rows: dict[str, tuple[Cell, ...]]
    """By the row's name: a cell for each column."""
    texts: Mapping[str, Mapping[str, str]]
    """What else the paper prints of a row, by row and header, e.g. `#Frame`."""
    groups: Mapping[str, Sequence[str]]
    """Headings between the rows, with the rows below each; all rows that the paper prints, or none."""
    cited: frozenset[str]
    """Rows that quote other people's work; nothing here trains them."""
    source: str
    """Where the published numbers stand; empty if there are none."""
    cannot_tell: Sequence[str]
    """What the paper shows by colour alone, so that its text does not tell."""
    trials: tuple[TrialRow, ...]
    samples: Mapping[tuple[str, str], Samples]
    """What was measured, by row and slot, where anything was."""
    unreadable: str
    """Why no measurement could be read at all; empty if they could."""
    troubles: tuple[str, ...]
    """What else is wrong with the whole of it."""

    def faults(self) -> list[CellFault]:
        """All that is wrong with it, each once: a fault that all rows share is one of the column."""
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
