"""What a run would do and what it would cost, told from the store without starting anything."""

import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Literal

from experiments.code import code_digest, differing
from experiments.engines import Inventory, Node
from experiments.expand import Trial
from experiments.stage import Stage
from experiments.store import StageRecord, Store

PlanState = Literal["cached", "stale", "new", "resume", "running", "failed"]


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedStage:
    """One stage, and what is known about it."""

    stage: Stage
    state: PlanState
    """`stale`: done, by other code than there is now; all but it and `cached` are not done."""
    changed: list[str] = field(default_factory=list)
    """Of a stale stage: the source files that differ."""
    trials: int
    """How many trials use it."""
    hours: float | None
    """What one undisturbed attempt took, or is likely to take."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """Every distinct stage of some trials, parents before children."""

    trials: Sequence[Trial]
    stages: list[PlannedStage]
    unit: str | None
    """Of all hours; none while nothing like it has run, or where devices are mixed."""
    source: str
    """Where the hours come from."""
    problems: list[str]
    """What a run would be refused for."""

    def in_state(self, *states: PlanState) -> list[PlannedStage]:
        """The stages that are in one of these states."""
        return [planned for planned in self.stages if planned.state in states]

    def row_by_row(self) -> float | None:
        """Hours if every trial were run alone; none where a stage's are not known."""
        return _sum((planned.hours, planned.trials) for planned in self.stages)

    def to_spend(self) -> float | None:
        """Hours that a run would still take."""
        return _sum((planned.hours, 1) for planned in self.stages if planned.state not in ("cached", "stale"))

    def to_json(self) -> dict[str, Any]:
        """The plan in numbers; `new` counts all that is not done, some of it also as resume, running or failed."""
        counts = {state: len(self.in_state(state)) for state in ("cached", "stale", "resume", "running", "failed")}
        return {
            "trials": len(self.trials),
            "stages": {
                "total": len(self.stages),
                "new": len(self.in_state("new", "resume", "running", "failed")),
                "shared": sum(planned.trials > 1 for planned in self.stages),
                **counts,
            },
            "pretrain_stages": sum(planned.stage.kind in ("pretrain", "pretrain_video") for planned in self.stages),
            "hours": {
                "row_by_row": self.row_by_row(),
                "to_spend": self.to_spend(),
                "unit": self.unit,
                "source": self.source,
            },
            "problems": self.problems,
        }


def make_plan(trials: Sequence[Trial], store: Store, inventory: Inventory | None = None) -> Plan:
    """Look every stage of `trials` up in the store.

    Hours are a stage's own where it is done, else the median of done stages that differ from it only in what the
    sweep varies and in seeds.

    Args:
        trials: expanded from a sweep.
        store: where results are kept.
        inventory: what the engine has; a stage that is not done and asks for more is a problem.

    Raises:
        StoreError: the store contradicts itself.
    """
    stages = distinct_stages(trials)
    uses: dict[str, int] = {}
    for trial in trials:
        for stage in trial.stages:
            uses[stage.fingerprint] = uses.get(stage.fingerprint, 0) + 1
    records = {stage.fingerprint: store.record(stage) for stage in stages}
    code = {kind: code_digest(kind) for kind in {stage.kind for stage in stages}}
    prices = _Prices(store, {key for trial in trials for key in trial.set_keys})
    planned = []
    for stage in stages:
        record = records[stage.fingerprint]
        changed = [] if record.result is None else differing(record.result["code"], code[stage.kind])
        state: PlanState = record.state if record.state != "done" else ("stale" if changed else "cached")
        planned.append(
            PlannedStage(
                stage=stage,
                state=state,
                changed=changed,
                trials=uses[stage.fingerprint],
                hours=prices.of(stage, record),
            )
        )
    unit, source = prices.unit_and_source()
    missing = _not_done(planned)
    problems = input_problems(missing)
    return Plan(
        trials=trials,
        stages=planned,
        unit=unit,
        source=source,
        problems=problems if inventory is None else problems + resource_problems(missing, inventory),
    )


def _not_done(planned: Iterable[PlannedStage]) -> list[Stage]:
    return [each.stage for each in planned if each.state not in ("cached", "stale")]


def distinct_stages(trials: Iterable[Trial]) -> list[Stage]:
    """Every stage of the trials once, parents before children."""
    return list({stage.fingerprint: stage for trial in trials for stage in trial.stages}.values())


def input_problems(stages: Iterable[Stage]) -> list[str]:
    """What stages read and nobody has put here, in words."""
    unseen = dict.fromkeys(name for stage in stages for name in stage.unseen)
    return [f"{name}: is not here, so what it holds was not seen; put it there, then plan again" for name in unseen]


def resource_problems(stages: Iterable[Stage], inventory: Inventory) -> list[str]:
    """What no machine has room for, in words; an engine would let such a stage wait for ever."""
    return list(dict.fromkeys(problem for stage in stages for problem in _misfits(stage, inventory.nodes)))


def _misfits(stage: Stage, nodes: Sequence[Node]) -> Iterator[str]:
    """Why a stage fits on none of these machines; nothing if it fits on one."""
    asked, where = stage.resources, f"resources.{stage.kind}"
    of_type = asked.get("accelerator")
    if of_type is not None:
        there = sorted({name for node in nodes for name in node.accelerators})
        nodes = [node for node in nodes if of_type in node.accelerators]
        if not nodes:
            yield f"{where}.accelerator: {of_type!r} is not here; there is {', '.join(there) or 'no GPU of known type'}"
            return
    most = {kind: max((getattr(node, kind) for node in nodes), default=0) for kind in ("cpus", "gpus")}
    too_much = {kind: at_most for kind, at_most in most.items() if asked[kind] > at_most}
    for kind, at_most in too_much.items():
        yield f"{where}.{kind}: {asked[kind]} is more than one stage can have here; at most {at_most}"
    if not too_much and not any(node.cpus >= asked["cpus"] and node.gpus >= asked["gpus"] for node in nodes):
        has = ", ".join(dict.fromkeys(f"{node.cpus} with {node.gpus}" for node in nodes))
        yield (
            f"{where}: {asked['cpus']} cpus with {asked['gpus']} gpus are more than one machine has here;"
            f" the machines have {has}"
        )


class _Prices:
    """Hours of stages, measured or expected, and where they come from."""

    def __init__(self, store: Store, swept: Collection[str]) -> None:
        self._store, self._swept = store, swept
        self._past: dict[str, dict[str, list[StageRecord]]] = {}
        self._units: set[str] = set()
        self._used: dict[str, int] = {}
        self._unknown: list[str] = []

    def of(self, stage: Stage, record: StageRecord) -> float | None:
        if record.result is not None:
            return self._measured(record)
        alike = self._alike(stage)
        if not alike:
            self._unknown.append(stage.name)
            return None
        self._used[stage.name] = len(alike)
        return median(self._measured(past) for past in alike)

    def unit_and_source(self) -> tuple[str | None, str]:
        unit = self._units.pop() if len(self._units) == 1 else None
        if self._unknown:
            return unit, "no earlier attempts of " + ", ".join(dict.fromkeys(self._unknown))
        if self._used:
            told = ", ".join(f"{count} {name}" for name, count in self._used.items())
            return unit, f"median of earlier stages that differ in swept settings only: {told}"
        return unit, "measured"

    def _measured(self, record: StageRecord) -> float:
        if record.unit is not None:
            self._units.add(record.unit)
        return record.hours.useful + record.hours.overhead

    def _alike(self, stage: Stage) -> list[StageRecord]:
        if stage.kind not in self._past:
            past: dict[str, list[StageRecord]] = {}
            for document, record in self._store.done(stage.kind):
                likeness = self._likeness(document)
                past.setdefault(likeness, []).append(record)
            self._past[stage.kind] = past
        return self._past[stage.kind].get(self._likeness(stage.document()), [])

    def _likeness(self, document: dict[str, Any]) -> str:
        """Equal for stages that take about the same time: all settings but those swept and the data's seed."""
        name, kind = document["name"], document["kind"]
        # Settings hold `finetune`, and the keys of a sweep say `finetune.msrvtt`: the name of the stage.
        kept = {
            f"{name if part == kind else part}.{key}": value
            for part, values in document["settings"].items()
            for key, value in (values or {}).items()
        }
        ignored = {*self._swept, "data.seed"}
        on_gpus = document["resources"]["gpus"] > 0  # CPU hours do not foretell GPU hours
        return json.dumps([name, on_gpus, {k: v for k, v in kept.items() if k not in ignored}], sort_keys=True)


def _sum(terms: Iterable[tuple[float | None, int]]) -> float | None:
    total = 0.0
    for hours, times in terms:
        if hours is None:
            return None
        total += hours * times
    return total
