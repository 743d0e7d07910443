"""A Ray whose CPUs are taken by nobody we know of is given up for another; a cluster of whom this is so is left."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from experiments.engines.base import local_cpus
from experiments.engines.ray.engine import RayEngine
from experiments.scheduler.events import Event
from experiments.scheduler.scheduler import Scheduler
from experiments.store.store import Store
from tests.conformance.drivers import ROOT
from tests.quick_stage import quick_stage
from tests.ray_cluster import RayCluster

pytestmark = pytest.mark.nightly


def test_a_ray_that_starts_nothing_is_started_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(
        "experiments.engines.ray.engine.STALLED_S", 30.0
    )  # more than the first start of a busy machine takes
    store, first = Store(tmp_path), quick_stage(seed=1)
    second = quick_stage("finetune", parents=(first,), cpus=local_cpus())
    told = []

    def take_a_cpu(event: Event) -> None:
        told.append((event.kind, event.stage.name, event.message))
        if event.kind == "queued" and event.stage == second and not taken:
            import ray

            taken.append(ray.remote(num_cpus=1)(Idle).remote())  # as the leak did: no job of ours has it
            ray.get(taken[0].is_there.remote(), timeout=60)

    taken: list[Any] = []
    with RayEngine(tmp_path) as engine:
        options = {"data_root": tmp_path, "on_event": take_a_cpu}
        summary = Scheduler([first, second], store, engine, **options).run()
    assert summary.done == [first, second], told
    (line,) = caplog.messages
    assert line.startswith(
        "Ray Tune ended: it started nothing though nothing ran; Ray Tune is restarted in 5 s (1 of 3)"
    )
    assert "retry" not in [kind for kind, *_ in told], "what never ran counts no try"
    assert len(list((tmp_path / "ray").iterdir())) == 2


class Idle:
    """An actor that does nothing."""

    def is_there(self) -> bool:
        return True


ON_A_CLUSTER = """
import sys
from pathlib import Path
from experiments.engines.ray import engine as ray_tune
from experiments.scheduler.scheduler import Scheduler
from experiments.store.store import Store
from tests.conformance.test_ray_stands_still import Idle
from tests.quick_stage import quick_stage

ray_tune.STALLED_S = 30.0
home, taken = Path(sys.argv[1]), []
first = quick_stage(gpus=1, accelerator="L4")
second = quick_stage("finetune", parents=(first,), gpus=2, cpus=2, accelerator="L4")

def take_a_gpu(event):
    assert event.kind != "retry", event.message
    if event.kind == "queued" and event.stage == second:
        import ray
        taken.append(ray.remote(num_gpus=1, resources={"accelerator_type:L4": 0.001})(Idle).remote())
        ray.get(taken[0].is_there.remote(), timeout=60)

with ray_tune.RayEngine(home, sys.argv[2]) as engine:
    summary = Scheduler([first, second], Store(home), engine, data_root=home, on_event=take_a_gpu).run()
assert taken and summary.done == [first, second], summary
"""


def test_a_cluster_that_starts_nothing_is_joined_anew(tmp_path: Path, ray_cluster: RayCluster) -> None:
    """What its lost processes had goes back when their driver leaves, and nothing counts as a failure."""
    ray_cluster.add(3, 2, "L4")
    ran = subprocess.run(
        [sys.executable, "-c", ON_A_CLUSTER, str(tmp_path), ray_cluster.address],
        env=os.environ | ray_cluster.environment | {"PYTHONPATH": str(ROOT)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert ran.returncode == 0, ran.stderr
    assert "the Ray cluster started none of the jobs that fit on it for 30 s; it is joined again" in ran.stderr
    assert len(list((tmp_path / "ray").iterdir())) == 2
