"""Files of weights are data: whatever else is in them is refused and never run."""

import os
import pickle

import pytest
import torch

from smaug_core.errors import CheckpointError
from smaug_core.pretrained.tensor_file import read_tensors


class Program:
    """Pickled, it is a call that makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("wrapper", [None, "state_dict", "model", "module"])
def test_tensors_of_torch_come_as_they_are_or_beside_other_things(tmp_path, wrapper):
    tensors = {"a": torch.arange(3.0)}
    torch.save(tensors if wrapper is None else {wrapper: tensors, "epoch": 7}, tmp_path / "w.pt")
    assert torch.equal(read_tensors(tmp_path / "w.pt")["a"], tensors["a"])


@pytest.mark.parametrize("format", ["torch", "torch's first", "pickle"])
def test_code_is_refused_and_not_run(tmp_path, format):
    program = {"a": Program(tmp_path / "ran")}
    path = tmp_path / "w.bin"
    if format == "pickle":
        path.write_bytes(pickle.dumps(program))
    else:
        torch.save(program, path, _use_new_zipfile_serialization=format == "torch")
    with pytest.raises(CheckpointError, match="w.bin: .*expected named tensors"):
        read_tensors(path)
    assert not (tmp_path / "ran").exists()


def test_what_it_asks_for_is_named(tmp_path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match="asks for torch.nn.modules.linear.Linear, and code .* is not run"):
        read_tensors(tmp_path / "w.pt")


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:.*TorchScript:UserWarning")
def test_a_torchscript_program_is_refused(tmp_path):
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match="is a TorchScript program, .*expected its state_dict"):
        read_tensors(tmp_path / "w.pt")


@pytest.mark.parametrize("name", ["w.safetensors", "w.pt"])
@pytest.mark.parametrize(
    "content",
    [b"", b"hello world", b"<!doctype html>", b"version https://git-lfs.github.com/spec/v1\nsize 12\n", b"\x80\x02}"],
)
def test_what_is_no_file_of_weights_is_refused(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=f"{name}: "):
        read_tensors(tmp_path / name)


def test_a_file_of_torch_that_breaks_off_is_refused(tmp_path):
    torch.save({"a": torch.zeros(1000)}, tmp_path / "w.pt")
    whole = (tmp_path / "w.pt").read_bytes()
    (tmp_path / "w.pt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match="w.pt: cannot be read"):
        read_tensors(tmp_path / "w.pt")


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ([1, 2], r"expected named tensors, got list \[1, 2\]"),
        ({}, "expected named tensors, got dict {}"),
        ({"a": torch.zeros(1), "epoch": 3}, r"expected named tensors only, got epoch \(int\)"),
    ],
)
def test_what_is_no_tensor_is_named(tmp_path, content, fault):
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match=fault):
        read_tensors(tmp_path / "w.pt")
