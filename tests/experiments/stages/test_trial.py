"""From a sweep to trials and stages: their order, their seeds, what `--set` may do, and what shares what."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from experiments.config.scale import ResourcesByKind, Scale, load_scale
from experiments.config.seeds import Seeds, describe_pairs, read_seeds
from experiments.config.sweep import Sweep, load_sweep
from experiments.config.yaml_source import SweepError
from experiments.planning.plan import distinct_stages
from experiments.stages import trial as expansion
from experiments.stages.graph import cut_stages
from experiments.stages.trial import Trial, expand, parse_overrides
from smaug_core.config import ModelConfig
from smaug_core.data.tokenizer import EMBEDDED_VOCABULARIES
from smaug_core.errors import SmaugError

SWEEPS = Path(__file__).resolve().parents[3] / "sweeps"


@pytest.fixture(scope="module")
def tiny() -> Scale:
    return load_scale("tiny")


@pytest.fixture(scope="module")
def masking(tiny) -> Sweep:
    return load_sweep(SWEEPS / "masking_ratio.yaml", tiny)


def fingerprints(trial: Trial) -> dict[str, str]:
    return {stage.name: stage.fingerprint for stage in trial.stages}


def changed(before: Trial, after: Trial) -> set[str]:
    """Kinds of the stages that are no longer what they were."""
    assert [stage.name for stage in before.stages] == [stage.name for stage in after.stages]
    pairs = zip(before.stages, after.stages, strict=True)
    return {old.kind for old, new in pairs if old.fingerprint != new.fingerprint}


def refusal(*args: Any, **kwargs: Any) -> str:
    with pytest.raises(SweepError) as refused:
        expand(*args, **kwargs)
    return str(refused.value)


def test_trials_stand_in_the_order_of_the_rows(masking, tiny):
    trials = expand(masking, tiny)
    assert [(trial.variant, trial.seed, trial.label) for trial in trials] == [
        ("10%", "0", "10%, seed 0"),
        ("25%", "0", "25%, seed 0"),
        ("50%", "0", "50%, seed 0"),
        ("65%", "0", "65%, seed 0"),
    ]
    assert [trial.config.pretrain.mask_ratio for trial in trials] == [0.1, 0.25, 0.5, 0.65]
    assert [trial.params() for trial in trials] == [{"pretrain.mask_ratio": r} for r in (0.1, 0.25, 0.5, 0.65)]


def test_a_trial_is_a_chain_of_stages_that_carry_what_they_read(masking, tiny):
    (trial,) = expand(masking, tiny, only=["10%"])
    pretrain, finetune, evaluate = trial.stages
    assert [stage.name for stage in trial.stages] == ["pretrain", "finetune.msrvtt", "evaluate.msrvtt"]
    assert (pretrain.parents, finetune.parents, evaluate.parents) == ((), (pretrain,), (finetune,))
    assert (pretrain.seed, finetune.seed, evaluate.seed) == (0, 0, None)
    for stage in trial.stages:
        assert list(stage.settings) == ["model", "data", stage.kind]
        assert stage.resources == {"cpus": 1, "gpus": 0}
    assert pretrain.settings["pretrain"]["corpus"] == ["moving_shapes/stills", "moving_shapes/sentence"]
    assert list(pretrain.inputs) == ["tokenizer", "moving_shapes/stills train", "moving_shapes/sentence train"]
    assert list(finetune.inputs) == ["tokenizer", "moving_shapes/sentence train"]
    assert list(evaluate.inputs) == ["tokenizer", "moving_shapes/sentence test"]
    assert finetune.inputs["moving_shapes/sentence train"] != evaluate.inputs["moving_shapes/sentence test"]


def test_a_task_without_fine_tuning_is_evaluated_from_the_pre_training(masking, tiny):
    (trial,) = expand(masking, tiny, only=["50%"])
    pretrain, evaluate = cut_stages(dataclasses.replace(trial.config, finetune={}), tiny.resources, 0, 0)
    assert evaluate.parents == (pretrain,)


def test_seeds_multiply_and_label_the_trials(masking, tiny):
    trials = expand(masking, tiny, overrides={"seeds.pretrain": [0, 1], "seeds.finetune": [0, 2]}, only=["50%"])
    assert [(trial.seed_pretrain, trial.seed_finetune) for trial in trials] == [(0, 0), (0, 2), (1, 0), (1, 2)]
    assert [trial.seed for trial in trials] == ["0", "0/2", "1/0", "1/2"]
    assert len({trial.fingerprint for trial in trials}) == 4
    assert [stage.kind for stage in distinct_stages(trials)].count("pretrain") == 2


def test_seeds_of_the_sweep_file_are_used(masking, tiny):
    sweep = masking.model_copy(update={"seeds": Seeds(pretrain=(3,), finetune=(4, 3))})
    assert [trial.seed for trial in expand(sweep, tiny, only=["50%"])] == ["3/4", "3"]
    assert [trial.seed for trial in expand(sweep, tiny, only=["50%"], overrides={"seeds.finetune": [3]})] == ["3"]


@pytest.mark.parametrize(("given", "seeds"), [(3, [0, 1, 2]), (1, [0]), ([4, 7], [4, 7])])
def test_full_trials_take_one_seed_for_both_trainings(masking, tiny, given, seeds):
    trials = expand(masking, tiny, only=["50%"], overrides={"seeds": given})
    assert [(trial.seed_pretrain, trial.seed_finetune, trial.seed) for trial in trials] == [
        (seed, seed, str(seed)) for seed in seeds
    ]
    product = {"seeds.pretrain": seeds, "seeds.finetune": seeds}
    all_pairs = {trial.fingerprint for trial in expand(masking, tiny, only=["50%"], overrides=product)}
    assert {trial.fingerprint for trial in trials} <= all_pairs and len(all_pairs) == len(seeds) ** 2
    mapping = {"seeds": {"pretrain": seeds}}
    assert len(expand(masking, tiny, only=["50%"], overrides=mapping)) == len(seeds)


def test_a_list_of_one_training_does_not_change_full_trials(masking, tiny):
    sweep = masking.model_copy(update={"seeds": read_seeds(2)})
    assert [trial.seed for trial in expand(sweep, tiny, only=["50%"])] == ["0", "1"]
    told = refusal(sweep, tiny, overrides={"seeds.pretrain": [1]})
    assert told.startswith("--set seeds.pretrain=[1]: the sweep file has full trials")
    both = {"seeds.pretrain": [1, 2], "seeds.finetune": [5, 6]}
    assert [t.seed for t in expand(sweep, tiny, only=["50%"], overrides=both)] == ["1/5", "1/6", "2/5", "2/6"]
    assert "drop one" in refusal(masking, tiny, overrides={"seeds": 2, "seeds.pretrain": [1]})


@pytest.mark.parametrize(
    ("seeds", "what"),
    [
        (5, "seeds.pretrain: 5 is not a list; write [5] for seed 5, seeds=5 for 5 full trials"),
        (0, "seeds.pretrain: 0 is not a list; write [0] for seed 0"),
        (-1, "seeds.pretrain: -1 is not a list; a seed is a whole number from 0 to 2147483647"),
        ([], "seeds.pretrain: [] is not allowed; expected a list of seeds, e.g. [0, 1, 2]"),
        ([-1], "seeds.pretrain.0: -1 is not allowed; expected a whole number from 0 to 2147483647"),
        ([2**31], "seeds.pretrain.0: 2147483648 is not allowed; expected a whole number from 0 to 2147483647"),
        ([True], "seeds.pretrain.0: True is not allowed; expected a whole number from 0 to 2147483647"),
        ([1.0], "seeds.pretrain.0: 1.0 is not allowed; expected a whole number from 0 to 2147483647"),
        ([[0]], "seeds.pretrain.0: [0] is not allowed; expected a whole number from 0 to 2147483647"),
        ([0, 0], "seeds.pretrain: 0 is given twice; drop one"),
        *((wrong, f"seeds.pretrain: {wrong!r} is not allowed; expected a list") for wrong in ("x", None, {}, True)),
    ],
)
def test_seeds_of_one_training_that_are_none_are_refused(masking, tiny, seeds, what):
    assert refusal(masking, tiny, overrides={"seeds.pretrain": seeds}).startswith(
        f"--set seeds.pretrain={seeds}: {what}"
    )


@pytest.mark.parametrize(
    ("seeds", "what"),
    [
        (0, "seeds: 0 trials of each row are not allowed; expected 1 to 1000, or [0] for seed 0"),
        (-1, "seeds: -1 trials of each row are not allowed; expected 1 to 1000"),
        (10**12, f"seeds: {10**12} trials of each row are not allowed; expected 1 to 1000"),
        (True, "seeds: True is not allowed; expected a number of trials (3), "),
        (None, "seeds: None is not allowed; expected a number of trials (3), "),
        (2.5, "seeds: 2.5 is not allowed; expected a number of trials (3), "),
        ([3, 3], "seeds: 3 is given twice; drop one"),
        ({"evaluate": [0]}, "key 'seeds.evaluate' is unknown; expected one of finetune, pretrain"),
    ],
)
def test_seeds_of_full_trials_that_are_none_are_refused(masking, tiny, seeds, what):
    assert refusal(masking, tiny, overrides={"seeds": seeds}).startswith(f"--set seeds={seeds}: {what}")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (3, "0, 1, 2"),
        ({"pretrain": [0, 1], "finetune": [0, 2]}, "pre-training 0, 1; fine-tuning 0, 2"),
        (12, "0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 2 more"),
    ],
)
def test_seeds_are_named_for_people(given, words):
    assert describe_pairs(read_seeds(given).pairs) == words
    assert describe_pairs([(0, 0), (1, 2)]) == "0, 1/2"


def test_only_takes_rows_in_the_order_of_the_table(masking, tiny):
    assert [trial.variant for trial in expand(masking, tiny, only=["65%", "10%"])] == ["10%", "65%"]
    assert refusal(masking, tiny, only=["55%", "10%"]) == "--only 55%: variant '55%' is unknown; did you mean '65%'?"


def test_overrides_hold_for_every_row(masking, tiny):
    overrides = {"model.keep_rate": 1, "finetune.msrvtt.epochs": 5, "data.seed": 7}
    for trial in expand(masking, tiny, overrides=overrides):
        assert (trial.config.model.keep_rate, trial.config.finetune["msrvtt"].epochs) == (1.0, 5)
        assert trial.config.data.seed == 7
        assert trial.set_keys == ("pretrain.mask_ratio",)
    assert tiny.tree["model"]["keep_rate"] == 0.8


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        ({"pretrain.mask_ratio": 0.3}, "is what the sweep varies; choose rows with --only"),
        ({"pretrain.mask": 0.3}, "setting 'pretrain.mask' is unknown; did you mean 'pretrain.mask_ratio'?"),
        ({"finetune.didemo.epochs": 1}, "setting 'finetune.didemo.epochs' is unknown; did you mean"),
        ({"pretrain.epochs": "three"}, "pretrain.epochs: 'three' is not allowed; input should be a valid integer"),
        ({"pretrain.epochs": 0}, "pretrain.epochs: 0 is not allowed; expected at least 1"),
        ({"pretrain.corpus": "18M"}, "'18M' is unknown at scale tiny; "),
        ({"data": {"seed": 1}}, "setting 'data' is unknown"),
        ({"seeds.pretrian": [1]}, "setting 'seeds.pretrian' is unknown; did you mean 'seeds.pretrain'?"),
        ({"seeds.foo": [1]}, "setting 'seeds.foo' is unknown; did you mean 'seeds'?"),
        ({"resources.pretrain.gpus": 1}, "setting 'resources.pretrain.gpus' is unknown"),
    ],
)
def test_overrides_that_do_not_fit_are_refused(masking, tiny, overrides, told):
    (key,) = overrides
    found = refusal(masking, tiny, overrides=overrides)
    assert found.startswith(f"--set {key}={overrides[key]}: ") and told in found


def test_overrides_that_do_not_fit_together_are_refused(masking, tiny):
    found = refusal(masking, tiny, overrides={"pretrain.batch_size": 30, "pretrain.negatives_group": 7})
    assert "--set" in found and "pretrain.negatives_group: 7 is not allowed" in found


def test_every_wrong_option_is_told(masking, tiny):
    told = refusal(masking, tiny, overrides={"a": 1, "pretrain.mask_ratio": 0.3}, only=["x"])
    assert [line.split(":")[0] for line in told.splitlines()] == [
        "--only x",
        "--set a=1",
        "--set pretrain.mask_ratio=0.3",
    ]


def test_options_are_read_as_yaml():
    texts = ["data.seed=7", "pretrain.lr=1e-4", "seeds.pretrain=[0, 1]", " a =b=c", "evaluate.msrvtt.keep_rate=null"]
    assert parse_overrides(texts) == {
        "data.seed": 7,
        "pretrain.lr": 1e-4,
        "seeds.pretrain": [0, 1],
        "a": "b=c",
        "evaluate.msrvtt.keep_rate": None,
    }


def test_options_that_are_none_are_all_told():
    with pytest.raises(SweepError) as refused:
        parse_overrides(["a", "=1", "b=[1", "c=1", "c=2", "d={x: 1, x: 2}", "e=!mine 1"])
    told = str(refused.value).splitlines()
    assert [line.split(": ")[0] for line in told] == [
        "--set =1",
        "--set a",
        "--set b=[1",
        "--set c=2",
        "--set d={x",
        "--set e=!mine 1",
    ]


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("evaluate.msrvtt.rerank", 16, {"evaluate"}),
        ("evaluate.msrvtt.split", "val", {"evaluate"}),
        ("finetune.msrvtt.epochs", 9, {"finetune", "evaluate"}),
        ("seeds.finetune", [5], {"finetune", "evaluate"}),
        ("pretrain.epochs", 99, {"pretrain", "finetune", "evaluate"}),
        ("seeds.pretrain", [5], {"pretrain", "finetune", "evaluate"}),
        ("model.keep_rate", 0.7, {"pretrain", "finetune", "evaluate"}),
        ("data.seed", 5, {"pretrain", "finetune", "evaluate"}),
        ("model.keep_rate", 0.8, set()),
    ],
)
def test_a_setting_changes_the_stages_that_read_it_and_all_after_them(masking, tiny, key, value, expected):
    (before,) = expand(masking, tiny, only=["50%"])
    (after,) = expand(masking, tiny, only=["50%"], overrides={key: value})
    assert changed(before, after) == expected
    assert (before.fingerprint == after.fingerprint) == (not expected)


def test_two_sweeps_share_the_row_that_they_have_in_common(masking, tiny):
    variants: dict[str, dict[str, Any]] = {"0.6": {"model.keep_rate": 0.6}, "0.8": {"model.keep_rate": 0.8}}
    keeping = masking.model_copy(update={"name": "keeping_rate", "variants": variants, "baseline": "0.8"})
    trials = expand(masking, tiny) + expand(keeping, tiny)
    defaults = {trial.variant: trial for trial in trials}
    assert fingerprints(defaults["50%"]) == fingerprints(defaults["0.8"])
    assert len(distinct_stages(trials)) == 3 * (len(trials) - 1)


def test_another_folder_with_the_same_vocabulary_is_the_same_vocabulary(masking, tiny, tmp_path):
    words = EMBEDDED_VOCABULARIES["moving_shapes"].read_text()
    made = []
    for name, text in [("a", words), ("b", words), ("c", words + "more\n")]:
        (tmp_path / name).mkdir()
        (tmp_path / name / "vocab.txt").write_text(text)
        made += expand(masking, tiny, only=["50%"], overrides={"model.tokenizer": str(tmp_path / name)})
    assert changed(made[0], made[2]) == {"pretrain", "finetune", "evaluate"}
    assert made[0].stages[0].inputs == made[1].stages[0].inputs
    assert changed(made[0], made[1]) == set()


def test_a_vocabulary_or_source_that_is_not_there_is_told(masking, tiny, tmp_path):
    with pytest.raises(SmaugError, match="tokenizer: /nowhere/vocab.txt cannot be read"):
        expand(masking, tiny, overrides={"model.tokenizer": "/nowhere"})
    elsewhere = tiny.model_copy(update={"corpora": tiny.corpora | {"5M": ["cc9m"]}})
    with pytest.raises(SmaugError, match="source: 'cc9m' is unknown"):
        expand(masking, elsewhere, data_root=tmp_path)
    assert "cc9m train" in expand(masking, elsewhere)[0].stages[0].unseen  # it may be a folder of any data root


def test_resources_are_no_part_of_a_trials_identity(masking, tiny):
    more = tiny.model_copy(
        update={"by_kind": ResourcesByKind.model_validate({kind: {"cpus": 8, "gpus": 1} for kind in tiny.resources})}
    )
    assert [t.fingerprint for t in expand(masking, tiny)] == [t.fingerprint for t in expand(masking, more)]


def test_every_setting_of_the_model_stands_in_every_stage(masking, tiny):
    for stage in expand(masking, tiny, only=["50%"])[0].stages:
        assert stage.settings["model"].keys() == {f.name for f in dataclasses.fields(ModelConfig)}


def test_fewer_epochs_than_the_scale_says_are_noticed_wherever_they_are_set(masking, tiny):
    assert not expand(masking, tiny)[0].shortened
    assert expand(masking, tiny, overrides={"pretrain.epochs": 1})[0].shortened
    assert not expand(masking, tiny, overrides={"pretrain.epochs": 99})[0].shortened
    assert expand(masking, tiny, overrides={"finetune.msrvtt.epochs": 1})[0].shortened


def test_many_seeds_cut_a_chain_once_and_give_what_cutting_for_each_gives(tiny, monkeypatch):
    cuts = []
    monkeypatch.setattr(expansion, "cut_stages", lambda *given: cuts.append(given) or cut_stages(*given))
    sweep = load_sweep(SWEEPS / "frame_selection.yaml", tiny)
    trials = expand(sweep, tiny, overrides={"seeds.pretrain": [3, 5], "seeds.finetune": [0, 7, 9]})
    assert len(trials) == 6 * len(sweep.variants) and len(cuts) == len(sweep.variants)
    for made in trials:
        alone = cut_stages(made.config, tiny.resources, made.seed_pretrain, made.seed_finetune, None)
        assert [stage.document() for stage in made.stages] == [stage.document() for stage in alone]
    ones = [made.stages[0] for made in trials[:6]]
    assert [one is ones[0] for one in ones] == [True] * 3 + [False] * 3  # what seeds share is worked out once
