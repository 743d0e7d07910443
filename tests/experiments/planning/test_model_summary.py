"""What `smaug describe` says of a scale, and how near its hours come to the published ones."""

import json

import pytest
from typer.testing import CliRunner

from experiments.cli.app import app
from experiments.config.scale import load_scale
from experiments.config.settings import with_overrides
from experiments.planning.model_summary import captions, run_macs, step_of, vocabulary_size
from smaug_core.clip_shape import ClipShape
from smaug_core.cost.flops import published_accounting, step_cost, total_macs
from smaug_core.data.tokenizer import load_tokenizer
from smaug_core.errors import SmaugError
from smaug_core.model.smaug import SMAUG


def told_by(*arguments: str) -> dict:
    ran = CliRunner().invoke(app, ["describe", *arguments, "--json"])
    assert ran.exit_code == 0, ran.output
    return json.loads(ran.stdout)


@pytest.fixture(scope="module")
def paper() -> dict:
    return told_by("--scale", "paper")


def test_the_papers_model_in_parts(paper):
    parts = paper["parts"]
    assert parts["encoder"]["parameters"] == 85_799_424
    assert parts["text"]["parameters"] == 87_628_032
    assert (parts["encoder"]["tokens"], parts["decoder"]["tokens"], parts["text"]["tokens"]) == (99, 152, 32)
    assert parts["encoder"]["gmac"] == pytest.approx(6.65, abs=0.01)
    assert paper["total"]["parameters"] == sum(part["parameters"] for part in parts.values())
    assert paper["total"]["gmac"] == pytest.approx(sum(part["gmac"] for part in parts.values()))
    assert paper["encoder_tokens_by_layer"] == [98] * 3 + [80] * 3 + [65] * 3 + [53] * 3


@pytest.mark.parametrize("frames", [[], ["pretrain_video.frames=4", "pretrain_video.selected=2"]])
def test_parameters_are_those_of_the_model_that_is_trained(frames):
    told = told_by("--scale", "tiny", *(word for setting in frames for word in ("--set", setting)))
    config = load_scale("tiny").base_config()
    shape = ClipShape(frames=4, selected=2) if frames else ClipShape()
    model = SMAUG(config.model, load_tokenizer("moving_shapes").vocab_size, shape)
    assert told["clip"] == {"frames": shape.frames, "selected": shape.selected}
    assert told["total"]["parameters"] == sum(parameter.numel() for parameter in model.parameters())
    assert {"selector", "temporal"} <= told["parts"].keys() or not frames
    assert told["rows"] == []


def test_a_part_that_a_step_does_not_run_costs_nothing():
    decoder = told_by("--set", "pretrain.mask_ratio=0")["parts"]["decoder"]
    assert decoder["parameters"] > 0 and (decoder["gmac"], decoder["tokens"]) == (0, 0)


def test_every_row_with_published_hours_is_predicted(paper):
    rows = [(row["table"], row["row"]) for row in paper["rows"]]
    assert len(rows) == len(set(rows)) == 26
    assert {table for table, _ in rows} == {"4", "5", "6", "7", "8", "11"}


def test_one_rate_meets_the_published_hours(paper):
    off = {(row["table"], row["row"]): row["predicted_hours"] - row["published_hours"] for row in paper["rows"]}
    relative = {(r["table"], r["row"]): r["predicted_hours"] / r["published_hours"] - 1 for r in paper["rows"]}
    worst = {table: max(abs(relative[key]) for key in relative if key[0] == table) for table, _ in relative}
    assert off["4", "50%"] == pytest.approx(0, abs=1e-9)
    assert max(abs(hours) for (table, _), hours in off.items() if table == "6") < 1
    assert max(worst[table] for table in ("4", "5", "8")) < 0.07
    assert worst["7"] == pytest.approx(0.092, abs=0.005)
    assert relative["11", "12"] == pytest.approx(-0.20, abs=0.01)  # the paper's deep decoders take longer than this
    assert 30 < paper["rate"]["tflops"] < 32


def test_a_run_is_the_sum_of_its_stages_worked_by_hand():
    scale = load_scale("paper")
    config = scale.config(with_overrides(scale.tree, {"pretrain_video.frames": 4}), ["msrvtt"])
    assert config.pretrain_video is not None

    def macs(stage):
        return total_macs(step_cost(*published_accounting(config.model, step_of(stage, 30_522))))

    single = 10 * 5_440_000 * macs(config.pretrain)
    assert run_macs(config) == 3 * (single + 5 * 2_490_000 * macs(config.pretrain_video))


def test_a_changed_model_is_not_set_beside_the_papers_hours(paper):
    wide = told_by("--scale", "paper", "--set", "model.decoder_width=768")
    assert wide["parts"]["decoder"]["gmac"] > paper["parts"]["decoder"]["gmac"]
    assert wide["rows"] == []


def test_without_json_it_is_a_table():
    ran = CliRunner().invoke(app, ["describe", "--scale", "paper"], env={"COLUMNS": "80"})
    assert "85,799,424" in ran.stdout
    assert "Singularity 17M" in ran.stdout
    assert "-20.0%" in ran.stdout


def test_a_corpus_without_a_published_size_is_refused():
    assert captions(("cc3m", "webvid")) == 5_440_000
    with pytest.raises(SmaugError, match="moving_shapes/stills: has no published size"):
        captions(("cc3m", "moving_shapes/stills"))


def test_a_vocabulary_is_counted_where_it_is_not_known():
    assert vocabulary_size("moving_shapes") == load_tokenizer("moving_shapes").vocab_size
    assert vocabulary_size("bert-base-uncased") == 30_522
    with pytest.raises(SmaugError, match="nowhere/vocab.txt cannot be read"):
        vocabulary_size("./nowhere")
