"""Mutations of real files, for tests of readers: whatever a file holds, only a SmaugError may leave its reader."""

import random
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import pytest

from smaug_core.errors import SmaugError

KEPT = Path(__file__).with_name("fuzz_inputs")
"""Inputs that a reader once failed on, in a folder for each reader: they are read again in every run."""
NUMBERS = [0, 1, 127, 128, 255, 256, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**64 - 1]
BLOCK = 512


@dataclass(frozen=True)
class FuzzedReader:
    """A reader of files."""

    name: str
    file: str
    """Path of its file in a folder of its own."""
    read: Callable[[Path], object]
    """Read all of the file."""
    files: Sequence[bytes]
    """Real files, which are mutated."""
    repair: Callable[[bytearray, random.Random], None] | None = None
    """Correct checksums, so that a reader looks beyond them."""


def read_mutated(reader: FuzzedReader, folder: Path, inputs: Iterator[bytes]) -> None:
    """Read each input; one that another error leaves than a SmaugError fails the test, and is kept."""
    path = folder / reader.file
    path.parent.mkdir(parents=True, exist_ok=True)
    for content in inputs:
        path.write_bytes(content)  # where a reader crashes, its input is the file that is left
        try:
            reader.read(path)
        except SmaugError:
            pass
        except BaseException as error:  # noqa: BLE001  # any is a failure, which is kept
            kept = KEPT / reader.name / blake2b(content, digest_size=8).hexdigest()
            kept.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, kept)
            pytest.fail(f"{reader.name}: {type(error).__name__} ({error}) instead of a SmaugError; kept as {kept}")


def mutations(reader: FuzzedReader, seed: int) -> Iterator[bytes]:
    """Endless mutations of the reader's files, the same for the same seed."""
    chance = random.Random(seed)
    while True:
        content = bytearray(chance.choice(reader.files))
        for _ in range(chance.choice([1, 1, 2, 4, 16])):
            chance.choice(MUTATIONS)(content, chance, reader.files)
        if reader.repair is not None and chance.random() < 0.8:
            reader.repair(content, chance)
        yield bytes(content)


def _flip(content: bytearray, chance: random.Random, _: Sequence[bytes]) -> None:
    if content:
        content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)


def _put_byte(content: bytearray, chance: random.Random, _: Sequence[bytes]) -> None:
    if content:
        content[chance.randrange(len(content))] = chance.choice(b'\0\xff\x80/."[]{}:,-0179 \n')


def _put_number(content: bytearray, chance: random.Random, _: Sequence[bytes]) -> None:
    size = chance.choice([2, 4, 8])
    place = chance.randrange(len(content) + 1)
    number = (chance.choice(NUMBERS) % 2 ** (8 * size)).to_bytes(size, chance.choice(["little", "big"]))
    content[place : place + size] = number


def _truncate(content: bytearray, chance: random.Random, _: Sequence[bytes]) -> None:
    del content[chance.randrange(len(content) + 1) :]


def _delete(content: bytearray, chance: random.Random, _: Sequence[bytes]) -> None:
    place = chance.randrange(len(content) + 1)
    del content[place : place + chance.choice([1, 2, 8, 64, BLOCK])]


def _insert(content: bytearray, chance: random.Random, _: Sequence[bytes]) -> None:
    place = chance.randrange(len(content) + 1)
    content[place:place] = chance.randbytes(chance.choice([1, 2, 8, 64, BLOCK]))


def _repeat(content: bytearray, chance: random.Random, _: Sequence[bytes]) -> None:
    start = chance.randrange(len(content) + 1)
    place = chance.randrange(len(content) + 1)
    content[place:place] = content[start : start + chance.choice([1, 8, 64, BLOCK, 4 * BLOCK])]


def _splice(content: bytearray, chance: random.Random, files: Sequence[bytes]) -> None:
    other = chance.choice(files)
    content[chance.randrange(len(content) + 1) :] = other[chance.randrange(len(other) + 1) :]


MUTATIONS = (_flip, _flip, _put_byte, _put_byte, _put_number, _truncate, _delete, _insert, _repeat, _splice)
