"""Real faults of a disk: small file systems in memory that are full or read-only; they need the right to mount."""

import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True, slots=True)
class SmallDisk:
    """A disk that has little room."""

    folder: Path

    def fill(self) -> None:
        """Leave no room at all."""
        with (self.folder / "ballast").open("ab", buffering=0) as file:
            for size in (4096, 1):
                while _takes(file, size):
                    pass

    def free(self) -> None:
        """Have room again."""
        (self.folder / "ballast").unlink()


def _takes(file, size: int) -> bool:
    try:
        return file.write(b"x" * size) == size
    except OSError:
        return False


@contextmanager
def full_disk(kilobytes: int = 256) -> Iterator[SmallDisk]:
    """A disk of so many kilobytes; `fill` it when it is to fail."""
    with _mounted(f"size={kilobytes}k") as folder:
        yield SmallDisk(folder)


@contextmanager
def read_only_disk() -> Iterator[Path]:
    """An empty disk that takes nothing."""
    with _mounted("ro") as folder:
        yield folder


@contextmanager
def _mounted(options: str) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        mount = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", name], capture_output=True, text=True)
        if mount.returncode:
            pytest.skip(f"may not mount a file system here: {mount.stderr.strip()}")
        try:
            yield Path(name)
        finally:
            subprocess.run(["umount", "--lazy", name], check=True)
