"""Verdicts on the paper's claims by the measurements; each is of one scale."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import fmean

from reports.analysis.samples import has_spread
from reports.analysis.statistics import student_interval
from reports.paper.claims import UNITS, Check, Claim, Comparison, PublishedCheck, judge_published
from reports.paper.tables import PublishedTable

HOURS_REPEAT = 0.05
"""Relative difference of the hours of one training measured twice: an assumption, not an interval. The default
row's pre-training at tiny took 0.0501 and 0.0482 CPU h in two runs, 4 % apart (docs/tiny.md)."""
FULL_SEEDS = 3
"""Minimum number of full seeds for an interval over seeds, and so for `supported`."""

Interval = tuple[float, float]
Compare = Callable[[Check, str], Comparison | None]
"""Returns the evidence of a check at a scale; None if no run exists."""


class Verdict(StrEnum):
    """Verdicts on a check or a claim, the worst first: a claim has that of its worst check."""

    CONTRADICTED = "contradicted"
    CANNOT_TELL = "cannot tell from these data"
    NOT_MEASURED = "not measured"
    AGREES = "agrees (this pair of checkpoints)"
    SUPPORTED = "supported"


@dataclass(frozen=True, kw_only=True, slots=True)
class MeasuredCheck:
    """A check by what was measured at one scale."""

    check: Check
    scale: str
    verdict: Verdict
    value: float | None
    """Mean over the full seeds; None if the rows do not compare."""
    interval: Interval | None
    """95 % interval of the value; None if one run has none."""
    n_seeds: int
    """Full seeds that both rows have."""
    unit: str
    device: str
    reason: str
    """Reason of the verdict."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MeasuredClaim:
    """A claim by what was measured at one scale."""

    claim: Claim
    scale: str
    checks: tuple[MeasuredCheck, ...]

    @property
    def verdict(self) -> Verdict:
        """Verdict of the worst check."""
        return worst(check.verdict for check in self.checks)


@dataclass(frozen=True, kw_only=True, slots=True)
class ClaimRow:
    """One check of a claim at one scale: a line of `smaug report claims`, and of its JSON."""

    claim: str
    says: str
    where: str
    caveat: str
    table: str
    column: str
    row: str
    against: str
    compared: str
    """E.g. `R@1, 50% minus 10%`."""
    bound: str
    """E.g. `at least -1.2 points`."""
    published_value: float
    published_holds: bool
    published: str
    """`holds` or `does not hold (1.857)`, by the paper's own table."""
    scale: str
    """Empty if nothing was measured at any scale."""
    claim_verdict: str
    verdict: str
    measured: str
    """Value and interval, e.g. `-0.8 [-4.3, 2.7] points`; empty if there is none."""
    value: float | None
    interval_low: float | None
    interval_high: float | None
    n_seeds: int
    device: str
    reason: str


def judge_measured(claim: Claim, compare: Compare, scale: str) -> MeasuredClaim:
    """Judge a claim by the runs of one scale."""
    checks = tuple(judge_check(check, compare(check, scale), scale) for check in claim.checks)
    return MeasuredClaim(claim=claim, scale=scale, checks=checks)


def judge_check(check: Check, found: Comparison | None, scale: str) -> MeasuredCheck:
    """Judge a check by the evidence of its two rows.

    With three full seeds or more by Student's t interval of the measure over seeds; with fewer, a difference by its
    interval over queries, and hours, which have no interval then, by what they would be if one were measured again.
    """
    if found is None:
        return _judged(check, scale, Verdict.NOT_MEASURED, "no run at this scale has both rows")
    problems = [*found.problems, *([] if found.pairs else ["no full seed has both rows"])]
    try:
        values = [check.value(row, against) for row, against in found.pairs]
    except ValueError as error:
        problems.append(str(error))
    if problems:
        return _judged(check, scale, Verdict.CANNOT_TELL, "; ".join(problems), found)
    interval: Interval | None = None
    if len(values) >= FULL_SEEDS and has_spread(values):
        interval = student_interval(values)
        verdict = _by_interval(check, interval, Verdict.SUPPORTED)
        reason = f"the 95 % interval over {len(values)} full seeds {_lies(verdict)}"
    elif check.measure != "difference":
        verdict = _by_interval(check, _repeats(check, found.pairs), Verdict.AGREES)
        reason = f"{_runs(len(values))}; hours that repeat within {HOURS_REPEAT:.0%} {_lie(verdict)}"
    elif found.interval:
        interval = found.interval
        verdict = _by_interval(check, interval, Verdict.AGREES)
        reason = f"the 95 % interval over queries {_lies(verdict)}"
    else:
        verdict, reason = Verdict.CANNOT_TELL, "there is no interval over queries"
    return _judged(check, scale, verdict, reason, found, values, interval)


def worst(verdicts: Iterable[Verdict]) -> Verdict:
    """Return the verdict that decides."""
    order = list(Verdict)
    return min(verdicts, key=order.index)


def claim_rows(
    claims: Sequence[Claim], published: Mapping[str, PublishedTable], compare: Compare, scales: Sequence[str]
) -> list[ClaimRow]:
    """List every check of every claim, by the paper's own tables and at each scale; `not measured` without scales."""
    rows = []
    for claim in claims:
        printed = judge_published(claim, published)
        for scale in scales or [""]:
            judged = judge_measured(claim, compare, scale)
            rows += [_row(judged, paper, here) for paper, here in zip(printed, judged.checks, strict=True)]
    return rows


def claim_text(rows: Sequence[ClaimRow]) -> Iterator[str]:
    """Text of each claim, and below it its checks by the paper's own table and by the runs of each scale."""
    for claim in dict.fromkeys(row.claim for row in rows):
        own = [row for row in rows if row.claim == claim]
        yield f"{own[0].says} ({own[0].where})"
        if own[0].caveat:
            yield f"  But: {own[0].caveat}"
        for scale in dict.fromkeys(row.scale for row in own):
            if scale:
                yield f"  Scale {scale}: {next(row.claim_verdict for row in own if row.scale == scale)}"
            yield from (f"    {_line(row)}" for row in own if row.scale == scale)
        yield ""


def _line(row: ClaimRow) -> str:
    here = f"here {row.measured}, " if row.measured else ""
    return f"{row.compared}, {row.bound}: in the paper it {row.published}; {here}{row.verdict} ({row.reason})"


def measured_text(judged: MeasuredCheck) -> str:
    """Value, interval and unit, e.g. `-0.8 [-4.3, 2.7] points`; empty where there is no value."""
    if judged.value is None:
        return ""
    check, between = judged.check, ""
    if judged.interval:
        between = f" [{', '.join(check.number(bound) for bound in judged.interval)}]"
    return f"{check.number(judged.value)}{between}{UNITS[check.measure]}"


def _by_interval(check: Check, interval: Interval, within: Verdict) -> Verdict:
    low, high = (check.holds(bound) for bound in interval)
    if low and high:
        return within
    return Verdict.CANNOT_TELL if low or high else Verdict.CONTRADICTED


def _repeats(check: Check, pairs: Sequence[tuple[float, float]]) -> Interval:
    """The measure of hours, were the first of the two measured again."""
    row, against = (fmean(values) for values in zip(*pairs, strict=True))
    found = [check.value(row * factor, against) for factor in (1 - HOURS_REPEAT, 1 + HOURS_REPEAT)]
    return min(found), max(found)


def _lie(verdict: Verdict) -> str:
    return _lies(verdict).replace("lies", "lie")


def _lies(verdict: Verdict) -> str:
    if verdict is Verdict.CANNOT_TELL:
        return "lies on both sides of the bound"
    return "lies outside the bound" if verdict is Verdict.CONTRADICTED else "lies within the bound"


def _runs(number: int) -> str:
    return "a single run has no interval" if number == 1 else f"{number} runs are too few for an interval over seeds"


def _judged(
    check: Check,
    scale: str,
    verdict: Verdict,
    reason: str,
    found: Comparison | None = None,
    values: Sequence[float] = (),
    interval: Interval | None = None,
) -> MeasuredCheck:
    return MeasuredCheck(
        check=check,
        scale=scale,
        verdict=verdict,
        value=fmean(values) if values else None,
        interval=interval,
        n_seeds=len(found.pairs) if found else 0,
        unit=found.unit if found else "",
        device=found.device if found else "",
        reason=reason,
    )


def _row(judged: MeasuredClaim, printed: PublishedCheck, here: MeasuredCheck) -> ClaimRow:
    claim, check = judged.claim, here.check
    low, high = here.interval or (None, None)
    return ClaimRow(
        claim=claim.id,
        says=claim.says,
        where=claim.where,
        caveat=claim.caveat,
        table=check.table,
        column=check.column,
        row=check.row,
        against=check.against,
        compared=check.text(printed.header),
        bound=check.bound_text,
        published_value=printed.value,
        published_holds=printed.holds,
        published=printed.text,
        scale=judged.scale,
        claim_verdict=judged.verdict.value,
        verdict=here.verdict.value,
        measured=measured_text(here),
        value=here.value,
        interval_low=low,
        interval_high=high,
        n_seeds=here.n_seeds,
        device=here.device,
        reason=here.reason,
    )
