"""Pre-training that starts from public checkpoints, and a plan that knows their content and not their place."""

import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from experiments.config.scale import load_scale
from experiments.stages.graph import cut_stages
from smaug_core import torchvision_on_cpu
from smaug_core.data.tokenizer import EMBEDDED_VOCABULARIES, load_tokenizer
from smaug_core.errors import CheckpointError
from smaug_core.model.init_weights import build
from smaug_core.training.train import pretrain
from tests.small import CONFIG, PRETRAIN, make_items, run_context
from tests.training.test_train import Recorder

torchvision_on_cpu.make_importable()

from transformers import BertConfig, BertModel  # noqa: E402

VOCABULARY = load_tokenizer("moving_shapes").vocab_size


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A BERT of 2 + 2 layers in transformers' own format, and a vision transformer under timm's names."""
    folder = tmp_path_factory.mktemp("weights")
    sizes = {"hidden_size": 24, "num_attention_heads": 2, "intermediate_size": 96, "num_hidden_layers": 4}
    BertModel(BertConfig(vocab_size=VOCABULARY, **sizes)).save_pretrained(folder / "bert")
    shutil.copy(EMBEDDED_VOCABULARIES["moving_shapes"], folder / "bert" / "vocab.txt")
    vit = build(CONFIG, VOCABULARY, seed=5).vision.vit
    save_file({name: tensor.contiguous() for name, tensor in vit.state_dict().items()}, folder / "vit.safetensors")
    return folder


def test_training_starts_from_the_weights_it_is_told(weights, tmp_path):
    still = replace(
        PRETRAIN,
        lr=0.0,
        min_lr=0.0,
        epochs=1,
        vision_weights=str(weights / "vit.safetensors"),
        text_weights=str(weights / "bert"),
    )
    model = replace(CONFIG, tokenizer=str(weights / "bert"))
    outcome = pretrain(model, still, make_items(tmp_path, clips=4, stills=0), run_context(tmp_path, Recorder()))
    trained = load_file(tmp_path / "model" / "model.safetensors")
    for name, tensor in load_file(weights / "vit.safetensors").items():
        assert torch.equal(trained[f"vision.vit.{name}"], tensor)
    bert = load_file(weights / "bert" / "model.safetensors")
    words = "embeddings.word_embeddings.weight"
    assert torch.equal(trained[f"text.{words}"], bert[words])
    for layer, ours in ((1, "text.layers.1"), (3, "fusion.layers.1")):
        name = "attention.self.query.weight"
        assert torch.equal(trained[f"{ours}.{name}"], bert[f"encoder.layer.{layer}.{name}"])
    assert any("crossattention" in name for name in outcome.notes["text_weights"]["new"])
    assert outcome.notes["vision_weights"]["new"] == ()


def test_weights_that_are_not_there_are_named(tmp_path):
    items = make_items(tmp_path, clips=4, stills=0)
    config = replace(PRETRAIN, text_weights=str(tmp_path / "nowhere"))
    with pytest.raises(CheckpointError, match="nowhere: no such file or directory of weights"):
        pretrain(CONFIG, config, items, run_context(tmp_path, Recorder()))


def test_a_fingerprint_knows_what_weights_hold_and_not_where_they_lie(weights, tmp_path):
    scale = load_scale("tiny")

    def fingerprint(source):
        config = scale.base_config()
        config = replace(config, pretrain=replace(config.pretrain, text_weights=source))
        return cut_stages(config, scale.resources, 0, 0)[0].fingerprint

    shutil.copytree(weights / "bert", tmp_path / "moved")
    here, moved = fingerprint(str(weights / "bert")), fingerprint(str(tmp_path / "moved"))
    assert here == moved != fingerprint(None)
    tensors = load_file(tmp_path / "moved" / "model.safetensors")
    tensors["embeddings.word_embeddings.weight"][0, 0] += 1
    save_file(tensors, tmp_path / "moved" / "model.safetensors")
    assert fingerprint(str(tmp_path / "moved")) != here


def test_weights_of_the_hub_that_are_not_here_are_told_and_kept_apart():
    scale = load_scale("tiny")
    config = scale.base_config()

    def first(source):
        pretrain_config = replace(config.pretrain, text_weights=source)
        return cut_stages(replace(config, pretrain=pretrain_config), scale.resources, 0, 0)[0]

    one, other = first("nobody/has-this-bert"), first("nobody/has-that-bert")
    assert one.unseen == ["text weights nobody/has-this-bert"]
    assert one.fingerprint != other.fingerprint
