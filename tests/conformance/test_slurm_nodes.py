"""A stage over several nodes of a real Slurm: two processes on each of two."""

import json
import subprocess
import sys
from dataclasses import replace

import psutil
import pytest
from safetensors.torch import load_file

from experiments.engines.command import worker_job
from experiments.engines.slurm.engine import SlurmEngine
from experiments.engines.slurm.profile import load_cluster
from experiments.store.attempt import read_attempts
from experiments.store.store import Store
from tests.conformance.drivers import ROOT, states, trail, wait_until
from tests.conformance.test_engines import assert_every_attempt_is_billed_once
from tests.conformance.test_slurm import LONG, Start, assert_done, begin, let_go
from tests.experiments.smoke import prepared_training
from tests.quick_driver import make_stages
from tests.slurm_cluster import PROFILE, OneMachine

pytestmark = pytest.mark.slurm

TWO_NODES = {"nodes": 2, "gpus": 4, "cpus": 4, "accelerator": "A6000"}


def test_one_stage_on_two_nodes(whole: OneMachine, drive: Start, store: Store) -> None:
    chains = [[("pretrain", LONG | TWO_NODES)]]
    (stage,) = make_stages(chains)
    driver = drive(whole.site, chains)
    driver.wait_until(lambda: trail(store, stage) == [1, 2])
    given = whole.ask("scontrol", "show", "job", "--details", whole.job_of(store, stage))
    assert (given.count("GRES=gpu:a6000:2(IDX:"), "NumNodes=2" in given) == (1, True), "on each of node[1-2]"
    let_go(store, stage)
    assert driver.finish()["done"] == [stage.fingerprint]
    assert sorted((store.directory(stage) / "ranks.txt").read_text().splitlines()) == [f"{n} of 4" for n in (1, 2, 3)]
    (attempt,) = read_attempts(store.directory(stage))
    assert attempt.last.spent_s == pytest.approx(4 * attempt.last.wall_s, abs=0.1)  # two looks at the clock
    hosts = {json.loads(path.read_text())["node"] for path in (attempt.directory / "ranks").iterdir()}
    assert hosts == {0, 1}


@pytest.mark.slow
@pytest.mark.parametrize("how", ["near the limit", pytest.param("requeue", marks=pytest.mark.nightly)])
def test_a_stage_on_two_nodes_saves_and_goes_on(whole: OneMachine, drive: Start, store: Store, how: str) -> None:
    driver, stage, _ = begin(whole, drive, store, **TWO_NODES)
    wait_until(lambda: len(list(store.directory(stage).glob("attempts/0001/ranks/*.json"))) == 4)
    job = whole.job_of(store, stage)
    whole.ask(*(("scontrol", "requeue") if how == "requeue" else ("scancel", "--signal=USR2")), job)
    wait_until(lambda: states(store, stage) == ["interrupted"])
    let_go(store, stage)
    assert_done(driver, store, stage, ["interrupted", "done"])


@pytest.mark.slow
def test_a_process_killed_on_the_second_node(whole: OneMachine, drive: Start, store: Store) -> None:
    """Step 2 was not saved yet, and is done again."""
    driver, stage, _ = begin(whole, drive, store, checkpoint_every=1, **TWO_NODES)
    notes = store.directory(stage) / "attempts" / "0001" / "ranks"
    wait_until(lambda: len(list(notes.glob("*.json"))) == 4)
    psutil.Process(json.loads((notes / "3.json").read_text())["pid"]).kill()
    wait_until(lambda: states(store, stage) == ["interrupted"])
    let_go(store, stage)
    assert driver.finish()["done"] == [stage.fingerprint]
    assert (trail(store, stage), states(store, stage)) == ([1, 2, 2, 3, 4], ["interrupted", "done"])
    assert_every_attempt_is_billed_once(store, stage)


@pytest.mark.slow
def test_a_real_training_on_two_nodes_gives_what_one_process_gives(
    whole: OneMachine, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four processes, two on each node; they exchange by gloo what GPUs would by NCCL."""
    stage = prepared_training(store.home)
    alone, apart = Store(store.home / "alone"), Store(store.home / "apart")
    for each in (alone, apart):
        each.prepare(stage)
    command = [sys.executable, "-m", "experiments.worker", str(alone.directory(stage)), "--data-root"]
    data = store.home / "data"
    subprocess.run([*command, str(data)], cwd=ROOT, timeout=300, check=True)
    job = worker_job(stage, apart.directory(stage), data)
    shared = replace(job, command=(*job.command, "--processes", "4", "--nodes", "2"), cpus=4, nodes=2)
    monkeypatch.setenv("SLURM_CONF", whole.environment["SLURM_CONF"])
    with SlurmEngine(apart.home, load_cluster(PROFILE)) as engine:
        engine.submit(shared)
        wait_until(lambda: engine.poll()[job.name].ended)
    result = apart.result(stage)
    assert result is not None and (result.processes, result.nodes) == (4, 2)
    one, four = (load_file(each.directory(stage) / "model" / "model.safetensors") for each in (alone, apart))
    for name, tensor in one.items():
        assert (tensor - four[name]).abs().max() < 1e-3, name
