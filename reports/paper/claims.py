"""Claims of the paper, read from `reports/paper/claims.yaml`, and their checks by its own tables."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import FiniteFloat

from experiments.config.yaml_source import Document, Fault, Form
from reports.paper.tables import (
    HOURS,
    PAPER,
    PublishedTable,
    ReportError,
    load_published,
    read_form,
    refuse,
    require_cell,
    table_of,
)

Measure = Literal["difference", "saved_percent", "ratio"]

UNITS: dict[Measure, str] = {"difference": " points", "saved_percent": " %", "ratio": "x"}
DECIMALS: dict[Measure, int] = {"difference": 1, "saved_percent": 1, "ratio": 3}
"""Digits that are shown; more if a rounded value would appear on the other side of the bound."""
ROUNDING = 9
"""Decimals to which values and bounds are compared: further ones are binary rounding (39.3 - 40.5)."""


class Check(Form):
    """One comparison of two rows, and the bound that the paper gives it."""

    table: str
    column: str
    """A slot, e.g. `msrvtt.t2v.r1`."""
    row: str
    against: str
    measure: Measure
    """`difference`: row - against, in points; `saved_percent`: 100 (1 - row / against); `ratio`: against / row."""
    at_least: FiniteFloat | None = None
    at_most: FiniteFloat | None = None
    """Exactly one of the two is given."""

    @property
    def bound(self) -> float:
        """The number of the bound."""
        (bound,) = (given for given in (self.at_least, self.at_most) if given is not None)
        return bound

    @property
    def bound_text(self) -> str:
        """E.g. `at least 28.8 %`."""
        side = "at most" if self.at_least is None else "at least"
        return f"{side} {self.bound:g}{UNITS[self.measure]}"

    def text(self, header: str) -> str:
        """Text of the comparison, given the header of its column, e.g. `R@1, 50% minus 10%`."""
        texts = {
            "difference": f", {self.row} minus {self.against}",
            "saved_percent": f" saved, {self.row} against {self.against}",
            "ratio": f", {self.against} over {self.row}",
        }
        return f"{header}{texts[self.measure]}"

    def value(self, row: float, against: float) -> float:
        """The measure of a pair of values.

        Raises:
            ValueError: hours that are not above 0, which have no ratio.
        """
        if self.measure == "difference":
            return row - against
        if row <= 0 or against <= 0:
            raise ValueError(f"hours of {min(row, against):g} have no ratio")
        return against / row if self.measure == "ratio" else 100 * (1 - row / against)

    def holds(self, value: float) -> bool:
        """Return whether a value is within the bound.

        The bound is taken as it is printed, without half a unit of its last digit: whatever was rounded away from 144.5
        and 77.8 hours, their ratio lies between 1.855 and 1.860, so `1.9 times or more` does not follow from them.
        """
        over = round(value - self.bound, ROUNDING)
        return over <= 0 if self.at_least is None else over >= 0

    def number(self, value: float) -> str:
        """Format a value with enough digits to show on which side of the bound it is, and that it is not on it."""
        for decimals in range(DECIMALS[self.measure], ROUNDING + 1):
            text = f"{value:.{decimals}f}"
            at_bound = float(text) == self.bound and round(value, ROUNDING) != self.bound
            if self.holds(float(text)) == self.holds(value) and not at_bound:
                break
        return text


class Claim(Form):
    """A statement of the paper."""

    id: str
    says: str
    """Summary of the claim."""
    where: str
    """Section and table."""
    checks: tuple[Check, ...]
    caveat: str = ""
    """Caveat: a reason to read the claim with care."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PublishedCheck:
    """A check by the paper's own table."""

    check: Check
    header: str
    """Header of the column in the table, e.g. `R@1`."""
    value: float
    holds: bool

    @property
    def text(self) -> str:
        """`holds`, or `does not hold` with the value."""
        return "holds" if self.holds else f"does not hold ({self.check.number(self.value)})"


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """Measurements of the two rows of a check, at one scale."""

    pairs: tuple[tuple[float, float], ...]
    """Values of `row` and `against`, for each full (pre-training) seed that both have."""
    interval: tuple[float, float] | None
    """95 % interval of row - against, over queries."""
    problems: tuple[str, ...]
    """Reasons for which the two do not compare: different devices, another test set, unfinished, a fault."""
    unit: str
    """Unit of the values, e.g. `CPU h`."""
    device: str


class _Claims(Form):
    claims: tuple[Claim, ...]


def load_claims(folder: Path = PAPER) -> tuple[Claim, ...]:
    """Load `claims.yaml` in its order; every cell that it names is in the tables of the same folder.

    Raises:
        ReportError: the file is not of its form, or names a table, row or column that is not there.
    """
    path, published = folder / "claims.yaml", load_published(folder)
    held, document = read_form(path, _Claims)
    ids = [claim.id for claim in held.claims]
    if twice := [name for name in ids if ids.count(name) > 1]:
        raise ReportError(f"{path.name}: id {twice[0]!r} occurs twice; expected an id of its own for each")
    for claim in held.claims:
        for check in claim.checks:
            where = f"{path.name}: {claim.id}"
            for row in (check.row, check.against):
                require_cell(where, row, check.column, table_of(where, check.table, published))
    refuse(fault for number, claim in enumerate(held.claims) for fault in _faults(document, number, claim))
    return held.claims


def judge_published(claim: Claim, published: Mapping[str, PublishedTable]) -> tuple[PublishedCheck, ...]:
    """Each check of a claim by the numbers that the paper itself prints.

    Raises:
        ReportError: a cell that a check names is not there.
    """
    judged = []
    for check in claim.checks:
        table = table_of(claim.id, check.table, published)
        row, against = (require_cell(claim.id, name, check.column, table) for name in (check.row, check.against))
        value = check.value(row, against)
        header = table.columns[check.column].header
        judged.append(PublishedCheck(check=check, header=header, value=value, holds=check.holds(value)))
    return tuple(judged)


def _faults(document: Document, number: int, claim: Claim) -> Iterator[Fault]:
    """Find faults in the checks of a claim that do not depend on the tables."""
    if not claim.checks:
        yield document.fault(("claims", number, "checks"), f"claim {claim.id!r} has no check; it needs one")
    for place, check in enumerate(claim.checks):
        where = ("claims", number, "checks", place)
        if (check.at_least is None) == (check.at_most is None):
            yield document.fault(where, "needs exactly one of at_least and at_most")
        if check.row == check.against:
            yield document.fault(where, f"sets {check.row!r} beside itself; `against` is another row")
        if (check.column == HOURS) == (check.measure == "difference"):
            right = "saved_percent or ratio, which compare across devices" if check.column == HOURS else "difference"
            yield document.fault(where, f"expected {right}, got {check.measure} of {check.column}")
