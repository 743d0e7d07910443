"""What `smaug doctor --cluster` finds, on a real Slurm that is as the profile says, and as it does not."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from experiments.config.scale import load_scale
from experiments.engines.slurm.profile import Cluster, load_cluster
from experiments.maintenance.doctor.finding import Finding
from experiments.maintenance.doctor.slurm import check_slurm
from tests.conformance.drivers import wait_until
from tests.experiments.smoke import Smoke
from tests.slurm_cluster import PROFILE, OneMachine


@pytest.fixture
def cluster(whole: OneMachine, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    monkeypatch.setenv("SLURM_CONF", whole.environment["SLURM_CONF"])
    return load_cluster(PROFILE)


def found(cluster: Cluster, scale: str = "tiny") -> dict[str, Finding]:
    return {finding.check: finding for finding in check_slurm(cluster, load_scale(scale))}


@pytest.mark.slurm
def test_a_slurm_that_is_as_the_profile_says(whole: OneMachine, cluster: Cluster) -> None:
    findings = found(cluster)
    assert list(findings) == ["slurm partition", "slurm node", "slurm stages", "slurm accounts"]
    assert {finding.level for finding in findings.values()} == {"ok"}
    kept = "not kept; " if whole.missing_accounts() else "kept; "
    assert findings["slurm accounts"].message.startswith(kept)
    assert "; now it would start at 20" in findings["slurm node"].message
    assert not whole.jobs(), "nothing is submitted"


@pytest.mark.slurm
@pytest.mark.parametrize(
    ("other", "check", "words"),
    [
        ({"partition": "h100"}, "slurm partition", "there is no h100"),
        ({"cpus_per_node": 9}, "slurm node", "9 CPUs, 7680 MB, gpu:a6000:4, 30 minutes, partition gpu (allocation"),
        ({"gpus_per_node": 8}, "slurm node", "gpu:a6000:8"),
        ({"gres_type": "h100"}, "slurm node", "gpu:h100:4"),
        ({"memory_gb_per_node": 80.0}, "slurm node", "81920 MB"),
        ({"constraint": "fast"}, "slurm node", "constraint fast (allocation failure: Invalid feature"),
    ],
)
def test_what_the_cluster_has_not_got(cluster: Cluster, other: dict[str, object], check: str, words: str) -> None:
    finding = found(cluster.model_copy(update=other))[check]
    assert finding.level == "fault" and words in finding.message and finding.fix


@pytest.mark.slurm
@pytest.mark.parametrize("partition", [None, "gpu,", "gpu,gpu"])
def test_without_a_name_it_is_the_default_partition_and_one_named_twice_is_one(
    cluster: Cluster, partition: str | None
) -> None:
    assert found(cluster.model_copy(update={"partition": partition}))["slurm partition"].message == "gpu is up"


@pytest.mark.slurm
def test_one_of_several_partitions_is_enough(cluster: Cluster) -> None:
    finding = found(cluster.model_copy(update={"partition": "h100,gpu"}))["slurm partition"]
    assert (finding.level, finding.message) == ("ok", "gpu is up; not used: there is no h100")


@pytest.fixture
def gpu(whole: OneMachine) -> Iterator[Callable[..., None]]:
    """Changes the partition, for a test."""
    yield lambda *changes: whole.ask("scontrol", "update", "PartitionName=gpu", *changes)
    whole.ask("scontrol", "update", "PartitionName=gpu", "State=UP", "MaxTime=UNLIMITED", "Hidden=NO")


@pytest.mark.slurm
def test_a_partition_that_allows_less(cluster: Cluster, gpu: Callable[..., None]) -> None:
    """sbatch takes such a job, and it waits for ever."""
    gpu("MaxTime=29")
    finding = found(cluster)["slurm partition"]
    assert finding.level == "fault" and finding.fix == "time_minutes: at most 29"
    assert finding.message == "gpu allows 29:00, and the profile asks for 30 minutes"
    gpu("MaxTime=30", "Hidden=YES")
    assert found(cluster)["slurm partition"].message == "gpu is up, and allows 30:00"


@pytest.mark.slurm
@pytest.mark.parametrize(
    ("state", "words"),
    [("DOWN", "gpu is down: jobs wait until it is up"), ("DRAIN", "gpu takes no new jobs now (drain)")],
)
def test_a_partition_that_starts_nothing(cluster: Cluster, gpu: Callable[..., None], state: str, words: str) -> None:
    gpu(f"State={state}")
    findings = found(cluster)
    assert (findings["slurm partition"].level, findings["slurm partition"].message) == ("warning", words)
    assert "slurm node" not in findings, "sbatch refuses what is only for now, or takes it"


@pytest.mark.slurm
def test_nodes_that_all_start_nothing(whole: OneMachine, cluster: Cluster) -> None:
    """sbatch --test-only refuses what sbatch takes then."""
    whole.ask("scontrol", "update", "NodeName=node[1-2]", "State=DRAIN", "Reason=a test")
    finding = found(cluster)["slurm partition"]
    assert finding.level == "warning"
    assert finding.message == "no node of gpu can start a job now (2 drained): jobs wait"
    whole.ask("scontrol", "update", "NodeName=node1", "State=RESUME")
    wait_until(lambda: found(cluster)["slurm partition"].level == "ok")


@pytest.mark.slurm
def test_what_else_the_environment_asks_is_left_out_as_in_a_run(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SBATCH_PARTITION", "SINFO_PARTITION"):
        monkeypatch.setenv(name, "h100")
    assert {finding.level for finding in found(cluster.model_copy(update={"partition": None})).values()} == {"ok"}


@pytest.mark.slurm
def test_a_scale_that_does_not_fit_the_nodes_is_an_error(cluster: Cluster) -> None:
    findings = check_slurm(cluster.model_copy(update={"gpus_per_node": 2}), load_scale("paper"))
    found = [finding.message for finding in findings if (finding.check, finding.level) == ("slurm stages", "fault")]
    assert "scale paper: resources.pretrain.gpus: 4 is more than one stage can have here; at most 2" in found


def test_without_slurm_it_is_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    (finding,) = found(load_cluster(PROFILE)).values()
    assert (finding.level, finding.message) == ("fault", "does not answer: there is no sinfo here")


def test_no_answer_is_no_refusal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands of nobody's Slurm: it prints what is no text, one is missing, one hangs, the controller is away."""
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    monkeypatch.setenv("SLURM_CONF", str(tmp_path / "none"))
    monkeypatch.setattr("experiments.engines.slurm.commands.LIMIT_S", 1.0)

    def answer(command: str, script: str) -> None:
        (tmp_path / command).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / command).chmod(0o755)

    answer("sinfo", "printf 'g\\377|up|n/a|1|idle\\ngpu*|up|1-00:00:00|2|idle~\\ngpu*|up|1-00:00:00|1|down*\\n'")
    answer("sbatch", "exec sleep 30")
    answer("sacct", "echo slurm_persist_conn_open: away >&2; exit 1")
    findings = found(load_cluster(PROFILE))
    assert findings["slurm partition"].message == "gpu is up, and allows 1-00:00:00"
    assert findings["slurm node"].message == "not checked: sbatch gives no answer within 1 s"
    assert findings["slurm accounts"].level == "warning"
    answer("sbatch", "echo 'sbatch: error: Unable to contact slurm controller' >&2; exit 1")
    finding = found(load_cluster(PROFILE))["slurm node"]
    assert (finding.level, finding.fix) == ("warning", "try again")
    answer("sbatch", "echo 'sbatch: error: Invalid account or account/partition combination' >&2; exit 1")
    finding = found(load_cluster(PROFILE))["slurm node"]
    assert finding.level == "fault" and "sacctmgr show associations" in finding.fix


@pytest.mark.slow
@pytest.mark.slurm
def test_the_command_tells_it_with_everything_else(cluster: Cluster, tmp_path: Path) -> None:
    ran = Smoke(tmp_path)("doctor", "--cluster", "slurm/one_machine/profile.yaml", "--json")
    assert ran.returncode == 0, ran.stderr
    assert [each["check"] for each in json.loads(ran.stdout)][-1] == "slurm accounts"
