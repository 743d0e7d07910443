"""Our own Ray places stages by the memory that those like them held, or that the scale asks for."""

from pathlib import Path

import pytest

from experiments.engines.base import local_inventory
from experiments.engines.ray.engine import RayEngine
from experiments.planning.cost_model import Prices
from experiments.scheduler.scheduler import Scheduler
from experiments.stages.memory import GIB, bytes_to_ask
from experiments.stages.stage import Stage
from experiments.store.attempt import read_attempts
from experiments.store.store import Store
from tests.quick_stage import quick_stage

pytestmark = pytest.mark.slow

MEMORY = int(0.9 * GIB)
"""Of a machine whose control group leaves it 1 GiB."""


def run_all(store: Store, engine: RayEngine, stages: list[Stage]) -> list[tuple[float, float]]:
    """When each stage began and ended, in the order of their beginnings."""
    prices = Prices(store)
    scheduler = Scheduler(
        stages, store, engine, data_root=store.home / "data", on_event=lambda event: None, peak_bytes=prices.peak_bytes
    )
    assert len(scheduler.run().done) == len(stages)
    attempts = [read_attempts(store.directory(stage))[-1] for stage in stages]
    return sorted((attempt.owner.started, attempt.last.time) for attempt in attempts)


def at_once(spans: list[tuple[float, float]]) -> bool:
    (_, first_ended), (second_began, _) = spans
    return second_began < first_ended


def test_stages_that_together_exceed_the_memory_run_one_after_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("experiments.stages.memory._limits", lambda: [GIB])
    monkeypatch.setattr("experiments.engines.base.local_cpus", lambda: 2)
    store, own = Store(tmp_path), {"hold_mib": 400, "step_s": 0.7}
    with RayEngine(tmp_path) as engine:
        unknown = [quick_stage(seed=seed, **own) for seed in (0, 1)]
        assert at_once(run_all(store, engine, unknown)), "nothing is known of them, and they ask for none"
        peak = max(read_attempts(store.directory(stage))[-1].last.peak_memory_bytes for stage in unknown)
        assert MEMORY / 2 < bytes_to_ask(peak) <= MEMORY
        assert not at_once(run_all(store, engine, [quick_stage(seed=seed, **own) for seed in (2, 3)]))
        said = [quick_stage(seed=seed, memory_gb=0.5, step_s=0.7) for seed in (4, 5)]
        assert not at_once(run_all(store, engine, said)), "the scale asks for it"
        said = [quick_stage(seed=seed, memory_gb=0.4, **own) for seed in (6, 7)]
        assert at_once(run_all(store, engine, said)), "the scale's word goes before what those like it held"
        assert [node.memory_bytes for node in engine._session.inventory().nodes] == [MEMORY]
        assert [node.memory_bytes for node in local_inventory().nodes] == [MEMORY], "the plan counts as Ray does"
