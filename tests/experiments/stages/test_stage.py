"""What a stage's fingerprint depends on, and what it does not."""

import json
from dataclasses import asdict, field, fields, make_dataclass, replace
from typing import Any

import pytest

from experiments.config.scale import Scale, load_scale
from experiments.config.settings import PER_TASK, SECTIONS, as_json, section_defaults, with_overrides
from experiments.stages.graph import cut_stages
from experiments.stages.kinds import ADDED, CONSTANT, STAGE_KINDS
from experiments.stages.stage import ENTRY, Stage, agrees, digest
from smaug_core.config import Config, PretrainConfig
from smaug_core.stage_protocol import KINDS
from tests.experiments.smoke import SCALE, Smoke

CPU = {"cpus": 1, "gpus": 0}
CHANGES: dict[tuple[str, str], dict[str, Any]] = {
    ("data", "size"): {"size": 34},
    ("model", "image_size"): {"image_size": 56},
    ("model", "patch_size"): {"patch_size": 4},
    ("model", "width"): {"width": 72},
    ("model", "heads"): {"heads": 4},
    ("model", "text_width"): {"text_width": 72},
    ("model", "text_heads"): {"text_heads": 4},
    ("model", "decoder_width"): {"decoder_width": 40},
    ("model", "decoder_heads"): {"decoder_heads": 4},
    ("model", "keep_rate"): {"keep_rate": 0.7},
    ("model", "selector_heads"): {"selector_heads": 4},
    ("model", "selection_per"): {"selection_per": "clip"},
    ("model", "caption_vector"): {"caption_vector": "mean"},
    ("model", "sparsify_layers"): {"sparsify_layers": (1,)},
    ("model", "temperature"): {"temperature": 0.1},
    ("pretrain", "corpus"): {"corpus": ("moving_shapes/stills",)},
    ("pretrain_video", "corpus"): {"corpus": ("moving_shapes/brief",)},
    ("pretrain_video", "frames"): {"frames": 8},
    ("pretrain_video", "selected"): {"selected": 1},
    ("finetune", "frames"): {"frames": 2},
    ("finetune", "selected"): {"frames": 4, "selected": 3},
    ("evaluate", "selected"): {"selected": "all"},
    ("finetune", "dataset"): {"dataset": "moving_shapes/stills"},
    ("evaluate", "keep_rate"): {"keep_rate": 0.5},
    ("evaluate", "ranking"): {"ranking": "contrast"},
    ("evaluate", "split"): {"split": "val"},
} | {
    (section, name): change
    for section in ("pretrain", "pretrain_video", "finetune")
    for name, change in {
        "batch_size": {"batch_size": 64},
        "negatives_group": {"negatives_group": 8},
        "lr": {"lr": 0.01},
        "min_lr": {"min_lr": 1e-7},
        "beta2": {"beta2": 0.9},
        "precision": {"precision": "bf16"},
        "weight_decay": {"weight_decay": 0.03},
        "vtc_negatives": {"vtc_negatives": "group"},
        "mask_ratio": {"mask_ratio": 0.25},
        "mlm_ratio": {"mlm_ratio": 0.2},
    }.items()
}
"""Another allowed value, for settings where the next number is none."""
LEFT_OUT = {
    ("evaluate", "dataset"),
    ("model", "tokenizer"),
    ("pretrain", "vision_weights"),
    ("pretrain", "text_weights"),
}
"""What they name enters by its digest: tests/experiments/test_expand.py, tests/training/test_initial_weights.py."""
DATA_READ = {name: KINDS for name in ("seed", "size", "frames", "train_clips")} | {"test_clips": ("evaluate",)}
"""The stages that read a setting of `data`, where all of them read `moving_shapes/sentence`."""


@pytest.fixture(scope="module")
def smoke(tmp_path_factory) -> Scale:
    return load_scale(str(Smoke(tmp_path_factory.mktemp("scale")).scale))


def stages_of(config: Config, scale: Scale) -> dict[str, Stage]:
    return {stage.kind: stage for stage in cut_stages(config, scale.resources, 0, 0)}


def made(**changes: Any) -> Stage:
    parts: dict[str, Any] = {
        "kind": "pretrain",
        "task": None,
        "settings": {"model": {"width": 64, "keep_rate": 0.8}, "data": None, "pretrain": {"corpus": ["a", "b"]}},
        "inputs": {"tokenizer": "00ff"},
        "parents": (),
        "seed": 0,
        "resources": CPU,
    }
    return Stage(**parts | changes)


def test_fingerprints_stay_what_they_are():
    """When this turns red, no result that was made before will be found again: say so in the commit."""
    first = made()
    second = made(kind="evaluate", task="msrvtt", parents=(first,), seed=None, settings={"evaluate": {"rerank": 64}})
    assert first.fingerprint == "4a98aef258a6d7a54c945ee3172ceaef194602317c717f6ded3a7ed7d0eae45c"
    assert second.fingerprint == "0f3107116af1c229e1d1b4ea8116a916811deddab9b428e0c4664e67e18684d0"


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "finetune"},
        {"seed": 1},
        {"seed": None},
        {"inputs": {"tokenizer": "00fe"}},
        {"inputs": {"tokenizer": "00ff", "more": "00"}},
        {"inputs": {}},
        {"settings": {"model": {"width": 65, "keep_rate": 0.8}, "data": None, "pretrain": {"corpus": ["a", "b"]}}},
        {"settings": {"model": {"width": 64, "keep_rate": 0.8}, "data": None, "pretrain": {"corpus": ["b", "a"]}}},
        {"settings": {"model": {"width": 64, "keep_rate": 0.8}, "data": None, "finetune": {"corpus": ["a", "b"]}}},
        {"parents": (made(seed=7),)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_whatever_decides_the_result_changes_the_fingerprint(change):
    assert made(**change).fingerprint != made().fingerprint


def test_a_parents_change_reaches_every_descendant():
    def chain(seed: int) -> Stage:
        first = made(seed=seed)
        return made(kind="evaluate", parents=(made(kind="finetune", parents=(first,)),))

    assert chain(0).fingerprint != chain(1).fingerprint


def test_a_version_that_is_raised_changes_the_fingerprint(monkeypatch):
    before = made().fingerprint
    kind = STAGE_KINDS["pretrain"]
    monkeypatch.setitem(STAGE_KINDS, kind.name, replace(kind, version=kind.version + 1))
    assert made().fingerprint != before


def test_where_it_runs_and_what_it_is_called_do_not_change_the_fingerprint():
    reordered = {"pretrain": {"corpus": ["a", "b"]}, "data": None, "model": {"keep_rate": 0.8, "width": 64}}
    other_data = made().settings | {"data": {"brief_frames": 20}}  # what is read of it is among the inputs
    for change in (
        {"resources": {"cpus": 8, "gpus": 4, "accelerator": "A6000"}},
        {"task": "msrvtt"},
        {"settings": reordered},
        {"settings": other_data},
    ):
        assert made(**change).fingerprint == made().fingerprint
    assert made(resources={"cpus": 8, "gpus": 4}) == made()


def test_a_vocabularys_folder_does_not_count_and_its_digest_does():
    def over(tokenizer: str, of: str = "00ff") -> str:
        return made(settings={"model": {"tokenizer": tokenizer, "width": 1}}, inputs={"tokenizer": of}).fingerprint

    assert over("/here/bert") == over("/there/bert")
    assert over("/here/bert") != over("/here/bert", of="00fe")


def test_a_stage_tells_all_that_a_worker_needs():
    parent = made()
    document = made(kind="finetune", task="msrvtt", parents=(parent,), seed=3).document()
    assert document == {
        "name": "finetune.msrvtt",
        "kind": "finetune",
        "task": "msrvtt",
        "version": STAGE_KINDS["finetune"].version,
        "settings": made().settings,
        "inputs": {"tokenizer": "00ff"},
        "parents": [parent.fingerprint],
        "seed": 3,
        "resources": CPU,
        "entry": ENTRY,
        "fingerprint": document["fingerprint"],
    }
    assert json.loads(json.dumps(document)) == document
    assert made().document()["name"] == "pretrain"


def cases() -> list[Any]:
    every = [(section, f.name) for section, config in SECTIONS.items() for f in fields(config)]
    return [pytest.param(*case, id=".".join(case)) for case in every if case not in LEFT_OUT]


@pytest.mark.parametrize(("section", "name"), cases())
def test_every_setting_changes_the_stages_that_read_it_and_no_earlier_one(smoke, section, name):
    config = smoke.base_config()
    video = smoke.config(with_overrides(smoke.tree, {"pretrain_video.frames": 4, "pretrain_video.selected": 2}), [])
    config = replace(config, pretrain_video=video.pretrain_video)
    before = getattr(config, section)
    own = before["msrvtt"] if section in PER_TASK else before
    other = replace(own, **(CHANGES.get((section, name)) or another(name, getattr(own, name))))
    after = replace(config, **{section: {"msrvtt": other} if section in PER_TASK else other})
    old, new = stages_of(config, smoke), stages_of(after, smoke)
    first = KINDS.index(section) if section in KINDS else 0
    changed = [kind for kind in KINDS if old[kind].fingerprint != new[kind].fingerprint]
    if name in CONSTANT:
        assert changed == []
        return
    assert changed == list(DATA_READ.get(name, ()) if section == "data" else KINDS[first:])


def another(name: str, value: Any) -> dict[str, Any]:
    if isinstance(value, bool):
        return {name: not value}
    if value is None:
        raise AssertionError(f"{name}: say in CHANGES what else it can be")
    if isinstance(value, str):
        return {name: f"{value}2"}
    return {name: value + 1 if isinstance(value, int) else value + 0.01}


def test_a_whole_number_for_a_float_is_the_same_setting(smoke, tmp_path):
    def with_warmup(text: str) -> str:
        path = tmp_path / "s.yaml"
        path.write_text(SCALE.replace("warmup_epochs: 0.5", f"warmup_epochs: {text}"))
        scale = load_scale(str(path))
        return stages_of(scale.base_config(), scale)["pretrain"].fingerprint

    assert with_warmup("1") == with_warmup("1.0") == with_warmup("1e0") != with_warmup("2")


def test_settings_are_as_json_holds_them(smoke):
    for stage in stages_of(smoke.base_config(), smoke).values():
        assert json.loads(json.dumps(stage.settings)) == stage.settings


def test_the_digest_is_of_canonical_json():
    assert digest({"b": [1, 0.5], "a": "é"}) == digest({"a": "é", "b": [1, 0.5]})
    assert digest([1, 2]) != digest([2, 1])
    assert digest(1) != digest("1")
    assert digest({"a": "é"}) == "57e512a1ff02f75e939e93d2196b8d29ad3721b70ce25a601402d26410f453a2"
    with pytest.raises(ValueError, match="not JSON compliant"):
        digest(float("nan"))


def with_a_later_setting(smoke: Scale, value: int) -> Stage:
    """Pre-training by a version whose section has one more setting, with the default 2."""
    later = make_dataclass(
        "Later", [("crops", int, field(default=2))], bases=(PretrainConfig,), frozen=True, kw_only=True
    )
    config = smoke.base_config()
    config = replace(config, pretrain=later(**asdict(config.pretrain), crops=value))
    return stages_of(config, smoke)["pretrain"]


def test_a_setting_that_is_added_leaves_earlier_fingerprints_alone_at_its_default(smoke, monkeypatch):
    before = stages_of(smoke.base_config(), smoke)["pretrain"]
    assert with_a_later_setting(smoke, 2).fingerprint != before.fingerprint
    monkeypatch.setattr("experiments.stages.stage.ADDED", {("pretrain", "crops"): 2})
    same, other = with_a_later_setting(smoke, 2), with_a_later_setting(smoke, 3)
    assert same.fingerprint == before.fingerprint != other.fingerprint
    assert same.document()["settings"]["pretrain"]["crops"] == 2
    for stage in (before, same, other):
        assert agrees(stage.document())
    assert not agrees(same.document() | {"settings": other.settings})


def test_settings_that_were_added_still_have_their_old_default():
    """Else a stage.json of before, which does not name the setting, would run with another value."""
    for (section, name), default in ADDED.items():
        assert section_defaults(section)[name] == as_json(default)
