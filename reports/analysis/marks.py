"""Marks of a cell: why it does not compare with its neighbours or with the baseline row."""

from collections.abc import Sequence

from experiments.tracking.reader import TrialRow
from reports.analysis.cells import Column

RECOMPUTED, STARVED = "layers recomputed", "waited for data"
OF_HOURS = {"several devices", "estimated hours", RECOMPUTED, STARVED}
"""Marks that do not concern what was learnt."""
NOT_COMPARABLE = {"other device", "other steps", "other test set", "several devices", STARVED}


def marks_of(column: Column, trials: Sequence[TrialRow], base: Sequence[TrialRow]) -> tuple[str, ...]:
    """List the marks of a cell: reasons why it does not compare with its neighbours."""
    marks = sorted({mark for t in trials for mark in t.marks if column.is_hours or mark not in OF_HOURS})
    finished = [trial for trial in trials if trial.status == "FINISHED"]
    if len(finished) < len(trials):
        marks.append("unfinished")
    of_base = {t.code for t in base if t.status == "FINISHED"}
    if of_base and {t.code for t in finished} - of_base and base[0] not in trials:
        marks.append("other code")
    if column.is_hours:
        if len(_devices(trials)) > 1:
            marks.append("several devices")
        elif unlike := unlike_hours(trials, base):
            marks.append(unlike)
    elif (test_sets := _digests(column, base)) and _digests(column, trials) - test_sets:
        marks.append("other test set")
    return tuple(dict.fromkeys(marks))


def unlike_hours(one: Sequence[TrialRow], other: Sequence[TrialRow]) -> str:
    """Mark for which hours of two rows do not compare; empty if they do, or one was not measured."""
    if not _devices(one) or not _devices(other):
        return ""
    if _devices(one) != _devices(other):
        return "other device"
    if any(STARVED in trial.marks for trial in (*one, *other)):
        return STARVED
    recomputed = [{RECOMPUTED in trial.marks for trial in trials} for trials in (one, other)]
    return "other steps" if recomputed[0] != recomputed[1] else ""


def _devices(trials: Sequence[TrialRow]) -> set[tuple[str, str]]:
    return {(t.device, t.unit) for t in trials if t.device}


def _digests(column: Column, trials: Sequence[TrialRow]) -> set[str]:
    return {t.evaluations[column.task]["test_digest"] for t in trials if column.task in t.evaluations}
