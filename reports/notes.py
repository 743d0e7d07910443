"""What stands under a table: what its numbers are, how sure they are, and what would fill the empty cells."""

from collections.abc import Iterable, Mapping

from reports.tables import Cell, Column, Table, standard_error

RANKINGS = {
    "match": "match: the matching logit",
    "match+contrast": "match+contrast: matching logit plus contrastive score",
    "contrast": "contrast: the contrastive score alone",
}
MARKS = {
    "unfinished": "a stage of the row is not done",
    "other code": "made by other code than the baseline row",
    "other device": "not on the device of the baseline row, so no ratio is given",
    "several devices": "seeds ran on different devices, so no ratio is given",
    "other test set": "asked other questions than the baseline row, so no difference is given",
}
DEFAULT_SCALE = "tiny"


def notes(table: Table, sweep_files: Mapping[str, str]) -> list[str]:
    """One sentence or two on each matter; `sweep_files`: the file that measures a table, by its name."""
    return [
        *_published(table),
        *_hours(table),
        *_evaluations(table),
        *_seeds(table),
        *(f"({letter}) {mark}{_meaning(mark)}" for mark, letter in letters(table).items()),
        *_empty(table, sweep_files),
    ]


def letters(table: Table) -> dict[str, str]:
    """The letter that stands for each mark of the table."""
    marks = dict.fromkeys(mark for cells in table.rows.values() for cell in cells for mark in cell.marks)
    return {mark: chr(ord("a") + place) for place, mark in enumerate(marks)}


def _meaning(mark: str) -> str:
    return f": {MARKS[mark]}" if mark in MARKS else ""


def _published(table: Table) -> list[str]:
    return [f"Published: {table.source}."] if table.source else []


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
        (task, told["dataset"], told["split"], told["n_queries"], told["n_clips"], told["ranking"])
        for trial in table.trials
        for task, told in trial.evaluations.items()
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


def _seeds(table: Table) -> list[str]:
    seeds = {len(_distinct(t.seed for t in table.trials if t.variant == row)) for row in table.rows} - {0}
    if not seeds:
        return []
    found = [f"Seeds for each row: {' or '.join(str(n) for n in sorted(seeds))}; several are averaged."]
    for column, cells in _by_column(table):
        errors = [
            standard_error(cell.measured, cell.n_queries)
            for cell in cells
            if column.slot.endswith(".r1") and cell.measured is not None and cell.n_queries
        ]
        if errors:
            found.append(
                f"Standard error of {column.slot} for one seed, over queries (binomial): up to"
                f" {max(errors):.1f} points. No interval or test is given yet."
            )
    return found


def _empty(table: Table, sweep_files: Mapping[str, str]) -> list[str]:
    empty = [row for row, cells in table.rows.items() if any(cell.measured is None for cell in cells)]
    if not empty:
        return []
    if table.name not in sweep_files:
        return ["Empty cells: not measured; no file in sweeps/ measures this table."]
    scale = f" --scale {table.scale}" if table.scale not in ("", DEFAULT_SCALE) else ""
    which = "all rows" if len(empty) == len(table.rows) else f"rows {', '.join(empty)}"
    return [f"Empty cells ({which}): not measured; `python sweeps/run.py {sweep_files[table.name]}{scale}` fills them."]


def _by_column(table: Table) -> list[tuple[Column, list[Cell]]]:
    return [(column, [row[place] for row in table.rows.values()]) for place, column in enumerate(table.columns)]


def _distinct(values: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(values))
