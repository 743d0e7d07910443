"""Cache misses: the differences of a stage from the nearest finished one."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from experiments.config.yaml_source import Fault, SweepError
from experiments.planning.plan import Plan, PlannedStage
from experiments.stages.kinds import CONSTANT
from experiments.stages.stage import Stage, is_old_behaviour
from experiments.store.documents import StageDocument
from experiments.store.store import Store

LEAST_DIGITS = 4
"""Of a fingerprint's beginning."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """One thing that two stages, or the stages they start from, do not have in common."""

    name: str
    """A setting, e.g. `pretrain.mask_ratio`; or an input, a seed or the version of a stage."""
    there: Any
    """In the finished stage; None if it has nothing of the kind."""
    here: Any


@dataclass(frozen=True, kw_only=True, slots=True)
class Explanation:
    """Reasons for which a stage would be run, or would not."""

    planned: PlannedStage
    nearest: Path | None
    """Folder of the finished stage of its kind that differs in the fewest things; None if none is finished."""
    differences: Sequence[Difference]
    """The first one alone is reason enough."""

    def lines(self) -> list[str]:
        """Text for people."""
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
        """Document for programs."""
        return self.planned.to_json() | {
            "changed": self.planned.changed,
            "nearest": None if self.nearest is None else str(self.nearest),
            "differences": [asdict(difference) for difference in self.differences],
        }


def explain(plan: Plan, fingerprint: str, store: Store) -> Explanation:
    """Compare a planned stage, given by four or more digits of its fingerprint, with the finished ones of its kind.

    Raises:
        SweepError: no planned stage, or more than one, has such a fingerprint.
    """
    candidates = [p for p in plan.stages if p.stage.fingerprint.startswith(fingerprint.lower())]
    if len(fingerprint) < LEAST_DIGITS or len(candidates) != 1:
        some = ", ".join(p.stage.fingerprint[:12] for p in (candidates or plan.stages)[:8])
        what = f"{len(candidates)} stages of this plan begin so" if candidates else "no stage of this plan begins so"
        raise SweepError([Fault(f"--why {fingerprint}", 0, 0, f"{what}; give {LEAST_DIGITS} digits or more of {some}")])
    planned = candidates[0]
    lineage = _planned_lineage(planned.stage)
    names = {document.kind: document.name for document in lineage}  # as `--set` has them: finetune.msrvtt
    here = _flattened(lineage, names)
    finished = [record for record in store.done(planned.stage.kind) if record.fingerprint != planned.stage.fingerprint]
    compared = (
        (_differences(_flattened(_stored_lineage(record.document, store), names), here), record) for record in finished
    )
    nearest = min(compared, key=lambda pair: (len(pair[0]), pair[1].fingerprint), default=None)
    if nearest is None:
        return Explanation(planned=planned, nearest=None, differences=())
    return Explanation(planned=planned, nearest=nearest[1].directory, differences=nearest[0])


def _planned_lineage(stage: Stage) -> list[StageDocument]:
    """Documents of a stage and of those it builds on, the first one first."""
    before = [document for parent in stage.parents for document in _planned_lineage(parent)]
    return [*before, StageDocument.of(stage.document())]


def _stored_lineage(document: StageDocument, store: Store) -> list[StageDocument]:
    parents = filter(None, map(store.document, document.parents))
    return [*(each for parent in parents for each in _stored_lineage(parent, store)), document]


def _flattened(lineage: Sequence[StageDocument], names: Mapping[str, str]) -> dict[str, Any]:
    """Everything in some documents that decides a result, by name."""
    flat: dict[str, Any] = {}
    for document in lineage:
        flat |= {f"seed of {document.kind}": document.seed, f"version of {document.kind}": document.version}
        for section, settings in document.settings.items():
            for name, value in settings.items():
                if name not in CONSTANT and not is_old_behaviour(section, name, value):
                    flat[f"{names.get(section, section)}.{name}"] = value
        flat |= {f"{document.kind}'s input {name}": digest for name, digest in document.inputs.items()}
    return flat


def _differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[Difference]:
    return [
        Difference(name=name, there=there.get(name), here=here.get(name))
        for name in dict.fromkeys([*here, *there])
        if there.get(name) != here.get(name)
    ]
