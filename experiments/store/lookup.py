"""Labels and names of stages, and the stages of a home folder that a typed name means."""

import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from experiments.stages.trial import Trial
from experiments.store.documents import TrialDocument
from experiments.store.store import is_stage_folder, read_stage, stage_folder
from experiments.store.trials import identity, superseded, trial_documents
from smaug_core.errors import SmaugError

LEAST_DIGITS = 4
"""Of a fingerprint's beginning, so that a row named 7 is never taken for one."""
CANDIDATES_SHOWN = 20
NEAR_SHOWN = 3
ROWS_IN_A_LABEL = 4
"""Of more rows that need one stage, the rest is counted."""


@dataclass(frozen=True, slots=True)
class Named:
    """A stage of a trial, begun or not."""

    fingerprint: str
    kind: str
    name: str
    """E.g. `finetune.msrvtt`."""


class Catalog:
    """The stages of the valid trials of a home folder, by every name they have."""

    def __init__(self, home: Path) -> None:
        """Read the trials; a later change is not seen.

        Raises:
            StoreError: a trial's document cannot be read.
        """
        self._home = home
        documents = trial_documents(home)
        outdated = {id(old) for old, _ in superseded(documents)}
        self.documents = [document for document in documents if id(document) not in outdated]
        """Of the valid trials, the oldest first."""
        self.stages: dict[str, Named] = {}
        """By fingerprint, in the order of the trials, parents before children."""
        for document in self.documents:
            for stage in document.stages:
                named = Named(stage.fingerprint, stage.kind, stage.name)
                self.stages.setdefault(named.fingerprint, named)

    def directory(self, named: Named) -> Path:
        """Return the folder of the stage, which is there once it has begun."""
        return stage_folder(self._home, named.kind, named.fingerprint)

    @cached_property
    def _by_name(self) -> dict[str, set[str]]:
        """Fingerprints by every name: of one stage in a row, of a row; and by labels."""
        found: dict[str, set[str]] = {}
        for fingerprint, label in self._labels.items():
            found.setdefault(label, set()).add(fingerprint)
        for document in self.documents:
            for stage in document.stages:  # as a run of one sweep prints it
                found.setdefault(f"{stage.name} {document.variant}", set()).add(stage.fingerprint)
            for row in _row_names(document):
                for stage in document.stages:
                    found.setdefault(row, set()).add(stage.fingerprint)
                    found.setdefault(f"{row}/{stage.name}", set()).add(stage.fingerprint)
        return found

    @cached_property
    def _labels(self) -> dict[str, str]:
        return stage_labels(self.documents)

    def label(self, named: Named) -> str:
        """Label of a stage; its name and fingerprint if no valid trial needs it."""
        return self._labels.get(named.fingerprint, f"{named.name} {named.fingerprint[:12]}")

    def find(self, what: str) -> list[Named]:
        """The stages that `what` means: a fingerprint's beginning, a stage in a row, a row, or a sweep.

        Raises:
            SmaugError: it means nothing here.
        """
        named = self._by_name.get(what) or self._by_sweep(what)
        if named:
            return [self.stages[fingerprint] for fingerprint in self.stages if fingerprint in named]
        if re.fullmatch(r"[0-9a-f]+", what) and (found := self._by_digits(what)):
            return found
        raise SmaugError(f"{what or repr(what)}: is no stage here; {self._advice(what)}")

    def find_one(self, what: str) -> Named:
        """The one stage that `what` means.

        Raises:
            SmaugError: it means none, or several; the message lists them.
        """
        found = self.find(what)
        if len(found) == 1:
            return found[0]
        lines = [f"\n  {named.fingerprint[:12]}  {self.label(named)}" for named in found[:CANDIDATES_SHOWN]]
        more = f"\n  and {len(found) - CANDIDATES_SHOWN} more" if len(found) > CANDIDATES_SHOWN else ""
        raise SmaugError(f"{what}: means {len(found)} stages; give more of one's name:{''.join(lines)}{more}")

    def _by_sweep(self, what: str) -> set[str]:
        documents = [d for d in self.documents if what in (d.sweep, f"{d.sweep}/{d.scale}")]
        return {stage.fingerprint for document in documents for stage in document.stages}

    def _by_digits(self, digits: str) -> list[Named]:
        if len(digits) < LEAST_DIGITS:
            raise SmaugError(f"{digits}: is too short for a fingerprint; expected {LEAST_DIGITS} digits or more")
        found = {f: named for f, named in self.stages.items() if f.startswith(digits)}
        for path in sorted((self._home / "store").glob(f"*/{digits[:12]}*/stage.json")):
            document = read_stage(path.parent) if is_stage_folder(path.parent) else None
            if document is not None and document.fingerprint.startswith(digits):
                found.setdefault(document.fingerprint, Named(document.fingerprint, document.kind, document.name))
        return list(found.values())

    def _advice(self, what: str) -> str:
        if not self.stages:
            return "nothing was run yet"
        near: dict[frozenset[str], str] = {}  # one name for each thing that is meant
        for name in difflib.get_close_matches(what, self._by_name, n=4 * NEAR_SHOWN):
            near.setdefault(frozenset(self._by_name[name]), name)
        if near:
            return f"did you mean {' or '.join(map(repr, list(near.values())[:NEAR_SHOWN]))}?"
        sweeps = sorted({document.sweep for document in self.documents})
        more = f" and {len(sweeps) - CANDIDATES_SHOWN} more" if len(sweeps) > CANDIDATES_SHOWN else ""
        example = f"{self.documents[0].sweep}/{self.documents[0].variant}/{self.documents[0].stages[0].name}"
        return (
            f"a stage is named like {example!r}, or by its fingerprint; there are stages of the sweeps"
            f" {', '.join(sweeps[:CANDIDATES_SHOWN])}{more}, and `smaug status` lists their rows"
        )


def stage_labels(trials: Iterable[Trial | TrialDocument]) -> dict[str, str]:
    """Labels of stages for people, by fingerprint: name and rows, e.g. `pretrain 50% + 10%`, as `Catalog.find` takes.

    A row is named with its sweep, scale and seed where the trials have several.
    """
    listed = [(identity(trial), trial.stages) for trial in trials]
    several = [len(set(values)) > 1 for values in zip(*(key for key, _ in listed), strict=True)]
    names: dict[str, str] = {}
    rows: dict[str, dict[str, None]] = {}  # without repetition: two tasks of a row may need one stage
    for (sweep, scale, variant, seed), stages in listed:
        row = f"{variant}, seed {seed}" if several[3] else variant
        row = " ".join([*([sweep] if several[0] else []), *([scale] if several[1] else []), row])
        for stage in stages:
            names[stage.fingerprint] = stage.name
            rows.setdefault(stage.fingerprint, {})[row] = None
    return {fingerprint: f"{name} {_joined(list(rows[fingerprint]))}" for fingerprint, name in names.items()}


def _joined(rows: Sequence[str]) -> str:
    more = len(rows) - ROWS_IN_A_LABEL
    return " + ".join(rows[:ROWS_IN_A_LABEL]) + (f" and {more} more" if more > 0 else "")


def _row_names(document: TrialDocument) -> list[str]:
    """Return the names of a trial's row: `masking_ratio/50%` to `tiny/50%/seed 0`."""
    sweep, scale, variant, seed = identity(document)
    short = [variant, f"{scale}/{variant}", f"{variant}/seed {seed}", f"{scale}/{variant}/seed {seed}"]
    return [f"{sweep}/{name}" for name in short] + short
