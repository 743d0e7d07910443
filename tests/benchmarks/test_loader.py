"""The benchmark of the loader runs, and compares every reader with ours."""

import json

from tests.benchmarks import loader


def test_it_gives_the_time_of_each_reader_and_of_loader_processes(capsys, monkeypatch):
    monkeypatch.setattr(loader, "CLIPS", 2)
    monkeypatch.setattr(loader, "SECONDS", 2)
    loader.main(["--samples", "32", "--repeats", "1"])
    found = json.loads(capsys.readouterr().out)
    assert found["stills"].keys() == {"ours", "torchvision", "webdataset"}
    assert found["stills"]["ours"]["ours_relative"] == 1.0
    assert all(reader["cpu_ms"] > 0 for reader in found["four frames of a clip"].values())
    for kind in ("stills", "records"):
        assert found[f"loader processes, {kind}"]["samples_per_second"].keys() == {"1", "2"}
