"""A cache of the Hugging Face hub on disk, with no hub behind it."""

from pathlib import Path

import huggingface_hub

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def offline_cache(monkeypatch, folder: Path) -> Path:
    """Let the hub's client read an empty cache under `folder` and never ask the hub."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(folder / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return folder / "hub"


def put(cache: Path, repository: str, name: str, content: bytes, *, revision: str = "main") -> Path:
    """Lay a file into the cache as a download does."""
    folder = cache / ("models--" + repository.replace("/", "--"))
    snapshot = folder / "snapshots" / COMMIT
    snapshot.mkdir(parents=True, exist_ok=True)
    (folder / "refs").mkdir(exist_ok=True)
    (folder / "refs" / revision).write_text(COMMIT)
    (snapshot / name).write_bytes(content)
    return snapshot / name
