"""What is said of the paper's contradictions is what the transcribed tables hold."""

import re
import shutil

import pytest

from experiments.config.scale import load_scale
from reports.paper.contradictions import load_contradictions
from reports.paper.tables import PAPER, load_published, load_settings
from tests.reports.paper.consistency import faults_of

KNOWN = load_contradictions()
BY_ID = {told.id: told for told in KNOWN.contradictions}
PUBLISHED = load_published()


def test_every_quoted_cell_is_the_one_that_was_transcribed():
    settings = load_settings()
    cells = [place for told in KNOWN.contradictions for place in told.places if place.table]
    assert len(cells) > 40
    for place in cells:
        table, row, column = place.table, place.row, place.column
        held = settings[table].texts(row)[column] if table in settings else PUBLISHED[table].rows[row][column]
        assert place.says == (held if table in settings else f"{held:.1f}")
        assert place.where.startswith(f"Table {table}, row {row}, ")


def test_seventeen_matters_are_told_with_two_different_values_each_and_a_reading():
    assert len(BY_ID) == len(KNOWN.contradictions) == 17
    for told in KNOWN.contradictions:
        assert len({place.says for place in told.places}) >= 2, told.id
        assert len(told.reading) > 40 and told.what.endswith(".")


def test_the_figures_in_the_readings_follow_from_the_cells():
    """What a reading computes, computed again from its places."""

    def value(name, place):
        cell = BY_ID[name].places[place]
        return PUBLISHED[cell.table].rows[cell.row][cell.column]

    times = [value("speed_up", place) / value("speed_up", place + 1) for place in (2, 4, 6)]
    for shown, ratio in zip(("1.857", "1.11", "1.44"), times, strict=True):
        assert f"{ratio:.{len(shown) - 2}f}" == shown and shown in BY_ID["speed_up"].reading
    one, four, eight = (value("hours_per_frame", place) for place in range(3))
    assert f"{(four - one) / 3:.1f}" == "10.7" and f"{(eight - four) / 4:.2f}" == "4.45"
    assert "10.7 hours a frame from 1 to 4, and 4.45" in BY_ID["hours_per_frame"].reading
    relative = 100 * (value("points_called_relative", 2) / value("points_called_relative", 1) - 1)
    assert f"{relative:.1f} % relative" in BY_ID["points_called_relative"].reading
    on_17m = value("wall_time", 1) * 18.41 / 5.44  # captions of 17M and of 5M, in millions: docs/model.md
    assert f"about {on_17m:.0f} GPU hours" in BY_ID["wall_time"].reading


def test_the_reading_of_the_lowest_rate_is_what_the_papers_scale_takes():
    assert BY_ID["lowest_learning_rate"].reading.startswith("1e-6")
    assert load_scale("paper").base_config().pretrain.min_lr == 1e-6


def test_the_arithmetic_that_checks_out():
    found = {told.id: told.difference for told in KNOWN.agreements}
    assert found == {
        "masking_loss": -1.2,
        "keeping_loss": -0.5,
        "selection_gain": 1.3,
        "selection_loss": -0.5,
        "parts_loss": -1.4,
        "gain_5m": 3.8,
        "gain_17m": 2.5,
        "hours_17m": -87.1,
        "resolution_gain": 3.2,
    }
    for told in KNOWN.agreements:
        rows, cells = PUBLISHED[told.cells.table].rows, told.cells
        assert rows[cells.row][cells.column] - rows[cells.against][cells.column] == pytest.approx(told.difference)


def test_rows_that_show_one_training_share_their_numbers():
    assert len(KNOWN.shared_rows) == 7
    for told in KNOWN.shared_rows:
        recalls = {PUBLISHED[table].rows[row]["msrvtt.t2v.r1"] for table, row in told.rows}
        assert len(told.rows) > 1 and len(recalls) == 1
    assert ("11", "3") in KNOWN.shared_rows[0].rows


def test_the_committed_statements_are_those_of_the_tables():
    assert faults_of(PAPER) == []


@pytest.fixture
def folder(tmp_path):
    for path in PAPER.glob("*.yaml"):
        shutil.copy(path, tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ('says: "144.5"', 'says: "144.4"', "speed_up, place 3: says '144.4'; Table 7, row none, PT Time is 144.5"),
        ('says: "1e-5"', 'says: "1e-6"', "says '1e-6'; Table 12, row min learning rate, pre-training is 1e-5"),
        ("row: min learning rate", "row: min lerning rate", "did you mean 'min learning rate'"),
        (
            "column: pretrain, says",
            "column: pretran, says",
            "column 'pretran' is not in Table 12; did you mean 'pretrain'",
        ),
        (
            "row: Ours 5M, column",
            "row: Ours 6M, column",
            r"place 1: row 'Ours 6M' is not in Table 1; did you mean 'Ours",
        ),
        ("column: msrvtt.t2v.r1, says", "column: msrvt.t2v.r1, says", "column 'msrvt.t2v.r1' is not in Table 1; did"),
        ('{table: "1", row', '{table: "14", row', "table '14' is unknown; did you mean"),
        ("id: epochs", "id: speed_up", "id 'speed_up' occurs twice"),
        (
            "{where: Section 3.5, says",
            '{where: Section 3.5, table: "4", says',
            "has `where` and a cell; a place is one",
        ),
        ("{where: Section 3.5, says", "{row: Section 3.5, says", "needs `where`, or `table`, `row` and `column`"),
        (
            '      - {where: Section 3.5, says: "1e-6"}\n',
            "",
            "lowest_learning_rate: expected two places or more, got 1",
        ),
        ("difference: -1.2", "difference: -1.3", r"difference is -1.3; 39.3 - 40.5 is -1.2"),
        ('["5", "0.8"]', '["5", "0.9"]', "Table 5, row 0.9: pretrain.hours is 53.8; the rows before have 50.4"),
        ('["5", "0.8"]', '["5", "0.85"]', "row '0.85' is not in Table 5; did you mean '0.8'"),
        ('["5", "0.8"]', '["5"]', r"contradictions.yaml:\d+:\d+: shared_rows.0.rows.1.1 is missing"),
        ("reading: All", "raeding: All", "key 'contradictions.5.raeding' is unknown; did you mean 'reading'"),
    ],
)
def test_a_slip_is_found(folder, old, new, told):
    path = folder / "contradictions.yaml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    assert re.search(told, "\n".join(faults_of(folder)), re.DOTALL)
