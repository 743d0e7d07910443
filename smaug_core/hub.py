"""Locations of public weights: a file, a directory, or a name on the Hugging Face hub. Imports no torch.

A hub name is resolved from the local cache if the cache holds it, even if the hub has a newer version: a training
loads the file that the plan digested.
"""

import os
import re
from hashlib import file_digest
from pathlib import Path

from smaug_core.errors import CheckpointError

TIMM = "timm"
"""Source name for the weights which the tag in `model.vision` names."""

WEIGHT_FILES = (
    "model.safetensors",
    "pytorch_model.bin",
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.bin",
)
"""Files that hold all weights of a model, by preference, in a directory or a hub repository."""

_SUFFIXES = (".safetensors", ".bin", ".pth", ".pt", ".ckpt")
_HUB_NAME = re.compile(r"([\w-][\w.-]*/)?[\w-][\w.-]*(@[\w./-]+)?")


def find_weights(source: str) -> Path:
    """Find the file with the weights of `source`; download it if it is a hub name that the local cache lacks.

    Args:
        source: a file, a directory, or a hub name such as `google-bert/bert-base-uncased`, with `@revision` if one
            is meant.

    Raises:
        CheckpointError: there is no such file, directory or hub name; or the directory holds no file of weights,
            or several without a usual name.
    """
    local = _local_file(source)
    if local is not None:
        return local
    cached = _cached(source)
    return cached if cached is not None else _download(source)


def find_beside(source: str, name: str) -> Path | None:
    """The file `name` (such as config.json) that comes with `source`; None if there is no such file.

    A source that is a single file has no such files: others in the same directory may belong to another model. A hub
    name has none either while the hub is out of reach and the local cache lacks the file.

    Raises:
        CheckpointError: the hub refuses.
    """
    path = Path(os.path.expanduser(source))
    if path.is_dir():
        return path / name if (path / name).is_file() else None
    if path.exists():
        return None
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    cached = in_cache(source, name)
    if cached is not None:
        return cached
    repository, revision = _split(source)
    try:
        return Path(hf_hub_download(repository, name, revision=revision))
    except EntryNotFoundError:  # raised without a connection, too
        return None
    except (OSError, ValueError) as error:
        raise _not_found(source, error) from error


def weights_digest(source: str, *, vision: str | None = None) -> str | None:
    """SHA-256 of the file with the weights of `source`; None for a hub name that the local cache lacks.

    Args:
        source: as in `find_weights`, or `timm`.
        vision: the setting `model.vision`, which names the weights of `timm`.

    Raises:
        CheckpointError: as in `find_weights`, hub names aside; or the file cannot be read.
    """
    if source == TIMM:
        source = timm_hub_name(vision or "")
    path = _local_file(source) or _cached(source)
    if path is None:
        return None
    try:
        with path.open("rb") as file:
            return file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error})") from error


def timm_hub_name(vision: str) -> str:
    """The hub name of the weights that the tag in `vision` names, e.g. `openai` in `vit_..._224.openai`.

    Raises:
        CheckpointError: `vision` has no tag.
    """
    if "." not in vision:
        raise CheckpointError(
            f"model.vision: expected a name with a tag of weights, such as vit_base_patch16_clip_quickgelu_224.openai,"
            f" got {vision!r}"
        )
    # timm keeps one repository for both activations of a CLIP, named without quickgelu.
    return "timm/" + vision.replace("_clip_quickgelu_", "_clip_")


def _local_file(source: str) -> Path | None:
    """The file on disk; None if `source` can only be a hub name."""
    path = Path(os.path.expanduser(source))
    if path.is_file():
        return path
    if source and path.is_dir():
        return _in_directory(path)
    if not is_hub_name(source):
        raise CheckpointError(
            f"{source}: no such file or directory of weights; expected one, or a hub name such as"
            " google-bert/bert-base-uncased"
        )
    return None


def _in_directory(folder: Path) -> Path:
    for name in WEIGHT_FILES:
        if (folder / name).is_file():
            return folder / name
    found = sorted(path for path in folder.iterdir() if path.name.endswith(_SUFFIXES))
    if len(found) == 1:
        return found[0]
    listed = ", ".join(path.name for path in found) or "none"
    raise CheckpointError(
        f"{folder}: expected a file {WEIGHT_FILES[0]}, got {listed}; if one of these holds the weights, give its path"
    )


def _cached(source: str) -> Path | None:
    found = (in_cache(source, name) for name in WEIGHT_FILES)
    return next((path for path in found if path is not None), None)


def is_hub_name(source: str) -> bool:
    """Return whether `source` could name a model on the hub, and no weights on disk."""
    return bool(_HUB_NAME.fullmatch(source)) and not source.endswith(_SUFFIXES)


def in_cache(source: str, name: str) -> Path | None:
    """The file `name` of the hub's model `source`, if the local cache holds it.

    Raises:
        CheckpointError: `source` is no name that the hub can have.
    """
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    repository, revision = _split(source)
    try:
        found = try_to_load_from_cache(repository, name, revision=revision)
    except HFValidationError as error:
        raise _not_found(source, error) from error
    return Path(found) if isinstance(found, str) else None


def _download(source: str) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import LocalEntryNotFoundError, RemoteEntryNotFoundError

    repository, revision = _split(source)
    for name in WEIGHT_FILES:
        try:
            return Path(hf_hub_download(repository, name, revision=revision))
        except RemoteEntryNotFoundError:
            continue
        except LocalEntryNotFoundError as error:
            raise CheckpointError(
                f"{source}: no such file or directory, and neither the hub can be reached nor its local cache holds it"
            ) from error
        except (OSError, ValueError) as error:
            raise _not_found(source, error) from error
    raise CheckpointError(f"{source}: the hub repository holds none of {', '.join(WEIGHT_FILES)}")


def _not_found(source: str, error: Exception) -> CheckpointError:
    return CheckpointError(f"{source}: no such file or directory, and the hub does not give it ({error})")


def _split(source: str) -> tuple[str, str | None]:
    repository, _, revision = source.partition("@")
    return repository, revision or None
