"""Footnotes of a table: the meaning of its numbers, their intervals, and commands that fill its empty cells."""

from collections.abc import Iterable, Mapping
from pathlib import PurePath

from reports.analysis.cells import Table
from reports.analysis.environment import run_command
from reports.analysis.samples import has_ranks
from reports.render.text import letters

RANKINGS = {
    "match": "match: the matching logit",
    "match+contrast": "match+contrast: matching logit plus contrastive score",
    "contrast": "contrast: the contrastive score alone",
}
MARKS = {
    "unfinished": "a stage of the row is not done",
    "other code": "made by other code than the baseline row",
    "other device": "not on the device of the baseline row, so no ratio is given",
    "other steps": "activations were recomputed in this row or in the baseline row only, so no ratio is given",
    "waited for data": "a training of this row or of the baseline row waited for data for more than 10 % of its useful"
    " hours, so no ratio is given",
    "several devices": "measured on different devices, so no ratio is given",
    "other test set": "evaluated on another test set than the baseline row, so no difference is given",
    "partial schedule": "trained for fewer epochs than the scale says",
    "estimated hours": "an attempt was killed and its end time is estimated; useful hours leave it out",
    "layers recomputed": "a training ran out of GPU memory and recomputed activations instead of keeping them: the same"
    " numbers in more hours",
}
INTERVALS = {
    "full seeds": "Student's t over seeds of pre-training; it covers a new training",
    "fine-tuning seeds": "Student's t over seeds of fine-tuning from one pre-training; it does not cover a new"
    " pre-training",
    "queries": "bootstrap over queries, 10,000 resamples; it covers other queries like these for the same weights,"
    " not a new training",
}
BRACKETS = "In square brackets:"


def notes(table: Table, sweep_files: Mapping[str, str]) -> list[str]:
    """One sentence or two on each matter; `sweep_files`: the file that measures a table, by its name."""
    return [
        *_published(table),
        *_hours(table),
        *_evaluations(table),
        *_unreadable(table),
        *_seeds(table),
        *_intervals(table),
        *_tests(table),
        *_differences(table),
        *_legend(table),
        *_empty(table, sweep_files),
    ]


def _published(table: Table) -> list[str]:
    found = [f"Published: {table.source}."] if table.source else []
    return [*found, *table.cannot_tell]


def _hours(table: Table) -> list[str]:
    found = []
    for place, column in enumerate(table.columns):
        cells = [cells[place] for cells in table.rows.values()]
        if not column.is_hours:
            continue
        if column.published_unit:
            found.append(f"{column.header}, published: {column.published_unit}.")
        if measured := [cell for cell in cells if cell.measured is not None]:
            units = ", ".join(_distinct(f"{cell.unit} on {cell.device}" for cell in measured))
            found.append(f"{column.header}, measured at scale {table.scale}: useful hours of pre-training, {units}.")
        if table.baseline is not None:
            found.append(
                f"In brackets: hours relative to the row {table.baseline}; at different scale or on a different"
                " device than the paper's, only these compare."
            )
    return found


def _evaluations(table: Table) -> list[str]:
    notes_by_task = {
        (task, facts["dataset"], facts["split"], facts["n_queries"], facts["n_clips"], facts["ranking"])
        for trial in table.trials
        for task, facts in trial.evaluations.items()
    }
    found = []
    for task, dataset, split, queries, clips, ranking in sorted(notes_by_task):
        instead = {c.published_dataset for c in table.columns if c.slot.startswith(f"{task}.")} - {"", dataset}
        of = f", in the place of {', '.join(sorted(instead))}" if instead else ""
        found.append(
            f"{task}: {dataset}{of}; {split} split, {queries} queries, {clips} clips;"
            f" ranking {RANKINGS.get(ranking, ranking)}; percent, difference to the row {table.baseline} in brackets."
        )
    return found


def _unreadable(table: Table) -> list[str]:
    found = []
    for trial in table.trials:
        for stage, lost in trial.unreadable.items():
            names = ", ".join(PurePath(str(file)).name for file in lost["files"])
            more = f" and {rest} more" if (rest := lost["count"] - len(lost["files"])) > 0 else ""
            found.append(
                f"{trial.variant}, seed {trial.seed}: {stage} could not read {lost['count']} of its clips and pictures,"
                f" and others took their place: {names}{more}."
            )
    return _distinct(found)


def _seeds(table: Table) -> list[str]:
    seeds = {len(_distinct(t.seed for t in table.trials if t.variant == row)) for row in table.rows} - {0}
    if not seeds:
        return []
    return [f"Seeds for each row: {' or '.join(str(n) for n in sorted(seeds))}; several are averaged."]


def _intervals(table: Table) -> list[str]:
    kinds = {cell.interval.kind for cells in table.rows.values() for cell in cells if cell.interval is not None}
    found = [f"{BRACKETS} 95 % interval, {INTERVALS[kind]}." for kind in sorted(kinds)]
    without = [
        column.slot
        for place, column in enumerate(table.columns)
        if any(cells[place].measured is not None for cells in table.rows.values())
        and all(cells[place].interval is None for cells in table.rows.values())
    ]
    if untold := [slot for slot in without if not has_ranks(slot)]:
        found.append(f"No interval for {', '.join(untold)}: fewer than three seeds, and no score of each query.")
    alike = any(
        cell.measured is not None and cell.interval is None and has_ranks(column.slot) and not cell.faults
        for cells in table.rows.values()
        for column, cell in zip(table.columns, cells, strict=True)
    )
    if alike:
        found.append(
            "A percentage without an interval: all its queries score alike, so resampling them gives no interval."
        )
    return found


def _tests(table: Table) -> list[str]:
    if all(cell.p is None for cells in table.rows.values() for cell in cells):
        return []
    return [
        f"p: two-sided, by flipping signs of the queries' differences to the row {table.baseline}, averaged over seeds"
        f" (10,000 flips, fixed seed), with Holm's correction over the {_tested(table)} of the column; whether these"
        " weights differ on other queries, not whether a new training would. None for hours."
    ]


def _tested(table: Table) -> str:
    """Number of rows in a column's correction: fewer if a row has a fault."""
    counts = {
        sum(cells[place].p is not None for cells in table.rows.values()) for place in range(len(table.columns))
    } - {0}
    number = " to ".join(str(count) for count in sorted({min(counts), max(counts)}))
    return f"{number} tested {'row' if counts == {1} else 'rows'}"


def _differences(table: Table) -> list[str]:
    if all(cell.difference is None for cells in table.rows.values() for cell in cells):
        return []
    others = {c.published_dataset for c in table.columns if c.measured_dataset != c.published_dataset} - {""}
    apart = f"; the data are not {', '.join(sorted(others))}, so they are of little meaning" if others else ""
    return [f"Measured minus published: column `difference` of cells.csv{apart}."]


def _legend(table: Table) -> list[str]:
    faults = {fault for cells in table.rows.values() for cell in cells for fault in cell.faults}
    return [
        f"({letter}) {'Fault: ' if what in faults else ''}{what}{f': {MARKS[what]}' if what in MARKS else ''}"
        for what, letter in letters(table).items()
    ]


def _empty(table: Table, sweep_files: Mapping[str, str]) -> list[str]:
    found = []
    if cited := [row for row in table.rows if row in table.cited]:
        found.append(f"Published only, since no sweep trains them: {', '.join(cited)}.")
    own = [row for row in table.rows if row not in table.cited]
    empty = [row for row in own if any(cell.measured is None and not cell.faults for cell in table.rows[row])]
    if not empty:
        return found
    if table.measured_by not in sweep_files:
        return [*found, "Empty cells: not measured; no file in sweeps/ measures this table."]
    which = "all rows" if len(empty) == len(own) else f"rows {', '.join(empty)}"
    command = run_command([sweep_files[table.measured_by]], table.scale)
    return [*found, f"Empty cells ({which}): not measured; `{command}` fills them."]


def _distinct(values: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(values))
