"""What a stage costs before anybody has run it: by its like, by a rate, by the paper's hours."""

from dataclasses import replace
from pathlib import Path

import pytest

from experiments.config.scale import load_scale
from experiments.config.sweep import load_sweep
from experiments.planning.cost_model import Prices, Rate, rate_file, sources_of
from experiments.stages.stage import Stage
from experiments.stages.trial import Trial, expand
from experiments.stages.workload import stage_macs
from experiments.store.documents import StageDocument, write_json
from experiments.store.store import Store
from smaug_core.cost.flops import evaluation_macs
from tests.experiments.finished import finish

SWEEPS = Path(__file__).parents[3] / "sweeps"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def trials(name: str, scale: str = "tiny", **overrides) -> list[Trial]:
    chosen = load_scale(scale)
    return expand(load_sweep(SWEEPS / f"{name}.yaml", chosen), chosen, overrides=overrides)


@pytest.fixture(scope="module")
def masking() -> dict[str, Trial]:
    return {trial.variant: trial for trial in trials("masking_ratio")}


def macs(stage: Stage) -> int:
    return stage_macs(stage.kind, stage.settings, stage.parents[0].settings if stage.parents else None)


def test_a_stage_of_the_same_shape_tells_the_price_whatever_its_seed(store, masking):
    seeds = trials("masking_ratio", **{"seeds.pretrain": [1, 2, 3]})
    for trial, hours in zip([t for t in seeds if t.variant == "50%"], (1.0, 9.0, 2.0), strict=True):
        finish(store, trial.stages[0], hours)
    price = Prices(store).of(masking["50%"].stages[0])
    assert (price.hours, price.unit, price.basis, price.count) == (2.0, "CPU h", "earlier", 3)


def test_the_memory_of_a_stage_is_told_by_those_of_its_shape_and_batch(store, masking):
    asked = masking["50%"].stages[0]
    seeds = [t for t in trials("masking_ratio", **{"seeds.pretrain": [1, 2, 3]}) if t.variant == "50%"]
    for trial, peak in zip(seeds, (300, None, 400), strict=True):  # of the second one nobody told
        finish(store, trial.stages[0], 1.0, peak_memory_bytes=peak)
    other = asked.settings | {"pretrain": asked.settings["pretrain"] | {"batch_size": 16}}
    finish(store, replace(asked, settings=other, seed=7), 1.0, peak_memory_bytes=500)
    finish(store, masking["10%"].stages[0], 1.0, peak_memory_bytes=600)
    prices = Prices(store)
    assert prices.peak_bytes(asked) == 400
    assert prices.peak_bytes(masking["65%"].stages[0]) is None
    assert prices.peak_bytes(replace(asked, resources=asked.resources | {"cpus": 7})) is None, "it has more threads"


def test_another_shape_is_priced_by_its_closed_form_at_the_rate_of_its_kind(store, masking):
    known, asked = masking["50%"].stages[0], masking["10%"].stages[0]
    finish(store, known, 2.0)
    price = Prices(store).of(asked)
    assert price.basis == "rate"
    assert price.hours == pytest.approx(2.0 * macs(asked) / macs(known))
    assert price.hours > 2.0, "less is hidden"


def test_the_rate_of_trainings_prices_a_kind_that_never_ran(store, masking):
    first, tuned, scored = masking["50%"].stages
    finish(store, first, 2.0)
    for stage in (tuned, scored):
        price = Prices(store).of(stage)
        assert price.basis == "rate"
        assert price.hours == pytest.approx(2.0 * macs(stage) / macs(first))


def test_the_kinds_own_rate_goes_before_that_of_others(store, masking):
    first, tuned, _ = masking["50%"].stages
    finish(store, first, 2.0)
    finish(store, tuned, 7.0)
    other = trials("frame_resolution")[1].stages[1]
    assert other.kind == "finetune"
    assert Prices(store).of(other).hours == pytest.approx(7.0 * macs(other) / macs(tuned))


def test_a_probes_rate_is_taken_where_nothing_finished(store, masking):
    stage = masking["50%"].stages[0]
    path = rate_file(store, StageDocument.of(stage.document()))
    path.parent.mkdir(parents=True)
    write_json(path, {"macs_per_hour": macs(stage) / 3.0, "unit": "CPU h"})
    price = Prices(store).of(stage)
    assert (price.hours, price.unit, price.basis) == (pytest.approx(3.0), "CPU h", "probe")


def test_the_papers_rate_prices_work_on_gpus_and_nothing_else(store, masking):
    asked = []

    def published() -> Rate:
        asked.append(1)
        return Rate(macs_per_hour=1e15, unit="A6000 GPU h")

    prices = Prices(store, published=published)
    assert prices.of(masking["50%"].stages[0]).basis == "unknown"
    for trial in trials("masking_ratio", "paper"):
        price = prices.of(trial.stages[1])
        assert (price.basis, price.unit) == ("published", "A6000 GPU h")
        assert price.hours == pytest.approx(macs(trial.stages[1]) / 1e15)
    assert len(asked) == 1, "the paper is read once"


def test_hours_of_another_device_are_no_sample_together(store, masking):
    for seed, (hours, unit) in enumerate([(1.0, "A6000 GPU h"), (9.0, "H200 GPU h")], start=1):
        same = replace(masking["50%"].stages[0], seed=seed, resources={"cpus": 1, "gpus": 1})
        finish(store, same, hours, unit=unit)
    price = Prices(store).of(replace(masking["50%"].stages[0], resources={"cpus": 1, "gpus": 1}))
    assert (price.hours, price.unit, price.count) == (9.0, "H200 GPU h", 1), "the newest device's"


def test_what_finishes_meanwhile_is_learned_from(store, masking):
    prices, stage = Prices(store), masking["50%"].stages[0]
    assert prices.of(stage).basis == "unknown"
    other = replace(stage, seed=5)
    finish(store, other, 4.0)
    prices.learn(other, store.record(other))
    assert prices.of(stage).hours == 4.0


def test_sources_are_told_once_each(store, masking):
    finish(store, masking["50%"].stages[0], 2.0)
    prices = Prices(store)
    stages = [masking["50%"].stages[0], masking["10%"].stages[0], masking["10%"].stages[1]]
    known = {f"{s.name} {s.fingerprint}": prices.of(s, store.record(s)) for s in stages}
    assert sources_of(known) == "measured; closed form at the rate of earlier stages: 1 pretrain, 1 finetune.msrvtt"


def test_an_evaluation_by_hand(masking):
    """One clip of 2 frames, one caption, one pair: the parts of one forward pass, by the closed form of a step."""
    from smaug_core.clip_shape import ClipShape
    from smaug_core.config import EvaluateConfig, ModelConfig
    from smaug_core.cost.flops import StepShape, step_cost
    from smaug_core.settings import from_settings

    model = from_settings(ModelConfig, masking["50%"].stages[0].settings["model"], "model")
    test = EvaluateConfig(dataset="d", text_length=32, rerank=1, frames=2)
    trained = ClipShape(frames=2, selected=2)
    shape = StepShape(mask_ratio=0.0, text_tokens=32, hidden_words=0, vocab_size=100, clip=trained)
    parts = step_cost(model, shape)
    once = parts["encoder"].macs + parts["temporal"].macs + parts["text"].macs + parts["fusion"].macs // 3
    heads = (2 * model.width + model.text_width) * model.embed_dim + 2 * model.text_width
    assert evaluation_macs(model, trained, test, clips=1, captions=1, pairs=1) == once + heads


def test_the_ablations_at_the_papers_scale_cost_what_was_published():
    """29 rows: 2,322 A6000-hours as printed; the shared plan 1,532."""
    from experiments.cli.sweep_commands import _published_rate
    from experiments.planning.plan import make_plan

    names = "masking_ratio keeping_rate frame_selection components corpus_scale frame_resolution decoder_depth"
    every = [trial for name in names.split() for trial in trials(name, "paper")]
    plan = make_plan(every, Store(Path("nowhere")), published=_published_rate).to_json()
    assert (plan["trials"], plan["pretrain_stages"]) == (29, 23)
    assert plan["hours"]["pretrain"]["row_by_row"] == pytest.approx(2322, rel=0.01)
    assert plan["hours"]["pretrain"]["to_spend"] == pytest.approx(1532, rel=0.01)
    assert plan["hours"]["row_by_row"] == pytest.approx(2322, rel=0.02), "fine-tuning and evaluation are small"
    assert plan["hours"]["unit"] == "A6000 GPU h"
