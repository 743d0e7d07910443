"""The tags of MLflow's runs hold rows: what is written reads back, and what cannot be read is named."""

import json
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.store.store import all_stages
from experiments.store.trials import trial_documents, trial_record, write_trial
from experiments.tracking.run_content import run_of_stage, run_of_trial
from experiments.tracking.run_schema import (
    EVALUATION,
    RowError,
    StageRow,
    TrialRow,
    decode,
    encode,
    stage_row,
    tags_of,
    trial_row,
)
from tests.experiments.made_trials import execute, trial

WORDS = st.text(max_size=20)
COUNTS = st.integers(min_value=0, max_value=10**6)
EVALUATIONS = st.dictionaries(WORDS, st.fixed_dictionaries(dict.fromkeys(EVALUATION, WORDS | COUNTS)), max_size=3)
UNREADABLE = st.dictionaries(WORDS, st.fixed_dictionaries({"count": COUNTS, "files": st.lists(WORDS)}), max_size=3)
MAPS, TUPLES = st.dictionaries(WORDS, WORDS, max_size=3), st.lists(WORDS).map(tuple)
VALUES = {
    TrialRow: {name: WORDS for name in tags_of(TrialRow)}
    | {"table": st.none() | st.text(min_size=1), "columns": TUPLES, "marks": TUPLES, "position": COUNTS}
    | {"evaluations": EVALUATIONS, "unreadable": UNREADABLE, "stage_runs": MAPS},
    StageRow: {name: WORDS for name in tags_of(StageRow)}
    | {"versions": MAPS, "attempts": COUNTS, "estimated": st.booleans(), "corrected": COUNTS},
}
NAMES = {
    TrialRow: "baseline code columns device evaluations marks position row scale seed stage_runs sweep table title unit"
    " unreadable variant",
    StageRow: "attempts commit device examples fingerprint hours_corrected hours_estimated kind no_energy settings unit"
    " versions",
}


def run_with(tags: dict[str, str], **data: Any) -> Any:
    info = SimpleNamespace(run_id="r", experiment_id="1", artifact_uri="a", status="FINISHED", run_name="n")
    return SimpleNamespace(info=info, data=SimpleNamespace(tags=tags, **({"metrics": {}} | data)))


@pytest.mark.parametrize("row", VALUES)
def test_the_names_of_tags_stay(row):
    assert sorted(tag.name for tag in tags_of(row).values()) == [f"smaug.{name}" for name in NAMES[row].split()]


@pytest.mark.parametrize("row", VALUES)
@given(data=st.data())
def test_what_is_written_reads_back(row, data):
    values = data.draw(st.fixed_dictionaries(VALUES[row]))
    assert decode(row, encode(row, values)) == values


def test_records_read_back_from_the_content_of_their_runs(home):
    made = trial("65%")
    execute(home, made)
    write_trial(home, made, marks=["stale code accepted"])
    for facts in all_stages(home):
        content = run_of_stage(facts)
        metrics = {name: value for name, (value, _) in content.metrics.items()}
        row = stage_row(run_with(content.claim | content.tags, metrics=metrics))
        assert (row.kind, row.fingerprint, row.attempts) == (facts.document.kind, facts.fingerprint, 1)
        assert (row.versions, row.no_energy) == (facts.host.versions, facts.no_energy)
        assert json.loads(row.settings) == facts.document.settings
        assert (row.hours["billed"], row.estimated) == (facts.hours.billed, facts.hours.estimated)
    facts = trial_record(home, trial_documents(home)[0])
    content = run_of_trial(facts, {"pretrain": "abc"}, "1", driven=False, valid=True)
    row = trial_row(run_with(content.claim | content.own | content.tags))
    document = facts.document
    for name in ("sweep", "title", "table", "scale", "variant", "position", "baseline", "seed"):
        assert getattr(row, name) == document.raw[name]
    assert (row.row_label, row.columns) == (document.report.row, tuple(document.report.columns))
    assert (row.evaluations, row.marks, row.code) == (facts.evaluations(), tuple(facts.marks), facts.code)
    assert (row.stage_runs, row.unreadable) == ({"pretrain": "abc"}, {})


@pytest.mark.parametrize(
    ("tag", "text", "message"),
    [
        ("kind", None, "its tag smaug.kind is missing"),
        ("attempts", "1.5", "its tag smaug.attempts: expected a whole number, got '1.5'"),
        ("versions", "[]", "its tag smaug.versions: expected an object in JSON, got '[]'"),
    ],
)
def test_a_tag_that_cannot_be_read_is_named(tag, text, message):
    texts = encode(StageRow, {"kind": "pretrain", "fingerprint": "f", "unit": "h", "device": "d", "attempts": 1})
    texts |= encode(StageRow, {"estimated": False, "settings": "{}", "versions": {}})
    assert decode(StageRow, texts)["corrected"] == 0
    texts = {key: value for key, value in texts.items() if key != f"smaug.{tag}"}
    with pytest.raises(RowError) as met:
        decode(StageRow, texts | ({} if text is None else {f"smaug.{tag}": text}))
    assert str(met.value) == message


@pytest.mark.parametrize(
    ("tag", "text", "expected"),
    [
        ("columns", "{}", "a list in JSON"),
        ("evaluations", '{"msrvtt": {"dataset": "d"}}', "split"),
        ("evaluations", '{"msrvtt": 1}', "of msrvtt"),
        ("unreadable", '{"pretrain": {"count": "1", "files": []}}', "a count and a list of files of pretrain"),
    ],
)
def test_a_damaged_tag_of_a_trial_says_what_is_expected(tag, text, expected):
    field = next(tags for tags in tags_of(TrialRow).values() if tags.name == f"smaug.{tag}")
    with pytest.raises(ValueError, match=expected):
        field.read(text)
