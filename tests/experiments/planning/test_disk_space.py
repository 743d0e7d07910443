"""Whether the disk has room for a stage, by closed form and by what stages really leave."""

import dataclasses
import os
import subprocess
import sys

import pytest

from experiments.config.scale import load_scale
from experiments.config.sweep import load_sweep
from experiments.planning.disk_space import (
    CHECKPOINTS,
    RECORDS_BYTES,
    existing,
    in_words,
    room_needed,
    room_problem,
    size_of,
)
from experiments.stages.graph import cut_stages, resolved
from experiments.stages.stage import Stage
from experiments.stages.trial import expand
from smaug_core.model.init_weights import build
from smaug_core.training.checkpoint import KEPT, Checkpoints, Progress, save_model
from smaug_core.training.optim import build_optimizer
from smaug_core.training.step_clock import StepTimes
from tests.experiments.smoke import ROOT
from tests.faults import full_disk
from tests.quick_stage import quick_stage


def stages_of(scale_name: str, variant: str = "4→2") -> dict[str, Stage]:
    """A chain of all four kinds."""
    scale = load_scale(scale_name)
    trial = expand(load_sweep(ROOT / "sweeps" / "frame_selection.yaml", scale), scale, only=[variant])[0]
    return {stage.kind: stage for stage in trial.stages}


def test_there_are_as_many_checkpoints_as_are_kept_and_one_being_written():
    assert CHECKPOINTS == KEPT + 1


@pytest.mark.parametrize("kind", ["pretrain", "pretrain_video", "finetune"])
def test_a_training_needs_what_its_files_weigh(kind, tmp_path):
    """Real checkpoints of the tiny model, with every moment of Adam, and the weights at the end."""
    stage = stages_of("tiny")[kind]
    frames, selected = {"pretrain": (1, 1)}.get(kind, (4, 2))
    model, optimizer = made_model(stage, frames, selected)
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    for step in range(KEPT):
        checkpoints.save(model, optimizer, Progress(step + 1, StepTimes(useful_s=1.0)))
    one = size_of(tmp_path / "checkpoints" / "step-00000001")
    save_model(tmp_path / "model", model, {})
    weighs = size_of(tmp_path) + one
    needed = room_needed(stage) - RECORDS_BYTES
    assert weighs == pytest.approx(needed, rel=0.05)  # names of tensors, and folders, are not in the closed form


def made_model(stage: Stage, frames: int, selected: int):
    import torch

    from smaug_core.clip_shape import ClipShape
    from smaug_core.config import ModelConfig, PretrainConfig
    from smaug_core.data.tokenizer import load_tokenizer
    from smaug_core.settings import from_settings

    config = from_settings(ModelConfig, stage.settings["model"], "model")
    vocab_size = load_tokenizer(config.tokenizer).vocab_size
    model = build(config, vocab_size, seed=0, shape=ClipShape(frames=frames, selected=selected))
    schedule = from_settings(PretrainConfig, stages_of("tiny")["pretrain"].settings["pretrain"], "pretrain")
    optimizer = build_optimizer(model, schedule)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    return model, optimizer


def test_the_paper_s_model_needs_gigabytes_and_its_evaluation_little():
    stages = stages_of("paper")
    parameters = (room_needed(stages["pretrain"]) - RECORDS_BYTES) / 40
    assert 180e6 < parameters < 260e6
    assert room_needed(stages["pretrain_video"]) > room_needed(stages["pretrain"])
    assert room_needed(stages["evaluate"]) == RECORDS_BYTES


def test_larger_frames_need_more():
    scale = load_scale("paper")
    trials = expand(load_sweep(ROOT / "sweeps" / "frame_resolution.yaml", scale), scale)
    sizes = [room_needed(trial.stages[-2]) for trial in trials]
    assert sizes == sorted(set(sizes)) and trials[0].stages[-2].kind == "finetune"


def test_frames_that_fine_tuning_leaves_open_are_those_before_it():
    scale = load_scale("tiny")
    config = resolved(scale.base_config())
    video = stages_of("tiny")["pretrain_video"]
    tuned = next(s for s in cut_stages(config, scale.resources, 0, 0) if s.kind == "finetune")
    own = tuned.settings["finetune"] | {"frames": None, "selected": None}
    left_open = dataclasses.replace(tuned, settings=tuned.settings | {"finetune": own}, parents=(video,))
    assert room_needed(left_open) == room_needed(stages_of("tiny")["finetune"])


def test_a_stage_without_a_model_needs_nothing(tmp_path):
    assert room_needed(quick_stage()) == 0
    with full_disk(64) as disk:
        disk.fill()
        assert room_problem(quick_stage(), disk.folder / "stage") is None


def test_a_small_disk_is_a_problem_told_in_words_before_anything_is_made():
    stage = stages_of("tiny")["pretrain"]
    with full_disk(8 * 1024) as disk:
        problem = room_problem(stage, disk.folder / "store" / "pretrain" / "abc")
        assert problem is not None
        needed, free = in_words(room_needed(stage)), "8.4 MB"
        assert problem == (
            f"pretrain: needs {needed} at {disk.folder}/store/pretrain/abc, {free} free; `smaug gc` shows what can"
            " go, or choose another --home"
        )
        assert list(disk.folder.iterdir()) == []


def test_what_an_earlier_attempt_left_is_room():
    stage = stages_of("tiny")["pretrain"]
    needed = room_needed(stage)
    with full_disk(needed // 1024 + 2048) as disk:
        folder = disk.folder / "stage"
        (folder / "checkpoints").mkdir(parents=True)
        (folder / "checkpoints" / "held").write_bytes(b"x" * 4_000_000)
        assert room_problem(stage, folder) is None
        assert room_problem(stage, disk.folder / "other") is not None


def test_where_there_is_room_there_is_no_problem(tmp_path):
    assert room_problem(stages_of("tiny")["pretrain"], tmp_path / "not" / "yet") is None


@pytest.mark.parametrize(
    ("size", "words"),
    [(0, "0 bytes"), (999, "999 bytes"), (1000, "1.0 kB"), (3_149_999_999, "3.1 GB"), (2e12, "2.0 TB")],
)
def test_sizes_are_told_in_words(size, words):
    assert in_words(int(size)) == words


def test_a_size_counts_files_below_and_no_target_of_a_link(tmp_path):
    (tmp_path / "big").write_bytes(b"x" * 5000)
    folder = tmp_path / "folder"
    (folder / "deep").mkdir(parents=True)
    (folder / "one").write_bytes(b"x" * 10)
    (folder / "deep" / "two").write_bytes(b"x" * 32)
    assert size_of(folder) == 42
    (folder / "link").symlink_to(tmp_path / "big")
    assert size_of(folder) == 42 + len(os.fsencode(tmp_path / "big"))
    assert size_of(tmp_path / "none") == 0
    assert existing(folder / "none" / "deeper") == folder


def test_the_room_is_asked_without_torch():
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from experiments.stages.trial import expand\n"
        "from experiments.planning.disk_space import room_problem\n"
        "from experiments.config.scale import load_scale\n"
        "from experiments.config.sweep import load_sweep\n"
        "scale = load_scale('tiny')\n"
        "sweep = load_sweep(Path('sweeps/masking_ratio.yaml'), scale)\n"
        "room_problem(expand(sweep, scale)[0].stages[0], Path('nowhere').resolve())\n"
        "assert not {'torch', 'ray', 'mlflow'} & set(sys.modules)\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
