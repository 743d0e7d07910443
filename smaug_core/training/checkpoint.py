"""Weights and training state on disk: safetensors and JSON, complete or absent."""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from hashlib import file_digest
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from smaug_core.clip_shape import ClipShape
from smaug_core.errors import CheckpointError
from smaug_core.files import COUNT, DIGEST, POSITIVE, SECONDS, DocumentError, Map, check, parse, sync
from smaug_core.model.pos_embed import resize_positions
from smaug_core.model.smaug import SMAUG
from smaug_core.model.temporal import resize_time
from smaug_core.training.step_clock import StepTimes

KEPT = 2
"""Checkpoints kept of a running stage: the newest, and the one before should the newest be damaged."""


CHECKPOINT_EVERY_S = 60.0
"""Wall time between checkpoints: the most that a kill can cost. Results do not depend on it."""


@dataclass(frozen=True, slots=True)
class Progress:
    """Progress of a training."""

    step: int
    """Steps done."""
    times: StepTimes = StepTimes()
    """Device time that these steps took, over all attempts."""
    unreadable: dict[str, str] = field(default_factory=dict)
    """Errors of unreadable clips so far, by their path."""


NEW_WITH_FRAMES = ("selector.", "temporal.")
"""Parts that a model has only where it is trained on several frames of a clip."""
NEW_WITH_FRAMES_SETTINGS = {"selector_hidden", "selector_layers", "selector_heads", "temporal_layers"}
"""Settings of those parts: free where the weights have none of them."""
FREE = {"image_size", "selection_per", "selector_temperature"}
"""Settings that no tensor's shape or meaning depends on, but for positions, which are resized."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Fit:
    """Parts that are new or left out when a model of another shape loads weights; both lists are printed."""

    new: list[str]
    """Parts that keep their new weights, because the stage before did not have them."""
    left_out: list[str]
    """Parts of the stage before that this model does not have."""


def save_model(folder: Path, model: SMAUG, notes: Mapping[str, Any]) -> None:
    """Write weights with their configuration; the folder appears complete, by rename."""
    with _appearing(folder) as partial:
        save_file(_contiguous(model.state_dict()), partial / "model.safetensors")
        document = {"model": asdict(model.config), "clip": asdict(model.shape), **notes}
        (partial / "config.json").write_text(json.dumps(document, indent=1))


def load_weights(folder: Path, model: SMAUG) -> Fit:
    """Fill `model` with the weights in `folder`, every tensor of them and nothing else.

    Position tables are resized for another image size, temporal embeddings for another number of frames. The frame
    selector and the temporal encoder may be new, or left out, where the number of frames says so.

    Raises:
        CheckpointError: the folder is incomplete or damaged, was made for another configuration, or a tensor
            is missing, left over, or of another shape; the message names it.
    """
    made_for, before = read_config(folder)
    now = json.loads(json.dumps(asdict(model.config)))
    free = FREE | (NEW_WITH_FRAMES_SETTINGS if before.frames == 1 else set())
    differing = [k for k, v in now.items() if made_for.get(k) != v and k not in free]
    if differing:
        raise CheckpointError(
            f"{folder}: weights were made for other settings: "
            + ", ".join(f"model.{k} = {made_for.get(k)!r}, now {now[k]!r}" for k in differing)
        )
    tensors = _load(folder / "model.safetensors")
    expected = model.state_dict()
    missing = {part for part in NEW_WITH_FRAMES if _has(expected, part) and not _has(tensors, part)}
    surplus = {part for part in NEW_WITH_FRAMES if _has(tensors, part) and not _has(expected, part)}
    tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith(tuple(surplus))}
    tensors |= {name: tensor for name, tensor in expected.items() if name.startswith(tuple(missing))}
    _fill(model, _resized(tensors, model), folder)
    return Fit(new=sorted(p.rstrip(".") for p in missing), left_out=sorted(p.rstrip(".") for p in surplus))


def read_config(folder: Path) -> tuple[dict[str, Any], ClipShape]:
    """The `model` settings that the weights in `folder` were made for, and the frames they were trained on.

    Raises:
        CheckpointError: there is no readable config.json.
    """
    try:
        document: dict[str, Any] = parse((folder / "config.json").read_bytes())
        check(document, CONFIG)
        return document["model"], ClipShape(**{name: document["clip"][name] for name in CLIP})
    except (OSError, DocumentError) as error:
        raise CheckpointError(f"{folder}: not a folder of SMAUG weights ({error})") from error


def _has(tensors: Mapping[str, Tensor], part: str) -> bool:
    return any(name.startswith(part) for name in tensors)


def _resized(tensors: dict[str, Tensor], model: SMAUG) -> dict[str, Tensor]:
    """Tables of positions in space and time in the sizes that `model` has."""
    frames = model.shape.frames
    return {
        name: resize_time(tensor, frames).contiguous() if name.endswith("time_embed") else tensor
        for name, tensor in resize_positions(tensors, model).items()
    }


CLIP = {"frames": POSITIVE, "selected": POSITIVE}
CONFIG = {"model": dict, "clip": CLIP}
"""Form of config.json beside weights."""
STATE = {
    "step": COUNT,
    "useful_s": SECONDS,
    "loader_wait_s?": SECONDS,
    "checkpoint_s?": SECONDS,
    "unreadable?": Map(str),
    "sha256": {"model.safetensors": DIGEST, "optimizer.safetensors": DIGEST},
}
"""Form of state.json in a checkpoint."""


def step_name(step: int) -> str:
    """Name of the folder of a step's checkpoint."""
    return f"step-{step:08d}"


class Checkpoints:
    """The checkpoints of one training, `step-00000123` and so on under one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(self, model: nn.Module, optimizer: torch.optim.Optimizer, progress: Progress) -> None:
        """Write a checkpoint, then delete all but the newest `KEPT`."""
        target = self.folder / step_name(progress.step)
        with _appearing(target) as partial:
            save_file(_contiguous(model.state_dict()), partial / "model.safetensors")
            save_file(_optimizer_tensors(optimizer), partial / "optimizer.safetensors")
            state: dict[str, Any] = {"sha256": {p.name: _sha256(p) for p in sorted(partial.glob("*.safetensors"))}}
            state |= {"step": progress.step, **asdict(progress.times), "unreadable": progress.unreadable}
            (partial / "state.json").write_text(json.dumps(state))
        for old in self.found()[KEPT:]:
            shutil.rmtree(old)

    def found(self) -> list[Path]:
        """Checkpoint folders, newest first."""
        return sorted(self.folder.glob("step-????????"), reverse=True)

    def resume(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> Progress | None:
        """Load the newest undamaged checkpoint; None if there is none.

        Raises:
            CheckpointError: there are checkpoints but all are damaged.
        """
        faults = []
        for folder in self.found():
            try:
                progress, digests = _read_state(folder)
                for name, digest in digests.items():
                    if _sha256(folder / name) != digest:
                        raise CheckpointError(f"{folder / name}: does not have the digest it was saved with")
                _fill(model, _load(folder / "model.safetensors"), folder)
                _fill_optimizer(optimizer, _load(folder / "optimizer.safetensors"))
            except CheckpointError as error:
                faults.append(str(error))
                continue
            return progress
        if faults:
            raise CheckpointError(
                "no checkpoint can be read: "
                + "; ".join(faults)
                + f"; mv {self.folder} {self.folder}.damaged to start over"
            )
        return None


@contextmanager
def _appearing(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder that is renamed into place when complete, and deleted on failure.

    Once renamed, it survives a power failure.
    """
    partial = folder.with_name(f".partial-{folder.name}-{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    for path in (*partial.iterdir(), partial):
        sync(path)
    if folder.exists():
        shutil.rmtree(folder)
    partial.rename(folder)
    sync(folder.parent)


def _contiguous(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().contiguous() for name, tensor in tensors.items()}


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error})") from error


def _load(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error})") from error


def _fill(model: nn.Module, tensors: dict[str, Tensor], folder: Path) -> None:
    expected = model.state_dict()
    faults = [f"{name} is missing" for name in expected.keys() - tensors.keys()]
    faults += [f"{name} is not part of the model" for name in tensors.keys() - expected.keys()]
    faults += [
        f"{name} has shape {list(tensors[name].shape)}, not {list(expected[name].shape)}"
        for name in expected.keys() & tensors.keys()
        if tensors[name].shape != expected[name].shape
    ]
    if faults:
        raise CheckpointError(f"{folder}: weights do not fit: " + "; ".join(sorted(faults)))
    model.load_state_dict(tensors)


def _read_state(folder: Path) -> tuple[Progress, dict[str, str]]:
    try:
        state = parse((folder / "state.json").read_bytes())
        check(state, STATE)
    except (OSError, DocumentError) as error:
        raise CheckpointError(f"{folder / 'state.json'}: incomplete checkpoint ({error})") from error
    if folder.name != step_name(state["step"]):
        raise CheckpointError(f"{folder / 'state.json'}: expected the step of its folder, got {state['step']}")
    # Earlier versions kept the useful time alone.
    times = StepTimes(**{time.name: state.get(time.name, 0.0) for time in fields(StepTimes)})
    return Progress(state["step"], times, state.get("unreadable", {})), state["sha256"]


def _optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    state = optimizer.state_dict()["state"]
    return {f"{i}.{name}": value for i, entry in state.items() for name, value in entry.items()}


def _fill_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    document = optimizer.state_dict()
    entries: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        number, name = key.split(".", 1)
        entries.setdefault(int(number), {})[name] = value
    expected = sum(len(group["params"]) for group in document["param_groups"])
    if any(number >= expected for number in entries):  # fewer are right: what no loss reaches has no state
        raise CheckpointError(f"optimiser state of parameter {max(entries)}, of {expected}")
    optimizer.load_state_dict({"state": entries, "param_groups": document["param_groups"]})
