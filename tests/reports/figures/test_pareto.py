"""The Pareto front by hand and by property, and what its figure says of published and measured rows."""

from dataclasses import replace
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.tracking.reader import TrialRow
from reports.analysis.build_tables import build_tables
from reports.analysis.cells import Table
from reports.figures.pareto import pareto_figure, pareto_front
from reports.paper.tables import load_published
from tests.reports.rows import made_ranks, row

SMALL_NUMBERS = st.integers(0, 5).map(float)
ROWS = [row("50%", hours=0.02, r1=20.0), row("10%", hours=0.03, r1=21.5), row("65%", hours=0.025, r1=19.0)]


def table(name: str, trials: list[TrialRow]) -> Table:
    return next(t for t in build_tables(load_published(), trials, made_ranks) if t.name == name)


def figure(name: str, trials: list[TrialRow]):
    found = pareto_figure(table(name, trials))
    assert found is not None
    return found


def texts(svg: str) -> list[str]:
    return ["".join(e.itertext()) for e in ElementTree.fromstring(svg).iter() if e.tag.endswith("}text")]


@pytest.mark.parametrize(
    ("points", "front"),
    [
        ([], []),
        ([(3.0, 40.0)], [0]),
        ([(2.0, 40.0), (1.0, 39.0), (3.0, 39.5)], [1, 0]),  # the third takes longer than the first and is worse
        ([(1.0, 40.0), (1.0, 41.0)], [1]),  # as long, better
        ([(1.0, 40.0), (2.0, 40.0)], [0]),  # as good, sooner
        ([(1.0, 40.0), (1.0, 40.0)], [0, 1]),  # equal ones do not dominate each other
    ],
)
def test_front_by_hand(points, front):
    assert pareto_front(points) == front


@given(st.lists(st.tuples(SMALL_NUMBERS, SMALL_NUMBERS), min_size=1, max_size=12))
def test_nothing_dominates_the_front_and_the_front_dominates_the_rest(points):
    front = pareto_front(points)

    def dominates(one, other):
        return one != other and one[0] <= other[0] and one[1] >= other[1]

    assert front
    for place, point in enumerate(points):
        dominated = any(dominates(points[other], point) for other in front)
        assert dominated == (place not in front)
    assert [points[place] for place in front] == sorted(points[place] for place in front)


def test_published_rows_alone_without_measurements():
    shown = figure("4", [])
    assert shown.name == "pareto-4"
    assert {cells[0] for cells in shown.data.rows} == {"published"}
    assert "Measured" not in shown.caption and "A6000 GPU h" in shown.caption
    assert "10%: 70.8 h, 40.5" in shown.alt and "all rows: 65%, 50%, 25%, 10%" in shown.alt


def test_measured_rows_have_a_panel_with_their_device_unit_and_interval():
    shown = figure("4", ROWS)
    measured = [cells for cells in shown.data.rows if cells[0] == "measured"]
    assert [(c[1], c[2], c[3], c[4], c[6]) for c in measured] == [
        ("10%", "0.0300", "CPU h", "21.5", "yes"),
        ("50%", "0.0200", "CPU h", "20.0", "yes"),
        ("65%", "0.0250", "CPU h", "19.0", "no"),
    ]
    assert all(" to " in cells[5] for cells in measured)
    assert "scale tiny on Xeon" in shown.caption and "bootstrap over queries" in shown.caption
    assert "2 of 3 rows: 50%, 10%" in shown.alt
    assert texts(shown.svg).count("50%") == 2


def test_dominated_points_are_hollow():
    root = ElementTree.fromstring(figure("4", ROWS).svg)
    marks = [e for e in root.iter() if e.tag.endswith("}use") and e.get("stroke") == "#d55e00"]
    drawn = [(mark.get("fill"), mark.get("fill-opacity")) for mark in marks]
    assert drawn == [("#d55e00", None), ("#d55e00", None), (None, "0")]


def test_devices_that_do_not_compare_have_panels_of_their_own():
    other = row("10%", hours=0.001, r1=21.5, device="H200", unit="H200 GPU h")
    shown = figure("4", [ROWS[0], other])
    assert [cells[3] for cells in shown.data.rows if cells[0] == "measured"] == ["CPU h", "H200 GPU h"]
    assert "on Xeon" in shown.caption and "on H200" in shown.caption
    assert [cells[6] for cells in shown.data.rows if cells[0] == "measured"] == ["yes", "yes"]


def test_a_table_without_published_hours_counts_fine_tuning_in():
    trials = [
        row(variant, hours=hours, r1=r1, sweep="resolution", table="10", baseline="224×224", position=place)
        for place, (variant, hours, r1) in enumerate([("224×224", 0.02, 20.0), ("288×288", 0.03, 22.0)])
    ]
    trials = [replace(trial, columns=("msrvtt.t2v.r1", "msrvtt.t2v.r5", "msrvtt.t2v.r10")) for trial in trials]
    shown = figure("10", trials)
    assert [cells[:3] for cells in shown.data.rows] == [
        ("measured", "224×224", "0.0400"),  # row_hours.total is twice the hours of pre-training here
        ("measured", "288×288", "0.0600"),
    ]
    assert "prints no hours" in shown.caption
    assert pareto_figure(table("10", [])) is None


def test_a_row_that_cannot_be_drawn_is_told():
    shown = figure("4", [*ROWS, row("25%", hours=0.02)])
    assert "Row 25% is not drawn" in shown.caption
    faulty = [*ROWS, row("25%", hours=0.02, r1=20.0, run_id="a"), row("25%", hours=0.02, r1=20.0, run_id="b")]
    assert "both claim seed 0" in figure("4", faulty).caption


def test_marks_are_told_with_what_they_mean():
    shown = figure("4", [ROWS[0], row("10%", hours=0.03, r1=21.5, code="other")])
    assert "Row 10%: other code (made by other code than the baseline row)." in shown.caption
    assert "Row 50%:" not in shown.caption


def test_tables_without_hours_have_no_such_figure():
    assert pareto_figure(table("2", [])) is None
