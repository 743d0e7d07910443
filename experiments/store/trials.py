"""The trials of a home folder: their documents, written and read, and their records."""

import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from experiments.config.sweep import Sweep
from experiments.stages.stage import digest
from experiments.stages.trial import Trial
from experiments.store.attempt import FAILURE
from experiments.store.attempt_files import FAILED
from experiments.store.documents import TRIAL, StoreError, TrialDocument, read_document, unwritable, write_json
from experiments.store.records import TrialRecord
from experiments.store.store import stage_folder, stage_record


def write_trial(home: Path, trial: Trial, *, marks: Sequence[str] = ()) -> Path:
    """Write the document of a trial; for many, `write_trials` reads the existing ones only once.

    Args:
        home: the folder that holds the store.
        trial: it becomes the valid one of its sweep, scale, variant and seed.
        marks: flags of its results for readers of the table, e.g. `stale code accepted`.

    Raises:
        StoreError: it cannot be written.
    """
    return write_trials(home, [(trial, marks)])[0]


def write_trials(home: Path, trials: Sequence[tuple[Trial, Sequence[str]]]) -> list[Path]:
    """Write the documents of trials, so that MLflow's runs can be made again from the home folder alone.

    The other valid trials of the same sweep and scale get the title, the baseline and the order of rows of these: the
    sweep file that ran last says how the table looks.

    Args:
        home: the folder that holds the store.
        trials: each with its flags; they become the valid ones.

    Raises:
        StoreError: one cannot be written.
    """
    sweeps = dict.fromkeys(trial.sweep.name for trial, _ in trials)
    newest = {identity(d): d for sweep in sweeps for d in trial_documents(home, sweep, damaged=True)}
    paths = []
    for trial, marks in trials:
        before = newest.get(identity(trial))
        still_valid = before is not None and before.fingerprint == trial.fingerprint
        asked = before.time if before is not None and still_valid else time.time()
        document = TrialDocument.of(_document(trial, marks) | {"time": asked})
        newest[identity(document)] = document
        paths.append(_write(home, document))
    files = {(trial.sweep.name, trial.scale): trial.sweep for trial, _ in trials}
    for document in newest.values():
        sweep = files.get((document.sweep, document.scale))
        if sweep is not None and document.raw != (changed := document.raw | _layout(sweep, document)):
            _write(home, TrialDocument.of(changed))
    return paths


def _write(home: Path, document: TrialDocument) -> Path:
    path = home / trial_file(document)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(path, error) from error
    write_json(path, document.raw, durable=True)
    return path


def _layout(sweep: Sweep, document: TrialDocument) -> dict[str, Any]:
    """Layout of a sweep's table for the document of a trial; a row that the sweep lacks comes after its rows."""
    rows, place = list(sweep.variants), document.position
    if document.variant in sweep.variants:
        place = rows.index(document.variant)
    elif place < len(rows):
        place += len(rows)
    return {
        "title": sweep.title,
        "table": sweep.table,
        "report": {"row": sweep.report.row, "columns": list(sweep.report.columns)},
        "position": place,
        "baseline": sweep.baseline,
    }


def _document(trial: Trial, marks: Sequence[str]) -> dict[str, Any]:
    """A trial's document without its time."""
    return {
        "sweep": trial.sweep.name,
        "title": trial.sweep.title,
        "table": trial.sweep.table,
        "report": {"row": trial.sweep.report.row, "columns": list(trial.sweep.report.columns)},
        "scale": trial.scale,
        "variant": trial.variant,
        "position": list(trial.sweep.variants).index(trial.variant),
        "baseline": trial.sweep.baseline,
        "seed": trial.seed,
        "seed_pretrain": trial.seed_pretrain,
        "seed_finetune": trial.seed_finetune,
        "params": trial.params(),
        "stages": [
            {"name": s.name, "kind": s.kind, "task": s.task, "fingerprint": s.fingerprint} for s in trial.stages
        ],
        "fingerprint": trial.fingerprint,
        "marks": list(marks),
    }


def trial_file(document: TrialDocument) -> Path:
    """Return the path of a trial's document, within the home folder or a folder of records."""
    # Two variants may be equal in everything but their name.
    name = f"{document.fingerprint[:12]}-{digest([document.scale, document.variant])[:6]}.json"
    return Path("trials", document.sweep, name)


def identity(trial: Trial | TrialDocument) -> tuple[str, str, str, str]:
    """Return sweep, scale, variant and seed, of which there is one valid trial."""
    sweep = trial.sweep.name if isinstance(trial, Trial) else trial.sweep
    return sweep, trial.scale, trial.variant, trial.seed


def trial_documents(home: Path, sweep: str = "*", *, damaged: bool = False) -> list[TrialDocument]:
    """Read every trial that was ever requested here, the newest last; of equal identity the last one is valid.

    Args:
        home: the folder that holds the store.
        sweep: its name; all of them if not given.
        damaged: leave out what cannot be read.

    Raises:
        StoreError: a file cannot be read.
    """
    found = []
    for path in sorted((home / "trials").glob(f"{sweep}/*.json")):
        try:
            found.append(read_document(path, TRIAL))
        except StoreError:
            if not damaged:
                raise
    return sorted((document for document in found if document is not None), key=lambda document: document.time)


def trial_record(home: Path, document: TrialDocument) -> TrialRecord:
    """Read the records of a trial's stages."""
    stages = tuple((stage, stage_record(home, stage.kind, stage.fingerprint)) for stage in document.stages)
    early = {
        stage.name: read_document(stage_folder(home, stage.kind, stage.fingerprint) / FAILURE, FAILED)
        if record is None
        else record.early
        for stage, record in stages
    }
    known = {name: failure for name, failure in early.items() if failure is not None}
    return TrialRecord(document=document, stages=stages, early=known)


def valid_documents(documents: Iterable[TrialDocument]) -> list[TrialDocument]:
    """Return the valid trials, given all with the newest last."""
    listed = list(documents)
    outdated = [id(old) for old, _ in superseded(listed)]
    return [document for document in listed if id(document) not in outdated]


def superseded(documents: Iterable[TrialDocument]) -> list[tuple[TrialDocument, TrialDocument]]:
    """Return pairs of a trial that is no longer valid and the one that is, given trials with the newest last."""
    listed = list(documents)
    valid = {identity(document): document for document in listed}
    return [(d, valid[identity(d)]) for d in listed if valid[identity(d)] is not d]
