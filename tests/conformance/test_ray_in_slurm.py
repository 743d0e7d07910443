"""Ray in an allocation of a real Slurm: it has what the job has, lets in who has its token, and leaves nothing."""

import os
import socket
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from experiments.stages.stage import Stage
from experiments.store.attempt import read_attempts
from experiments.store.store import Store
from tests.conformance.drivers import Driver, Site, Told, states, trail, wait_until
from tests.conformance.test_ray_cluster import raylet_of
from tests.experiments.smoke import Smoke
from tests.quick_driver import make_stages
from tests.quick_stage import quick_stage
from tests.ray_in_slurm import SCRIPT, RayInSlurm, outside
from tests.slurm_cluster import OneMachine

on_slurm = pytest.mark.slurm
Start = Callable[[Site, list[Any]], Driver]
LONG: dict[str, Any] = {"steps": 4, "hold_at": 2, "gpus": 1, "accelerator": "A6000"}


@pytest.fixture(scope="module")
def cluster(one_machine: OneMachine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayInSlurm]:
    with RayInSlurm(one_machine, tmp_path_factory.mktemp("ray")) as job:
        job.wait_until_ready()
        yield job


def assert_nothing_is_left(job: RayInSlurm, address: str) -> None:
    assert job.processes() == []
    assert job.folders == []
    host, _, port = address.rpartition(":")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((host, int(port)), timeout=5)


def begin(job: RayInSlurm, drive: Start, store: Store) -> tuple[Driver, Stage, str]:
    """A driver outside of the job, whose one stage has come to where it holds; and the cluster's address."""
    site = job.site()
    (stage,) = make_stages([[("pretrain", LONG)]])
    driver = drive(site, [[("pretrain", LONG)]])
    driver.wait_until(lambda: trail(store, stage) == [1, 2])
    return driver, stage, site.name.removeprefix("ray@")


@on_slurm
def test_stages_of_a_driver_outside_run_on_both_nodes(cluster: RayInSlurm, drive: Start, store: Store) -> None:
    """Each takes both GPUs of a node; three CPUs, or three GPUs, are more than a node of the job has."""
    driver = Driver(store.home, cluster.site())
    raylets: dict[int, int] = {}

    def note(told: Told) -> None:
        if told.kind == "started":
            raylets[told.worker] = raylet_of(told.worker)
            held = psutil.Process(told.worker).environ()
            assert sorted(held["CUDA_VISIBLE_DEVICES"].split(",")) == ["0", "1"]
            assert "RAY_AUTH_TOKEN" not in held
        if len(raylets) == 2:
            for stage in both:
                (store.directory(stage) / "go").touch()

    both = [quick_stage(seed=seed, gpus=2, cpus=2, accelerator="A6000", hold_at=1) for seed in (1, 2)]
    try:
        ran = driver.run(store, *both, on_event=note)
        assert (len(ran.done), ran.failed) == (2, [])
        assert len(set(raylets.values())) == 2
        assert "at most 2" in driver.run(store, quick_stage(gpus=3)).refused
        assert "at most 2" in driver.run(store, quick_stage(cpus=3)).refused
        assert (
            "'H100' is not here; there is A6000" in driver.run(store, quick_stage(gpus=1, accelerator="H100")).refused
        )
    finally:
        driver.close()


@on_slurm
def test_the_token_is_in_one_closed_file_only(cluster: RayInSlurm, one_machine: OneMachine) -> None:
    (folder,) = cluster.folders
    token = folder / "token"
    secret = token.read_bytes()
    assert len(bytes.fromhex(secret.decode())) == 32
    assert [stat.S_IMODE(path.stat().st_mode) for path in (folder, token)] == [0o700, 0o600]
    kept = [path for root in (cluster.home, one_machine.base) for path in root.rglob("*") if path.is_file()]
    assert [path for path in [*kept, cluster.log] if secret in path.read_bytes()] == [token]
    running = cluster.processes()
    assert len(running) > 8
    assert not [process for process in running if secret.decode() in " ".join(process.cmdline())]
    assert not [process for process in running if secret.decode() in process.environ().values()]


@on_slurm
def test_who_has_no_token_is_not_let_in(cluster: RayInSlurm, tmp_path: Path) -> None:
    address = cluster.site().name.removeprefix("ray@")
    home = Smoke(tmp_path)
    for wrong in ({}, {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64}):
        made = home.sweep("--address", address, verb="plan", HOME=str(tmp_path), **wrong)
        assert made.returncode == 2
        assert made.stderr.startswith(f"--address {address}: no Ray cluster takes us in ("), made.stderr


@pytest.mark.nightly
@on_slurm
def test_two_clusters_share_nodes(cluster: RayInSlurm, one_machine: OneMachine, tmp_path: Path) -> None:
    with RayInSlurm(one_machine, tmp_path, nodes=1, cpus=1) as other:
        address = other.wait_until_ready()["address"]
        assert ": 1 CPUs, 2 GPUs\nslurm/ray_cluster.sh: a node has 1 CPU; expected" in other.log.read_text()
        assert address.startswith("127.0.0.1:"), "one node alone"
        listening = {
            connection.laddr.ip.removeprefix("::ffff:")
            for process in other.processes()
            if process.name() != "srun"  # it waits for what its tasks print
            for connection in process.net_connections("tcp")
            if connection.status == psutil.CONN_LISTEN
        }
        assert listening == {"127.0.0.1"}
    assert_nothing_is_left(other, address)
    assert not cluster.has_ended()
    told = cluster.log.read_text()
    assert "Ray has:\nnode1: 2 CPUs, 2 GPUs\nnode2: 2 CPUs, 2 GPUs\n" in told and "a node has 1 CPU" not in told


ENDS: dict[str, tuple[tuple[str, ...], str]] = {
    "scancel": ((), "CANCELLED"),
    "before the time limit": (("--batch", "--signal=TERM"), "COMPLETED"),
    "its nodes alone": (("--signal=TERM",), "COMPLETED"),
}


@pytest.mark.slow
@on_slurm
@pytest.mark.parametrize("how", ["scancel", *(pytest.param(how, marks=pytest.mark.nightly) for how in list(ENDS)[1:])])
def test_at_the_end_stages_save_and_nothing_is_left(
    one_machine: OneMachine, drive: Start, store: Store, tmp_path: Path, how: str
) -> None:
    with RayInSlurm(one_machine, tmp_path) as job:
        driver, stage, address = begin(job, drive, store)
        options, state = ENDS[how]
        one_machine.ask("scancel", *options, job.job)
        assert job.wait_for_end().split()[0] == state
        assert_nothing_is_left(job, address)
    assert states(store, stage) == ["interrupted"]
    assert store.record(stage).attempts[0].last.step == 2, "it saved"


@pytest.mark.nightly
@on_slurm
def test_a_node_that_ends_takes_no_other_with_it(
    one_machine: OneMachine, drive: Start, store: Store, tmp_path: Path
) -> None:
    chains = [[("pretrain", LONG | {"gpus": 2, "seed": seed})] for seed in (1, 2)]
    stages = make_stages(chains)
    with RayInSlurm(one_machine, tmp_path) as job:
        driver = drive(job.site(), chains)
        driver.wait_until(lambda: all(trail(store, stage) == [1, 2] for stage in stages))
        (other,) = [process for process in job.processes() if process.name() == "raylet" and not is_head(process)]
        other.kill()
        for stage in stages:
            (store.directory(stage) / "go").touch()
        assert sorted(driver.finish()["done"]) == sorted(stage.fingerprint for stage in stages)
        assert [trail(store, stage) for stage in stages] == [[1, 2, 3, 4]] * 2
        assert not job.has_ended()
        assert job.log.read_text().count("ray_node: Ray ended on node 1") == 1


def is_head(raylet: psutil.Process) -> bool:
    return "--head" in raylet.cmdline()


@pytest.mark.nightly
@on_slurm
def test_a_driver_outside_ends_with_its_cluster_and_goes_on_in_another(
    cluster: RayInSlurm, one_machine: OneMachine, drive: Start, store: Store, tmp_path: Path
) -> None:
    """Ray looks for a head that is gone for a minute."""
    with RayInSlurm(one_machine, tmp_path) as job:
        driver, stage, _ = begin(job, drive, store)
    assert driver.process.wait(120) == 1
    (store.directory(stage) / "go").touch()
    ended = drive(cluster.site(), [[("pretrain", LONG)]]).finish()
    assert ended["done"] == [stage.fingerprint]
    assert (states(store, stage), trail(store, stage)) == (["interrupted", "done"], [1, 2, 3, 4])


@pytest.mark.nightly
@on_slurm
def test_a_job_that_is_queued_again_makes_a_new_cluster(one_machine: OneMachine, tmp_path: Path) -> None:
    with RayInSlurm(one_machine, tmp_path) as job:
        before = job.wait_until_ready()
        secret = Path(before["token"]).read_text()
        one_machine.ask("scontrol", "requeue", job.job)
        wait_until(lambda: not Path(before["token"]).exists())
        after = job.wait_until_ready()
        assert Path(after["token"]).read_text() != secret
    assert_nothing_is_left(job, after["address"])


@pytest.mark.slow
@on_slurm
def test_nodes_that_do_not_join_in_time_are_told(one_machine: OneMachine, tmp_path: Path) -> None:
    with RayInSlurm(one_machine, tmp_path, SMAUG_RAY_JOIN_S=1) as job:
        assert job.wait_for_end() == "FAILED 1:0"
        assert "of 2 nodes joined within 1 s (SMAUG_RAY_JOIN_S)" in job.log.read_text()
        assert (job.processes(), job.folders) == ([], [])


def in_job(one_machine: OneMachine, smoke: Smoke, *more: str) -> RayInSlurm:
    """A job with a sweep of one row, in a home of its own."""
    command = ("sweeps/masking_ratio.yaml", "--only", "50%", "--scale", str(smoke.scale), *more)
    return RayInSlurm(one_machine, smoke.folder, *command)


@pytest.mark.slow
@on_slurm
def test_a_sweep_in_the_job_runs_and_ends_it(one_machine: OneMachine, tmp_path: Path) -> None:
    with in_job(one_machine, Smoke(tmp_path)) as job:
        assert job.wait_for_end() == "COMPLETED 0:0", job.log.read_text()
        assert (job.processes(), job.folders) == ([], [])
        assert len(list((job.home / "store").glob("*/*/result.json"))) == 3


@pytest.mark.nightly
@on_slurm
def test_a_sweep_in_the_job_saves_near_the_time_limit(one_machine: OneMachine, tmp_path: Path) -> None:
    smoke = Smoke(tmp_path)
    with in_job(one_machine, smoke, "--set", "pretrain.epochs=1000") as job:
        wait_until(lambda: [*job.home.glob("store/pretrain/*/attempts/*/metrics.jsonl")] or job.has_ended())
        one_machine.ask("scancel", "--batch", "--signal=TERM", job.job)
        assert job.wait_for_end() == "FAILED 143:0", job.log.read_text()
        assert (job.processes(), job.folders) == ([], [])
    (attempt,) = read_attempts(smoke.stage("pretrain"))
    assert attempt.state == "interrupted"


@on_slurm
def test_a_sweep_that_is_refused_in_the_job_gives_its_exit_code(one_machine: OneMachine, tmp_path: Path) -> None:
    with RayInSlurm(one_machine, tmp_path, "no_such_sweep.yaml") as job:
        assert job.wait_for_end() == "FAILED 2:0"
        assert "no_such_sweep.yaml" in job.log.read_text()
        assert (job.processes(), job.folders) == ([], [])


@pytest.mark.parametrize(
    ("variables", "told"),
    [
        ({}, "must run in an allocation; expected: sbatch --nodes=2 slurm/ray_cluster.sh"),
        ({"SLURM_JOB_ID": "7", "SLURM_JOB_NUM_NODES": "1"}, "is not the source tree"),
    ],
)
def test_it_refuses_where_it_cannot_run(tmp_path: Path, variables: dict[str, str], told: str) -> None:
    ran = subprocess.run(
        [SCRIPT], env=outside() | variables, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert (ran.returncode, told in ran.stderr) == (2, True)
    assert os.listdir(tmp_path) == []
