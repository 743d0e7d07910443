"""Tar shards for tests, written by Python's own tarfile."""

import io
import json
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def picture(number: int = 0, ending: str = "png") -> bytes:
    """A small picture that no other number has."""
    pixels = np.full((24, 32, 3), number % 256, dtype=np.uint8)
    pixels[:8, :8] = number // 256
    kept = io.BytesIO()
    Image.fromarray(pixels).save(kept, {"png": "PNG", "jpg": "JPEG"}[ending])
    return kept.getvalue()


def write_tar(path: Path, members: Iterable[tuple[str, bytes]], *, form: int = tarfile.USTAR_FORMAT) -> Path:
    """A tar file of these names and contents."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=form) as tar:
        for name, content in members:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return path


def sample(key: str, number: int = 0, caption: str | None = "a dog", **about: Any) -> list[tuple[str, bytes]]:
    """Members of a sample, in the order in which img2dataset writes them."""
    text = [] if caption is None else [(f"{key}.txt", caption.encode())]
    described = {"status": "success", "key": key, "caption": caption} | about
    return [(f"{key}.png", picture(number)), (f"{key}.json", json.dumps(described).encode()), *text]
