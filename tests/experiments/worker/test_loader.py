"""Loader processes of a stage: they change no result, and their time counts."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from experiments.stages.stage import loader_workers
from experiments.store.store import Store
from tests.experiments.smoke import ROOT, prepared_training


@pytest.mark.parametrize(
    ("resources", "processes", "workers"),
    [
        ({"cpus": 8, "gpus": 0}, 1, 0),
        ({"cpus": 8, "gpus": 1}, 1, 7),
        ({"cpus": 32, "gpus": 4}, 4, 7),
        ({"cpus": 4, "gpus": 4}, 4, 0),
        ({"cpus": 2, "gpus": 4}, 4, 0),
        ({"cpus": 8, "gpus": 0, "workers": 2}, 1, 2),
        ({"cpus": 8, "gpus": 1, "workers": 0}, 1, 0),
    ],
)
def test_each_process_has_its_share_of_the_cpus_for_loading(resources, processes, workers):
    assert loader_workers(resources, processes) == workers


def test_a_stage_with_loader_processes_has_the_same_result(tmp_path: Path) -> None:
    alone, data, results = prepared_training(tmp_path), tmp_path / "data", []
    for workers in (0, 2):
        stage = replace(alone, resources=alone.resources | {"workers": workers})
        assert stage.fingerprint == alone.fingerprint
        store = Store(tmp_path / str(workers))
        directory = store.prepare(stage)
        command = [sys.executable, "-m", "experiments.worker", str(directory), "--data-root", str(data)]
        subprocess.run(command, check=True, cwd=ROOT, timeout=300)
        result = store.result(stage)
        assert result is not None
        results.append(result)
        hours = store.record(stage).hours
        assert 0 < hours.useful < hours.billed and hours.lost < 0.1 * hours.useful
    assert results[0].files["model/model.safetensors"] == results[1].files["model/model.safetensors"]
    assert results[0].loader_wait_s == 0 < results[1].loader_wait_s < results[1].useful_s
