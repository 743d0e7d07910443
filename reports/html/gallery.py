"""Example pictures of what was trained, as a page shows them: whole stages, those of baseline rows first."""

import base64
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from experiments.store.examples import Example
from experiments.tracking.reader import StageRow, TrackingError, TrialRow
from reports.analysis.cells import Run
from reports.html.table_view import slug
from reports.render.markdown import run_link
from smaug_core.stage_protocol import PRETRAIN, PRETRAIN_VIDEO

LIMIT = 300_000
"""Bytes of pictures, so that the page stays below 2 MB with the paper's tables and figures."""
WHAT = {PRETRAIN: "Pre-training on single frames", PRETRAIN_VIDEO: "Pre-training on several frames"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """One picture, within the page."""

    caption: str
    note: str
    """Further text below it."""
    alt: str
    uri: str
    width: int
    height: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Album:
    """The pictures of one stage."""

    key: str
    title: str
    rows: tuple[str, ...]
    """Rows that use it, e.g. `Table 4: 50%`."""
    link: str
    """Address of its run in MLflow."""
    note: str
    """Number of pictures it left, and their faults."""
    reconstructions: tuple[Picture, ...]
    selections: tuple[Picture, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Albums:
    """Every album there is room for."""

    shown: tuple[Album, ...] = ()
    num_left_out: int = 0
    """Stages whose pictures are in MLflow only."""
    faults: tuple[str, ...] = ()


def albums_of(
    trials: Iterable[TrialRow], stages: Iterable[StageRow], read: Callable[[StageRow], Sequence[Example]], ui: str
) -> Albums:
    """The pictures of the stages of current trials.

    Args:
        trials: in the order of the tables.
        stages: all there are.
        read: gives a stage's pictures; raises TrackingError where they cannot be read.
        ui: address of MLflow's pages.
    """
    users: dict[str, list[TrialRow]] = {}
    for trial in trials:
        for run in trial.stage_runs.values():
            users.setdefault(run, []).append(trial)
    with_pictures = {stage.run_id: stage for stage in stages if stage.examples}
    important_first = sorted(users, key=lambda run: _importance(users[run]))
    order = [with_pictures[run] for run in important_first if run in with_pictures]
    shown: list[Album] = []
    left_out, size, faults = 0, 0, []
    for stage in order:
        if size > LIMIT:
            left_out += 1
            continue
        try:
            examples = read(stage)
        except TrackingError as error:
            faults.append(f"pictures of stage {stage.name}: {error}")
            continue
        held = sum(len(example.png) for example in examples)
        if size + held > LIMIT:
            left_out += 1
            continue
        size += held
        shown.append(_album(stage, examples, users[stage.run_id], ui))
    return Albums(shown=tuple(shown), num_left_out=left_out, faults=tuple(faults))


def _importance(trials: Sequence[TrialRow]) -> bool:
    """Sort key: trials of baseline rows first, else in the order of the tables."""
    return not any(trial.variant == trial.baseline for trial in trials)


def _album(stage: StageRow, examples: Sequence[Example], trials: Sequence[TrialRow], ui: str) -> Album:
    return Album(
        key=slug(f"pictures-{stage.fingerprint[:12]}"),
        title=_title(stage, examples),
        rows=tuple(dict.fromkeys(_row(trial) for trial in trials)),
        link=run_link(ui, Run(run_id=stage.run_id, experiment_id=stage.experiment_id)),
        note=stage.examples,
        reconstructions=tuple(_picture(one) for one in examples if one.kind == "reconstruction"),
        selections=tuple(_picture(one) for one in examples if one.kind == "selection"),
    )


def _title(stage: StageRow, examples: Sequence[Example]) -> str:
    """Title of the training, as far as the pictures show it."""
    what = WHAT.get(stage.kind, stage.kind)
    for one in examples:
        if one.selected is not None and one.scores is not None:
            return f"{what}, selecting {len(one.selected)} of {len(one.scores)}"
    ratio = next((one.mask_ratio for one in examples if one.mask_ratio is not None), None)
    return what if ratio is None else f"{what}, masking {ratio:.0%} of the patches"


def _row(trial: TrialRow) -> str:
    where = f"Table {trial.table}" if trial.table else trial.sweep
    return f"{where}: {trial.variant} ({trial.scale})"


def _picture(example: Example) -> Picture:
    return Picture(
        caption=example.caption,
        note=_note(example),
        alt=example.alt,
        uri=f"data:image/png;base64,{base64.b64encode(example.png).decode()}",
        width=example.width,
        height=example.height,
    )


def _note(example: Example) -> str:
    """Facts that the picture itself does not show."""
    if example.kind == "reconstruction":
        return "" if example.mask_ratio is None else f"{example.mask_ratio:.0%} of the patches masked"
    texts = [f"selected: {_list(example.selected)}"] if example.selected is not None else []
    texts += [f"shown in: {_list(example.relevant)}"] if example.relevant is not None else []
    return "; ".join(texts)


def _list(frames: Sequence[int]) -> str:
    return ", ".join(map(str, frames)) or "none"
