"""Plan of a run: its stages, their states and their cost, read from the store without starting anything."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from experiments.config.seeds import Pair
from experiments.engines.base import Inventory, Node
from experiments.planning.cost_model import Price, Prices, Rate, sources_of
from experiments.planning.inputs import missing_inputs, small_media
from experiments.stages.code_version import code_digest, differing
from experiments.stages.kinds import PRETRAININGS
from experiments.stages.memory import GIB
from experiments.stages.stage import Stage, requested_memory
from experiments.stages.trial import Trial
from experiments.store.documents import StoreError
from experiments.store.records import WORDS_OF_STATE, PlanState
from experiments.store.store import Store


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedStage:
    """One stage, and what is known about it."""

    stage: Stage
    state: PlanState
    """`stale`: done, by other code than there is now; `unreadable`: its folder is damaged, as a problem of the plan
    says; all but `stale` and `cached` are not done."""
    changed: list[str] = field(default_factory=list)
    """Of a stale stage: the source files that differ."""
    trials: int
    """How many trials use it."""
    price: Price
    """What one undisturbed attempt took, or is likely to take."""

    @property
    def hours(self) -> float | None:
        """Hours of one undisturbed attempt; None if nothing is known."""
        return self.price.hours

    @property
    def is_done(self) -> bool:
        """True if its result is there, if by other code."""
        return self.state in ("cached", "stale")

    def to_json(self) -> dict[str, Any]:
        """Return the document for programs."""
        return {
            "fingerprint": self.stage.fingerprint,
            "name": self.stage.name,
            "state": self.state,
            "trials": self.trials,
            "hours": self.price.hours,
            "unit": self.price.unit,
            "source": self.price.basis,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """Every distinct stage of some trials, parents before children."""

    trials: Sequence[Trial]
    stages: list[PlannedStage]
    problems: list[str]
    """What a run would be refused for."""
    warnings: list[str] = field(default_factory=list)
    """What a run is not refused for, and its user should know."""

    @property
    def seeds(self) -> list[Pair]:
        """Seeds of pre-training and fine-tuning of the trials, each pair once."""
        return list(dict.fromkeys((trial.seed_pretrain, trial.seed_finetune) for trial in self.trials))

    @property
    def unit(self) -> str | None:
        """Unit of all hours; None while nothing is known, or if devices are mixed."""
        units = {planned.price.unit for planned in self.stages} - {None}
        return units.pop() if len(units) == 1 else None

    @property
    def source(self) -> str:
        """Source of the hours."""
        return sources_of({f"{p.stage.name} {p.stage.fingerprint}": p.price for p in self.stages})

    def in_state(self, *states: PlanState) -> list[PlannedStage]:
        """The stages that are in one of these states."""
        return [planned for planned in self.stages if planned.state in states]

    def row_by_row(self, *kinds: str) -> float | None:
        """Hours if every trial were run alone; none where a stage's are not known. `kinds`: count these stages only."""
        return _sum((planned.hours, planned.trials) for planned in self._of(kinds))

    def to_spend(self, *kinds: str) -> float | None:
        """Hours that a run would still take."""
        return _sum((planned.hours, 1) for planned in self._of(kinds) if not planned.is_done)

    def known_to_spend(self) -> float:
        """Hours that a run would still take for the stages whose hours are known."""
        return sum(planned.hours or 0.0 for planned in self.stages if not planned.is_done)

    def to_spend_rerunning_stale(self) -> float | None:
        """Hours that a run would take that also runs stale stages again, and all that was made from them."""
        again: set[str] = set()
        for planned in self.stages:  # parents come first
            if planned.state == "stale" or any(parent.fingerprint in again for parent in planned.stage.parents):
                again.add(planned.stage.fingerprint)
        left = (p for p in self.stages if not p.is_done or p.stage.fingerprint in again)
        return _sum((planned.hours, 1) for planned in left)

    def in_words(self, hours: float | None) -> str:
        """Hours with their unit and source."""
        if hours is None:
            return f"hours not known ({self.source})"
        return f"{hours:.4g} {self.unit or 'h'}" + (f" ({self.source})" if hours else "")

    def _of(self, kinds: Sequence[str]) -> list[PlannedStage]:
        return [planned for planned in self.stages if not kinds or planned.stage.kind in kinds]

    def to_json(self) -> dict[str, Any]:
        """The plan in numbers; `new` counts all that is not done, some of it also as one of the states after it."""
        states: tuple[PlanState, ...] = ("cached", "stale", "resume", "running", "failed", "unreadable")
        counts = {state: len(self.in_state(state)) for state in states}
        return {
            "trials": len(self.trials),
            "seeds": [{"pretrain": pretrain, "finetune": finetune} for pretrain, finetune in self.seeds],
            "stages": {
                "total": len(self.stages),
                "new": len(self.in_state("new", "resume", "running", "failed", "unreadable")),
                "shared": sum(planned.trials > 1 for planned in self.stages),
                **counts,
            },
            "pretrain_stages": len(self._of(PRETRAININGS)),
            "hours": {
                "row_by_row": self.row_by_row(),
                "to_spend": self.to_spend(),
                "unit": self.unit,
                "source": self.source,
                "pretrain": {
                    "row_by_row": self.row_by_row(*PRETRAININGS),
                    "to_spend": self.to_spend(*PRETRAININGS),
                },
            },
            "problems": self.problems,
            "warnings": self.warnings,
            "each": [planned.to_json() for planned in self.stages],
        }


def make_plan(
    trials: Sequence[Trial],
    store: Store,
    inventory: Inventory | None = None,
    *,
    published: Callable[[], Rate] | None = None,
) -> Plan:
    """Look every stage of `trials` up in the store.

    Args:
        trials: expanded from some sweeps.
        store: where results are kept.
        inventory: what the engine has; a stage that is not done and asks for more is a problem.
        published: gives the rate that the paper's hours imply, for work on GPUs without any other price.

    Raises:
        StoreError: the rate of a probe is damaged.
    """
    stages = distinct_stages(trials)
    uses: dict[str, int] = {}
    for trial in trials:
        for stage in trial.stages:
            uses[stage.fingerprint] = uses.get(stage.fingerprint, 0) + 1
    code = {kind: code_digest(kind) for kind in {stage.kind for stage in stages}}
    prices = Prices(store, published=published)
    planned, damaged = [], []
    for stage in stages:
        changed: list[str] = []
        try:
            record = store.record(stage)
        except StoreError as error:
            state: PlanState = "unreadable"
            price = prices.of(stage)
            damaged.append(str(error))
        else:
            changed = [] if record.result is None else differing(record.result.code, code[stage.kind])
            state = "stale" if changed else WORDS_OF_STATE[record.state].plan
            price = prices.of(stage, record)
        planned.append(
            PlannedStage(stage=stage, state=state, changed=changed, trials=uses[stage.fingerprint], price=price)
        )
    missing = _not_done(planned)
    problems = damaged + [each.problem for each in missing_inputs(missing, store.home / "data")]
    if inventory is not None:
        problems += resource_problems(missing, inventory, prices.peak_bytes)
    warnings = [] if problems else small_media(missing, store.home / "data")
    return Plan(trials=trials, stages=planned, problems=problems, warnings=warnings)


def _not_done(planned: Iterable[PlannedStage]) -> list[Stage]:
    return [each.stage for each in planned if not each.is_done]


def distinct_stages(trials: Iterable[Trial]) -> list[Stage]:
    """Every stage of the trials once, parents before children."""
    return list({stage.fingerprint: stage for trial in trials for stage in trial.stages}.values())


def resource_problems(
    stages: Iterable[Stage], inventory: Inventory, peak_bytes: Callable[[Stage], int | None] = lambda stage: None
) -> list[str]:
    """List what no machine has room for; an engine would let such a stage wait for ever.

    Args:
        stages: that are to run.
        inventory: what there is.
        peak_bytes: gives the peak memory of stages like one; counts on this driver's own machine only, and where the
            scale does not say how much a stage needs.
    """
    found = (problem for stage in stages for problem in _misfits(stage, inventory, peak_bytes))
    return list(dict.fromkeys(found))


def _misfits(stage: Stage, inventory: Inventory, peak_bytes: Callable[[Stage], int | None]) -> Iterator[str]:
    """Yield why a stage's share fits on none of the machines; nothing if it fits on one."""
    nodes = list(inventory.nodes)
    apart, where = stage.resources.get("nodes", 1), f"resources.{stage.kind}"
    if apart > 1 and not inventory.spans:
        yield f"{where}.nodes: {apart} machines for one stage need a cluster; expected --engine slurm"
        return
    requested = stage.resources | {kind: stage.resources[kind] // apart for kind in ("cpus", "gpus")}
    of_each = f" on each of {apart} nodes" if apart > 1 else ""
    of_type = requested.get("accelerator")
    if of_type is not None:
        there = sorted({name for node in nodes for name in node.accelerators})
        nodes = [node for node in nodes if of_type in node.accelerators]
        if not nodes:
            yield f"{where}.accelerator: {of_type!r} is not here; there is {', '.join(there) or 'no GPU of known type'}"
            return
    if (problem := _memory_problem(stage, nodes, peak_bytes if inventory.is_own else None)) is not None:
        yield problem
        return
    most = {kind: max((getattr(node, kind) for node in nodes), default=0) for kind in ("cpus", "gpus")}
    too_much = {kind: at_most for kind, at_most in most.items() if requested[kind] > at_most}
    for kind, at_most in too_much.items():
        yield f"{where}.{kind}: {requested[kind]}{of_each} is more than one stage can have here; at most {at_most}"
    memory = (requested_memory(stage.resources) or 0) // apart
    if not too_much and not any(_has_room(node, requested["cpus"], requested["gpus"], memory) for node in nodes):
        gb = f" and {_gb(memory)} GB" if memory else ""
        of_nodes = [(n, f" and {_gb(n.memory_bytes)} GB" if memory and n.memory_bytes else "") for n in nodes]
        has = ", ".join(dict.fromkeys(f"{node.cpus} with {node.gpus}{its}" for node, its in of_nodes))
        yield (
            f"{where}: {requested['cpus']} cpus with {requested['gpus']} gpus{gb}{of_each} are more than one machine"
            f" has here; the machines have {has}"
        )


def _has_room(node: Node, cpus: int, gpus: int, memory: int) -> bool:
    enough = node.memory_bytes is None or node.memory_bytes >= memory
    return node.cpus >= cpus and node.gpus >= gpus and enough


def _memory_problem(
    stage: Stage, nodes: Sequence[Node], peak_bytes: Callable[[Stage], int | None] | None
) -> str | None:
    """Yield why a stage has not enough memory on any machine; nothing if it has, or that is not known."""
    known = [node.memory_bytes for node in nodes if node.memory_bytes is not None]
    if not known or len(known) < len(nodes):
        return None
    where, most = f"resources.{stage.kind}.memory_gb", max(known)
    requested, apart = requested_memory(stage.resources), stage.resources.get("nodes", 1)
    if requested is not None and requested // apart > most:
        of_each = f" on each of {apart} nodes" if apart > 1 else ""
        return f"{where}: {_gb(requested // apart)}{of_each} is more than one stage can have here; at most {_gb(most)}"
    held = peak_bytes(stage) if requested is None and peak_bytes is not None else None
    if held is not None and held > most:
        return (
            f"{where}: stages like {stage.name} held {_gb(held)}, more than one stage can have here, {_gb(most)};"
            f" if less is enough, say how much"
        )
    return None


def _gb(size: int) -> str:
    return f"{size / GIB:.4g}"


def _sum(terms: Iterable[tuple[float | None, int]]) -> float | None:
    total = 0.0
    for hours, times in terms:
        if hours is None:
            return None
        total += hours * times
    return total
