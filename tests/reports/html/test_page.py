"""The page: complete, the same every time, and nothing of the ledger in it is more than text."""

import base64
import hashlib
import re

import pytest

from experiments.store.examples import Example
from experiments.tracking.reader import TrackingError
from reports.analysis.build_tables import build_tables
from reports.html.page import make_page, page_of, to_html
from reports.paper.tables import load_published, sweep_files
from reports.render.markdown import LOCAL_UI
from reports.render.text import letters, measured_text, published_text
from reports.report import Report
from tests.reports.rows import evaluation, made_ranks, no_ranks, row
from tests.reports.shown import parse
from tests.reports.stage_rows import paid, stage

EVIL = """<script>alert(1)</script>"><img src=x onerror="alert('2')">"""
PNG = b"\x89PNG\r\n\x1a\n"
TRIALS = [
    row("50%", hours=0.02, r1=20.0, stage_runs={"pretrain": "pre"}),
    row("10%", hours=0.0312, r1=21.5, stage_runs={"pretrain": "pre"}),
]

PAID = paid(
    "pre",
    useful=0.05,
    lost=0.01,
    overhead=0.002,
    versions={"torch": "2.13.0", "python": "3.11.7"},
    commit='{"changed": false, "id": "0123456789abcdef"}',
)


class MadeLedger:
    """Holds what it is given."""

    uri, exists, damaged = "sqlite:////home/jane/.smaug/mlflow.db", True, {}

    def __init__(self, stages=(), examples=(), aside=()):
        self.held, self.pictures, self.aside = list(stages), list(examples), list(aside)

    def stages(self):
        return self.held

    def archived(self):
        return self.aside

    def examples(self, stage):
        return self.pictures if stage.examples else []

    def curve(self, stage, name):
        return []


def report_of(trials, *, ranks=made_ranks, ui=LOCAL_UI, unreadable="", tables=None):
    published = load_published() if tables is None else {name: load_published()[name] for name in tables}
    made = build_tables(published, [] if unreadable else trials, ranks, unreadable=unreadable)
    return Report(tables=made, ui=ui, origin="MLflow's ledger, mlflow.db", unreadable=unreadable)


def shown(trials, stages=(), examples=(), **changes):
    """The page of these trials as a tree."""
    return parse(to_html(page_of(report_of(trials, **changes), MadeLedger(stages, examples))))


def card(page, name):
    """What opens from the button that shows this number."""
    (button,) = [one for one in page.all("button", class_="open") if one.one("span", class_="value").text == name]
    return page.one("dialog", id=button["data-card"])


def facts(dialog):
    texts = {name.text: value.one("b").text for name, value in zip(dialog.all("dt"), dialog.all("dd"), strict=True)}
    pair = [box for box in dialog.all("div") if {"measured", "published"} & set(box.classes)]
    return texts | {box.one("span").text: box.one("b").text for box in pair}


@pytest.fixture(scope="module")
def page():
    return shown(TRIALS, [PAID])


def test_every_table_is_there_with_all_its_rows(page):
    tables = load_published()
    assert len(page.all("table", class_="paired")) == len(tables)
    for name, published in tables.items():
        key = "table-4-tiny" if name == "4" else f"table-{name}"
        (grid,) = [table for table in page.all("table", class_="paired") if table["aria-labelledby"] == key]
        rows = [line.one("th").text for line in grid.all("tr") if line.all("td")]
        assert [name.removesuffix(" baseline") for name in rows] == list(published.rows)


def test_cells_say_what_every_other_format_of_the_table_says(page):
    (table,) = build_tables({"4": load_published()["4"]}, TRIALS, made_ranks)
    (grid,) = [one for one in page.all("table", class_="paired") if one["aria-labelledby"] == "table-4-tiny"]
    lines = [line for line in grid.all("tr") if line.all("td")]
    for line, cells in zip(lines, table.rows.values(), strict=True):
        texts = [
            text
            for column, cell in zip(table.columns, cells, strict=True)
            for text in (published_text(column, cell), measured_text(column, cell, letters(table)))
        ]
        assert [one.text for one in line.all("td")] == texts


def test_cells_carry_the_numbers_that_they_sort_by(page):
    (grid,) = [one for one in page.all("table", class_="paired") if one["aria-labelledby"] == "table-4-tiny"]
    first = next(line for line in grid.all("tr") if line.all("td"))
    values = [cell.attributes.get("data-value") for cell in first.all("td")]
    assert values == ["70.8", "0.0312", "40.5", "21.5", "66.3", "41.5", "76.5", "51.5"]
    heads = [head for head in grid.all("th") if "data-column" in head.attributes]
    assert [(head["data-column"], head["data-first"]) for head in heads[:3]] == [
        ("1", "ascending"),
        ("2", "ascending"),
        ("3", "descending"),
    ]
    assert {head["aria-sort"] for head in heads} == {"none"}


def test_a_cell_opens_to_all_that_is_known_of_it(page):
    dialog = card(page, "21.5")
    told = facts(dialog)
    assert told["Measured"] == "21.5 %" and told["Published"] == "40.5 %"
    assert told["95 % interval"] == "[19.0, 24.1]"
    assert told["Difference"] == "+1.5 points"
    assert re.fullmatch(r"\[\+\d\.\d, \+\d\.\d\]", told["95 % interval of the difference"])
    assert told["p, corrected"] == told["p, uncorrected"] == "p < 0.001"
    assert told["Measured minus published"] == "-19.0 points"
    assert (told["Seeds"], told["Device"], told["Scale"]) == ("1", "Xeon", "tiny")
    assert told["Dataset"] == "moving_shapes/sentence, in the place of MSRVTT"
    assert "1000 queries" in dialog.text and "not a new training" in dialog.text
    link = dialog.one("a")
    assert link["href"] == "http://127.0.0.1:5000/#/experiments/1/runs/run-10%-0"
    assert link.text == "seed 0, run run-10%-"


def test_a_cell_of_many_seeds_links_some_of_its_runs_and_counts_the_others():
    seeds = [row("50%", hours=0.02, r1=20.0, seed=str(seed), run_id=f"run{seed:03}") for seed in range(23)]
    dialog = card(shown(seeds, tables=["4"]), "20.0")
    assert len(dialog.all("a")) == 20 and "and 3 more in cells.csv" in dialog.text


@pytest.mark.parametrize(
    ("base", "says"),
    [
        (100.0, "no query scores otherwise than in the row 50%, so resampling them gives no interval"),
        (0.0, "all queries differ alike, so resampling them gives no interval"),
    ],
)
def test_a_cell_without_an_interval_says_why(base, says):
    tree = shown([row("50%", hours=0.02, r1=base), row("10%", hours=0.03, r1=100.0)], tables=["4"])
    told = {key: tree.one("dialog", id=f"table-4-tiny-{key}") for key in ("1-1", "1-2", "3-2")}
    assert facts(told["1-2"])["95 % interval"] == facts(told["1-2"])["95 % interval of the difference"] == "none"
    assert (
        "all queries score alike, so resampling them gives no interval" in told["1-2"].text and says in told["1-2"].text
    )
    assert facts(told["3-2"])["95 % interval"] == "none" and "of the difference" not in told["3-2"].text
    assert "95 % interval" not in told["1-1"].text


def test_a_cell_whose_ranks_are_missing_does_not_call_them_alike():
    tree = shown(TRIALS, ranks=no_ranks)
    assert "no interval and no test" in card(tree, "21.5").text and "score alike" not in card(tree, "21.5").text


def test_hours_have_a_ratio_and_no_p(page):
    told = facts(card(page, "0.0312"))
    assert told["Measured"] == "0.0312 CPU h" and told["Published"] == "70.8 A6000 GPU h"
    assert told["Ratio"] == "1.56x" and told["Difference"] == "+0.0112 CPU h"
    assert not any(name.startswith("p,") for name in told)


def test_a_table_without_measurements_has_published_columns_alone(page):
    (grid,) = [one for one in page.all("table", class_="paired") if one["aria-labelledby"] == "table-5"]
    assert grid.all("th", class_="measured") == [] and grid.all("td", class_="measured") == []
    assert len(grid.all("td", class_="published")) == 4 * 4


def test_rows_that_quote_others_can_be_hidden_and_are_told_apart(page):
    quoting = [name for name, published in load_published().items() if published.cited]
    assert len(page.all("input", class_="hider")) == len(quoting) > 0
    cited = sum(len(load_published()[name].cited) for name in quoting)
    assert len(page.all("tr", class_="cited")) == cited


def test_what_was_spent_is_told_with_its_unit(page):
    text = page.one("div", class_="sum").text
    assert "0.0620 CPU h billed, in 1 attempts at 1 stages, on Xeon" in text
    assert "0.0500 useful 0.0100 lost 0.0020 overhead 0.0524 saved by sharing" in text
    assert "GPU" not in text


def by_sweep(tree):
    """The lines of the first table of what was spent."""
    (table,) = tree.one("div", **{"aria-label": "Spending by sweep and scale"}).all("table")
    return [line for line in table.all("tr") if line.all("td", class_="unit")]


def test_what_each_row_took_stands_below_with_the_sum_of_distinct_stages_and_no_energy_that_was_not_counted():
    counted = {"unit": "H200 GPU h", "metrics": {"energy.kwh": 0.25}, "no_energy": "", "corrected": 2}
    stages = [
        paid("pre", useful=2.0, **counted),
        paid("tune", useful=1.0, lost=0.5, **counted),
        paid("cpu", useful=4.0),
    ]
    trials = [
        row("50%", r1=20.0, stage_runs={"pretrain": "pre"}),
        row("10%", r1=21.5, stage_runs={"pretrain": "pre", "finetune": "tune"}),
        row("25%", stage_runs={"pretrain": "cpu"}),
    ]
    tree = parse(to_html(page_of(report_of(trials), MadeLedger(stages))))
    details = tree.one("details", class_="rows")
    lines = [[cell.text for cell in (*line.all("th"), *line.all("td"))] for line in details.all("tr")[1:]]
    assert lines == [
        ["10%", "0", "2", "H200 GPU h", "3.50", "3.00", "0.50", "0.00", "0.5"],
        ["25% not finished", "0", "1", "CPU h", "4.00", "4.00", "0.00", "0.00", ""],
        ["50%", "0", "1", "H200 GPU h", "2.00", "2.00", "0.00", "0.00", "0.25"],
        ["All rows, each stage once", "", "1", "CPU h", "4.00", "4.00", "0.00", "0.00", ""],
        ["All rows, each stage once", "", "2", "H200 GPU h", "3.50", "3.00", "0.50", "0.00", "0.5"],
    ]
    assert "No kWh where no GPUs." in details.text
    assert "The hours of 4 attempts are from Slurm’s accounting" in tree.text


def test_attempts_without_a_result_and_unfinished_trials_are_told():
    trials = [*TRIALS, row("25%", stage_runs={"pretrain": "pre"})]
    tree = parse(to_html(page_of(report_of(trials), MadeLedger([paid("pre", useful=0.05, attempts=3)]))))
    assert "in 3 attempts (2 ended without a result) at 1 stages" in tree.one("div", class_="sum").text
    (line,) = by_sweep(tree)
    assert line.all("td", class_="number")[0].text == "2 of 3"


def test_what_was_spent_in_vain_is_told_too():
    stages = [PAID, paid("old", useful=0.5)]
    tree = parse(to_html(page_of(report_of(TRIALS), MadeLedger(stages, aside=[paid("stale", useful=0.25)]))))
    rows = {line.one("th").text: line.one("b").text for line in by_sweep(tree)}
    assert rows == {
        "masking_ratio Table 4": "0.0620",
        "in no current trial": "0.5000",
        "archived, started again since": "0.2500",
    }
    assert "0.0620 CPU h billed" in tree.one("div", class_="sum").text


def test_commands_in_notes_are_code(page):
    assert f"python sweeps/run.py {sweep_files()['5']}" in [one.text for one in page.all("code")]


def test_claims_and_contradictions_are_there_with_their_verdicts(page):
    claims = page.one("table", class_="claims")
    assert "Measured at scale tiny" in claims.text and "does not hold (1.857)" in claims.text
    verdicts = {"✓": "holds", "✗": "contradicted", "?": "cannot tell from these data", "–": "not measured"}
    assert any(f"– {verdicts['–']}" in one.text for one in claims.all("span", class_="verdict"))
    assert len(page.one("table", class_="contradictions").all("tr")) > 15


def test_environment_tells_devices_versions_commit_and_commands(page):
    environment = [one for one in page.all("section") if one["aria-labelledby"] == "environment"][0].text
    assert "Xeon (CPU h) (1 stage)" in environment and "python 3.11.7, torch 2.13.0" in environment
    assert "0123456789ab (1 stage)" in environment and "c0de (2 trials)" in environment
    assert f"python sweeps/run.py {sweep_files()['4']} make tables report" in environment


def test_ids_are_unique_and_every_reference_has_its_target(page):
    ids = [one["id"] for one in page.walk() if "id" in one.attributes]
    assert len(ids) == len(set(ids))
    for one in page.walk():
        for name in ("aria-labelledby", "data-card"):
            if name in one.attributes:
                assert one[name] in ids, f"{name}={one[name]}"
        if one.tag == "a" and one["href"].startswith("#"):
            assert one["href"][1:] in ids


def test_the_page_may_load_nothing_and_run_only_what_is_in_it():
    html = to_html(page_of(report_of(TRIALS), MadeLedger()))
    tree = parse(html)
    policy = tree.one("meta", **{"http-equiv": "Content-Security-Policy"})["content"]
    allowed = dict(part.strip().split(" ", 1) for part in policy.split(";"))
    assert allowed["default-src"] == "'none'" and allowed["img-src"] == "data:" and "unsafe" not in policy
    for tag in ("style", "script"):
        (source,) = re.findall(rf"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()
        assert allowed[f"{tag}-src"] == f"'sha256-{digest}'"
    for one in tree.walk():
        assert "style" not in one.attributes and not any(name.startswith("on") for name in one.attributes)
        assert one.tag not in ("link", "iframe", "object", "embed", "base", "form")
        address = one.attributes.get("src") or ""
        assert address == "" or address.startswith("data:image/png;base64,")
    assert "url(" not in re.sub(r"url\(#[\w-]+\)", "", html) and "@import" not in html


def test_the_same_runs_give_the_same_bytes():
    stages = [PAID]
    once, again = (to_html(page_of(report_of(TRIALS), MadeLedger(stages))) for _ in range(2))
    turned = to_html(page_of(report_of(TRIALS), MadeLedger(stages[::-1])))
    assert once == again == turned


def test_everything_that_the_ledger_holds_is_shown_as_text():
    evil_row = row(
        EVIL,
        hours=0.03,
        r1=21.0,
        run_id=EVIL,
        experiment_id=EVIL,
        device=EVIL,
        code=EVIL,
        marks=(EVIL,),
        evaluations={"msrvtt": evaluation(dataset=EVIL, split=EVIL, ranking=EVIL)},
        stage_runs={"pretrain": EVIL},
    )
    own = row(EVIL, hours=0.03, r1=22.0, table=None, sweep=EVIL, title=EVIL, row_label=EVIL, scale=EVIL, baseline=EVIL)
    told = stage(EVIL, "pretrain_video", device=EVIL, versions={EVIL: EVIL}, name=EVIL, unit=f"{EVIL} h", examples=EVIL)
    picture = Example.of_picture(
        PNG,
        file="a.png",
        kind="selection",
        caption=EVIL,
        alt=EVIL,
        source=EVIL,
        split=EVIL,
        width=1,
        height=1,
        selected=[1],
        scores=[1.0],
    )
    tree = shown([*TRIALS, evil_row, own], [told], [picture])
    assert len(tree.all("script")) == 1
    assert {one["src"][:22] for one in tree.all("img")} == {"data:image/png;base64,"}
    assert not [one for one in tree.walk() if "onerror" in one.attributes]
    (button,) = [one for one in tree.all("button", class_="open") if one.one("span", class_="value").text == "21.0"]
    dialog = tree.one("dialog", id=button["data-card"])
    assert EVIL in dialog.text and EVIL in tree.one("title").text + tree.one("dl", class_="used").text
    assert dialog.one("a")["href"].startswith("http://127.0.0.1:5000/#/experiments/")
    assert re.fullmatch(r"[a-z0-9-]+", button["data-card"])
    assert EVIL in [one["alt"] for one in tree.all("img")]


def test_pictures_are_within_the_page_with_their_words():
    picture = Example.of_picture(
        PNG,
        file="reconstruction-1.png",
        kind="reconstruction",
        caption="a red ring",
        alt="Three times one frame",
        source="moving_shapes/sentence",
        split="test",
        width=296,
        height=96,
        mask_ratio=0.5,
    )
    tree = shown(TRIALS, [stage("pre", examples="1 pictures")], [picture])
    (image,) = tree.all("img")
    assert base64.b64decode(image["src"].removeprefix("data:image/png;base64,")) == PNG
    assert (image["alt"], image["width"], image["height"]) == ("Three times one frame", "296", "96")
    section = next(one for one in tree.all("section") if one["aria-labelledby"] == "examples")
    assert "masking 50% of the patches" in section.text and "“a red ring” (50% of the patches masked)" in section.text
    assert "Table 4: 10% (tiny); Table 4: 50% (tiny)" in section.text


def test_pictures_end_before_the_page_gets_large(monkeypatch):
    monkeypatch.setattr("reports.html.gallery.LIMIT", 10)
    picture = Example.of_picture(
        PNG, file="a.png", kind="reconstruction", caption="c", alt="a", source="s", split="test", width=1, height=1
    )
    trials = [
        row("10%", hours=0.02, r1=20.0, stage_runs={"pretrain": "other"}),
        row("50%", hours=0.02, r1=20.0, stage_runs={"pretrain": "base"}),
    ]
    stages = [stage("other", examples="1 pictures"), stage("base", examples="1 pictures")]
    tree = shown(trials, stages, [picture])
    section = next(one for one in tree.all("section") if one["aria-labelledby"] == "examples")
    assert len(section.all("img")) == 1 and "Table 4: 50%" in section.text and "Table 4: 10%" not in section.text
    assert "the pictures of 1 further stages are left out" in section.text


def test_without_measurements_the_page_says_so_and_how_to_get_some():
    tree = shown([])
    (banner,) = tree.all("div", class_="banner")
    assert "Nothing was measured." in banner.text and sweep_files()["4"] in banner.text
    assert tree.all("dialog") == []


def test_what_is_wrong_is_told_at_the_top_and_in_the_cell():
    tree = shown(TRIALS, ranks=no_ranks)
    (banner,) = tree.all("div", class_="banner")
    assert "The records have" in banner.text
    assert "table 4 (scale tiny), row 10%, msrvtt.t2v.r1" in banner.text
    dialogs = [one for one in tree.all("dialog") if one.all("li", class_="fault")]
    assert len(dialogs) == 6 and all("must hold ranks/msrvtt.json" in one.text for one in dialogs)


def test_a_ledger_that_cannot_be_read_is_told_and_never_looks_like_nothing_measured():
    tree = shown(TRIALS, unreadable="nothing measured could be read: MLflow at x: refused")
    (banner,) = tree.all("div", class_="banner")
    assert "MLflow at x: refused" in banner.text and "Nothing was measured" not in banner.text
    (grid,) = [one for one in tree.all("table", class_="paired") if one["aria-labelledby"] == "table-4"]
    assert [one.text for one in grid.all("td", class_="measured")][0].startswith("?")


@pytest.mark.parametrize("broken", ["stages", "examples"])
def test_what_else_cannot_be_read_is_told(broken, monkeypatch):
    ledger = MadeLedger([stage("pre", examples="1 pictures")])

    def refuse(*_):
        raise TrackingError(f"no {broken} today")

    monkeypatch.setattr(ledger, broken, refuse)
    assert any(f"no {broken} today" in fault for fault in page_of(report_of(TRIALS), ledger).faults)


def test_the_runs_of_a_server_need_no_command():
    told = "(there while"
    assert told in to_html(page_of(report_of(TRIALS), MadeLedger()))
    assert told not in to_html(page_of(report_of(TRIALS, ui="https://mlflow.example.org"), MadeLedger()))


def test_the_page_holds_no_folder_of_the_machine_and_no_moment(tmp_path):
    path, faults = make_page(report_of(TRIALS), MadeLedger([stage("pre")]), tmp_path)
    text = path.read_text(encoding="utf-8")
    assert path == tmp_path / "index.html" and faults == ()
    assert "/home/jane" not in text and str(tmp_path) not in text


def test_two_tables_of_one_name_have_keys_of_their_own():
    trials = [row("50%", hours=0.02, r1=20.0), row("50%", hours=0.02, r1=20.0, sweep="masking_again", run_id="other")]
    tree = shown(trials, tables=["4"])
    assert [one["id"] for one in tree.all("h3") if one.attributes.get("id", "").startswith("table-")] == [
        "table-4-tiny",
        "table-4-tiny-again",
    ]
