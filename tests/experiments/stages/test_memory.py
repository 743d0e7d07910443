"""How much memory an attempt took at most: counted by the kernel, recorded, and told."""

import json
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from experiments.engines.base import Job, local_inventory
from experiments.engines.ray.engine import memory_of
from experiments.maintenance.status import Observer
from experiments.stages.memory import PEAK_MEMORY, bytes_for_jobs, peak_bytes_of_tree
from experiments.store.attempt import read_attempts
from experiments.store.store import Store, all_stages
from experiments.store.trials import write_trial
from experiments.tracking.run_content import run_of_stage
from experiments.worker.outcome import DONE
from tests.conformance.drivers import wait_until
from tests.experiments.made_trials import execute, trial
from tests.experiments.worker.test_main import run, start
from tests.quick_stage import quick_stage

MIB = 2**20

PARENT = """
import subprocess, sys, time
held = b"a" * (200 * 2**20)
del held
child = "held = b'a' * (100 * 2**20); print('ready', flush=True); input()"
subprocess.run([sys.executable, "-c", child])
"""


def peak_of(attempt_of: Path) -> int:
    (attempt,) = read_attempts(attempt_of)
    return int(attempt.last.peak_memory_bytes)


def test_a_peak_that_is_over_counts_and_so_do_children() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdin is not None and parent.stdout is not None
        assert parent.stdout.readline() == "ready\n"
        assert 300 * MIB < peak_bytes_of_tree(parent.pid) < 400 * MIB
        parent.stdin.close()
    assert peak_bytes_of_tree(parent.pid) == 0


def test_the_peak_of_a_worker_is_in_its_end_and_of_one_that_was_killed_in_its_progress(tmp_path: Path) -> None:
    store = Store(tmp_path)
    done, held = quick_stage(hold_mib=200), quick_stage(hold_mib=200, hold_at=2, seed=1)
    worker = start(store.prepare(done))
    worker.communicate(timeout=60)
    assert worker.returncode == DONE
    assert 200 * MIB < peak_of(store.directory(done)) < 400 * MIB
    killed = start(store.prepare(held))
    wait_until(lambda: store.has_attempt(held, 1) and read_attempts(store.directory(held))[0].last.step)
    killed.kill()
    killed.communicate()
    assert 200 * MIB < peak_of(store.directory(held)) < 400 * MIB


def test_in_a_process_that_runs_several_stages_each_has_its_own(tmp_path: Path) -> None:
    store = Store(tmp_path)
    large, small = quick_stage(hold_mib=300), quick_stage(seed=1)
    for stage in (large, small):
        assert run(store.prepare(stage)) == DONE
    assert peak_of(store.directory(large)) - peak_of(store.directory(small)) > 250 * MIB


def test_it_is_told_in_mlflow_and_by_status_and_missing_in_what_was_recorded_before(tmp_path: Path) -> None:
    made = trial()
    write_trial(tmp_path, made)
    execute(tmp_path, made)
    for path in (tmp_path / "store").glob("evaluate/*/attempts/*/*.json"):
        old = json.loads(path.read_text())
        path.write_text(json.dumps({name: value for name, value in old.items() if name != PEAK_MEMORY}))
    told = {facts.document.kind: (facts, run_of_stage(facts).metrics) for facts in all_stages(tmp_path)}
    facts, metrics = told["pretrain"]
    assert metrics["memory.peak_bytes"] == (facts.peak_memory_bytes, facts.last_sign)
    assert facts.peak_memory_bytes is not None and facts.peak_memory_bytes > 10 * MIB
    facts, metrics = told["evaluate"]
    assert facts.peak_memory_bytes is None and "memory.peak_bytes" not in metrics
    (seen,) = Observer(tmp_path).poll().trials
    detail = seen.to_json()["detail"]
    assert detail["pretrain"][PEAK_MEMORY] == told["pretrain"][0].peak_memory_bytes
    assert [stage[PEAK_MEMORY] for name, stage in detail.items() if name.startswith("evaluate")] == [None]


def test_jobs_may_ask_for_most_of_what_the_control_groups_leave(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("experiments.stages.memory.CGROUPS", tmp_path)
    monkeypatch.setattr("experiments.stages.memory.OWN_CGROUPS", tmp_path / "own")
    whole = int(0.9 * psutil.virtual_memory().total)
    assert bytes_for_jobs() == whole
    (tmp_path / "own").write_text("12:memory:/old/job\n3:cpu,cpuacct:/\n0::/slice/job\n")
    (tmp_path / "slice" / "job").mkdir(parents=True)
    (tmp_path / "memory" / "old" / "job").mkdir(parents=True)
    (tmp_path / "slice" / "job" / "memory.max").write_text("max\n")
    assert bytes_for_jobs() == whole
    (tmp_path / "slice" / "memory.max").write_text(f"{2**30}\n")
    assert bytes_for_jobs() == int(0.9 * 2**30)
    (tmp_path / "memory" / "old" / "job" / "memory.limit_in_bytes").write_text(f"{2**29}\n")
    assert bytes_for_jobs() == int(0.9 * 2**29), "of version 1"


def test_what_is_asked_for_on_rays_of_our_own_and_of_others() -> None:
    (here,) = local_inventory().nodes
    assert here.memory_bytes is not None

    def asked(is_own: bool, **own: int) -> int | None:
        return memory_of(Job(name="n", command=(), directory=Path(), cpus=1, gpus=0, **own), is_own=is_own)

    assert asked(True) is None
    assert asked(True, peak_bytes=1000 * MIB) == 1280 * MIB
    assert asked(True, peak_bytes=here.memory_bytes) == here.memory_bytes, "the margin makes no stage too large"
    assert asked(False, peak_bytes=1000 * MIB) is None
    assert asked(True, peak_bytes=1000 * MIB, memory_bytes=5) == asked(False, memory_bytes=5) == 5
