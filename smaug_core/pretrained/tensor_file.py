"""Reads a file of tensors of any origin; its content is treated as data, never as code."""

import pickle
import re
import struct
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from smaug_core.errors import CheckpointError

_WRAPPERS = ("state_dict", "model", "module")
"""Under one of these names, training scripts save the tensors beside other things."""


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors in a file of safetensors, or in one that `torch.save` wrote.

    Raises:
        CheckpointError: the file is damaged, holds something else, or would run code.
    """
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{path}: cannot be read ({error})") from error
    document = _torch_document(path)
    for wrapper in _WRAPPERS:
        if isinstance(document, dict) and isinstance(document.get(wrapper), dict):
            document = document[wrapper]
            break
    if not isinstance(document, dict) or not document:
        raise CheckpointError(f"{path}: expected named tensors, got {type(document).__name__} {document!r:.40}")
    others = [f"{name} ({type(value).__name__})" for name, value in document.items() if not isinstance(value, Tensor)]
    if others:
        raise CheckpointError(f"{path}: expected named tensors only, got {', '.join(others)}")
    return document


def _torch_document(path: Path) -> object:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        asked = re.search(r"GLOBAL ([\w.]+)", str(error))
        why = f"asks for {asked[1]}, and code in a file of weights is not run" if asked else "is no file of torch.save"
        raise CheckpointError(f"{path}: {why}; expected named tensors, best as safetensors") from error
    except RuntimeError as error:
        if "TorchScript" in str(error):
            raise CheckpointError(
                f"{path}: is a TorchScript program, and code in a file of weights is not run; expected its state_dict,"
                " best as safetensors"
            ) from error
        raise CheckpointError(f"{path}: cannot be read ({error!s:.200})") from error
    except (OSError, EOFError, LookupError, ValueError, TypeError, AttributeError, struct.error) as error:
        # Text or noise makes torch's reader of its old format stumble in any of these ways.
        raise CheckpointError(f"{path}: cannot be read ({error!r}); expected a file of torch.save") from error
