"""Contradictions and agreements within the paper, read from `reports/paper/contradictions.yaml`.

That the cells, differences and shared rows which the file names are those of the transcribed tables is a test of the
committed files: `tests/reports/paper/consistency.py`.
"""

from pathlib import Path

from pydantic import FiniteFloat

from experiments.config.yaml_source import Form
from reports.paper.tables import PAPER, load_published, load_settings, read_form


class Place(Form):
    """One statement of the paper: `where` it is, or the cell whose value it is."""

    says: str
    where: str | None = None
    """E.g. `Section 3.5`, or of a loaded cell `Table 6, row 4, R@1`."""
    table: str | None = None
    row: str | None = None
    column: str | None = None


class Contradiction(Form):
    """One matter on which statements of the paper differ."""

    id: str
    what: str
    places: tuple[Place, ...]
    reading: str
    """The statement that is used here, and the reason."""


class Pair(Form):
    """Two cells of a column."""

    table: str
    column: str
    row: str
    against: str


class Agreement(Form):
    """A number of the text that follows from two cells of a table."""

    id: str
    where: str
    cells: Pair
    difference: FiniteFloat
    """The value of `row` minus that of `against`, as the text gives it."""


class SharedRows(Form):
    """Rows of several tables that show one training."""

    what: str
    rows: tuple[tuple[str, str], ...]
    """Table and row."""


class Consistency(Form):
    """All known contradictions and agreements within the paper."""

    contradictions: tuple[Contradiction, ...]
    agreements: tuple[Agreement, ...]
    shared_rows: tuple[SharedRows, ...]


def load_contradictions(folder: Path = PAPER) -> Consistency:
    """Load `contradictions.yaml`, with the place of each cell in words.

    Raises:
        ReportError: the file is not of its form.
    """
    known, _ = read_form(folder / "contradictions.yaml", Consistency)
    headers = {number: table.columns for number, table in load_settings(folder).items()}
    for number, table in load_published(folder).items():
        headers[number] = {slot: column.header for slot, column in table.columns.items()}

    def placed(place: Place) -> Place:
        if place.where is not None or place.table is None or place.column is None:
            return place
        header = headers.get(place.table, {}).get(place.column, place.column)
        return place.model_copy(update={"where": f"Table {place.table}, row {place.row}, {header}"})

    found = [each.model_copy(update={"places": tuple(map(placed, each.places))}) for each in known.contradictions]
    return known.model_copy(update={"contradictions": tuple(found)})
