"""Descriptions follow what they describe; saved views and colours are written once."""

import dataclasses
import json
from pathlib import Path

import pytest
from markdown_it import MarkdownIt
from mlflow.tracking import MlflowClient

from experiments.config.scale import load_scale
from experiments.config.sweep import load_sweep
from experiments.store.attempt_files import FailureNote
from experiments.store.device_hours import Total
from experiments.store.documents import TrialDocument
from experiments.store.trials import write_trial
from experiments.tracking.run_content import STAGES
from experiments.tracking.sync import sync
from experiments.tracking.ui_views import (
    COLOR,
    NOTE,
    STAGES_NOTE,
    VIEW,
    color,
    missing,
    per_hour,
    stages_view,
    sweep_note,
    sweep_view,
    trial_note,
)
from tests.documents import changed
from tests.experiments.made_trials import execute, stage, trial

SWEEPS = sorted((Path(__file__).resolve().parents[3] / "sweeps").glob("*.yaml"))
DOCUMENT = TrialDocument.of(
    {
        "sweep": "masking_ratio",
        "title": "Masking ratios",
        "table": "4",
        "report": {"row": "Masking Ratio", "columns": ["pretrain.hours", "msrvtt.t2v.r1", "msrvtt.t2v.r5"]},
        "scale": "tiny",
        "variant": "65%",
        "baseline": "50%",
        "position": 3,
        "seed": "0",
        "params": {"pretrain.mask_ratio": 0.65},
        "stages": [{"name": "pretrain", "kind": "pretrain", "task": None, "fingerprint": "0" * 64}],
        "fingerprint": "1" * 64,
        "marks": [],
        "time": 1.0,
    }
)


@pytest.fixture
def told(home):
    """A home folder with a finished trial that MLflow was told of."""
    made = trial()
    execute(home, made)
    write_trial(home, made)
    sync(home)
    return home


def runs(client, experiment):
    return list(client.search_runs([client.get_experiment_by_name(experiment).experiment_id]))


def tags_of(client, name):
    return client.get_experiment_by_name(name).tags


def test_accuracy_per_hour_is_that_of_every_slot_and_of_the_shown_ranking_only():
    metrics = {
        "row_hours.pretrain": (0.5, 7.0),
        "msrvtt.t2v.r1": (25.0, 9.0),
        "didemo.t2v.r1": (10.0, 5.0),
        "msrvtt.t2v.r5": (50.0, 9.0),
        "msrvtt.contrast.t2v.r1": (40.0, 9.0),
    }
    assert per_hour(metrics) == {"msrvtt.t2v.r1_per_hour": (50.0, 9.0), "didemo.t2v.r1_per_hour": (20.0, 7.0)}


@pytest.mark.parametrize("metrics", [{"msrvtt.t2v.r1": (25.0, 9.0)}, {"row_hours.pretrain": (0.0, 1.0)}])
def test_nothing_is_divided_by_hours_that_are_not_there(metrics):
    assert per_hour({"msrvtt.t2v.r1": (25.0, 9.0)} | metrics) == {}


def test_a_row_tells_its_settings_and_links_to_its_stages():
    note = trial_note(DOCUMENT, {"pretrain": "abc"}, "1")
    assert "`65%`, to be compared with `50%`: a row of Table 4: Masking ratios." in note
    assert "`pretrain.mask_ratio = 0.65`" in note and "[pretrain](#/experiments/1/runs/abc)" in note
    assert "`50%`, the baseline" in trial_note(changed(DOCUMENT, {"variant": "50%"}), {}, "1")


def test_a_row_tells_in_a_line_without_markup_why_a_job_ended_before_it_made_an_attempt():
    seen = "no `module`\n* " + "x" * 9999
    failure = FailureNote.of({"class": "user_error", "seen": seen, "done": "not tried again", "time": 1.0})
    note = trial_note(DOCUMENT, {}, "1", {"pretrain": failure})
    start = "Stages: none has begun.\n\npretrain: its job ended before it made an attempt: `error: no 'module' * xxx"
    assert start in note and "xxx ...`\n\nSettings: " in note and len(note) < 1000


HOSTILE = [
    "*a* **b** _c_ ~~d~~ [e](https://f) ![g](h.png) <b>i</b> &lt; \\ `j` | # k",
    "``` `",
    "`",
    "a\n\n# b\n- c\n<script>d</script>",
    "see https://a.b/c and www.d.e, @somebody",
    "100 % [mask] 65% a_b_c {x} 1 < 2 & 3 > 2!",
]


def shown(note: str) -> tuple[str, set[str]]:
    """What a description shows as text, and of what kinds its parts are."""
    tokens = MarkdownIt("gfm-like", {"linkify": False}).parse(note)
    parts = [part for token in tokens for part in (token.children or [token])]
    texts = [" " if part.type == "softbreak" else part.content for part in parts]
    return "".join(texts), {part.type for part in parts}


@pytest.mark.parametrize("text", HOSTILE)
def test_what_comes_from_a_sweep_file_is_no_markup_in_a_description(text):
    report = DOCUMENT.report.raw | {"row": text}
    names = {"title": text, "table": text, "variant": text, "baseline": text, "scale": text, "params": {text: text}}
    hostile, once = changed(DOCUMENT, names | {"report": report}), " ".join(text.split())
    hours = {"num_estimated": 0, "useful": 1.0, "lost": 0.0, "overhead": 0.0, "billed": 1.0, "kwh": None}
    spent = [Total(unit="CPU h", num_stages=1, no_energy=(text,), **hours)]
    told, kinds = shown(sweep_note(hostile, {text: spent}))
    assert kinds == shown(sweep_note(DOCUMENT, {"tiny": [dataclasses.replace(spent[0], no_energy=("x",))]}))[1]
    assert f"Table {once}: {once}. Each run is a row ({once}) with one" in told and f"The baseline is {once}." in told
    told, kinds = shown(trial_note(hostile, {text: "abc"}, "7"))
    assert kinds == shown(trial_note(DOCUMENT, {"pretrain": "abc"}, "7"))[1]
    row = f"{once}, the baseline: a row of Table {once}: {once}."
    assert told.startswith(f"{row} Seed 0, scale {once}. Stages: {once}.")
    assert told.endswith(f"Settings: {once} = {once}.")


def test_the_rows_of_every_table_have_colors_of_their_own():
    most = max(len(load_sweep(path, load_scale("tiny")).variants) for path in SWEEPS)
    assert len({color(changed(DOCUMENT, {"position": place})) for place in range(most)}) == most


def test_processor_hours_are_never_called_gpu_hours():
    for note in (sweep_note(DOCUMENT), STAGES_NOTE):
        assert "`CPU h` are processor hours" in note


def test_only_missing_defaults_are_written():
    assert missing({}, {COLOR: "#000000"}) == missing({COLOR: ""}, {COLOR: "#000000"}) == {COLOR: "#000000"}
    assert missing({COLOR: "#ff0000"}, {COLOR: "#000000"}) == {}


@pytest.mark.parametrize("saved", ["{}", "deflate;abc", '{"name": "Mine", "createdAt": 0, "state": "{}"}'])
def test_a_view_that_was_saved_in_mlflow_stays(told, client, saved):
    experiment = client.get_experiment_by_name("smaug/masking_ratio")
    (key,) = [key for key in experiment.tags if key.startswith(VIEW)]
    client.set_experiment_tag(experiment.experiment_id, key, saved)
    sync(told)
    assert tags_of(client, "smaug/masking_ratio")[key] == saved


def test_each_scale_has_a_view_of_its_own():
    tiny, paper = sweep_view(DOCUMENT), sweep_view(changed(DOCUMENT, {"scale": "paper"}))
    assert tiny.keys().isdisjoint(paper) and "`smaug.scale` = 'paper'" in json.loads(*paper.values())["state"]
    assert sweep_view(changed(DOCUMENT, {"report": {"row": "r", "columns": ["pretrain.hours"]}})) == {}


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_mlflow_takes_the_tags_of_every_sweep(path):
    sweep = load_sweep(path, load_scale("tiny"))
    params = {key: None for variant in sweep.variants.values() for key in variant}
    columns = list(sweep.report.columns)
    document = changed(DOCUMENT, {"report": {"row": sweep.report.row, "columns": columns}, "params": params})
    long = changed(document, {"title": "t" * 9000, "params": {f"pretrain_video.an_option_{n}": n for n in range(60)}})
    for tags in (sweep_view(document), sweep_view(long), stages_view()):
        assert all(len(value) < 5000 for value in tags.values()) and tags
    assert len(sweep_note(long)) < 5000


def test_experiments_and_rows_are_described_once(told, client, monkeypatch):
    (run,), stages = runs(client, "smaug/masking_ratio"), tags_of(client, STAGES)
    assert run.data.metrics["msrvtt.t2v.r1_per_hour"] == pytest.approx(25.0 / run.data.metrics["row_hours.pretrain"])
    pretrain = json.loads(run.data.tags["smaug.stage_runs"])["pretrain"]
    experiment = client.get_experiment_by_name(STAGES).experiment_id
    assert f"[pretrain](#/experiments/{experiment}/runs/{pretrain})" in run.data.tags[NOTE]
    assert stages[NOTE] == STAGES_NOTE and stages["mlflow.experimentKind"] == "custom_model_development"
    assert [key for key in tags_of(client, "smaug/masking_ratio") if key.startswith(VIEW)]
    monkeypatch.setattr(type(client), "set_experiment_tag", lambda *_: pytest.fail("told again"))
    sync(told)


def test_a_sweep_tells_what_its_distinct_stages_took_by_whoever_ran_them(new_home, monkeypatch):
    """Two rows that share two stages in one home, a third row in another, one ledger: the second tells of all."""
    first, second = new_home("first"), new_home("second")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{first / 'mlflow.db'}")
    client = MlflowClient(tracking_uri=f"sqlite:///{first / 'mlflow.db'}")
    row, other = trial(r1=25.0), trial("10%", r1=20.0)
    scored = stage("evaluate", task="msrvtt", parents=(row.stages[1],), r1=26.0)
    sharing = dataclasses.replace(trial("65%"), stages=(*row.stages[:2], scored))
    for home, made in ((first, row), (first, sharing), (second, other)):
        execute(home, made)
        write_trial(home, made)
    sync(first)
    sync(second)
    rows, stages = runs(client, "smaug/masking_ratio"), runs(client, STAGES)
    billed = sum(run.data.metrics["hours.billed"] for run in stages)
    told = json.loads(tags_of(client, "smaug/masking_ratio")["smaug.spent.tiny"])["CPU h"]
    assert (len(rows), told["stages"], told["estimated"], "kwh" in told) == (3, 3 + 1 + 3, 0, False)
    assert told["billed"] == pytest.approx(billed) == pytest.approx(told["useful"] + told["lost"] + told["overhead"])
    shared = [run for run in stages if run.data.tags["smaug.fingerprint"] in {s.fingerprint for s in row.stages[:2]}]
    twice = sum(run.data.metrics["hours.billed"] for run in shared)
    assert sum(run.data.metrics["row_spent.billed"] for run in rows) == pytest.approx(billed + twice)
    note = tags_of(client, "smaug/masking_ratio")[NOTE]
    assert f"- `tiny`: **{told['billed']:.3g} CPU h billed** at 7 stages" in note
    assert "no kWh: a stage held no GPUs" in note and "never add either up over rows" in note
    sync(first)
    assert tags_of(client, "smaug/masking_ratio")[NOTE] == note


def test_experiments_without_a_description_are_given_one(told, client):
    identifier = client.get_experiment_by_name("smaug/masking_ratio").experiment_id
    before = tags_of(client, "smaug/masking_ratio")
    for key in before:
        client.set_experiment_tag(identifier, key, "")
    sync(told)
    after = tags_of(client, "smaug/masking_ratio")
    assert after[NOTE] == before[NOTE]
    assert {k: v for k, v in after.items() if k.startswith(VIEW)} == {
        k: v for k, v in before.items() if k.startswith(VIEW)
    }


def test_a_colour_that_was_chosen_in_mlflow_stays_when_the_run_goes_on(home, client):
    made = trial()
    execute(home, made, stages=1)
    write_trial(home, made)
    sync(home)
    (run,) = runs(client, "smaug/masking_ratio")
    client.set_tag(run.info.run_id, COLOR, "#ff0000")
    execute(home, made)
    sync(home)
    (run,) = runs(client, "smaug/masking_ratio")
    assert (run.info.status, run.data.tags[COLOR]) == ("FINISHED", "#ff0000")


def test_the_description_of_a_row_grows_with_its_stages(home, client):
    made = trial()
    execute(home, made, stages=1)
    write_trial(home, made)
    sync(home)
    (run,) = runs(client, "smaug/masking_ratio")
    assert "[pretrain]" in run.data.tags[NOTE] and "[evaluate" not in run.data.tags[NOTE]
    execute(home, made)
    sync(home)
    (run,) = runs(client, "smaug/masking_ratio")
    assert "[evaluate.msrvtt]" in run.data.tags[NOTE]
