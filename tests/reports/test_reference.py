"""The committed measurements at scale tiny: a fresh home that loads them gives the committed cells."""

import csv
from pathlib import Path

from experiments.tracking.sync import sync
from reports.report import make_tables, read_report

REFERENCE = Path(__file__).resolve().parents[2] / "reports" / "measurements" / "tiny"
STAGES, TRIALS = 104, 39


def cells(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return [{key: value for key, value in row.items() if key != "runs"} for row in csv.DictReader(file)]


def test_the_reference_loads_and_gives_the_committed_cells(tmp_path):
    stages, trials = sync(tmp_path / "home", records=REFERENCE)
    assert (stages, trials) == (STAGES, TRIALS)
    report = read_report(tmp_path / "home")
    assert report.faults == []
    make_tables(report, tmp_path / "out", None)
    made = cells(tmp_path / "out" / "cells.csv")
    assert made == cells(REFERENCE / "cells.csv")
    assert sum(cell["measured"] != "" for cell in made) > 150
    hours = {cell["unit"] for cell in made if cell["column"] == "pretrain.hours" and cell["measured"]}
    assert hours == {"A6000 GPU h (published), CPU h (measured)"}, "CPU time is never called GPU hours"
