"""The paper's claims with all their verdicts, as a page shows them: a line for each check, a column for each scale."""

from collections.abc import Sequence
from dataclasses import dataclass

from reports.analysis.verdicts import ClaimRow, Verdict

SIGNS = {
    Verdict.CONTRADICTED: "✗",
    Verdict.CANNOT_TELL: "?",
    Verdict.NOT_MEASURED: "–",
    Verdict.AGREES: "≈",
    Verdict.SUPPORTED: "✓",
}
"""Signs beside the words, so that verdicts can be distinguished at a glance and without colours."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Judged:
    """A check, or a whole claim, at one scale."""

    verdict: str
    sign: str
    kind: str
    """E.g. `contradicted`: the first word of the verdict."""
    measured: str = ""
    reason: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckLine:
    """One comparison of two rows."""

    table: str
    compared: str
    bound: str
    published: str
    published_holds: bool
    judged: tuple[Judged, ...]
    """One for each scale."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ClaimLines:
    """A statement of the paper, with its checks."""

    says: str
    where: str
    caveat: str
    published_holds: bool
    """All its checks, by the paper's own tables."""
    judged: tuple[Judged, ...]
    """One for each scale."""
    checks: tuple[CheckLine, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Judgement:
    """All claims at all scales."""

    scales: tuple[str, ...]
    """A single empty one if nothing was measured."""
    claims: tuple[ClaimLines, ...]

    def counts(self, place: int) -> list[tuple[Judged, int]]:
        """Count the claims with each verdict at a scale, the best verdict first."""
        found = [claim.judged[place].verdict for claim in self.claims]
        return [(_judged(verdict.value), found.count(verdict)) for verdict in reversed(Verdict) if verdict in found]


def judgement_of(rows: Sequence[ClaimRow]) -> Judgement:
    """Group lines of claims by claim."""
    by_claim: dict[str, list[ClaimRow]] = {}
    for row in rows:
        by_claim.setdefault(row.claim, []).append(row)
    return Judgement(
        scales=tuple(dict.fromkeys(row.scale for row in rows)),
        claims=tuple(_claim(found) for found in by_claim.values()),
    )


def _claim(rows: Sequence[ClaimRow]) -> ClaimLines:
    by_scale = {row.scale: row.claim_verdict for row in rows}
    by_check: dict[tuple[str, ...], list[ClaimRow]] = {}
    for row in rows:
        by_check.setdefault((row.table, row.column, row.row, row.against, row.bound), []).append(row)
    first = rows[0]
    return ClaimLines(
        says=first.says,
        where=first.where,
        caveat=first.caveat,
        published_holds=all(row.published_holds for row in rows),
        judged=tuple(_judged(verdict) for verdict in by_scale.values()),
        checks=tuple(_check(found) for found in by_check.values()),
    )


def _check(rows: Sequence[ClaimRow]) -> CheckLine:
    first = rows[0]
    return CheckLine(
        table=first.table,
        compared=first.compared,
        bound=first.bound,
        published=first.published,
        published_holds=first.published_holds,
        judged=tuple(_judged(row.verdict, row.measured, row.reason) for row in rows),
    )


def _judged(verdict: str, measured: str = "", reason: str = "") -> Judged:
    kind = verdict.split()[0]
    return Judged(verdict=verdict, sign=SIGNS[Verdict(verdict)], kind=kind, measured=measured, reason=reason)
