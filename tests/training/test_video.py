"""From a single-frame model to one that selects among frames, is fine-tuned and evaluated: on real files."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from smaug_core.clip_shape import ClipShape
from smaug_core.config import EvaluateConfig
from smaug_core.errors import CheckpointError, SmaugError
from smaug_core.evaluation.retrieval import evaluate
from smaug_core.model.init_weights import build
from smaug_core.model.temporal import resize_time
from smaug_core.stage_protocol import Interrupted
from smaug_core.training.checkpoint import load_weights, read_config, save_model
from smaug_core.training.train import finetune, pretrain, pretrain_video
from tests.small import CONFIG, FINETUNE, PRETRAIN, PRETRAIN_VIDEO, VOCABULARY, make_items, run_context
from tests.training.test_train import Recorder


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    return make_items(tmp_path_factory.mktemp("media"), clips=12, stills=0)


@pytest.fixture(scope="module")
def single(clips, tmp_path_factory):
    out = tmp_path_factory.mktemp("single")
    pretrain(CONFIG, replace(PRETRAIN, epochs=1), clips, run_context(out, Recorder()))
    return out / "model"


@pytest.fixture(scope="module")
def video(clips, single, tmp_path_factory):
    out = tmp_path_factory.mktemp("video")
    outcome = pretrain_video(CONFIG, PRETRAIN_VIDEO, clips, run_context(out, Recorder(), weights=single))
    assert outcome.notes["new_parts"] == ["selector", "temporal"]
    assert set(outcome.metrics) >= {"train.vtc", "train.vtm", "train.mlm", "train.mvm"}
    return out / "model"


def test_the_folder_says_what_it_was_trained_on(video):
    assert read_config(video)[1] == ClipShape(frames=4, selected=2)


def test_a_stopped_video_training_goes_on_bit_for_bit(tmp_path, clips, single, video):
    with pytest.raises(Interrupted):
        context = run_context(tmp_path, Recorder(stop_after=2), weights=single)
        pretrain_video(CONFIG, PRETRAIN_VIDEO, clips, context)
    pretrain_video(CONFIG, PRETRAIN_VIDEO, clips, run_context(tmp_path, Recorder(), weights=single))
    one, other = load_file(video / "model.safetensors"), load_file(tmp_path / "model" / "model.safetensors")
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_fine_tuning_takes_the_frames_over_and_evaluation_selects_as_many(tmp_path, clips, video):
    outcome = finetune(CONFIG, FINETUNE, clips, run_context(tmp_path / "tuned", Recorder(), weights=video))
    tuned = tmp_path / "tuned" / "model"
    assert read_config(tuned)[1] == ClipShape(frames=4, selected=2)
    assert (outcome.notes["new_parts"], outcome.notes["parts_left_out"]) == ([], [])
    found = {}
    for selected in ("literal", "all"):
        out = tmp_path / selected
        out.mkdir()
        config = EvaluateConfig(dataset="made", text_length=32, rerank=12, frames=6, selected=selected)
        outcome = evaluate(CONFIG, config, clips, run_context(out, Recorder(), weights=tuned))
        found[selected] = json.loads((out / "ranks.json").read_text())["t2v"], outcome.metrics
    assert found["literal"][0] != found["all"][0]
    contrast = [metrics["contrast.t2v.median_rank"] for _, metrics in found.values()]
    assert contrast[0] == contrast[1], "the contrast sees all frames in both"


def test_a_checkpoint_is_evaluated_without_fine_tuning(tmp_path, clips, single):
    config = EvaluateConfig(dataset="made", text_length=32, rerank=12, frames=3)
    assert evaluate(CONFIG, config, clips, run_context(tmp_path, Recorder(), weights=single)).notes["n_clips"] == 12


def test_fewer_parts_are_left_out_by_name(tmp_path, clips, video):
    single_frame = replace(FINETUNE, frames=1)
    outcome = finetune(CONFIG, single_frame, clips, run_context(tmp_path, Recorder(), weights=video))
    assert outcome.notes["parts_left_out"] == ["selector", "temporal"]
    names = load_file(tmp_path / "model" / "model.safetensors").keys()
    assert not any(name.startswith(("selector", "temporal")) for name in names)


def test_all_frames_need_no_selector(tmp_path, clips, single):
    config = replace(PRETRAIN_VIDEO, selected=None)
    outcome = pretrain_video(CONFIG, config, clips, run_context(tmp_path, Recorder(), weights=single))
    assert outcome.notes["new_parts"] == ["temporal"]
    assert read_config(tmp_path / "model")[1] == ClipShape(frames=4, selected=4)


def test_larger_frames_are_fine_tuned_and_evaluated_with_resized_positions(tmp_path, clips, single):
    config = replace(FINETUNE, image_size_ratio=1.5, lr=0.0, min_lr=0.0)
    finetune(CONFIG, config, clips, run_context(tmp_path, Recorder(), weights=single))
    made_for, _ = read_config(tmp_path / "model")
    assert made_for["image_size"] == 72
    assert load_file(tmp_path / "model" / "model.safetensors")["vision.vit.pos_embed"].shape == (1, 1 + 81, 32)
    test = EvaluateConfig(dataset="made", text_length=32, rerank=4, frames=2)
    evaluate(CONFIG, test, clips, run_context(tmp_path, Recorder(), weights=tmp_path / "model"))


def test_the_temporal_embedding_follows_another_number_of_frames(tmp_path):
    four = build(CONFIG, VOCABULARY, seed=0, shape=ClipShape(frames=4, selected=2))
    torch.nn.init.normal_(four.temporal.time_embed)
    save_model(tmp_path / "model", four, {})
    eight = build(CONFIG, VOCABULARY, seed=1, shape=ClipShape(frames=8, selected=4))
    fit = load_weights(tmp_path / "model", eight)
    assert (fit.new, fit.left_out) == ([], [])
    torch.testing.assert_close(eight.temporal.time_embed, resize_time(four.temporal.time_embed, 8))


def test_half_a_selector_is_no_new_part(tmp_path, video):
    tensors = load_file(video / "model.safetensors")
    del tensors["selector.score.weight"]
    (tmp_path / "model").mkdir()
    save_file(tensors, tmp_path / "model" / "model.safetensors")
    (tmp_path / "model" / "config.json").write_bytes((video / "config.json").read_bytes())
    vocabulary = len(tensors["text.embeddings.word_embeddings.weight"])
    model = build(CONFIG, vocabulary, seed=0, shape=ClipShape(frames=4, selected=2))
    with pytest.raises(CheckpointError, match=r"selector\.score\.weight is missing"):
        load_weights(tmp_path / "model", model)


def test_pictures_and_a_missing_number_of_frames_are_refused(tmp_path, single):
    items = make_items(tmp_path, clips=4, stills=1)
    context = run_context(tmp_path, Recorder(), weights=single)
    with pytest.raises(
        SmaugError, match=r"pretrain_video\.corpus: holds 1 captions of pictures, the first of .*000004\.png"
    ):
        pretrain_video(CONFIG, PRETRAIN_VIDEO, items, context)
    with pytest.raises(SmaugError, match=r"pretrain_video\.frames: expected a number"):
        pretrain_video(CONFIG, replace(PRETRAIN_VIDEO, frames=None, selected=None), items, context)
