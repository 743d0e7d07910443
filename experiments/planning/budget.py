"""Budget of a run: its plan against the limit before anything starts, then hours spent and promised at each stage."""

import time
from dataclasses import dataclass

from experiments.planning.cost_model import Prices
from experiments.planning.plan import Plan
from experiments.stages.stage import Stage
from experiments.store.documents import PREDICTION, write_json
from experiments.store.records import StageRecord
from experiments.store.store import Store


def budget_problem(plan: Plan, limit: float | None, to_spend: float | None) -> str | None:
    """Return why a plan is refused over its limit; None if it fits. Of unknown hours the known ones must be below it.

    `to_spend`: the hours that the plan would still take; None where some are not known.
    """
    known = plan.known_to_spend()
    if limit is None or (known < limit if to_spend is None else to_spend <= limit):
        return None
    if to_spend is not None:
        what = f"{plan.in_words(to_spend)} to spend, {limit:g} allowed"
    elif known:
        what = f"more than {known:.4g} {plan.unit or 'h'} to spend, {limit:g} allowed"
    else:
        what = f"the hours to spend are not known, and any new stage exceeds the {limit:g} allowed"
    return f"{what}; raise --max-hours or the file's budget"


@dataclass(frozen=True, kw_only=True, slots=True)
class PriceComparison:
    """Predicted and actual hours of the stages that finished in a run and had a prediction."""

    stages: int
    predicted: float
    actual: float
    """Of one undisturbed attempt, as predicted; lost time is not in it."""
    unit: str | None
    """None where devices are mixed."""


class Budget:
    """Keeps a run's account: actual hours of what ended, predicted hours of what runs.

    Prices are computed again for each stage, so that stages that finished meanwhile correct them.
    """

    def __init__(self, store: Store, prices: Prices, limit: float | None = None) -> None:
        """Spend at most `limit` device hours beyond what `store` holds now; none: as many as it takes."""
        self._store, self._prices, self.limit = store, prices, limit
        self._promised: dict[str, float] = {}
        self._billed_before: dict[str, float] = {}
        self._running: dict[str, float] = {}
        self._compared: list[tuple[float, float, str]] = []
        self.spent = 0.0
        """Device hours billed to attempts that this run started and that ended."""

    @property
    def promised(self) -> float:
        """Device hours that running stages are expected to take; those they have spent, where that is more."""
        return sum(self._promised.values())

    @property
    def used(self) -> float:
        """Device hours spent so far, by running stages too."""
        return self.spent + sum(self._running.values())

    def observe(self, stage: Stage, record: StageRecord) -> None:
        """Note what a running stage has spent so far."""
        name = stage.fingerprint
        if name in self._promised:
            self._running[name] = record.hours.billed - self._billed_before[name]
            self._promised[name] = max(self._promised[name], self._running[name])

    def admit(self, stage: Stage) -> str | None:
        """Promise a stage its hours, unless that would exceed the limit: then say so."""
        price = self._prices.of(stage)
        expected, unit = price.hours or 0.0, price.unit or "h"
        if self.limit is not None and self.spent + self.promised + expected > self.limit:
            more = "a stage whose hours are not known" if price.hours is None else f"{expected:.3g} {unit} more"
            return (
                f"{more} would exceed the {self.limit:g} allowed: {self.spent:.3g} are spent,"
                f" {self.promised:.3g} promised to what runs; raise --max-hours or the file's budget"
            )
        self._promised[stage.fingerprint] = expected
        record = self._store.record(stage)
        self._billed_before[stage.fingerprint] = record.hours.billed
        if price.hours is not None and record.details.prediction() is None:
            prediction = {"hours": price.hours, "unit": price.unit, "source": price.basis, "time": time.time()}
            write_json(record.directory / PREDICTION, prediction)
        return None

    def withdraw(self, stage: Stage) -> None:
        """Forget a promise: another driver has the stage, and pays for it."""
        self._promised.pop(stage.fingerprint, None)
        self._running.pop(stage.fingerprint, None)

    def settle(self, stage: Stage) -> None:
        """Replace a promise by what the store says was spent; the stage ended, however it did."""
        if self._promised.pop(stage.fingerprint, None) is None:
            return  # another driver's, or never started
        self._running.pop(stage.fingerprint, None)
        record = self._store.record(stage)
        self.spent += record.hours.billed - self._billed_before.pop(stage.fingerprint)
        if record.result is None:
            return
        self._prices.learn(stage, record)
        prediction, actual = record.details.prediction(), self._prices.of(stage, record)
        if prediction is not None and actual.hours is not None and prediction.unit == actual.unit:
            self._compared.append((prediction.hours, actual.hours, prediction.unit))

    def compared(self) -> PriceComparison:
        """Predictions beside what the stages took."""
        units = {unit for _, _, unit in self._compared}
        return PriceComparison(
            stages=len(self._compared),
            predicted=sum(predicted for predicted, _, _ in self._compared),
            actual=sum(actual for _, actual, _ in self._compared),
            unit=units.pop() if len(units) == 1 else None,
        )
