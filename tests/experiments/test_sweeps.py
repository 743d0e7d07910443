"""The sweeps that come with the project: each runs at every scale, and shares what the paper's rows share."""

import json

import pytest

from experiments.config.scale import FOLDER, Scale, load_scale
from experiments.config.settings import with_overrides
from experiments.config.sweep import load_sweep
from experiments.stages.trial import expand, resolved
from smaug_core.clip_shape import image_size_after
from smaug_core.config import Config

SWEEPS = {path.stem: path for path in sorted(FOLDER.parent.glob("*.yaml"))}
TIMED = ("masking_ratio", "keeping_rate", "frame_selection", "components", "corpus_scale", "decoder_depth")
"""Of the tables that print hours of pre-training."""


@pytest.fixture(scope="module")
def tiny() -> Scale:
    return load_scale("tiny")


def paper_rows(name: str) -> dict[str, Config]:
    """The configuration of every row of a sweep at the paper's scale."""
    paper = load_scale("paper")
    sweep = load_sweep(SWEEPS[name], paper)
    return {
        row: resolved(paper.config(with_overrides(paper.tree, changes), sweep.tasks), zero_shot=sweep.zero_shot)
        for row, changes in sweep.variants.items()
    }


@pytest.mark.parametrize("name", SWEEPS)
def test_every_sweep_gives_whole_configurations_at_the_papers_scale(name):
    rows = paper_rows(name)
    assert all(config.evaluate for config in rows.values())
    different = {json.dumps(repr(config)) for config in rows.values()}
    assert len(different) == len(rows)


@pytest.mark.parametrize("name", SWEEPS)
def test_every_sweep_expands_at_the_tiny_scale(name, tiny):
    sweep = load_sweep(SWEEPS[name], tiny)
    trials = expand(sweep, tiny)
    assert [trial.variant for trial in trials] == list(sweep.variants)
    assert len({trial.fingerprint for trial in trials}) == len(trials)


def test_the_ablations_share_their_pre_trainings(tiny):
    trials = [t for name in (*TIMED, "frame_resolution") for t in expand(load_sweep(SWEEPS[name], tiny), tiny)]
    distinct = {stage.fingerprint: stage.kind for trial in trials for stage in trial.stages}
    kinds = list(distinct.values())
    assert len(trials) == 29
    assert (kinds.count("pretrain"), kinds.count("pretrain_video")) == (15, 8)


def test_zero_shot_trials_are_not_fine_tuned(tiny):
    kinds = {stage.kind for trial in expand(load_sweep(SWEEPS["zero_shot"], tiny), tiny) for stage in trial.stages}
    assert kinds == {"pretrain", "pretrain_video", "evaluate"}


def test_frames_are_selected_as_the_rows_say():
    shapes = {
        row: None if config.pretrain_video is None else (config.pretrain_video.frames, config.pretrain_video.selected)
        for row, config in paper_rows("frame_selection").items()
    }
    assert shapes == {"1": None, "4→1": (4, 1), "4→2": (4, 2), "4→3": (4, 3), "4": (4, None), "8→4": (8, 4)}
    tuned = {row: config.finetune["msrvtt"] for row, config in paper_rows("frame_selection").items()}
    assert {row: (t.frames, t.selected) for row, t in tuned.items()} == {
        "1": (1, 1), "4→1": (4, 1), "4→2": (4, 2), "4→3": (4, 3), "4": (4, 4), "8→4": (8, 4)
    }  # fmt: skip


def test_without_its_parts_smaug_hides_and_drops_nothing_and_still_starts_from_clip():
    rows = paper_rows("components")
    bare = rows["none"]
    assert (bare.pretrain.mask_ratio, bare.model.keep_rate, bare.model.decoder_depth) == (0, 1, 0)
    assert bare.pretrain_video is not None and bare.pretrain_video.mask_ratio == 0
    assert "clip" in bare.model.vision
    assert {name: row.model.keep_rate for name, row in rows.items()} == {
        "none": 1, "MAE": 1, "MAE + VTS": 0.8, "MAE + VTS + FS": 0.8
    }  # fmt: skip


def test_singularity_is_beit_on_whole_single_frames():
    for name in ("corpus_scale", "retrieval", "zero_shot"):
        for row, config in paper_rows(name).items():
            is_baseline = row.startswith("Singularity")
            assert config.model.vision.startswith("beit") == is_baseline
            if is_baseline:
                assert (config.pretrain.mask_ratio, config.model.keep_rate, config.model.decoder_depth) == (0, 1, 0)
                assert (config.pretrain_video is not None) == ("temporal" in row)


def test_frames_grow_to_the_sizes_that_the_rows_name():
    for row, config in paper_rows("frame_resolution").items():
        grown = image_size_after(config.model, config.finetune["msrvtt"].image_size_ratio)
        assert f"{grown.image_size}×{grown.image_size}" == row


def test_the_papers_tasks_have_their_own_schedules():
    config = load_scale("paper").base_config()
    assert {t: (c.epochs, c.text_length, c.batch_size) for t, c in config.finetune.items()} == {
        "msrvtt": (5, 32, 128), "didemo": (10, 64, 128), "anet": (10, 150, 128)
    }  # fmt: skip
    assert {t: (c.frames, c.text_length, c.rerank) for t, c in config.evaluate.items()} == {
        "msrvtt": (12, 32, 128), "didemo": (12, 64, 128), "anet": (32, 150, 128)
    }  # fmt: skip
