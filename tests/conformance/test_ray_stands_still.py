"""A Ray whose CPUs are taken by nobody we know of is given up, and the jobs run on another."""

from pathlib import Path

import pytest

from experiments.engines import local_cpus
from experiments.engines.ray_tune import RayEngine
from experiments.events import Event
from experiments.scheduler import Scheduler
from experiments.store import Store
from tests.quick_stage import quick_stage


def test_a_ray_that_starts_nothing_is_started_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("experiments.engines.ray_tune.STILL_S", 10.0)
    store, first = Store(tmp_path), quick_stage(seed=1)
    second = quick_stage("finetune", parents=(first,), cpus=local_cpus())
    told = []

    def take_a_cpu(event: Event) -> None:
        told.append((event.kind, event.stage.name, event.message))
        if event.kind == "queued" and event.stage == second and not taken:
            import ray

            taken.append(ray.remote(num_cpus=1)(Idle).remote())  # as the leak did: no job of ours has it

    taken: list[object] = []
    with RayEngine(tmp_path) as engine:
        options = {"data_root": tmp_path, "on_event": take_a_cpu}
        summary = Scheduler([first, second], store, engine, **options).run()
    assert summary.done == [first, second]
    assert ("retry", "finetune", "Ray started nothing though nothing ran; it is started anew") in told
    assert len(list((tmp_path / "ray").iterdir())) == 2


class Idle:
    """An actor that does nothing."""
