"""WebDataset shards, as img2dataset and video2dataset write them: captions, and where their media lie."""

import json
from collections.abc import Iterator, Set
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

from smaug_core.data.manifest import ManifestRow, is_inside
from smaug_core.data.media.location import MediaLocation
from smaug_core.data.media.stills import SUFFIXES as PICTURES
from smaug_core.data.sources.annotation import SIDES
from smaug_core.data.sources.tar_index import TarMember, index_tar
from smaug_core.errors import ClipError, SmaugError

CLIPS = frozenset({".mp4", ".webm", ".mkv", ".avi", ".mov", ".m4v", ".jpgs"})
LONGEST_TEXT = 2**20
"""Bytes of a caption or of metadata; more is no caption."""


@dataclass(frozen=True, slots=True)
class Rejected:
    """A sample that is left out."""

    where: str
    """File and sample, as `00012.tar[000120034]`."""
    reason: str


def shards_in(folder: Path) -> list[Path]:
    """Return the shards of a folder and of those in it, by name.

    Raises:
        SmaugError: there are none.
    """
    found = sorted(path for path in folder.rglob("*.tar") if path.is_file())
    if not found:
        raise SmaugError(f"{folder}: expected WebDataset shards, such as 00000.tar, got none")
    return found


def read_shard(shard: Path, root: Path, prefix: str, *, is_image: bool) -> Iterator[ManifestRow | Rejected]:
    """Yield a row for each sample of a shard in its order, or why the sample is left out.

    A sample's members follow each other and share a key: their name up to the first dot of its last part. It has one
    clip or picture, a caption in `.txt`, else under `caption` in `.json`, and there maybe a `status` and a `duration`.

    Args:
        shard: a tar file under `root`.
        root: folder that the rows' paths are relative to.
        prefix: of the rows' ids, which end with the keys: `webvid/train`.
        is_image: whether samples are pictures, else clips.

    Raises:
        SmaugError: the tar file is damaged.

    Source: WebDataset (group_by_keys in tariterators.py), img2dataset and video2dataset (writers).
    """
    seen: set[str] = set()
    for key, members in _samples(shard):
        where = f"{shard.name}[{key.encode(errors='replace').decode()}]"
        if key in seen:
            yield Rejected(where, "expected the members of a sample one after the other, got this key again")
            continue
        seen.add(key)
        try:
            yield _row(shard, root, f"{prefix}/{key}", members, is_image)
        except (SmaugError, ClipError) as error:
            yield Rejected(where, str(error))


def key_of(name: str) -> tuple[str, str]:
    """Key of a member and its ending, of which the key's last part has none."""
    folder, slash, base = name.removeprefix("./").rpartition("/")
    key, _, ending = base.partition(".")
    return folder + slash + key, f".{ending.lower()}"


def _samples(shard: Path) -> Iterator[tuple[str, dict[str, TarMember]]]:
    key, members = "", dict[str, TarMember]()
    for member in index_tar(shard):
        own, ending = key_of(member.name)
        base = own.rpartition("/")[2]
        if base.startswith("__") and base.endswith("__"):
            continue  # of the shard, not of a sample
        if own != key and members:
            yield key, members
            members = {}
        key = own
        members[ending] = member
    if members:
        yield key, members


def _row(shard: Path, root: Path, id_: str, members: dict[str, TarMember], is_image: bool) -> ManifestRow:
    if not id_.rpartition("/")[2]:
        raise SmaugError("expected a key before the first dot of the name")
    for member in members.values():
        if member.name != member.name.encode(errors="replace").decode():
            raise SmaugError(f"{member.name!r}: expected a name in UTF-8")
        if member.problem:
            raise SmaugError(f"{member.name!r} {member.problem}; expected a file")
        if not is_inside(member.name):
            raise SmaugError(f"{member.name!r}: expected a name that stays inside the folder")
    described, texts = _ending(members, {".json"}), _ending(members, {".txt"})
    about = _metadata(shard, described[0]) if described else {}
    if about.get("status", "success") != "success":
        raise SmaugError(f"its status is {about['status']!r} ({about.get('error_message')})")
    wanted, kind = (PICTURES, "picture") if is_image else (CLIPS, "clip")
    media = _ending(members, wanted)
    if len(media) != 1:
        raise SmaugError(f"expected one {kind}, got {[member.name for member in media] or sorted(members)}")
    caption = _text(shard, texts[0]) if texts else about.get("caption")
    if not isinstance(caption, str):
        raise SmaugError(f"expected a caption, got {json.dumps(caption)[:60]}")
    if not caption.strip():
        raise SmaugError("expected a caption, got an empty one")
    location = MediaLocation(shard, media[0].name, media[0].offset, media[0].length)
    duration = about.get("duration")
    return ManifestRow(
        id=id_,
        sentences=(caption,),
        path=str(shard.relative_to(root)),
        flip=SIDES.search(caption) is None,
        member=location.member,
        offset=location.offset,
        length=location.length,
        content=content_of(location.read()),
        duration=float(duration) if isinstance(duration, int | float) and duration >= 0 else None,
    )


def _ending(members: dict[str, TarMember], suffixes: Set[str]) -> list[TarMember]:
    """Members whose name ends so, whatever other dots it has."""
    return [member for ending, member in members.items() if f".{ending.rpartition('.')[2]}" in suffixes]


def content_of(media: bytes) -> bytes:
    """Hash of a clip or picture, in a manifest and its digest."""
    return blake2b(media, digest_size=16).digest()


def _metadata(shard: Path, member: TarMember) -> dict[str, Any]:
    try:
        about = json.loads(_text(shard, member))
    except (ValueError, RecursionError) as error:
        raise SmaugError(f"{member.name}: is no JSON ({error})") from error
    if not isinstance(about, dict):
        raise SmaugError(f"{member.name}: expected an object, got {json.dumps(about)[:60]}")
    return about


def _text(shard: Path, member: TarMember) -> str:
    if member.length > LONGEST_TEXT:
        raise SmaugError(f"{member.name}: expected at most {LONGEST_TEXT} bytes, got {member.length}")
    try:
        return MediaLocation(shard, member.name, member.offset, member.length).read().decode()
    except UnicodeDecodeError as error:
        raise SmaugError(f"{member.name}: expected UTF-8 ({error.reason} at byte {error.start})") from error
