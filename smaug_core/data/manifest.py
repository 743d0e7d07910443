"""The manifest of one split: a memory-mapped Arrow file with a row for each caption.

Training and evaluation read data sets through manifests alone, whatever format the captions came in, and whether the
media are files or lie in shards. Processes share the pages of a manifest, so that millions of rows cost no memory in
each of them.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smaug_core.data.media.location import MediaLocation
from smaug_core.errors import SmaugError
from smaug_core.files import write_whole

if TYPE_CHECKING:
    import pyarrow as pa

VERSION = "1"
"""Version of the columns and of what they mean."""
BATCH_ROWS = 65_536
"""Rows of each record batch but the last, so that a row's batch is known without a search."""
WRONG_NAMED = 10
"""Wrong rows that a message names."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """One caption with its clip or picture."""

    id: str
    """Unique over all sources, from the source's own names: never a line number."""
    media: MediaLocation
    """The clip or picture."""
    number: int
    """Number of the clip or picture: captions of the same one share it, over all sources of a training."""
    caption: str
    """As written, a paragraph's sentences joined by one space; the tokenizer cleans it."""
    is_image: bool
    """A single picture, not a clip."""
    flip: bool
    """Whether a mirror image still fits the caption; false where captions name sides."""
    relevant: tuple[int, ...]
    """Frames that show what the caption names; empty if the source does not record them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ManifestRow:
    """One row as it is written."""

    id: str
    sentences: tuple[str, ...]
    """One text, or the sentences of a paragraph."""
    path: str
    """File or shard, relative to the folder of the split's media."""
    flip: bool
    member: str | None = None
    """Name within the shard; None for a file of its own."""
    offset: int | None = None
    length: int | None = None
    """Bytes of the clip or picture, in its shard."""
    content: bytes | None = None
    """BLAKE2b (16 bytes) of the clip or picture; None where a recipe's digest stands for it."""
    duration: float | None = None
    """Seconds of a clip, as the source says."""
    relevant: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class ManifestKind:
    """Facts that hold for every row of a manifest."""

    is_image: bool
    is_paragraph: bool = False
    """Whether a row's sentences are those of one paragraph."""
    preparation: str = "none"
    """Changes of the media after their source, such as `jpeg 2 fps 224 q95`."""


def schema() -> "pa.Schema":
    """Columns of a manifest."""
    import pyarrow as pa

    return pa.schema(
        [
            pa.field("id", pa.string(), nullable=False),
            pa.field("sentences", pa.list_(pa.string()), nullable=False),
            pa.field("media", pa.int32(), nullable=False),
            pa.field("path", pa.string(), nullable=False),
            pa.field("flip", pa.bool_(), nullable=False),
            pa.field("member", pa.string()),
            pa.field("offset", pa.int64()),
            pa.field("length", pa.int64()),
            pa.field("content", pa.binary(16)),
            pa.field("duration", pa.float32()),
            pa.field("relevant", pa.list_(pa.int32()), nullable=False),
        ]
    )


def write_manifest(path: Path, rows: Iterable[ManifestRow], kind: ManifestKind, source: str = "") -> str:
    """Write a manifest, whole or not at all, and return its digest.

    `source` says what it is made from, for `Manifest.source`; the digest does not cover it.

    The digest covers ids, captions, kind, flags, preparation, and the size and content of the media; never where the
    media lie, so that it is the same for files and for shards.

    Raises:
        SmaugError: there are no rows, or some have an id twice, no caption, a path that leaves the folder of the media,
            or text that is no Unicode; up to ten are named.
        OSError: the file cannot be written.
    """
    import pyarrow as pa

    columns = schema().with_metadata(
        {
            "version": VERSION,
            "is_image": str(kind.is_image),
            "is_paragraph": str(kind.is_paragraph),
            "preparation": kind.preparation,
            "source": source,
        }
    )
    digest = _digest_of(kind)

    def write(partial: Path) -> None:
        numbers: dict[tuple[str, str | None], int] = {}
        left = _checked(rows, path)
        with pa.OSFile(str(partial), "wb") as file, pa.ipc.new_file(file, columns) as writer:
            while part := list(islice(left, BATCH_ROWS)):
                for row in part:
                    digest.update(_digested(row.id, row.sentences, row.flip, row.content))
                media = [numbers.setdefault((row.path, row.member), len(numbers)) for row in part]
                held = {name: [getattr(row, name) for row in part] for name in columns.names if name != "media"}
                held["media"] = media
                writer.write_batch(pa.record_batch(held, schema=columns))

    write_whole(path, write)
    return digest.hexdigest()


def _checked(rows: Iterable[ManifestRow], path: Path) -> Iterator[ManifestRow]:
    """Yield the rows that are right, and raise an error after the last one if some are wrong."""
    seen: set[str] = set()
    wrong, num_wrong, number = list[str](), 0, -1
    for number, row in enumerate(rows):
        if (fault := _fault(row, seen)) is None:
            seen.add(row.id)
            yield row
        else:
            num_wrong += 1
            if num_wrong <= WRONG_NAMED:
                wrong.append(f"row {number} ({row.id!r}): {fault}")
    if number < 0:
        raise SmaugError(f"{path}: expected captions, got none")
    if wrong:
        more = f"; and {num_wrong - WRONG_NAMED} more" if num_wrong > WRONG_NAMED else ""
        raise SmaugError(f"{path}: {'; '.join(wrong)}{more}")


def _fault(row: ManifestRow, seen: Set[str]) -> str | None:
    """Problem of a row, if it has one."""
    if not row.id or row.id in seen:
        return "expected an id that no other row has"
    if not is_inside(row.path):
        return f"expected a path inside the folder of the media, got {row.path!r}"
    if not any(sentence.strip() for sentence in row.sentences):
        return f"expected a caption, got {list(row.sentences)}"
    try:
        "".join((row.id, row.path, row.member or "", *row.sentences)).encode()
    except UnicodeEncodeError as error:  # JSON and file names can hold half of a character
        return f"expected text that UTF-8 can hold, got {error.object[error.start : error.end]!r}"
    return None


def is_inside(path: str) -> bool:
    """Return whether `path` is relative and stays below the folder that it is relative to."""
    # By hand: a corpus has millions of rows, and pathlib takes microseconds for each.
    parts = set(path.split("/")) - {"", "."}
    return bool(parts) and "\0" not in path and not path.startswith("/") and ".." not in parts


class Manifest(Sequence[Sample]):
    """A manifest, open for reading. Pickling sends its path alone: every process maps the file for itself."""

    def __init__(self, path: Path, media: Path) -> None:
        """Map the file `path`, whose paths are relative to the folder `media`.

        Raises:
            SmaugError: the file is missing, damaged, or of another version.
        """
        import pyarrow as pa

        self.path, self.media = path, media
        with _named(path):
            self._reader = pa.ipc.open_file(pa.memory_map(str(path)))
            found = {key.decode(): value.decode() for key, value in (self._reader.schema.metadata or {}).items()}
            if found.get("version") != VERSION or not self._reader.schema.equals(schema()):
                raise SmaugError(
                    f"{path}: expected a manifest of version {VERSION}, got {found.get('version', 'none')};"
                    " prepare the data set again (`smaug data prepare`)"
                )
            self.kind = ManifestKind(
                is_image=found["is_image"] == "True",
                is_paragraph=found["is_paragraph"] == "True",
                preparation=found["preparation"],
            )
            self.source = found.get("source", "")
            """What it was made from, such as the size and time of an annotation file."""
            self._batches = [self._reader.get_batch(number) for number in range(self._reader.num_record_batches)]
            for batch in self._batches:
                batch.validate()
                if any(batch.column(field.name).null_count for field in schema() if not field.nullable):
                    raise ValueError("a value is missing")
        self._validated: set[int] = set()
        self._num_rows = sum(batch.num_rows for batch in self._batches)
        if any(batch.num_rows != BATCH_ROWS for batch in self._batches[:-1]) or not self._num_rows:
            raise SmaugError(f"{path}: is damaged: expected batches of {BATCH_ROWS} rows; prepare the data set again")

    def __reduce__(self) -> tuple[type["Manifest"], tuple[Path, Path]]:
        return Manifest, (self.path, self.media)

    def __len__(self) -> int:
        return self._num_rows

    @cached_property
    def num_media(self) -> int:
        """Clips or pictures, of which several rows may be captions; a SmaugError if their numbers are damaged."""
        import pyarrow.compute as pc

        with _named(self.path):
            highest = max(pc.max(batch.column("media")).as_py() for batch in self._batches)
            if not 0 <= highest < self._num_rows:
                raise ValueError(f"expected numbers of clips below {self._num_rows}, got {highest}")
        return 1 + int(highest)

    def row(self, number: int) -> dict[str, Any]:
        """The columns of one row by name.

        Raises:
            IndexError: there is no such row.
            SmaugError: the row is damaged.
        """
        if not 0 <= number < self._num_rows:
            raise IndexError(f"{self.path}: expected a row from 0 to {self._num_rows - 1}, got {number}")
        batch, place = divmod(number, BATCH_ROWS)
        with _named(self.path):
            if batch not in self._validated:  # Arrow would follow the offsets of a damaged file anywhere
                self._batches[batch].validate(full=True)
                lists = [self._batches[batch].column(name).flatten() for name in ("sentences", "relevant")]
                if any(column.null_count for column in lists):
                    raise ValueError("a value is missing")
                self._validated.add(batch)
            columns: dict[str, Any] = self._batches[batch].slice(place, 1).to_pylist()[0]
        return columns

    def __getitem__(self, number: int) -> Sample:  # type: ignore[override]  # one row at a time
        """The caption of one row with its clip or picture; raises as `row`, and if its path leaves the folder."""
        row = self.row(number)
        if not is_inside(row["path"]):
            raise SmaugError(f"{self.path}: row {number}: expected a path inside {self.media}, got {row['path']!r}")
        return Sample(
            id=row["id"],
            media=MediaLocation(self.media / row["path"], row["member"], row["offset"] or 0, row["length"]),
            number=row["media"],
            caption=" ".join(row["sentences"]),
            is_image=self.kind.is_image,
            flip=row["flip"],
            relevant=tuple(row["relevant"]),
        )

    def digest(self) -> str:
        """The digest that `write_manifest` returned, computed from all rows again."""
        digest = _digest_of(self.kind)
        for batch in self._batches:
            with _named(self.path):
                batch.validate(full=True)
                columns = [batch.column(name).to_pylist() for name in ("id", "sentences", "flip", "content")]
            for values in zip(*columns, strict=True):
                digest.update(_digested(*values))
        return digest.hexdigest()

    def shards(self) -> list[Path]:
        """Shards that hold the media, in the order of their rows; none if every clip or picture is a file."""
        import pyarrow.compute as pc

        found: dict[str, None] = {}
        for batch in self._batches:
            if (member := batch.column("member")).null_count < len(member):
                with _named(self.path):
                    batch.validate(full=True)
                    found |= dict.fromkeys(pc.unique(batch.column("path").filter(member.is_valid())).to_pylist())
        return [self.media / path for path in found if is_inside(path)]


def _digest_of(kind: ManifestKind) -> "hashlib._Hash":
    return hashlib.sha256(f"{kind.is_image}|{kind.is_paragraph}|{kind.preparation}\n".encode())


def _digested(id_: str, sentences: Sequence[str], flip: bool, content: bytes | None) -> bytes:
    return json.dumps([id_, list(sentences), flip, (content or b"").hex()]).encode()


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Turn every error of Arrow into one that names the manifest."""
    import pyarrow as pa

    try:
        yield
    except FileNotFoundError as error:
        raise SmaugError(f"{path}: no such manifest; prepare the data set first (`smaug data prepare`)") from error
    except (pa.ArrowException, OSError, ValueError, LookupError) as error:
        raise SmaugError(f"{path}: is damaged ({error}); prepare the data set again (`smaug data prepare`)") from error
