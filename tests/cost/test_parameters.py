"""Parameters in closed form against those of the built model, of timm's, and published counts."""

from dataclasses import replace

import pytest

from smaug_core.clip_shape import ClipShape
from smaug_core.cost.parameters import layer, parameter_counts
from smaug_core.errors import SmaugError
from smaug_core.model.smaug import SMAUG
from tests.cost.test_flops import BERT, PAPER
from tests.small import VOCABULARY

ATTRIBUTES = {
    "vision": "encoder",
    "vision_projection": "heads",
    "text_projection": "heads",
    "temperature": "heads",
    "match_head": "heads",
}
"""The part that an attribute of the model belongs to, where it is not that of its name."""


def built_counts(model: SMAUG) -> dict[str, int]:
    counts: dict[str, int] = {}
    for name, parameter in model.named_parameters():
        attribute = name.split(".")[0]
        part = ATTRIBUTES.get(attribute, attribute)
        counts[part] = counts.get(part, 0) + parameter.numel()
    return counts


@pytest.mark.parametrize(
    "vision",
    ["vit_base_patch16_clip_quickgelu_224.openai", "vit_small_patch16_224", "beit_base_patch16_224.in22k_ft_in22k"],
)
@pytest.mark.parametrize(("frames", "selected"), [(1, 1), (4, 4), (8, 2)])
def test_equals_the_built_model(config, vision, frames, selected):
    config, clip = replace(config, vision=vision, keep_rate=1.0), ClipShape(frames=frames, selected=selected)
    assert parameter_counts(config, VOCABULARY, clip) == built_counts(SMAUG(config, VOCABULARY, clip))


def test_a_model_without_decoder_has_no_parameters_of_it(config):
    config = replace(config, decoder_depth=0)
    assert parameter_counts(config, VOCABULARY, ClipShape()) == built_counts(SMAUG(config, VOCABULARY))


def test_the_papers_encoders_have_the_published_sizes():
    counts = parameter_counts(PAPER, BERT, ClipShape())
    assert counts["encoder"] == 85_799_424  # ViT-B/16 of CLIP, without its projection
    assert counts["text"] == 87_628_032  # BERT-base: embeddings and nine layers
    assert counts["text"] + 3 * layer(768) == 109_482_240 - 590_592  # BERT-base without its pooler


def test_another_family_of_encoders_is_refused(config):
    with pytest.raises(
        SmaugError, match="model.vision: the parameters of 'swin_base_patch4_window7_224' have no closed form"
    ):
        parameter_counts(replace(config, vision="swin_base_patch4_window7_224"), VOCABULARY, ClipShape())
