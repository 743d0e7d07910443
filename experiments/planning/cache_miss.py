"""Cache misses: the differences of a stage from the nearest finished one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.config.yaml_source import Fault, SweepError
from experiments.planning.plan import Plan, PlannedStage
from experiments.stages.kinds import CONSTANT, NAMES_OF_INPUTS, STAGE_KINDS
from experiments.stages.stage import Stage, is_old_behaviour
from experiments.store.documents import StageDocument
from experiments.store.store import Store, read_stage

LEAST_DIGITS = 4
"""Of a fingerprint's beginning."""
SECTIONS = ("model", *STAGE_KINDS)
"""Sections of settings in the order in which differences are listed; those that only decide inputs come last."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """One thing that two stages, or the stages they start from, do not have in common."""

    name: str
    """A setting, e.g. `pretrain.mask_ratio`; or an input, a seed or the version of a stage."""
    there: Any
    """In the finished stage; none where it has nothing of the kind."""
    here: Any


@dataclass(frozen=True, kw_only=True, slots=True)
class Explanation:
    """Why a stage would be run, or would not."""

    planned: PlannedStage
    nearest: Path | None
    """Folder of the finished stage of its kind that differs in the fewest things; none where none is finished."""
    differences: Sequence[Difference]
    """The first one alone is reason enough."""

    def lines(self) -> list[str]:
        """For people."""
        planned, stage = self.planned, self.planned.stage
        lines = [f"{stage.name} {stage.fingerprint[:12]}: {planned.state}"]
        if planned.state == "cached":
            return [*lines, "finished, by the code that is here"]
        if planned.state == "stale":
            return [*lines, f"finished, by other code; differing: {', '.join(planned.changed)}"]
        if self.nearest is None:
            return [*lines, f"no {stage.kind} is finished in this store"]
        lines.append(f"nearest finished: {self.nearest}")
        first, *others = self.differences
        lines.append(f"first difference: {first.name}: {first.there!r} there, {first.here!r} here")
        return lines + [f"and {other.name}: {other.there!r} there, {other.here!r} here" for other in others]

    def to_json(self) -> dict[str, Any]:
        """For programs."""
        return self.planned.to_json() | {
            "changed": self.planned.changed,
            "nearest": None if self.nearest is None else str(self.nearest),
            "differences": [{"name": d.name, "there": d.there, "here": d.here} for d in self.differences],
        }


def explain(plan: Plan, fingerprint: str, store: Store) -> Explanation:
    """Compare a planned stage with the finished ones of its kind.

    Args:
        plan: holds the stage.
        fingerprint: its beginning, four digits or more.
        store: holds what is finished.

    Raises:
        SweepError: no planned stage, or more than one, has such a fingerprint.
    """
    found = [p for p in plan.stages if p.stage.fingerprint.startswith(fingerprint.lower())]
    if len(fingerprint) < LEAST_DIGITS or len(found) != 1:
        some = ", ".join(p.stage.fingerprint[:12] for p in (found or plan.stages)[:8])
        what = f"{len(found)} stages of this plan begin so" if found else "no stage of this plan begins so"
        raise SweepError([Fault(f"--why {fingerprint}", 0, 0, f"{what}; give {LEAST_DIGITS} digits or more of {some}")])
    planned = found[0]
    lineage = [StageDocument.of(stage.document()) for stage in _lineage(planned.stage)]
    names = {document.kind: document.name for document in lineage}  # as `--set` has them: finetune.msrvtt
    here = _facts(lineage, names)
    best: tuple[int, str, Path, list[Difference]] | None = None
    for record in store.done(planned.stage.kind):
        differences = _differences(_facts(_stored_lineage(record.document, store), names), here)
        rank = (len(differences), record.fingerprint, record.directory, differences)
        if record.fingerprint != planned.stage.fingerprint and (best is None or rank[:2] < best[:2]):
            best = rank
    if best is None:
        return Explanation(planned=planned, nearest=None, differences=())
    return Explanation(planned=planned, nearest=best[2], differences=best[3])


def _lineage(stage: Stage) -> list[Stage]:
    """A stage and those it builds on, the first one first."""
    return [each for parent in stage.parents for each in _lineage(parent)] + [stage]


def _stored_lineage(document: StageDocument, store: Store) -> list[StageDocument]:
    before: list[StageDocument] = []
    for fingerprint in document.parents:
        path = next(iter(store.root.glob(f"*/{fingerprint[:12]}/stage.json")), None)
        parent = None if path is None else read_stage(path.parent)
        before += [] if parent is None else _stored_lineage(parent, store)
    return [*before, document]


def _facts(lineage: Sequence[StageDocument], names: Mapping[str, str]) -> dict[str, Any]:
    """Everything that decides a result, by name, in the order of telling."""
    settings: dict[str, dict[str, Any]] = {}
    for document in lineage:
        settings |= {section: values for section, values in document.settings.items() if values}
    facts: dict[str, Any] = {}
    only_names: dict[str, Any] = {}
    for section in (*SECTIONS, *(settings.keys() - set(SECTIONS))):
        for name, value in settings.get(section, {}).items():
            if name in CONSTANT or is_old_behaviour(section, name, value):
                continue
            only_named = section == "data" or f"{section}.{name}" in NAMES_OF_INPUTS
            (only_names if only_named else facts)[f"{names.get(section, section)}.{name}"] = value
    for document in lineage:
        facts |= {f"seed of {document.kind}": document.seed, f"version of {document.kind}": document.version}
    facts |= only_names
    for document in lineage:
        facts |= {f"{document.kind}'s input {name}": digest for name, digest in document.inputs.items()}
    return facts


def _differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[Difference]:
    names = [*here, *(name for name in there if name not in here)]
    return [
        Difference(name=name, there=there.get(name), here=here.get(name))
        for name in names
        if there.get(name) != here.get(name)
    ]
