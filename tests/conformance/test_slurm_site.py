"""What `smaug doctor --cluster` finds, on a real Slurm that is as the profile says, and as it does not."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from experiments.engines.cluster import Cluster, load_cluster
from experiments.finding import Finding
from experiments.scale import load_scale
from experiments.site import check_slurm
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
    assert findings["slurm accounts"].found.startswith(kept)
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
    finding = found(replace(cluster, **other))[check]  # type: ignore[arg-type]
    assert finding.level == "fault" and words in finding.found and finding.mend


@pytest.mark.slurm
def test_the_default_partition_is_taken_where_none_is_named(cluster: Cluster) -> None:
    assert found(replace(cluster, partition=None))["slurm partition"].found == "gpu is up, and allows infinite"


@pytest.mark.slurm
def test_what_sbatch_takes_and_slurm_never_starts(whole: OneMachine, cluster: Cluster) -> None:
    whole.ask("scontrol", "update", "PartitionName=gpu", "State=DOWN", "MaxTime=29")
    try:
        finding = found(cluster)["slurm partition"]
        assert (finding.level, finding.found) == ("warning", "gpu is down; what is submitted waits for it")
        whole.ask("scontrol", "update", "PartitionName=gpu", "State=UP")
        finding = found(cluster)["slurm partition"]
        assert finding.level == "fault" and finding.mend == "time_minutes: at most 29"
        assert finding.found == "gpu allows 29:00, and the profile asks for 30 minutes"
    finally:
        whole.ask("scontrol", "update", "PartitionName=gpu", "MaxTime=UNLIMITED")


@pytest.mark.slurm
def test_a_scale_that_does_not_fit_the_nodes_is_a_warning(cluster: Cluster) -> None:
    findings = check_slurm(replace(cluster, gpus_per_node=2), load_scale("paper"))
    told = [finding.found for finding in findings if (finding.check, finding.level) == ("slurm stages", "warning")]
    assert "scale paper: resources.pretrain.gpus: 4 is more than one stage can have here; at most 2" in told


def test_without_slurm_it_is_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    (finding,) = found(load_cluster(PROFILE)).values()
    assert (finding.level, finding.found) == ("fault", "does not answer: there is no sinfo here")


@pytest.mark.slow
@pytest.mark.slurm
def test_the_command_tells_it_with_everything_else(cluster: Cluster, tmp_path: Path) -> None:
    ran = Smoke(tmp_path)("doctor", "--cluster", "slurm/one_machine/profile.yaml", "--json")
    assert ran.returncode == 0, ran.stderr
    assert [each["check"] for each in json.loads(ran.stdout)][-1] == "slurm accounts"
