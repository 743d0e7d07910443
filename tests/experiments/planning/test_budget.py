"""The account of a run: what is admitted, what is held back, and what predictions were worth."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from experiments.planning.budget import PREDICTION, Budget
from experiments.planning.cost_model import Prices
from experiments.store.attempt import NOTHING_SPENT, claim
from experiments.store.store import Store
from tests.experiments.finished import HOST, finish
from tests.quick_stage import quick_stage


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path)
    finish(store, quick_stage(seed=100), 2.0)  # so a quick stage of any seed is expected to take 2 h
    return store


def test_what_runs_counts_at_its_prediction_and_what_ended_at_its_bill(store):
    budget = Budget(store, Prices(store), limit=5.0)
    first, second, third = (quick_stage(seed=seed) for seed in (1, 2, 3))
    for stage in (first, second):
        store.prepare(stage)
        assert budget.admit(stage) is None
    assert (budget.spent, budget.promised) == (0.0, 4.0)
    refusal = budget.admit(third)
    assert refusal == (
        "2 CPU h more would exceed the 5 allowed: 0 are spent, 4 promised to what runs;"
        " raise --max-hours or the file's budget"
    )
    finish(store, first, 0.5)
    budget.settle(first)
    assert (budget.spent, budget.promised) == (pytest.approx(0.5), 2.0)
    store.prepare(third)
    assert budget.admit(third) is None, "0.5 spent, 2 promised, 1.25 expected (the median of 2 and 0.5)"


def test_only_attempts_of_this_run_are_spent(store):
    stage = quick_stage(seed=1)
    store.prepare(stage)
    finish_partly = finish(store, replace(stage), 3.0, lost=1.0)
    (finish_partly / "result.json").unlink()
    budget = Budget(store, Prices(store), limit=3.0)
    before = store.record(stage).hours.billed
    assert before == pytest.approx(4.0)
    assert budget.admit(stage) is None
    finish(store, stage, 1.0)
    budget.settle(stage)
    assert budget.spent == pytest.approx(store.record(stage).hours.billed - before)


def test_a_failed_attempt_is_billed_too(store):
    stage, budget = quick_stage(seed=1), Budget(store, Prices(store))
    lease = claim(store.prepare(stage), HOST)
    assert budget.admit(stage) is None
    lease.end("failed", NOTHING_SPENT | {"spent_s": 1800.0}, "it broke")
    budget.settle(stage)
    assert budget.spent == pytest.approx(0.5)


def test_the_prediction_of_the_first_attempt_is_kept_and_compared(store):
    stage, budget = quick_stage(seed=1), Budget(store, Prices(store))
    directory = store.prepare(stage)
    budget.admit(stage)
    kept = json.loads((directory / PREDICTION).read_text())
    assert (kept["hours"], kept["unit"], kept["source"]) == (2.0, "CPU h", "earlier")
    budget.settle(stage)
    finish(store, quick_stage(seed=7), 50.0)
    again = Budget(store, Prices(store))
    again.admit(stage)
    assert json.loads((directory / PREDICTION).read_text()) == kept, "what was expected before it ever ran"
    finish(store, stage, 3.0)
    again.settle(stage)
    compared = again.compared()
    assert (compared.stages, compared.predicted, compared.actual, compared.unit) == (1, 2.0, 3.0, "CPU h")


def test_what_nothing_tells_the_price_of_is_admitted_and_counts_when_it_ends(store):
    stage, budget = quick_stage(seed=1, steps=99), Budget(store, Prices(store), limit=1.0)
    directory = store.prepare(stage)
    assert budget.admit(stage) is None
    assert not (directory / PREDICTION).exists()
    finish(store, stage, 5.0)
    budget.settle(stage)
    assert budget.spent == pytest.approx(5.0)
    assert budget.compared().stages == 0


def test_what_runs_longer_than_predicted_counts_by_what_it_has_spent(store):
    stage, budget = quick_stage(seed=1), Budget(store, Prices(store), limit=10.0)
    lease = claim(store.prepare(stage), HOST)
    assert budget.admit(stage) is None
    assert budget.promised == 2.0
    lease.heartbeat(NOTHING_SPENT | {"spent_s": 9 * 3600.0})
    budget.observe(stage, store.record(stage))
    assert budget.promised == pytest.approx(9.0)
    refusal = budget.admit(quick_stage(seed=2))
    assert refusal is not None and "0 are spent, 9 promised" in refusal
