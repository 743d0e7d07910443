"""What stages are called, and which one is meant."""

import dataclasses

import pytest

from experiments.stages.trial import Trial
from experiments.store.lookup import Catalog, stage_labels
from experiments.store.trials import write_trial
from smaug_core.errors import SmaugError
from tests.experiments.made_trials import execute, trial


def named(catalog: Catalog, what: str) -> list[str]:
    return [found.fingerprint for found in catalog.find(what)]


def rows(home, *variants: str) -> list[Trial]:
    made = [trial(variant) for variant in variants]
    for one in made:
        write_trial(home, one)
    return made


def test_a_stage_goes_by_its_row_and_by_the_beginning_of_its_fingerprint(tmp_path):
    ten, half = rows(tmp_path, "10%", "50%")
    catalog, wanted = Catalog(tmp_path), half.stages[0].fingerprint
    names = [
        "masking_ratio/50%/pretrain",
        "50%/pretrain",
        "masking_ratio/tiny/50%/seed 0/pretrain",
        "tiny/50%/pretrain",
        "pretrain 50%",
    ]
    for what in [*names, wanted, wanted[:12], wanted[:20], wanted[:4]]:
        assert catalog.find_one(what).fingerprint == wanted
    assert named(catalog, "50%/finetune.msrvtt") == [half.stages[1].fingerprint]
    assert catalog.label(catalog.find_one(wanted)) == "pretrain 50%"
    assert ten.stages[0].fingerprint != wanted


def test_a_row_and_a_sweep_mean_all_their_stages(tmp_path):
    ten, half = rows(tmp_path, "10%", "50%")
    catalog = Catalog(tmp_path)
    assert named(catalog, "masking_ratio/50%") == named(catalog, "50%") == [s.fingerprint for s in half.stages]
    everything = [stage.fingerprint for one in (ten, half) for stage in one.stages]
    assert named(catalog, "masking_ratio") == named(catalog, "masking_ratio/tiny") == everything


def test_where_one_of_several_is_wanted_the_candidates_are_told(tmp_path):
    (half,) = rows(tmp_path, "50%")
    with pytest.raises(SmaugError) as told:
        Catalog(tmp_path).find_one("50%")
    assert str(told.value) == (
        "50%: means 3 stages; give more of one's name:"
        f"\n  {half.stages[0].fingerprint[:12]}  pretrain 50%"
        f"\n  {half.stages[1].fingerprint[:12]}  finetune.msrvtt 50%"
        f"\n  {half.stages[2].fingerprint[:12]}  evaluate.msrvtt 50%"
    )


def test_a_scale_or_a_seed_is_named_where_it_makes_the_difference(tmp_path):
    (half,) = rows(tmp_path, "50%")
    other_seed = dataclasses.replace(trial(pretrain={"steps": 4}), seed_pretrain=1, seed_finetune=1)
    write_trial(tmp_path, other_seed)
    catalog = Catalog(tmp_path)
    assert len(catalog.find("50%/pretrain")) == 2
    label = catalog.label(catalog.find_one(half.stages[0].fingerprint))
    assert label == "pretrain 50%, seed 0" and catalog.find_one(label).fingerprint == half.stages[0].fingerprint
    assert catalog.find_one("50%/seed 1/pretrain").fingerprint == other_seed.stages[0].fingerprint
    small = dataclasses.replace(trial(pretrain={"steps": 5}), scale="small")
    write_trial(tmp_path, small)
    catalog = Catalog(tmp_path)
    assert catalog.label(catalog.find_one(small.stages[0].fingerprint)) == "pretrain small 50%, seed 0"
    assert catalog.find_one("masking_ratio/tiny/50%/seed 0/pretrain").fingerprint == half.stages[0].fingerprint


def test_a_stage_that_rows_share_goes_by_each_of_them(tmp_path):
    half = trial("50%")
    write_trial(tmp_path, half)
    write_trial(tmp_path, dataclasses.replace(trial("10%"), stages=half.stages))
    catalog = Catalog(tmp_path)
    assert named(catalog, "10%/pretrain") == named(catalog, "50%/pretrain")
    found = catalog.find_one("10%/pretrain")
    assert catalog.label(found) == "pretrain 50% + 10%" == stage_labels([half])[found.fingerprint] + " + 10%"
    assert catalog.find_one("pretrain 50% + 10%") == catalog.find_one("pretrain 10%") == found


def test_a_label_names_the_sweep_where_there_are_several_and_counts_rows_beyond_four(tmp_path):
    half = trial("50%")
    rows = [dataclasses.replace(half, variant=f"{ratio}%") for ratio in (50, 60, 65, 70, 80)]
    other = dataclasses.replace(half, sweep=half.sweep.model_copy(update={"name": "other"}))
    first = half.stages[0].fingerprint
    assert stage_labels(rows)[first] == "pretrain 50% + 60% + 65% + 70% and 1 more"
    assert stage_labels([half, other])[first] == "pretrain masking_ratio 50% + other 50%"
    assert stage_labels([]) == {}


def test_only_valid_trials_give_names_but_every_begun_stage_has_its_fingerprint(tmp_path):
    old, new = trial(pretrain={"steps": 4}), trial()
    write_trial(tmp_path, old)
    execute(tmp_path, old, stages=1)
    write_trial(tmp_path, new)
    catalog, first = Catalog(tmp_path), old.stages[0].fingerprint
    assert named(catalog, "50%/pretrain") == [new.stages[0].fingerprint]
    assert named(catalog, first[:6]) == named(catalog, first) == [first]
    assert catalog.label(catalog.find_one(first)) == f"pretrain {first[:12]}"
    with pytest.raises(SmaugError, match="is no stage here"):
        catalog.find(old.stages[1].fingerprint)  # never begun, and nobody asks for it any more


@pytest.mark.parametrize(
    ("what", "told"),
    [
        ("50%/pretrian", "50%/pretrian: is no stage here; did you mean '50%/pretrain' or '10%/pretrain'?"),
        ("abc", "abc: is too short for a fingerprint; expected 4 digits or more"),
        ("60%/pretrain", "60%/pretrain: is no stage here; did you mean '50%/pretrain' or '10%/pretrain'?"),
        (
            "ffffffff",
            "ffffffff: is no stage here; a stage is named like 'masking_ratio/50%/pretrain', or by its fingerprint;"
            " there are stages of the sweeps masking_ratio, and `smaug status` lists their rows",
        ),
    ],
)
def test_what_means_nothing_is_refused_with_what_would_be_right(tmp_path, what, told):
    rows(tmp_path, "50%", "10%")
    with pytest.raises(SmaugError) as refused:
        Catalog(tmp_path).find(what)
    assert str(refused.value).startswith(told)


def test_in_an_empty_home_nothing_is_meant(tmp_path):
    with pytest.raises(SmaugError, match="50%: is no stage here; nothing was run yet"):
        Catalog(tmp_path).find("50%")
