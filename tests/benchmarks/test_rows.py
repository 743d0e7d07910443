"""The benchmark's rows are those of the sweep files, the scales and the published tables."""

from pathlib import Path

import pytest

from experiments.config.scale import load_scale
from experiments.config.settings import with_overrides
from experiments.config.sweep import load_sweep
from experiments.planning.model_summary import captions, step_of
from reports.paper.tables import load_published, sweep_files
from smaug_core.clip_shape import ClipShape, clip_shape
from tests.benchmarks.rows import DEFAULT, ROWS, SIZES, Case

ROOT = Path(__file__).resolve().parents[2]
PUBLISHED = {
    (number, row): values["pretrain.hours"]
    for number, table in load_published().items()
    for row, values in table.rows.items()
    if "pretrain.hours" in table.columns
}


def test_every_row_with_hours_is_there_with_its_hours():
    assert {key: row.hours for key, row in ROWS.items()} == PUBLISHED
    assert list(ROWS) == list(PUBLISHED)
    assert load_published()[DEFAULT[0]].default == DEFAULT[1]


@pytest.mark.parametrize("key", ROWS, ids=" ".join)
def test_a_row_trains_what_its_sweep_says(key):
    scale, (table, row) = load_scale("paper"), key
    sweep = load_sweep(ROOT / sweep_files()[table], scale)
    config = scale.config(with_overrides(scale.tree, sweep.variants[row]), sweep.tasks)
    first, video = config.pretrain, config.pretrain_video
    single = Case(model=config.model, clip=ClipShape(), mask_ratio=first.mask_ratio)
    stages = [(single, first.epochs * captions(first.corpus))]
    if video is not None:
        shape = clip_shape(video.frames, video.selected)
        clips = Case(model=config.model, clip=shape, mask_ratio=video.mask_ratio)
        stages.append((clips, video.epochs * captions(video.corpus)))
    assert ROWS[key].stages(SIZES["paper"]) == stages


@pytest.mark.parametrize("name", SIZES)
def test_the_sizes_are_those_of_the_scale(name):
    scale, size = load_scale(name), SIZES[name]
    config = scale.base_config()
    assert size.model == config.model
    assert size.batch == config.pretrain.batch_size // max(1, scale.resources["pretrain"]["gpus"])


def test_a_step_at_the_papers_scale_is_that_of_one_of_its_four_gpus():
    scale, size = load_scale("paper"), SIZES["paper"]
    shape = step_of(scale.base_config().pretrain, size.vocab_size)
    assert (size.text_tokens, size.hidden_words) == (shape.text_tokens, shape.hidden_words)
    gpus = scale.resources["pretrain_video"]["gpus"]
    assert scale.tree["pretrain_video"]["batch_size"] // gpus == size.batch // 4
