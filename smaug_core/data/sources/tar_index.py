"""Index of a tar file: where the bytes of each member lie, so that any of them is read alone."""

import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from smaug_core.errors import SmaugError

BLOCK = tarfile.BLOCKSIZE
COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\x00": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
"""Compression by the first bytes of a file."""


@dataclass(frozen=True, slots=True)
class TarMember:
    """An entry of a tar file that is not a folder."""

    name: str
    offset: int
    """First byte in the tar file."""
    length: int
    """In bytes."""
    problem: str = ""
    """Why it is not to be read: a link, a device, or a sparse file; empty if it is a plain file."""


def index_tar(path: Path) -> Iterator[TarMember]:
    """Yield the members of a tar file in their order: ustar, with GNU's and pax's long names. No data are read.

    Raises:
        SmaugError: the file is missing, compressed, truncated, or no tar file.
    """
    with _named(path), path.open("rb") as file:
        size, start = path.stat().st_size, file.read(BLOCK)
        for magic, compression in COMPRESSED.items():
            if start.startswith(magic):
                raise SmaugError(f"{path}: is compressed ({compression}); expected a plain tar file")
        if not start.strip(b"\0"):
            return  # only the blocks that end a tar file, or nothing
        file.seek(0)
        with tarfile.open(fileobj=file, mode="r:") as tar:
            while (member := tar.next()) is not None:
                tar.members = []  # type: ignore[attr-defined]  # tarfile would keep all, of millions
                if member.size < 0:  # the header of the next one would lie before it, in a circle
                    raise SmaugError(f"{path}: is damaged: {member.name!r} has {member.size} bytes")
                if member.offset_data + member.size > size and member.isreg():
                    raise SmaugError(f"{path}: is truncated in {member.name!r}")
                if not member.isdir():
                    yield TarMember(member.name, member.offset_data, member.size, _problem(member))
            file.seek(tar.offset)
            # tarfile takes a damaged header for the end.
            if (rest := file.read(BLOCK)) and rest.strip(b"\0"):
                raise SmaugError(
                    f"{path}: is damaged at byte {tar.offset}: expected the header of a member, or the end"
                )


def _problem(member: tarfile.TarInfo) -> str:
    if member.issym() or member.islnk():
        return f"is a link to {member.linkname!r}"
    if member.issparse():
        return "is a sparse file"
    return "" if member.isreg() else "is no regular file"


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Turn every error of a damaged file into one that names it."""
    try:
        yield
    except OSError as error:
        raise SmaugError(f"{path}: cannot be read ({error.strerror or error})") from error
    except (tarfile.TarError, ValueError, OverflowError, RecursionError, EOFError) as error:
        raise SmaugError(f"{path}: is no tar file, or damaged ({str(error) or type(error).__name__})") from error
