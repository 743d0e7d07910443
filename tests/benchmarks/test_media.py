"""The benchmark of reading runs without the readers that it compares with, and says so."""

import json

from tests.benchmarks import media


def test_it_tells_what_each_file_took_and_what_is_not_compared(capsys, monkeypatch):
    monkeypatch.setattr(media, "find_spec", lambda name: None)
    name = "24 frames of 64x64.mp4"
    media.main(["--repeats", "2", "--files", name])
    printed = capsys.readouterr()
    (told,) = json.loads(printed.out)["files"]
    assert told["file"] == name and told["ours"]["median_ms"] >= told["ours"]["least_ms"] > 0
    assert told["ours"]["ours_relative"] == 1.0 and told["ours"]["mean_difference"] == 0.0
    assert [line.split(":")[0] for line in printed.err.splitlines()] == [
        "not compared with cv2",
        "not compared with decord",
    ]
