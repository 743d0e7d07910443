"""Checkpoints: complete or absent, damaged ones passed over, weights that do not fit refused by name."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from smaug_core.errors import CheckpointError
from smaug_core.model.init_weights import build
from smaug_core.training.checkpoint import (
    Checkpoints,
    Progress,
    load_weights,
    read_config,
    save_model,
)
from smaug_core.training.step_clock import StepTimes
from tests.small import VOCABULARY


@pytest.fixture
def trained(config):
    """A model and an optimiser that have taken one step, so that the optimiser has a state."""
    model = build(config, VOCABULARY, seed=0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    sum(p.sum() for p in model.parameters()).backward()
    optimizer.step()
    return model, optimizer


def fresh(config):
    model = build(config, VOCABULARY, seed=1)
    return model, torch.optim.AdamW(model.parameters(), lr=1e-3)


def same_weights(one, other) -> bool:
    other = other.state_dict()
    return all(torch.equal(value, other[name]) for name, value in one.state_dict().items())


def test_a_checkpoint_brings_back_weights_optimiser_and_place(tmp_path, trained, config):
    model, optimizer = trained
    Checkpoints(tmp_path).save(model, optimizer, Progress(7, StepTimes(useful_s=1.5)))
    again, its_optimizer = fresh(config)
    assert Checkpoints(tmp_path).resume(again, its_optimizer) == Progress(7, StepTimes(useful_s=1.5))
    assert same_weights(model, again)
    mine, theirs = optimizer.state_dict()["state"], its_optimizer.state_dict()["state"]
    assert mine.keys() == theirs.keys()
    for key, state in mine.items():
        assert all(torch.equal(state[name], theirs[key][name]) for name in ("step", "exp_avg", "exp_avg_sq"))


def test_only_the_newest_two_are_kept(tmp_path, trained):
    for step in (1, 2, 3):
        Checkpoints(tmp_path).save(*trained, Progress(step))
    assert [p.name for p in Checkpoints(tmp_path).found()] == ["step-00000003", "step-00000002"]


@pytest.mark.parametrize("damage", ["truncate", "flip", "no state"])
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(tmp_path, trained, config, damage):
    for step in (1, 2):
        Checkpoints(tmp_path).save(*trained, Progress(step))
    weights = tmp_path / "step-00000002" / "model.safetensors"
    if damage == "truncate":
        os.truncate(weights, weights.stat().st_size // 2)
    elif damage == "flip":
        data = bytearray(weights.read_bytes())
        data[-1] ^= 1
        weights.write_bytes(data)
    else:
        (tmp_path / "step-00000002" / "state.json").unlink()
    progress = Checkpoints(tmp_path).resume(*fresh(config))
    assert progress is not None and progress.step == 1


def test_if_all_are_damaged_it_says_so_and_does_not_start_over(tmp_path, trained, config):
    Checkpoints(tmp_path).save(*trained, Progress(1))
    (tmp_path / "step-00000001" / "optimizer.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match="no checkpoint can be read.*optimizer.safetensors"):
        Checkpoints(tmp_path).resume(*fresh(config))


def test_no_checkpoint_means_a_start(tmp_path, config):
    assert Checkpoints(tmp_path / "none").resume(*fresh(config)) is None


def test_a_full_disk_leaves_no_half_checkpoint(tmp_path, trained, config):
    """A real full file system: 300 kB of tmpfs, less than one checkpoint."""
    code = f"""
import sys
sys.path.insert(0, {str(os.getcwd())!r})
from pathlib import Path
import torch
from tests.small import CONFIG, VOCABULARY
from smaug_core.model.init_weights import build
from smaug_core.training.checkpoint import Checkpoints, Progress
model = build(CONFIG, VOCABULARY, seed=0)
optimizer = torch.optim.AdamW(model.parameters())
try:
    Checkpoints(Path({str(tmp_path)!r}) / "c").save(model, optimizer, Progress(1))
except Exception as error:
    print(type(error).__name__, error)
print(sorted(p.name for p in (Path({str(tmp_path)!r}) / "c").iterdir()))
"""
    mount = f'mount -t tmpfs -o size=300k none "{tmp_path}" && exec "{sys.executable}" -c "$0"'
    ran = subprocess.run(["unshare", "-m", "sh", "-c", mount, code], capture_output=True, text=True)
    if ran.returncode and "unshare" in ran.stderr:
        pytest.skip("no right to mount a small file system here")
    assert "No space left" in ran.stdout, ran.stdout + ran.stderr
    assert ran.stdout.splitlines()[-1] == "[]"


def test_weights_are_loaded_whole_or_refused_by_name(tmp_path, trained, config):
    model, _ = trained
    save_model(tmp_path / "model", model, {"steps": 1})
    again, _ = fresh(config)
    load_weights(tmp_path / "model", again)
    assert same_weights(model, again)
    assert read_config(tmp_path / "model")[0]["width"] == config.width

    path = tmp_path / "model" / "model.safetensors"
    tensors = load_file(path)
    tensors["stranger"] = tensors.pop("match_head.bias")
    tensors["match_head.weight"] = torch.zeros(3, 24)
    save_file(tensors, path)
    with pytest.raises(CheckpointError) as raised:
        load_weights(tmp_path / "model", again)
    for part in ("match_head.bias is missing", "stranger is not part", "match_head.weight has shape [3, 24]"):
        assert part in str(raised.value)


def test_weights_made_for_other_settings_are_refused(tmp_path, trained, config):
    save_model(tmp_path / "model", trained[0], {})
    other = replace(config, keep_rate=0.6)
    with pytest.raises(CheckpointError, match="model.keep_rate = 0.8, now 0.6"):
        load_weights(tmp_path / "model", build(other, VOCABULARY, seed=0))


def test_a_folder_without_a_configuration_is_refused(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"other": 1}))
    with pytest.raises(CheckpointError, match="not a folder of SMAUG weights"):
        read_config(tmp_path)
