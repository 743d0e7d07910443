"""What a run would do and cost: counts, sharing, staleness and hours, by hand."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from experiments.config.scale import load_scale
from experiments.config.sweep import load_sweep
from experiments.engines.base import Inventory, Node
from experiments.planning.plan import Plan, distinct_stages, make_plan, resource_problems
from experiments.stages.code_version import code_digest
from experiments.stages.stage import Stage
from experiments.stages.trial import Trial, expand
from experiments.store.attempt import NOTHING_SPENT, claim
from experiments.store.documents import write_json
from experiments.store.store import Store
from tests.experiments.finished import HOST, finish, made_result
from tests.quick_stage import quick_stage

SWEEPS = Path(__file__).parents[3] / "sweeps"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


@pytest.fixture(scope="module")
def real_trials() -> list[Trial]:
    scale = load_scale("tiny")
    return expand(load_sweep(SWEEPS / "masking_ratio.yaml", scale), scale)


@pytest.fixture
def trials(real_trials: list[Trial]) -> list[Trial]:
    """Two trials that share their pre-training: a, b and c of the first, a, d and e of the second."""
    return [with_stages(real_trials[0], chain(seed)) for seed in (1, 2)]


def with_stages(trial: Trial, stages: tuple[Stage, ...]) -> Trial:
    return replace(trial, stages=stages)


def chain(seed: int = 0, **own: Any) -> tuple[Stage, ...]:
    """A pre-training that does not depend on `seed`, a fine-tuning that does, and its evaluation."""
    pretrain = quick_stage(**own)
    finetune = quick_stage("finetune", task="msrvtt", parents=(pretrain,), seed=seed)
    return pretrain, finetune, quick_stage("evaluate", task="msrvtt", parents=(finetune,), seed=None)


def states(plan: Plan) -> list[str]:
    return [planned.state for planned in plan.stages]


def test_the_sweep_of_table_4_is_four_trials_that_share_nothing(store: Store, real_trials: list[Trial]) -> None:
    plan = make_plan(real_trials, store).to_json()
    assert (plan["trials"], plan["pretrain_stages"]) == (4, 4)
    assert plan["stages"].items() >= {"total": 12, "new": 12, "shared": 0, "cached": 0, "stale": 0}.items()
    assert plan["hours"].items() >= {"row_by_row": None, "to_spend": None, "unit": None}.items()
    assert plan["hours"]["source"] == "no earlier attempts of pretrain, finetune.msrvtt, evaluate.msrvtt"
    assert not store.root.exists(), "a plan leaves no trace"


def test_stages_come_once_and_parents_before_children(trials: list[Trial]) -> None:
    stages = distinct_stages(trials)
    assert len(stages) == 5
    for place, stage in enumerate(stages):
        assert all(parent in stages[:place] for parent in stage.parents)


def test_counts_of_shared_stages(store: Store, trials: list[Trial]) -> None:
    plan = make_plan(trials, store)
    assert [planned.trials for planned in plan.stages] == [2, 1, 1, 1, 1]
    told = plan.to_json()
    assert told["stages"].items() >= {"total": 5, "new": 5, "shared": 1}.items()
    assert told["pretrain_stages"] == 1


def test_hours_row_by_row_count_a_shared_stage_for_each_trial_and_hours_to_spend_what_is_left(
    store: Store, trials: list[Trial]
) -> None:
    """Pre-training 4 h, fine-tuning 1 h, evaluation 0.5 h; the second trial's fine-tuning and evaluation are left."""
    for stage, hours in zip(trials[0].stages, (4.0, 1.0, 0.5), strict=True):
        finish(store, stage, hours)
    plan = make_plan(trials, store)
    assert states(plan) == ["cached", "cached", "cached", "new", "new"]
    assert plan.row_by_row() == pytest.approx(2 * (4.0 + 1.0 + 0.5))
    assert plan.to_spend() == pytest.approx(1.0 + 0.5)
    assert plan.unit == "CPU h"
    assert plan.source == ("measured; median of earlier stages of the same shape: 1 finetune.msrvtt, 1 evaluate.msrvtt")
    assert plan.to_json()["hours"]["to_spend"] == pytest.approx(1.5)


def test_all_cached_is_measured_and_costs_nothing_more(store: Store, trials: list[Trial]) -> None:
    for stage in distinct_stages(trials):
        finish(store, stage, 1.0)
    plan = make_plan(trials, store)
    assert (plan.row_by_row(), plan.to_spend(), plan.source) == (pytest.approx(6.0), 0.0, "measured")


def test_lost_hours_are_not_expected_again(store: Store, trials: list[Trial]) -> None:
    finish(store, trials[0].stages[0], 4.0, lost=3.0)
    assert make_plan(trials, store).stages[0].hours == pytest.approx(4.0)


def test_without_a_closed_form_the_median_of_stages_with_the_same_settings_is_the_estimate(
    store: Store, real_trials: list[Trial]
) -> None:
    for seed, hours in ((1, 1.0), (2, 9.0), (3, 2.0)):
        finish(store, quick_stage(seed=seed), hours)
    finish(store, quick_stage(seed=1, steps=99), 100.0)
    plan = make_plan([with_stages(real_trials[0], (quick_stage(seed=8),))], store)
    assert plan.to_spend() == pytest.approx(2.0)
    assert plan.source.endswith("3 pretrain")
    plan = make_plan([with_stages(real_trials[0], (quick_stage(seed=8, steps=98),))], store)
    assert plan.to_spend() is None, "another setting may change the price"


def test_cpu_hours_do_not_foretell_gpu_hours(store: Store, real_trials: list[Trial]) -> None:
    finish(store, quick_stage(seed=1), 50.0)
    on_gpu = with_stages(real_trials[0], (quick_stage(seed=2, gpus=1),))
    assert make_plan([on_gpu], store).to_spend() is None
    finish(store, quick_stage(seed=3, gpus=1), 0.5, unit="H200 GPU h")
    plan = make_plan([on_gpu], store)
    assert (plan.to_spend(), plan.unit) == (0.5, "H200 GPU h")


def test_mixed_devices_have_no_unit(store: Store, real_trials: list[Trial]) -> None:
    stages = quick_stage(seed=1), quick_stage(seed=2, gpus=1)
    for stage, unit in zip(stages, ("CPU h", "H200 GPU h"), strict=True):
        finish(store, stage, 1.0, unit=unit)
    assert make_plan([with_stages(real_trials[0], stages)], store).unit is None


def test_other_code_makes_a_stage_stale_and_names_the_files(store: Store, trials: list[Trial]) -> None:
    directory = finish(store, trials[0].stages[0], 4.0)
    assert states(make_plan(trials, store))[0] == "cached"
    code = code_digest("pretrain")
    changed = code | {"smaug_core/model/smaug.py": "0" * 64, "smaug_core/gone.py": "1" * 64}
    write_json(directory / "result.json", made_result(trials[0].stages[0], code=changed))
    plan = make_plan(trials, store)
    assert plan.stages[0].state == "stale"
    assert plan.stages[0].changed == ["smaug_core/gone.py", "smaug_core/model/smaug.py"]
    assert plan.to_json()["stages"].items() >= {"stale": 1, "cached": 0, "new": 4}.items()


def test_states_on_the_way(store: Store, real_trials: list[Trial]) -> None:
    running, failed, resumed, new = (quick_stage(seed=seed) for seed in range(4))
    claim(store.prepare(running), HOST)
    claim(store.prepare(failed), HOST).end("failed", NOTHING_SPENT, "as told")
    claim(store.prepare(resumed), HOST).end("interrupted", NOTHING_SPENT, "as told")
    (store.directory(resumed) / "checkpoints" / "step-00000001").mkdir(parents=True)
    plan = make_plan([with_stages(real_trials[0], (running, failed, resumed, new))], store)
    assert states(plan) == ["running", "failed", "resume", "new"]
    counts = plan.to_json()["stages"]
    assert counts.items() >= {"total": 4, "new": 4, "running": 1, "failed": 1, "resume": 1, "cached": 0}.items()


def test_a_stage_that_asks_for_too_much_is_a_problem_until_it_is_done(store: Store, real_trials: list[Trial]) -> None:
    greedy = quick_stage(gpus=2, cpus=4)
    trial = with_stages(real_trials[0], (greedy,))
    small, large = Inventory((Node(cpus=4),)), Inventory((Node(cpus=4, gpus=2),))
    told = "resources.pretrain.gpus: 2 is more than one stage can have here; at most 0"
    assert make_plan([trial], store, small).problems == [told]
    assert make_plan([trial], store, large).problems == []
    assert make_plan([trial], store).problems == []
    finish(store, greedy, 1.0, unit="H200 GPU h")
    assert make_plan([trial], store, small).problems == []


MIXED = Inventory((Node(cpus=32), Node(cpus=4, gpus=2, accelerators=("A6000",)), Node(cpus=8, gpus=1)))


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"cpus": 32}, None),
        ({"cpus": 4, "gpus": 2}, None),
        ({"gpus": 2, "accelerator": "A6000"}, None),
        # Two machines have three GPUs, none has them all.
        ({"gpus": 3}, "resources.pretrain.gpus: 3 is more than one stage can have here; at most 2"),
        ({"cpus": 33}, "resources.pretrain.cpus: 33 is more than one stage can have here; at most 32"),
        (
            {"cpus": 8, "gpus": 2},
            "resources.pretrain: 8 cpus with 2 gpus are more than one machine has here;"
            " the machines have 32 with 0, 4 with 2, 8 with 1",
        ),
        (
            {"gpus": 1, "accelerator": "H100"},
            "resources.pretrain.accelerator: 'H100' is not here; there is A6000",
        ),
        (
            {"cpus": 8, "gpus": 1, "accelerator": "A6000"},
            "resources.pretrain.cpus: 8 is more than one stage can have here; at most 4",
        ),
    ],
)
def test_a_stage_must_fit_on_one_machine(asked: dict[str, Any], told: str | None) -> None:
    assert resource_problems([quick_stage(**asked)], MIXED) == ([] if told is None else [told])


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"nodes": 2, "gpus": 8, "cpus": 32}, None),
        (
            {"nodes": 2, "gpus": 10, "cpus": 32},
            "gpus: 5 on each of 2 nodes is more{can} 4",
        ),
        (
            {"nodes": 4, "gpus": 4, "cpus": 80},
            "cpus: 20 on each of 4 nodes is more{can} 16",
        ),
    ],
)
def test_a_share_must_fit_on_one_machine_of_a_cluster(asked: dict[str, Any], told: str | None) -> None:
    cluster = Inventory((Node(cpus=16, gpus=4),), spans=True)
    found = resource_problems([quick_stage(**asked)], cluster)
    assert found == (
        [] if told is None else [f"resources.pretrain.{told}".format(can=" than one stage can have here; at most")]
    )
    alone = "machines for one stage need a cluster; expected --engine slurm"
    assert resource_problems([quick_stage(**asked)], MIXED) == [f"resources.pretrain.nodes: {asked['nodes']} {alone}"]


GIB = 2**30
NODES = (Node(cpus=8, memory_bytes=16 * GIB), Node(cpus=2, memory_bytes=64 * GIB))


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"memory_gb": 64}, None),
        ({"memory_gb": 65}, ".memory_gb: 65 is more than one stage can have here; at most 64"),
        (
            {"memory_gb": 17.5, "cpus": 4},
            ": 4 cpus with 0 gpus and 17.5 GB are more than one machine has here;"
            " the machines have 8 with 0 and 16 GB, 2 with 0 and 64 GB",
        ),
        ({"memory_gb": 128, "nodes": 2, "cpus": 2}, None),
        (
            {"memory_gb": 130, "nodes": 2, "cpus": 2},
            ".memory_gb: 65 on each of 2 nodes is more than one stage can have here; at most 64",
        ),
    ],
)
def test_a_stage_needs_a_machine_with_the_memory_that_the_scale_asks_for(
    asked: dict[str, Any], told: str | None
) -> None:
    found = resource_problems([quick_stage(**asked)], Inventory(NODES, spans=True))
    assert found == ([] if told is None else [f"resources.pretrain{told}"])
    unknown = Inventory((*NODES, Node(cpus=4)), spans=True)
    assert resource_problems([quick_stage(**asked)], unknown) == [], "a machine may have it that does not tell"


def test_what_stages_like_one_held_must_fit_on_ones_own_machine_alone() -> None:
    def held(stage: Stage) -> int:
        return 65 * GIB

    (problem,) = resource_problems([quick_stage()], Inventory(NODES, is_own=True), held)
    assert problem == (
        "resources.pretrain.memory_gb: stages like pretrain held 65, more than one stage can have here, 64;"
        " if less is enough, say how much"
    )
    assert resource_problems([quick_stage()], Inventory(NODES), held) == []
    assert resource_problems([quick_stage(memory_gb=2)], Inventory(NODES, is_own=True), held) == []


def test_a_type_of_gpu_is_not_there_where_nothing_tells_types() -> None:
    (problem,) = resource_problems([quick_stage(gpus=1, accelerator="A6000")], Inventory((Node(cpus=4, gpus=2),)))
    assert problem == "resources.pretrain.accelerator: 'A6000' is not here; there is no GPU of known type"


def test_running_stale_stages_again_costs_them_and_all_that_was_made_from_them(
    store: Store, trials: list[Trial], monkeypatch: pytest.MonkeyPatch
) -> None:
    """4 h of pre-training, 1 h of fine-tuning, 0.5 h of evaluation: by other code is the fine-tuning of one trial."""
    for stage, hours in zip(trials[0].stages, (4.0, 1.0, 0.5), strict=True):
        finish(store, stage, hours)
    result = store.directory(trials[0].stages[1]) / "result.json"
    told = json.loads(result.read_text())
    result.write_text(json.dumps(told | {"code": {"smaug_core/old.py": "0"}}))
    plan = make_plan(trials[:1], store)
    assert states(plan) == ["cached", "stale", "cached"]
    assert (plan.to_spend(), plan.to_spend_rerunning_stale()) == (0.0, pytest.approx(1.5))
