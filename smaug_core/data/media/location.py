"""Location of a clip or picture: a file, or a range of bytes of a shard."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from smaug_core.errors import ClipError, MissingClipError


@dataclass(frozen=True, slots=True)
class MediaLocation:
    """One clip or picture on disk. It is printed as its file, or as `00012.tar[000120034.jpg]`."""

    path: Path
    """The file, or the shard that holds it."""
    member: str | None = None
    """Name within the shard; None for a file of its own."""
    offset: int = 0
    """First byte in the shard."""
    length: int | None = None
    """Bytes in the shard; None for a file of its own."""

    def __str__(self) -> str:
        return str(self.path) if self.member is None else f"{self.path}[{self.member}]"

    @property
    def name(self) -> str:
        """Last part of the file's name, or of the member's."""
        return self.path.name if self.member is None else PurePosixPath(self.member).name

    @property
    def suffix(self) -> str:
        """End of the name in lower case, such as `.mp4`."""
        return PurePosixPath(self.name).suffix.lower()

    def size(self) -> int:
        """Bytes of the file, or of its range of the shard.

        Raises:
            ClipError: the file is missing.
        """
        if self.length is not None:
            return self.length
        with self._named():
            return self.path.stat().st_size

    def read(self) -> bytes:
        """All bytes of the file, or of its range of the shard.

        Raises:
            ClipError: the file is missing, cannot be read, is not a regular file, or ends before the range does.
        """
        return self.read_range(0, self.size())

    def read_range(self, start: int, length: int) -> bytes:
        """Some of its bytes, by one `pread`; raises as `read` does, and if there are not as many."""
        with self._named():
            if not self.path.is_file() and self.path.exists():  # a pipe would be waited for
                raise ClipError(f"{self}: expected a regular file")
            if self.length is not None and start + length > self.length:
                raise ClipError(f"{self}: expected {length} bytes at {start}, got {self.length} in all: truncated")
            with self.path.open("rb", buffering=0) as file:
                content = _pread(file.fileno(), length, self.offset + start)
        if len(content) < length:
            raise ClipError(f"{self}: expected {length} bytes at {self.offset + start}, got {len(content)}: truncated")
        return content

    @contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            raise MissingClipError(f"{self}: no such file") from error
        except OSError as error:
            raise ClipError(f"{self}: cannot be read ({error.strerror})") from error


def located(media: MediaLocation | Path) -> MediaLocation:
    """The location of a file of its own, given by its path."""
    return media if isinstance(media, MediaLocation) else MediaLocation(media)


def _pread(file: int, length: int, offset: int) -> bytes:
    """Read up to `length` bytes: one call of the system gives at most 2 GiB."""
    parts = []
    while length > 0 and (part := os.pread(file, length, offset)):
        parts.append(part)
        offset, length = offset + len(part), length - len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)
