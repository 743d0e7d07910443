"""What a node of a Ray cluster in an allocation takes of it, and how it waits for the workers that Ray leaves."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from experiments.engines.ray.node import Share, environment_of, share_of, start_command
from smaug_core.errors import SmaugError

TASK = {"SLURM_PROCID": "1", "SLURM_CPUS_ON_NODE": "8"}


@pytest.mark.parametrize(
    ("told", "gpus"),
    [
        ({}, 0),
        ({"SLURM_GPUS_ON_NODE": "4", "CUDA_VISIBLE_DEVICES": "0,1,2,3"}, 4),
        ({"SLURM_GPUS_ON_NODE": "2"}, 2),
        ({"SLURM_GPUS_ON_NODE": "4", "CUDA_VISIBLE_DEVICES": "GPU-1a,GPU-2b"}, 2),
        ({"CUDA_VISIBLE_DEVICES": "NoDevFiles"}, 0),
        ({"CUDA_VISIBLE_DEVICES": ""}, 0),
    ],
)
def test_ray_gets_what_the_job_has_on_the_node(told: dict[str, str], gpus: int) -> None:
    assert share_of(TASK | told) == Share(1, 8, gpus, None)
    assert share_of(TASK | told | {"SMAUG_ACCELERATOR": "A6000"}) == Share(1, 8, gpus, "A6000")


@pytest.mark.parametrize("missing", sorted(TASK))
def test_outside_of_a_task_it_is_refused(missing: str) -> None:
    told = {name: value for name, value in TASK.items() if name != missing}
    with pytest.raises(SmaugError, match=f"{missing} is not set; expected a task that srun started"):
        share_of(told)


def test_the_head_finds_a_port_and_has_no_dashboard() -> None:
    command = start_command(Share(0, 8, 4, "A6000"), None, Path("/tmp/r"))
    assert {"--head", "--port=0", "--include-dashboard=false", "--num-cpus=8", "--num-gpus=4"} <= set(command)
    assert '--resources={"accelerator_type:A6000": 1}' in command
    assert not [word for word in command if word.startswith("--address")]


def test_other_nodes_go_to_the_head() -> None:
    command = start_command(Share(1, 8, 0, "A6000"), "10.0.0.1:4711", Path("/tmp/r"))
    assert "--address=10.0.0.1:4711" in command
    assert not [word for word in command if word.startswith(("--head", "--port", "--include", "--resources"))]


def test_nothing_of_the_environment_tells_ray_otherwise() -> None:
    before = {"PATH": "/bin", "RAY_AUTH_TOKEN": "of another cluster", "RAY_ADDRESS": "10.9.9.9:6379"}
    several = environment_of(before | {"SLURM_NNODES": "2"}, Path("/f"))
    assert several.items() >= {"PATH": "/bin", "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": "/f/token"}.items()
    assert several["RAY_kill_child_processes_on_worker_exit"] == "false"
    assert not {"RAY_AUTH_TOKEN", "RAY_ADDRESS", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"} & several.keys()
    alone = environment_of(before | {"SLURM_NNODES": "1"}, Path("/f"))
    assert alone["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] == "0", "it listens on the loopback device only"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has processes adopt others")
def test_processes_that_ray_leaves_are_waited_for() -> None:
    code = """
import subprocess, time
from experiments.engines.ray.node import adopt_orphans, has_children
adopt_orphans()
subprocess.run(["sh", "-c", "sleep 1 &"])
assert has_children()
while has_children(): time.sleep(0.05)
"""
    began = time.monotonic()
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    assert time.monotonic() - began > 1.0
