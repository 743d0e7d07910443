"""The scales that come with the project, and what is said of a scale file that cannot be used."""

import json
from collections.abc import Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import pytest

from experiments.config.scale import FOLDER, load_scale, scale_names
from experiments.config.settings import FILLED, SECTIONS, as_json, section_types, type_fault
from experiments.config.yaml_source import SweepError, read_document
from experiments.engines.command import worker_job
from experiments.stages.graph import cut_stages
from smaug_core.config import Config
from smaug_core.stage_protocol import KINDS
from tests.experiments.smoke import SCALE


def faults_of(folder: Path, text: str) -> list[str]:
    """What is said of a scale file, without the folder it stands in."""
    path = folder / "s.yaml"
    path.write_text(text)
    with pytest.raises(SweepError) as refused:
        load_scale(str(path))
    return [str(fault).removeprefix(f"{folder}/") for fault in refused.value.faults]


def edited(old: str, new: str) -> str:
    assert SCALE.count(old) == 1, old
    return SCALE.replace(old, new)


@pytest.mark.parametrize("name", scale_names())
def test_every_scale_gives_a_whole_configuration(name):
    scale = load_scale(name)
    config = scale.base_config()
    assert scale.name == name
    assert isinstance(config, Config)
    assert config.finetune.keys() == config.evaluate.keys() == scale.datasets.keys()
    assert set(scale.resources) == set(KINDS)


@pytest.mark.parametrize("name", scale_names())
@pytest.mark.parametrize("section", SECTIONS)
def test_no_scale_repeats_a_default(name, section):
    given: Mapping[str, Any] = read_document(FOLDER / f"{name}.yaml").value.get(section) or {}
    defaults = {f.name: f.default for f in fields(SECTIONS[section]) if f.default is not MISSING}
    repeated = [key for key, value in given.items() if key in defaults and as_json(defaults[key]) == value]
    assert repeated == []


def test_tiny_resolves_slots_defaults_and_types():
    config = load_scale("tiny").base_config()
    assert config.pretrain.corpus == ("moving_shapes/stills", "moving_shapes/sentence")
    assert config.evaluate["msrvtt"].dataset == config.finetune["msrvtt"].dataset == "moving_shapes/sentence"
    assert config.pretrain.mask_ratio == 0.5
    assert config.model.sparsify_layers == (4, 7, 10)


def test_a_path_is_a_scale_too(tmp_path):
    path = tmp_path / "mine.yml"
    path.write_text(edited("scale: smoke", "scale: mine"))
    assert load_scale(str(path)).name == "mine"


def test_a_task_has_settings_of_its_own(tmp_path):
    path = tmp_path / "s.yaml"
    own = "{dataset: moving_shapes/sentence, finetune: {epochs: 7}, evaluate: {frames: 3, split: test}}"
    path.write_text(edited("msrvtt: {dataset: moving_shapes/sentence}", f"msrvtt: {own}\n  didemo: {own[:-1]}}}"))
    config = load_scale(str(path)).base_config()
    assert config.finetune["msrvtt"].epochs == 7
    assert config.evaluate["msrvtt"].frames == 3
    assert list(config.finetune) == ["msrvtt", "didemo"]


def test_an_unknown_scale_gets_the_nearest_name():
    with pytest.raises(SweepError, match=r"^--scale: scale 'tinny' is unknown; did you mean 'tiny'\?$"):
        load_scale("tinny")
    with pytest.raises(SweepError, match="none.yaml: cannot be read"):
        load_scale("none.yaml")


WIDTH = "  width: 16\n"


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        (WIDTH, "  width: @wide\n", "model.width: 'wide' is not allowed; input should be a valid integer"),
        (WIDTH, "  width: @64.5\n", "model.width: 64.5 is not allowed; input should be a valid integer"),
        (WIDTH, "  width: @true\n", "model.width: True is not allowed; input should be a valid integer"),
        (WIDTH, "  @width:\n", "model.width: None is not allowed; input should be a valid integer"),
        (WIDTH, "  width: @62\n", "model.width: 62 is not allowed; expected a multiple of 4"),
        (WIDTH, WIDTH + "  @width: 64\n", "'width' is given twice, first in line "),
        (WIDTH, WIDTH + "  @widht: 64\n", "setting 'model.widht' is unknown; did you mean 'width'?"),
        (WIDTH, WIDTH + "  @keep_rate: 0.8\n", "model.keep_rate: 0.8 repeats the default; drop it"),
        (WIDTH, WIDTH + "  keep_rate: @0\n", "model.keep_rate: 0.0 is not allowed; expected in (0, 1]"),
        (WIDTH, WIDTH + "  keep_rate: @.nan\n", "model.keep_rate: nan is not allowed; input should be a finite number"),
        ("layers: [1, 2]", "layers: @[1, 13]", "model.sparsify_layers: (1, 13) is not allowed; expected"),
        (
            "warmup_epochs: 0.5",
            "warmup_epochs: @.inf",
            "pretrain.warmup_epochs: inf is not allowed; input should be a finite number",
        ),
        ("corpus: 5M", "corpus: @4M", "pretrain.corpus: '4M' is no slot of corpora; expected one of 5M"),
        ("rerank: 4", "rerank: 4, @frame: 3", "setting 'evaluate.frame' is unknown; did you mean 'frames'?"),
        ("rerank: 4", "rerank: 4, split: @train", "evaluate.split: 'train' is not allowed; expected test or"),
        ("rerank: 4", "rerank: 4, @dataset: x", "setting 'evaluate.dataset' is unknown; expected one of"),
        ("{seed: 0,", "{seed: @-1,", "data.seed: -1 is not allowed; expected at least 0"),
        ("scale: smoke", "scale: @Tiny!", "scale: 'Tiny!' is not allowed; expected lower-case"),
        ("scale: smoke\n", "@", "scale is missing"),
        ("scale: smoke\n", "scale: smoke\n@sclae: x\n", "key 'sclae' is unknown; did you mean 'scale'?"),
        ("[moving_shapes/sentence]", "@[]", "corpora.5M: [] is not allowed; list should have"),
        ("{dataset: moving_shapes/sentence}", "@{}", "tasks.msrvtt.dataset is missing"),
        ("moving_shapes/sentence}", "x, evaluate: {frames: @0}}", "evaluate.frames: 0 is not allowed; expected"),
        ("moving_shapes/sentence}", "x, evaluate: {@rate: 0}}", "setting 'tasks.msrvtt.evaluate.rate' is unknown"),
        ("  evaluate: {cpus: 1,", "  evaluate: {cpus: @0,", "resources.evaluate.cpus: 0 is not allowed; input should"),
        (
            "  evaluate: {cpus: 1, gpus: 0",
            "  evaluate: {cpus: 1, gpus: 0, accelerator: @A6000",
            "resources.evaluate.accelerator: is a type of GPU, and gpus is 0; drop it, or request a GPU",
        ),
        (
            "  evaluate: {cpus: 1, gpus: 0",
            "  evaluate: {cpus: 1, gpus: 0, memory_gb: @0",
            "resources.evaluate.memory_gb: 0 is not allowed; input should be greater than 0",
        ),
        (
            "  evaluate: {cpus: 1, gpus: 0",
            "  evaluate: {cpus: 1, gpus: 0, workers: @-1",
            "resources.evaluate.workers: -1 is not allowed; input should be greater than or equal to 0",
        ),
        (
            "  evaluate: {cpus: 1, gpus: 0",
            "  evaluate: {nodes: 2, cpus: 2, gpus: @0",
            "resources.evaluate.gpus: 0 cannot be shared by 2 nodes; expected 2 or a multiple",
        ),
        (
            "  evaluate: {cpus: 1, gpus: 0",
            "  evaluate: {nodes: 2, cpus: @9, gpus: 4",
            "resources.evaluate.cpus: 9 cannot be shared by 2 nodes; expected 2 or a multiple",
        ),
        ("  evaluate: {cpus: 1,", "  evaluate: {cpus: 1, @tpus: 1,", "key 'resources.evaluate.tpus' is unknown; did"),
    ],
)
def test_every_fault_is_told_with_its_place(tmp_path, old, new, told):
    marked = edited(old, new)
    before = marked[: marked.index("@")]
    line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
    (fault,) = faults_of(tmp_path, marked.replace("@", ""))
    assert fault.startswith(f"s.yaml:{line}:{column}: {told}")


def test_a_stage_may_ask_for_a_type_of_gpu(tmp_path):
    path = tmp_path / "s.yaml"
    path.write_text(SCALE.replace("pretrain: {cpus: 1, gpus: 0}", "pretrain: {cpus: 1, gpus: 4, accelerator: A6000}"))
    resources = load_scale(str(path)).resources
    assert resources["pretrain"] == {"cpus": 1, "gpus": 4, "accelerator": "A6000"}
    assert resources["finetune"] == {"cpus": 1, "gpus": 0}


def test_a_stage_may_ask_for_memory_which_is_no_part_of_what_it_is(tmp_path):
    path = tmp_path / "s.yaml"
    path.write_text(SCALE)
    plain = load_scale(str(path))
    path.write_text(SCALE.replace("pretrain: {cpus: 1, gpus: 0}", "pretrain: {cpus: 1, gpus: 0, memory_gb: 1.5}"))
    asks = load_scale(str(path))
    assert asks.resources["pretrain"] == {"cpus": 1, "gpus": 0, "memory_gb": 1.5}
    before, after = (cut_stages(scale.base_config(), scale.resources, 0, 0)[0] for scale in (plain, asks))
    assert before.fingerprint == after.fingerprint
    job = worker_job(after, tmp_path, tmp_path, peak_bytes=7)
    assert (job.memory_bytes, job.peak_bytes) == (1.5 * 2**30, 7)
    assert worker_job(before, tmp_path, tmp_path).memory_bytes is None


def test_several_faults_are_told_together(tmp_path):
    text = (
        edited(WIDTH, "  widht: 64\n")
        .replace("corpus: 5M", "corpus: 6M")
        .replace("warmup_epochs: 0.0", "warmup_epochs: no")
    )
    assert [fault.split(": ", 1)[1].split(";")[0] for fault in faults_of(tmp_path, text)] == [
        "model.width is missing",
        "setting 'model.widht' is unknown",
        "pretrain.corpus: '6M' is no slot of corpora",
        "finetune.warmup_epochs: 'no' is not allowed",
    ]


@pytest.mark.parametrize(
    ("section", "name"),
    [
        (section, f.name)
        for section, config in SECTIONS.items()
        for f in fields(config)
        if f.default is MISSING and f.name != FILLED
    ],
)
def test_a_setting_without_a_default_must_be_chosen(tmp_path, section, name):
    scale = dict(read_document(FOLDER / "tiny.yaml").value)
    scale[section] = {key: value for key, value in scale[section].items() if key != name}
    (fault,) = faults_of(tmp_path, json.dumps(scale, indent=1))
    assert f"{section}.{name} is missing; a scale must choose it" in fault


@pytest.mark.parametrize("section", [*KINDS, "model", "resources", "corpora", "tasks"])
def test_a_section_that_is_missing_or_no_mapping_is_told(tmp_path, section):
    document = read_document(FOLDER / "tiny.yaml")
    without = {key: value for key, value in document.value.items() if key != section}
    assert any(f"{section} is missing" in fault for fault in faults_of(tmp_path, json.dumps(without)))
    wrong = faults_of(tmp_path, json.dumps(document.value | {section: 3}, indent=1))
    assert any(f"{section}: 3 is not allowed" in fault for fault in wrong)


def test_an_empty_file_says_what_a_scale_holds(tmp_path):
    (fault,) = faults_of(tmp_path, "")
    assert "is empty; expected scale, title, corpora" in fault


@pytest.mark.parametrize("section", SECTIONS)
def test_every_default_has_the_type_that_a_file_must_give(section):
    types = section_types(section)
    for f in fields(SECTIONS[section]):
        if f.default is not MISSING:
            assert type_fault(f.name, as_json(f.default), types[f.name]) is None
