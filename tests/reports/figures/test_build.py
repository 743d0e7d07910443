"""All figures of a report from a real ledger, and their files."""

import hashlib
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from experiments.tracking.reader import MlflowReader
from experiments.tracking.sync import sync
from reports.figures.build import make_figures, write_figures
from reports.figures.figure import Figure
from reports.paper.tables import ReportError
from reports.report import Report, read_report
from smaug_core.cost.flops import Part

REFERENCE = Path(__file__).resolve().parents[3] / "reports" / "measurements" / "tiny"
STEPS = {"tiny": {"encoder": Part(17, 3_000_000), "text": Part(32, 1_000_000)}}
MOST_BYTES, MOST_BYTES_OF_ALL = 60_000, 900_000


@pytest.fixture(autouse=True)
def no_server(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> tuple[Report, MlflowReader, list[Figure]]:
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        sync(home, records=REFERENCE)
        report, ledger = read_report(home), MlflowReader(home)
        return report, ledger, make_figures(report, ledger.stages(), ledger.curve, STEPS)


def kinds(figures: list[Figure]) -> dict[str, set[str]]:
    """By kind of figure, the names of tables."""
    found: dict[str, set[str]] = {}
    for figure in figures:
        kind, table, *_ = figure.name.split("-")
        found.setdefault(kind, set()).add(table)
    return found


def test_the_reference_has_every_figure(reference):
    _, _, figures = reference
    found = kinds(figures)
    assert found["pareto"] == {"4", "5", "6", "7", "8", "10", "11"}
    assert found["hours"] >= {"2", "4", "5", "6", "7", "8", "9", "10", "11"}
    assert found["shares"] == {"step"}
    drawn = {cells[1] for one in figures if one.name.startswith("curves") for cells in one.data.rows}
    assert len(drawn) == 26, "every stage of pre-training once or more"
    assert all("Not drawn" not in one.caption and "is not drawn" not in one.caption for one in figures)


def test_names_are_one_each_and_figures_small_enough_for_a_page(reference):
    _, _, figures = reference
    assert len({one.name for one in figures}) == len(figures)
    sizes = {one.name: len(one.svg.encode()) for one in figures}
    assert max(sizes.values()) < MOST_BYTES, sizes
    assert sum(sizes.values()) < MOST_BYTES_OF_ALL
    ids = [found for one in figures for found in re.findall(r' id="([^"]+)"', one.svg)]
    assert len(ids) == len(set(ids))


def test_every_figure_has_words_and_numbers(reference):
    _, _, figures = reference
    for one in figures:
        assert re.search(r"\d", one.alt) and len(one.alt) > 60, one.name
        assert one.caption.endswith(".") and one.data.rows, one.name
        assert all(len(cells) == len(one.data.header) for cells in one.data.rows), one.name


@pytest.mark.slow
def test_the_same_ledger_gives_the_same_bytes_in_another_process(reference):
    _, ledger, figures = reference
    code = (
        "import sys, hashlib; from pathlib import Path; from experiments.tracking.reader import MlflowReader;"
        "from reports.figures.build import make_figures; from reports.report import read_report;"
        "home = Path(sys.argv[1]); ledger = MlflowReader(home);"
        "figures = make_figures(read_report(home), ledger.stages(), ledger.curve);"
        "print(hashlib.sha256(repr(figures).encode()).hexdigest())"
    )
    home = Path(ledger.uri.removeprefix("sqlite:///")).parent
    ran = subprocess.run([sys.executable, "-c", code, str(home)], capture_output=True, text=True, check=True)
    mine = [one for one in figures if one.name != "shares-step"]
    assert ran.stdout.strip() == hashlib.sha256(repr(mine).encode()).hexdigest()


def test_files_for_print(reference, tmp_path):
    _, _, figures = reference
    paths = write_figures(figures, tmp_path)
    assert [path.name for path in paths] == [f"{one.name}.svg" for one in figures]
    for path, one in zip(paths, figures, strict=True):
        root = ElementTree.fromstring(path.read_text())
        assert root[0].text == one.title and "currentColor" not in path.read_text()


def test_a_folder_that_cannot_be_written_is_told(reference, tmp_path):
    _, _, figures = reference
    (tmp_path / "figures").write_text("a file is in the way")
    with pytest.raises(ReportError, match="cannot be written"):
        write_figures(figures[:1], tmp_path)


def test_without_measurements_the_published_numbers_are_drawn(tmp_path):
    figures = make_figures(read_report(tmp_path), [], MlflowReader(tmp_path).curve)
    assert kinds(figures) == {"pareto": {"4", "5", "6", "7", "8", "11"}}
    assert not list(tmp_path.iterdir()), "reading makes nothing"


def test_an_unreadable_ledger_leaves_published_numbers_and_says_why(tmp_path):
    (tmp_path / "mlflow.db").write_bytes(b"no database" * 100)
    report = read_report(tmp_path)
    assert report.unreadable
    figures = make_figures(report, [], MlflowReader(tmp_path).curve)
    assert kinds(figures) == {"pareto": {"4", "5", "6", "7", "8", "11"}}
    assert all("Nothing measured could be read:" in one.caption for one in figures)


def test_a_hostile_row_name_stays_text(reference):
    report, ledger, _ = reference
    (table,) = (one for one in report.tables if one.name == "4")
    name = "<script>alert(1)</script>"
    rows = {name if row == "10%" else row: cells for row, cells in table.rows.items()}
    hostile = replace(report, tables=[replace(table, rows=rows)])
    for one in make_figures(hostile, ledger.stages(), ledger.curve):
        assert "<script" not in one.svg
        ElementTree.fromstring(one.svg)
