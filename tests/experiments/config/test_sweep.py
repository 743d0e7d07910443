"""Sweep files: what a good one holds, and every fault of a bad one, once, at its place."""

import copy
import json
import re
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.config.scale import Scale, load_scale
from experiments.config.seeds import Seeds
from experiments.config.sweep import HOURS, ReportSpec, Sweep, load_sweep, report_columns
from experiments.config.yaml_source import SweepError, read_document
from experiments.stages.trial import expand

SWEEPS = Path(__file__).resolve().parents[3] / "sweeps"
MASKING = (SWEEPS / "masking_ratio.yaml").read_text()

ALL_WRONG = """\
sweep: <1>Masking Ratio
title: <2>4
<3>tabel: "4"
variants:
  "10%": {<4>pretrain.mask_rate: 0.10}
  "25%": {pretrain.mask_ratio: <5>quarter}
  "50%": <6>[pretrain.mask_ratio, 0.50]
  "65%": {pretrain.mask_ratio: 0.65, <7>pretrain.mask_ratio: 0.66}
  "100%": {pretrain.mask_ratio: <8>1.0}
  wide: {<9>finetune.mrsvtt.epochs: 3}
  <10>uneven: {model.heads: 3}
  other: {pretrain.corpus: <11>18M}
  <12>"65%": {pretrain.mask_ratio: 0.1}
baseline: <13>"55%"
tasks: [msrvtt, <14>msvrtt, <15>msrvtt]
seeds: {pretrain: [0, <16>-1], finetune: <17>[], <18>evaluate: [0]}
require:
  - <19>pretrain.mask_rato <= 0.65
  - <20>open('x')
  - <21>3
budget: {<22>tinny: 250, tiny: <23>0}
report: <24>{columns: [<25>pretrain.hour, pretrain.hours, <26>msrvtt.t2v.r2]}
<27>extra: 1
"""
TOLD = [
    "sweep: 'Masking Ratio' is not allowed; ",
    "title: 4 is not allowed; input should be a valid string",
    "key 'tabel' is unknown; did you mean 'table'?",
    "setting 'pretrain.mask_rate' is unknown; did you mean 'pretrain.mask_ratio'?",
    "pretrain.mask_ratio: 'quarter' is not allowed; input should be a valid number",
    "variants.50%: ['pretrain.mask_ratio', 0.5] is not allowed; input should be an object",
    "'pretrain.mask_ratio' is given twice, first in line 8; drop one",
    "pretrain.mask_ratio: 1.0 is not allowed; expected in [0, 1)",
    "setting 'finetune.mrsvtt.epochs' is unknown; did you mean ",
    "variant 'uneven': model.width: ",
    "pretrain.corpus: '18M' is unknown at scale tiny; ",
    "'65%' is given twice, first in line 8; drop one",
    "baseline '55%' is no variant; did you mean '65%'?",
    "task 'msvrtt' is unknown at scale tiny; did you mean 'msrvtt'?",
    "tasks: 'msrvtt' is given twice; drop one",
    "seeds.pretrain.1: -1 is not allowed; ",
    "seeds.finetune: [] is not allowed; ",
    "key 'seeds.evaluate' is unknown; expected one of finetune, pretrain",
    "'pretrain.mask_rato <= 0.65' is no condition: setting 'pretrain.mask_rato' is unknown; did you mean",
    """"open('x')" is no condition: "open('x')" is not allowed""",
    "require.2: 3 is not allowed; input should be a valid string",
    "scale 'tinny' is unknown; did you mean 'tiny'?",
    "budget.tiny: 0 is not allowed; input should be greater than 0",
    "report.row is missing",
    "column 'pretrain.hour' is not measured by any stage; did you mean 'pretrain.hours'?",
    "column 'msrvtt.t2v.r2' is not measured by any stage; did you mean 'msrvtt.t2v.r",
    "key 'extra' is unknown; expected one of baseline, budget, ",
]
"""What is said of each place that a number in angle brackets marks above."""


@pytest.fixture(scope="module")
def tiny() -> Scale:
    return load_scale("tiny")


def faults_of(folder: Path, text: str, scale: Scale) -> list[str]:
    """What is said of a sweep file, without the folder it stands in."""
    path = folder / "s.yaml"
    path.write_text(text)
    with pytest.raises(SweepError) as refused:
        load_sweep(path, scale)
    return [str(fault).removeprefix(f"{folder}/") for fault in refused.value.faults]


@pytest.mark.parametrize("length", [100, 101, 300])
def test_names_that_no_folder_takes_are_refused(tmp_path, tiny, length):
    path, name, row = tmp_path / "s.yaml", "m" * length, "5" * 2 * length
    path.write_text(MASKING.replace("sweep: masking_ratio", f"sweep: {name}").replace('"50%"', f'"{row}"'))
    if length == 100:
        assert load_sweep(path, tiny).name == name
        return
    told = faults_of(tmp_path, path.read_text(), tiny)
    assert "digits and _, at most 100" in told[0]
    assert [f"has {2 * length} characters; expected at most 200" in fault for fault in told] == [False, True]


SEEDS = "seeds: {pretrain: [0], finetune: [0]}"


def edited(old: str, new: str) -> str:
    assert MASKING.count(old) == 1, old
    return MASKING.replace(old, new)


def test_the_shipped_sweep_is_what_the_paper_compares(tiny):
    sweep = load_sweep(SWEEPS / "masking_ratio.yaml", tiny)
    assert sweep == Sweep(
        sweep="masking_ratio",
        title="Ablation study on using different masking ratios",
        table="4",
        variants={f"{percent}%": {"pretrain.mask_ratio": percent / 100} for percent in (10, 25, 50, 65)},
        baseline="50%",
        tasks=["msrvtt"],
        zero_shot=False,
        seeds={"pretrain": [0], "finetune": [0]},
        require=["pretrain.mask_ratio <= 0.65"],
        budget={"tiny": 2},
        report=ReportSpec(row="Masking Ratio", columns=[HOURS, "msrvtt.t2v.r1", "msrvtt.t2v.r5", "msrvtt.t2v.r10"]),
    )
    assert list(sweep.variants) == ["10%", "25%", "50%", "65%"]


def test_what_need_not_be_given(tmp_path, tiny):
    path = tmp_path / "s.yaml"
    path.write_text("{sweep: s, title: t, variants: {a: {}}, baseline: a, tasks: [msrvtt], report: {row: R, columns: [")
    path.write_text(path.read_text() + "msrvtt.v2t.median_rank]}}")
    sweep = load_sweep(path, tiny)
    assert (sweep.table, sweep.require, sweep.budget) == (None, [], {})
    assert sweep.seeds == Seeds() and Seeds().pairs == [(0, 0)]


def test_columns_are_hours_and_what_retrieval_measures():
    columns = report_columns(["msrvtt", "didemo"])
    assert len(columns) == len(set(columns)) == 1 + 2 * 2 * 4
    assert {HOURS, "msrvtt.t2v.r1", "didemo.v2t.median_rank"} <= set(columns)


def test_every_fault_of_a_file_is_told_once_at_its_place(tmp_path, tiny):
    places = []
    for number, line in enumerate(ALL_WRONG.splitlines(), 1):
        parts = re.split(r"<\d+>", line)
        places += [(number, len("".join(parts[:n])) + 1) for n in range(1, len(parts))]
    found = faults_of(tmp_path, re.sub(r"<\d+>", "", ALL_WRONG), tiny)
    expected = [f"s.yaml:{line}:{column}: {what}" for (line, column), what in zip(places, TOLD, strict=True)]
    assert [told[: len(start)] for told, start in zip(found, expected, strict=True)] == expected


@pytest.mark.parametrize(
    ("text", "pairs"),
    [
        ("seeds: 3", [(0, 0), (1, 1), (2, 2)]),
        ("seeds: [4, 7]", [(4, 4), (7, 7)]),
        ("seeds: {pretrain: [4, 7]}", [(4, 0), (7, 0)]),
        ("seeds: {finetune: [0, 1], pretrain: [2]}", [(2, 0), (2, 1)]),
    ],
)
def test_seeds_of_a_file(tmp_path, tiny, text, pairs):
    path = tmp_path / "s.yaml"
    path.write_text(edited(SEEDS, text))
    assert load_sweep(path, tiny).seeds.pairs == pairs


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("sweep: masking_ratio", "sweep: stages", "1:8: sweep 'stages' is reserved for the records"),
        ("sweep: masking_ratio\n", "", "1:1: sweep is missing"),
        (
            "mask_ratio <= 0.65",
            "mask_ratio < 0.65",
            "12:11: 'pretrain.mask_ratio < 0.65' does not hold for variant '65%'",
        ),
        ("mask_ratio <= 0.65", "mask_ratio / (pretrain.mask_ratio - 0.5) < 9", "12:11: 'pretrain.mask_ratio / (p"),
        ("mask_ratio <= 0.65", "mask_ratio <=", "12:11: 'pretrain.mask_ratio <=' is no condition: "),
        ("{pretrain.mask_ratio: 0.10}", "{pretrain.mask_ratio: .nan}", "5:32: pretrain.mask_ratio: nan is not allowed"),
        (
            "{pretrain.mask_ratio: 0.10}",
            "{pretrain.mask_ratio: true}",
            "5:32: pretrain.mask_ratio: True is not allowed",
        ),
        ("{pretrain.mask_ratio: 0.10}", "{pretrain.mask_ratio: }", "5:11: pretrain.mask_ratio: None is not allowed"),
        ("{pretrain.mask_ratio: 0.10}", "{pretrain: {mask_ratio: 0.1}}", "5:11: setting 'pretrain' is unknown; "),
        (
            "{pretrain.mask_ratio: 0.10}",
            "{evaluate.msrvtt.dataset: x}",
            "5:11: setting 'evaluate.msrvtt.dataset' is un",
        ),
        (
            "{pretrain.mask_ratio: 0.10}",
            "{resources.pretrain.gpus: 1}",
            "5:11: setting 'resources.pretrain.gpus' is un",
        ),
        ("tasks: [msrvtt]", "tasks: msrvtt", "10:8: tasks: 'msrvtt' is not allowed; input should be a valid array"),
        ("seeds: {pretrain: [0]", "seeds: {pretrain: [2, 2]", "11:23: seeds.pretrain: 2 is given twice; drop one"),
        (
            "seeds: {pretrain: [0]",
            "seeds: {pretrain: [2147483648]",
            "11:20: seeds.pretrain.0: 2147483648 is not allowed",
        ),
        (
            "seeds: {pretrain: [0]",
            "seeds: {pretrain: 5",
            "11:19: seeds.pretrain: 5 is not a list; write [5] for seed 5, ",
        ),
        (SEEDS, "seeds: 0", "11:8: seeds: 0 trials of each row are not allowed; expected 1 to 1000, or [0] for seed 0"),
        (
            SEEDS,
            "seeds:",
            "11:1: seeds: None is not allowed; expected a number of trials (3), their seeds ([4, 7]), or",
        ),
        (SEEDS, "seeds: [4, 4]", "11:12: seeds: 4 is given twice; drop one"),
        ("budget: {tiny: 2}", "budget: {tiny: .nan}", "13:16: budget.tiny: nan is not allowed"),
        ("msrvtt.t2v.r10]", "msrvtt.t2v.r5]", "14:86: columns: 'msrvtt.t2v.r5' is given twice; drop one"),
        ("msrvtt.t2v.r10]", "didemo.t2v.r10]", "14:86: column 'didemo.t2v.r10' is not measured by any stage"),
        ("report: {row", "report: {col: 1, row", "14:10: key 'report.col' is unknown; did you mean "),
    ],
)
def test_a_fault_alone_brings_no_other(tmp_path, tiny, old, new, told):
    (fault,) = faults_of(tmp_path, edited(old, new), tiny)
    assert fault.startswith(f"s.yaml:{told}")


@pytest.mark.parametrize("text", ["", "# nothing\n", "null\n"])
def test_an_empty_file_says_what_a_sweep_holds(tmp_path, tiny, text):
    (fault,) = faults_of(tmp_path, text, tiny)
    assert "is empty; expected sweep, title, table, variants" in fault


@pytest.mark.parametrize("text", ["[1]", "3", "word", "true"])
def test_a_file_that_is_no_mapping_is_refused(tmp_path, tiny, text):
    (fault,) = faults_of(tmp_path, text, tiny)
    assert fault.startswith("s.yaml:1:1: the file: ")


def test_a_sweep_may_have_a_budget_for_the_scale_it_runs_at_and_for_those_that_ship(tmp_path):
    path, mine = tmp_path / "mine.yaml", (SWEEPS / "scales" / "tiny.yaml").read_text()
    path.write_text(mine.replace("scale: tiny", "scale: mine"))
    sweep = tmp_path / "s.yaml"
    sweep.write_text(edited("{tiny: 2}", "{tiny: 2, mine: 3}"))
    assert load_sweep(sweep, load_scale(str(path))).budget == {"tiny": 2, "mine": 3}


def test_a_setting_of_a_section_that_the_scale_lacks_is_refused(tmp_path):
    tiny = (SWEEPS / "scales" / "tiny.yaml").read_text()
    path = tmp_path / "bare.yaml"
    path.write_text(re.sub(r"^data:\n(  .*\n)+", "", tiny, flags=re.MULTILINE))
    text = edited("{pretrain.mask_ratio: 0.10}", "{data.seed: 1, pretrain.mask_ratio: 0.1}")
    (fault,) = faults_of(tmp_path, text, load_scale(str(path)))
    assert fault == "s.yaml:5:22: data.seed: scale tiny has no section 'data'; drop it"


GOOD = read_document(SWEEPS / "masking_ratio.yaml").value
KEYS = [
    "pretrain.mask_ratio",
    "model.keep_rate",
    "model.sparsify_layers",
    "finetune.msrvtt.epochs",
    "data.seed",
    "x",
    "",
]
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 2**70) | st.floats() | st.text(max_size=3) | st.sampled_from(KEYS),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=3),
    max_leaves=4,
)


def places_in(value, keys=()):
    """The way to every value within a value."""
    yield keys
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in pairs:
        yield from places_in(inner, (*keys, key))


@st.composite
def mutated_sweeps(draw) -> str:
    """The shipped sweep with a few values replaced, dropped or added, as JSON."""
    value = copy.deepcopy(GOOD)
    for _ in range(draw(st.integers(1, 3))):
        keys = draw(st.sampled_from([keys for keys in places_in(value) if keys] or [("sweep",)]))
        place = value
        for key in keys[:-1]:
            place = place[key]
        change = draw(st.sampled_from(["replace", "drop", "add"]))
        if change == "drop" and keys[-1] in (place if isinstance(place, dict) else range(len(place))):
            del place[keys[-1]]
        elif change == "add" and isinstance(place, list):
            place.append(draw(VALUES))
        else:
            key = draw(st.sampled_from(KEYS)) if change == "add" else keys[-1]
            place[key] = draw(VALUES)
    return json.dumps(value)


def load_and_expand(text: str, scale: Scale) -> None:
    """A sweep that is not refused can be expanded, or what it names is not there."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "s.yaml"
        path.write_text(text, encoding="utf-8", errors="surrogatepass")
        try:
            sweep = load_sweep(path, scale)
        except SweepError as error:
            assert error.faults and all(fault.line >= 1 and fault.column >= 1 for fault in error.faults)
            return
    trials = expand(sweep, scale)
    assert [trial.variant for trial in trials[:: len(trials) // len(sweep.variants)]] == list(sweep.variants)


@given(text=mutated_sweeps())
@settings(max_examples=150, deadline=None)
def test_values_that_change_are_told_or_taken_and_never_crash(tiny, text):
    load_and_expand(text, tiny)


@given(at=st.integers(0, len(MASKING)), cut=st.integers(0, 20), put=st.text("{}[]:,-&*!#%\"' \n\ta0.", max_size=4))
@settings(max_examples=150, deadline=None)
def test_characters_that_change_are_told_or_taken_and_never_crash(tiny, at, cut, put):
    load_and_expand(MASKING[:at] + put + MASKING[at + cut :], tiny)


@pytest.mark.parametrize("name", ["a\\nb", "\\t", " 50%", "50% ", "a\\u200bb"])
def test_a_row_s_name_is_one_printable_line(tmp_path, name):
    text = (SWEEPS / "masking_ratio.yaml").read_text().replace('"10%":', f'"{name}":')
    (tmp_path / "odd.yaml").write_text(text)
    with pytest.raises(SweepError, match="a row's name is one line of text without spaces around it"):
        load_sweep(tmp_path / "odd.yaml", load_scale("tiny"))
