"""Why a stage has no result yet: the nearest finished one, and the first setting that differs."""

from pathlib import Path

import pytest

from experiments.config.scale import load_scale
from experiments.config.sweep import load_sweep
from experiments.config.yaml_source import SweepError
from experiments.planning.cache_miss import explain
from experiments.planning.plan import make_plan
from experiments.stages.trial import expand
from experiments.store.store import Store
from tests.experiments.finished import finish

SWEEPS = Path(__file__).parents[3] / "sweeps"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def trials(name: str = "masking_ratio", **overrides):
    scale = load_scale("tiny")
    return {t.variant: t for t in expand(load_sweep(SWEEPS / f"{name}.yaml", scale), scale, overrides=overrides)}


def why(store: Store, made, stage):
    return explain(make_plan(list(made.values()), store), stage.fingerprint[:12], store)


def test_the_first_setting_that_differs_is_named_with_both_values(store):
    made = trials()
    done, asked = made["50%"].stages[0], made["10%"].stages[0]
    finish(store, done, 1.0)
    told = why(store, made, asked)
    assert told.nearest == store.directory(done)
    assert [(d.name, d.there, d.here) for d in told.differences] == [("pretrain.mask_ratio", 0.5, 0.1)]
    assert told.lines()[-1] == "first difference: pretrain.mask_ratio: 0.5 there, 0.1 here"
    assert told.to_json()["differences"] == [{"name": "pretrain.mask_ratio", "there": 0.5, "here": 0.1}]


def test_how_many_clips_may_be_unreadable_is_no_difference(store):
    made, tolerant = trials(), trials(**{"pretrain.max_unreadable": 0.25, "finetune.msrvtt.max_unreadable": 0.1})
    for name, trial in made.items():
        assert [s.fingerprint for s in trial.stages] == [s.fingerprint for s in tolerant[name].stages]
    assert tolerant["10%"].stages[0].settings["pretrain"]["max_unreadable"] == 0.25
    finish(store, made["50%"].stages[0], 1.0)
    told = why(store, tolerant, tolerant["10%"].stages[0])
    assert [d.name for d in told.differences] == ["pretrain.mask_ratio"]


def test_a_stage_is_told_apart_by_what_it_builds_on(store):
    made = trials()
    for stage in made["50%"].stages:
        finish(store, stage, 1.0)
    told = why(store, made, made["10%"].stages[2])
    assert told.differences[0].name == "pretrain.mask_ratio"


def test_the_nearest_differs_in_the_fewest_things(store):
    near = trials(**{"pretrain.epochs": 3})
    far = trials(**{"pretrain.epochs": 3, "pretrain.lr": 0.1})
    for made in (far, near):
        finish(store, made["50%"].stages[0], 1.0)
    made = trials()
    told = why(store, made, made["50%"].stages[0])
    assert told.nearest == store.directory(near["50%"].stages[0])
    assert [d.name for d in told.differences] == ["pretrain.epochs"]


def test_other_data_and_other_seeds_are_differences(store):
    finish(store, trials(**{"data.seed": 4})["50%"].stages[0], 1.0)
    made = trials(**{"seeds.pretrain": [2]})
    names = [d.name for d in why(store, made, made["50%"].stages[0]).differences]
    assert names[:2] == ["seed of pretrain", "data.seed"]
    assert all("input" in name for name in names[2:]) and len(names) > 2


def test_what_is_finished_and_what_nothing_compares_with(store):
    made = trials()
    stage = made["50%"].stages[0]
    assert why(store, made, stage).lines()[-1] == "no pretrain is finished in this store"
    finish(store, stage, 1.0)
    assert why(store, made, stage).lines()[-1] == "finished, by the code that is here"


@pytest.mark.parametrize(("given", "told"), [("abc", "no stage of this plan"), ("", "12 stages of this plan")])
def test_a_fingerprint_must_name_one_planned_stage(store, given, told):
    with pytest.raises(SweepError, match=f"--why {given}: {told} begin.*4 digits or more"):
        explain(make_plan(list(trials().values()), store), given, store)
