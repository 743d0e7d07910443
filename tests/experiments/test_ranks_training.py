"""A real training that two processes share in a sweep's worker gives what one gives."""

import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from experiments.store.attempt import read_attempts
from experiments.store.examples import stored_gallery
from experiments.store.store import Store, read_curve
from tests.experiments.smoke import ROOT, prepared_training

pytestmark = pytest.mark.slow


def test_two_processes_train_as_one_does(tmp_path: Path) -> None:
    stage, data = prepared_training(tmp_path), tmp_path / "data"
    results, weights, curves = [], [], []
    for processes in (1, 2):
        store = Store(tmp_path / str(processes))
        directory = store.prepare(stage)
        command = [sys.executable, "-m", "experiments.worker", str(directory), "--data-root", str(data)]
        told = subprocess.run(
            [*command, "--processes", str(processes)], capture_output=True, text=True, cwd=ROOT, timeout=300
        )
        (attempt,) = read_attempts(directory)
        assert told.returncode == 0, (attempt.directory / "log.txt").read_text()
        result = store.result(stage)
        assert result is not None and result.processes == processes
        hours = store.record(stage).hours
        assert 0 < hours.useful < hours.billed and not hours.estimated
        assert hours.useful * 3600 == pytest.approx(result.useful_s)
        assert hours.lost < 0.5 * hours.useful, "what torchrun itself uses meanwhile, at most"
        results.append(result)
        weights.append(load_file(directory / "model" / "model.safetensors"))
        curves.append([(point.step, point.values["loss"]) for point in read_curve(directory)])
    assert results[0].metrics == pytest.approx(results[1].metrics, abs=1e-4)
    assert len(curves[0]) == 4
    for one, two in zip(*curves, strict=True):
        assert one == pytest.approx(two, abs=1e-4)
    for name, tensor in weights[0].items():
        assert (tensor - weights[1][name]).abs().max() < 1e-3, name
    assert results[0].files.keys() == results[1].files.keys()
    galleries = [stored_gallery(Store(tmp_path / name).directory(stage)) for name in ("1", "2")]
    for gallery in galleries:
        assert gallery is not None and gallery.summary == "6 pictures"
