"""The transcription is the paper, number by number, and a slip in its files is refused with its place."""

import re
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from experiments.config.scale import load_scale
from reports.paper.tables import PAPER, ReportError, load_published, load_settings, sweep_files
from tests.reports.printed import PRINTED

PUBLISHED = load_published()
SETTINGS = load_settings()
ROOT = Path(__file__).resolve().parents[3]
NO_SWEEP = {"1", "3"}
"""Table 1 repeats rows of Table 9; question answering, Table 3, is not built."""


def lines(number):
    return [[cell.strip() for cell in line.split("|")] for line in PRINTED[number].strip().splitlines()]


def dashed(cells):
    return [None if cell == "-" else cell for cell in cells]


@pytest.mark.parametrize("number", PRINTED)
def test_every_row_holds_what_the_paper_printed(number):
    table = PUBLISHED[number]
    printed = lines(number)
    assert len(printed) == len(table.rows)
    for cells, (name, values) in zip(printed, table.rows.items(), strict=True):
        told = [values[slot] for slot in table.columns]
        numbers = dashed(cells[-len(told) :])
        assert told == [None if cell is None else float(cell) for cell in numbers], name
        texts = dashed(cells[: -len(told)])
        if number not in ("7", "8"):  # whose methods' own columns are texts
            assert name == texts[0] or name.startswith(f"{texts[0]} "), name
            texts = texts[1:]
        assert list(table.row_texts.get(name, {}).values()) == texts, name


def test_eleven_tables_are_results_and_two_are_settings():
    assert list(PUBLISHED) == list(PRINTED) == [str(number) for number in range(1, 12)]
    assert list(SETTINGS) == ["12", "13"]
    assert {len(table.rows) for table in SETTINGS.values()} == {12}


def test_a_row_that_needs_its_texts_to_be_told_from_another_has_them_in_its_name():
    for number in ("1", "3", "9"):
        for name, texts in PUBLISHED[number].row_texts.items():
            if name.startswith(("Singularity", "Ours")):
                corpus, frames = texts.values()
                plural = "" if frames == "1" else "s"
                assert name.endswith(f" {corpus}, {frames} frame{plural}" if number == "9" else f" {corpus}")
    assert list(PUBLISHED["8"].row_texts.values()) == [
        {"method": f"{name}{mark}"} for mark in "*+" for name in ("Singularity", "Ours")
    ]


def test_columns_stand_in_the_papers_order_with_its_units():
    recalls = [f"R@{k}" for k in (1, 5, 10)]
    for number, table in PUBLISHED.items():
        headers = [column.header for column in table.columns.values()]
        if number in ("4", "5", "6", "7", "8", "11"):
            assert headers == ["PT Time", *recalls]
            assert table.columns["pretrain.hours"].unit == "A6000 GPU h"
        elif number == "10":
            assert headers == recalls
        elif number != "3":
            sets = ["MSRVTT", "DiDeMo", "ActivityNet"][: 2 if number == "2" else 3]
            assert headers == [f"{name} {recall}" for name in sets for recall in recalls]
        assert {slot.split(".")[0] for slot in table.columns} - {"pretrain"} == table.datasets.keys()


def test_headings_stand_where_the_paper_has_them():
    pairs = ["Pre-trained with >100M video-text pairs", "Pre-trained with <100M video-text pairs"]
    sizes = {n: {name: len(rows) for name, rows in t.groups.items()} for n, t in PUBLISHED.items() if t.groups}
    assert sizes == {
        "1": dict(zip(pairs, (8, 7), strict=True)),
        "3": dict(zip(pairs, (4, 6), strict=True)),
        "6": {"Single-frame selection": 2, "Multiple-frame selection": 4},
    }


def test_what_is_told_by_colour_alone_is_said_to_be_unknown():
    colours = {"1": ["greyed", "pink"], "2": ["pink"], "9": ["greyed"]}
    colours |= {number: ["blue"] for number in ("4", "5", "6", "7", "10", "11")}
    for number, table in PUBLISHED.items():
        wanted = colours.get(number, [])
        assert len(table.cannot_tell) == len(wanted)
        for colour, told in zip(wanted, table.cannot_tell, strict=True):
            assert colour in told


def test_the_default_row_is_the_same_pre_training_in_every_table_of_single_frames():
    defaults = [PUBLISHED[n].rows[PUBLISHED[n].default] for n in ("4", "5", "6", "10", "11")]
    assert {values.get("pretrain.hours", 50.4) for values in defaults} == {50.4}
    assert {values["msrvtt.t2v.r1"] for values in defaults} == {39.3}


def test_the_variants_of_each_sweep_are_the_rows_that_its_table_does_not_quote():
    rebuilding = {table: path for table, path in sweep_files().items() if table in PUBLISHED}
    assert rebuilding.keys() == PUBLISHED.keys() - NO_SWEEP
    for number, path in rebuilding.items():
        held, table = YAML(typ="safe").load((ROOT / path).read_text()), PUBLISHED[number]
        assert list(held["variants"]) == [row for row in table.rows if row not in table.cited]
        assert set(held["report"]["columns"]) == set(table.columns)


def test_rows_that_are_printed_twice_have_the_same_numbers():
    same = PUBLISHED["1"].same_runs
    assert set(same.rows) == set(PUBLISHED["1"].rows) - set(PUBLISHED["1"].cited)
    for here, there in same.rows.items():
        assert PUBLISHED["1"].rows[here] == PUBLISHED[same.table].rows[there]


def test_a_row_cited_in_several_tables_has_the_same_numbers():
    for name in PUBLISHED["9"].cited:
        assert PUBLISHED["1"].rows[name] == PUBLISHED["9"].rows[name]


def test_a_dash_is_no_value():
    assert PUBLISHED["2"].rows["MMT"]["msrvtt.t2v.r1"] is None
    assert "MMT" not in PUBLISHED["2"].printed("msrvtt.t2v.r1")
    assert PUBLISHED["2"].printed("msrvtt.t2v.r5")["MMT"] == 6.9


def numbers(table, setting):
    """The first number of each column's text, e.g. 224 of 224×224."""
    return [
        None if text is None else float(re.match(r"[0-9.e-]+", text)[0])
        for text in SETTINGS[table].texts(setting).values()
    ]


def test_the_papers_scale_has_the_settings_of_table_12():
    scale = load_scale("paper")
    config = scale.base_config().pretrain
    ours = {
        "weight decay": config.weight_decay,
        "image size": scale.base_config().model.image_size,
        "training epochs": config.epochs,
        "base learning rate": config.lr,
        "batch size": config.batch_size / scale.resources["pretrain"]["gpus"],  # 512 over 4 GPUs
        "warmup epochs": config.warmup_epochs,
    }
    assert {setting: numbers("12", setting)[0] for setting in ours} == ours
    assert SETTINGS["12"].texts("optimizer momentum")["pretrain"] == f"β1=0.9, β2={config.beta2}"
    assert config.negatives_group == 128, "the batch of one GPU"
    # Table 12 prints 1e-5, section 3.5 says 1e-6: contradictions.yaml.
    assert (numbers("12", "min learning rate")[0], config.min_lr) == (1e-5, 1e-6)


@pytest.mark.parametrize("task", ["msrvtt", "didemo", "anet"])
def test_the_papers_scale_has_the_settings_of_table_13(task):
    scale = load_scale("paper")
    config = scale.base_config()
    tuning = config.finetune[task]
    ours = {
        "base learning rate": tuning.lr,
        "min learning rate": tuning.min_lr,
        "weight decay": tuning.weight_decay,
        "image size": config.model.image_size * tuning.image_size_ratio,
        "batch size": tuning.batch_size / scale.resources["finetune"]["gpus"],  # 128 over 4 GPUs
        "warmup epochs": tuning.warmup_epochs,
        "training epochs": tuning.epochs,
        "inference frames": config.evaluate[task].frames,
    }
    place = list(SETTINGS["13"].columns).index(task)
    assert {setting: numbers("13", setting)[place] for setting in ours} == ours
    assert SETTINGS["13"].texts("optimizer momentum")[task] == f"β1=0.9, β2={tuning.beta2}"


def test_a_single_value_holds_for_every_column_and_a_dash_is_none():
    assert SETTINGS["12"].texts("training epochs") == {"pretrain": "10", "qa": "10"}
    assert SETTINGS["12"].rows["training epochs"] == "10" and SETTINGS["13"].rows["training epochs"] != "10"
    assert SETTINGS["12"].texts("inference frames") == {"pretrain": None, "qa": "12"}


SMALL = """\
table: "4"
title: t
source: s
row: r
default: "x"
datasets: {a: A}
columns:
  a.one: {header: One, unit: h}
  a.two: {header: Two, unit: h}
texts: {data: Data}
row_texts:
  "x": {data: web}
  "yy": {data: ~}
groups:
  "First": ["x"]
  "Then": ["yy"]
cited: ["yy"]
cannot_tell: [colours]
rows:
  "x": {a.one: 1.0, a.two: 2}
  "yy": {a.one: 1.0, a.two: ~}
"""


def write(folder, text, name="table_4.yaml"):
    (folder / name).write_text(text)
    return folder


def test_a_small_file_loads_whole(tmp_path):
    table = load_published(write(tmp_path, SMALL))["4"]
    assert table.rows == {"x": {"a.one": 1.0, "a.two": 2.0}, "yy": {"a.one": 1.0, "a.two": None}}
    assert (table.cited, table.groups) == (("yy",), {"First": ("x",), "Then": ("yy",)})
    assert table.row_texts["yy"] == {"data": None}


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("cited:", "cite:", r"table_4.yaml:17:1: key 'cite' is unknown; did you mean 'cited'\?"),
        ("header: Two", "haeder: Two", "key 'columns.a.two.haeder' is unknown; did you mean 'header'"),
        ('"x": {a.one: 1.0, a.two: 2}', '"x": {a.one: 1.0}', "table_4.yaml:20:8: row 'x' has a.one; the columns are"),
        ("a.two: 2}", "a.two: 2, a.three: 3}", "row 'x' has a.one, a.two, a.three; the columns are a.one, a.two"),
        ("a.two: 2}", "a.two: two}", "rows.x.a.two: 'two' is not allowed; input should be a valid number"),
        ("a.two: 2}", "a.two: .nan}", "rows.x.a.two: nan is not allowed"),
        ('default: "x"', 'default: "y"', r"table_4.yaml:5:10: row 'y' is none; did you mean 'yy'\?"),
        ('cited: ["yy"]', 'cited: ["y"]', r"table_4.yaml:17:9: row 'y' is none; did you mean 'yy'\?"),
        ('"Then": ["yy"]', '"Then": ["zz"]', "row 'zz' is none; expected one of x, yy"),
        ('  "Then": ["yy"]\n', "", "row 'yy' has no heading; put it under one of them"),
        ('"First": ["x"]\n  "Then": ["yy"]', '"First": ["yy"]\n  "Then": ["x"]', "expected rows x, yy, got yy, x"),
        ('"First": ["x"]', '"First": ["x", "x"]', "expected rows x, yy, got x, x, yy"),
        ('  "yy": {data: ~}\n', "", "row 'yy' has no texts; expected data"),
        ('"yy": {data: ~}', '"yz": {data: ~}', r"row 'yz' is none; expected one of x, yy"),
        ("texts: {data: Data}", "texts: {date: Data}", "row 'x' has data; the texts are date"),
        ("datasets: {a: A}", "datasets: {b: B}", "no column is of 'b'; there are a.one, a.two"),
        (
            "title: t\n",
            "title: t\ntitle: u\n",
            "table_4.yaml:3:1: 'title' is given twice, first in line 2; drop one",
        ),
        ('  "yy": {a.one', '  "x": {a.one', "'x' is given twice"),
        ("title: t\n", "", "title is missing"),
        ('table: "4"', 'table: "5"', "table '5' belongs in table_5.yaml"),
        ("rows:", "same_runs: {table: '9', rows: {x: x}}\nrows:", "same_runs: table '9' is unknown; expected"),
        ("rows:", "same_runs: {table: '4', rows: {x: y}}\nrows:", "same_runs.rows: row 'y' is not in Table 4; did you"),
        ("rows:", "same_runs: {table: '4', rows: {y: x}}\nrows:", r"row 'y' is none; did you mean 'yy'\?"),
        ("rows:", "rows: [", "table_4.yaml:"),
    ],
)
def test_a_slip_in_a_table_is_refused_with_its_place(tmp_path, old, new, told):
    at = SMALL.rindex(old) if old == "rows:" else SMALL.index(old)
    with pytest.raises(ReportError, match=f"(?s){told}"):
        load_published(write(tmp_path, SMALL[:at] + new + SMALL[at + len(old) :]))


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("inference frames: {pretrain: ~, qa", "inference frames: {pre: ~, qa", "row 'inference frames' has pre, qa;"),
        ('weight decay: "0.02"', "weight decay: 0.02", "settings_12.yaml:15:17: rows.weight decay.*valid string"),
        ('table: "12"', 'table: "13"', "table '13' belongs in settings_13.yaml"),
        ("row: config", "rwo: config", "key 'rwo' is unknown"),
    ],
)
def test_a_slip_in_settings_is_refused_with_its_place(tmp_path, old, new, told):
    text = (PAPER / "settings_12.yaml").read_text()
    assert old in text
    with pytest.raises(ReportError, match=f"(?s){told}"):
        load_settings(write(tmp_path, text.replace(old, new), "settings_12.yaml"))
