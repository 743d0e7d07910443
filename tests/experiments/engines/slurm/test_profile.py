"""Cluster profiles: what comes with the project is right, and every fault of another is told with its line."""

from pathlib import Path

import pytest

from experiments.config.yaml_source import SweepError
from experiments.engines.base import Inventory, Node
from experiments.engines.slurm.profile import load_cluster

ROOT = Path(__file__).parents[4]
A6000 = ROOT / "slurm" / "a6000.yaml"


def faults_of(folder: Path, *changes: tuple[str, str]) -> list[str]:
    text = A6000.read_text()
    for before, after in changes:
        assert before in text
        text = text.replace(before, after)
    (folder / "c.yaml").write_text(text)
    with pytest.raises(SweepError) as told:
        load_cluster(folder / "c.yaml")
    return [str(fault).removeprefix(f"{folder}/") for fault in told.value.faults]


def test_the_papers_nodes() -> None:
    cluster = load_cluster(A6000)
    assert cluster.inventory == Inventory(
        (Node(cpus=64, gpus=4, accelerators=("RTX-A6000",), memory_bytes=480 * 2**30),), spans=True
    )
    assert (cluster.gres(4), cluster.gres(0)) == ("gpu:a6000:4", None)
    assert "HF_HOME" not in cluster.exported and "PATH" in cluster.exported


@pytest.mark.parametrize(("cpus", "gpus", "share"), [(32, 4, 1.0), (8, 1, 0.25), (32, 1, 0.5), (1, 0, 1 / 64)], ids=str)
def test_a_job_gets_its_share_of_the_memory(cpus: int, gpus: int, share: float) -> None:
    assert load_cluster(A6000).memory_mb(cpus, gpus) == int(480 * 1024 * share)
    assert load_cluster(A6000).memory_mb(cpus, gpus, 2**30 + 1) == 1025, "what it asks for goes before its share"


def test_an_unknown_key_is_told_with_its_line_and_the_nearest(tmp_path: Path) -> None:
    line = A6000.read_text().split("\npartition")[0].count("\n") + 2
    (told,) = faults_of(tmp_path, ("partition: gpu", "partion: gpu"))
    assert told == f"c.yaml:{line}:1: key 'partion' is unknown; did you mean 'partition'?"


def test_a_stage_has_some_time_before_it_must_save(tmp_path: Path) -> None:
    short = A6000.read_text().replace("time_minutes: 1440", "time_minutes: 6")
    (tmp_path / "c.yaml").write_text(short.replace("signal_seconds: 300", "signal_seconds: 299"))
    assert load_cluster(tmp_path / "c.yaml").signal_seconds == 299


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ("time_minutes: 1440 ", "# ", "time_minutes is missing"),
        (
            "time_minutes: 1440 ",
            "time_minutes: 6 ",
            "signal_seconds: 300, and the minute that Slurm may be early, are the whole time_minutes (6); a stage",
        ),
        ("time_minutes: 1440 ", "time_minutes: a day ", "time_minutes: 'a day' is not allowed"),
        (
            "time_minutes: 1440 ",
            "time_minutes: 99999999999 ",
            "time_minutes: 99999999999 is not allowed; expected at most 525600, a year",
        ),
        *(
            ("node: 480 ", f"node: {value} ", f"memory_gb_per_node: {shown} is not allowed; {right}")
            for value, shown, right in [
                (".inf", "inf", "input should be a finite number"),
                ("-.inf", "-inf", "input should be"),
                (".nan", "nan", "input should be"),
                ("1e30", "1e+30", "expected at most 1048576, a pebibyte"),
                ("0", "0", "input should be greater than 0"),
            ]
        ),
        ("gpus_per_node: 4", "gpus_per_node: 0", "accelerator: is a type of GPU, and gpus_per_node is 0"),
        *(
            ("gres_type: a6000 ", f"gres_type: {kind} ", f"gres_type: '{kind}' is not allowed; expected the type")
            for kind in ("gpu:a6000:4", "a6000,license")
        ),
        ("partition: gpu", "partition: gpu --uid=0", "partition: 'gpu --uid=0' is not allowed"),
        ("partition: gpu", 'partition: "gpu\\n#SBATCH --uid=0"', "partition: 'gpu\\n#SBATCH --uid=0' is not allowed"),
        ("# setup:", 'setup: ["true\\nrm -r ."]  #', "setup.0: 'true\\nrm -r .' is not allowed"),
        *(
            ("# setup:", f'setup: ["{line}"]  #', f"setup.0: '{line}' is not allowed; expected a command")
            for line in ("#SBATCH --time=9", "#PBS -N mine", "#BSUB -J mine")
        ),
        (
            "cluster: a6000",
            "cluster: A6000",
            "cluster: 'A6000' is not allowed; expected lower-case",
        ),
        ("# export: [HF_HOME]", "export: ['A,B=1']", "export.0: 'A,B=1' is not allowed; expected the name of a"),
        (
            "# export: [HF_HOME]",
            "export: [SLURM_GPUS]",
            "export.0: 'SLURM_GPUS' is not allowed; expected one other",
        ),
        (
            "# export: [HF_HOME]",
            "export: [SUBMITIT_X]",
            "export.0: 'SUBMITIT_X' is not allowed; expected one other",
        ),
        *(
            ("# export: [HF_HOME]", f"export: [{word}]", f"export.0: '{word}' is not allowed; expected the names")
            for word in ("ALL", "all", "None", "NIL")
        ),
    ],
)
def test_what_is_wrong_is_told(tmp_path: Path, before: str, after: str, told: str) -> None:
    assert any(f": {told}" in fault for fault in faults_of(tmp_path, (before, after)))
