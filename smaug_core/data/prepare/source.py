"""Resolution of a request to prepare a data set: its kind, split and parts, from what the source holds."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from smaug_core.data.dataset_info import MEDIA, Counts, DatasetInfo, is_prepared, read_info
from smaug_core.data.dataset_sizes import PUBLISHED, Published
from smaug_core.data.manifest import is_inside
from smaug_core.data.media.stills import SUFFIXES as PICTURES
from smaug_core.data.prepare.parts import PreparationPart, annotation_parts, shard_parts
from smaug_core.data.prepare.transcode import Frames, Preparation
from smaug_core.data.sources import singularity
from smaug_core.data.sources.shards import CLIPS, shards_in
from smaug_core.data.sources.tar_index import index_tar
from smaug_core.errors import SmaugError

SPLITS = ("train", "val", "test")


@dataclass(frozen=True, slots=True)
class PrepareRequest:
    """Request to prepare one split of a data set."""

    name: str
    source: Path
    """Annotation file, or folder of shards."""
    media: Path | None = None
    """Folder of the files that annotations name."""
    target: Path | None = None
    """Folder for prepared media."""
    split: str | None = None
    frames: Frames = "jpeg"
    short_side: int = 224
    is_paragraph: bool = False
    licence: str = "unknown"


def resolve(request: PrepareRequest, root: Path) -> tuple[DatasetInfo, str, Sequence[PreparationPart], Preparation]:
    """Return the data set, the split, its parts, and what becomes of the media.

    Raises:
        SmaugError: the source is missing or of no known format, or does not go with what the data set holds already.
    """
    name, source = request.name, request.source
    if not is_inside(name) or name.count("/") > 1 or any(part.startswith(".") for part in name.split("/")):
        raise SmaugError(f"{name!r}: expected the name of a folder, such as webvid or mine/birds")
    split = request.split or (source.stem if source.stem in SPLITS else SPLITS[0])
    if not is_inside(split) or "/" in split or split.startswith("."):
        raise SmaugError(f"--split {split!r}: expected a name such as train")
    is_image = _is_image(source)
    known = PUBLISHED.get(name)
    if known is not None and known.is_image != is_image:
        raise SmaugError(f"{source}: holds {_words(is_image)}; expected {_words(known.is_image)} for {name}")
    is_paragraph = request.is_paragraph or (known is not None and known.is_paragraph)
    preparation = Preparation(request.frames, request.short_side, is_image)
    folder = root / name
    parts: Sequence[PreparationPart]
    if source.is_dir():
        media, parts = source, shard_parts(source, f"{name}/{split}", is_image=is_image)
    else:
        media = request.media or source.parent.parent / MEDIA
        if not media.is_dir():
            raise SmaugError(f"--media {media}: expected the folder of the files that {source.name} names, got none")
        annotations = singularity.read(source, is_image=is_image, is_paragraph=is_paragraph)
        parts = annotation_parts(source, annotations, f"{name}/{split}", media)
    own = media if request.frames == "copy" else request.target or folder / MEDIA
    info = DatasetInfo(
        folder=folder,
        name=name,
        is_image=is_image,
        is_paragraph=is_paragraph,
        licence=request.licence,
        media=MEDIA if own.resolve() == (folder / MEDIA).resolve() else str(own.resolve()),
        preparation=str(preparation),
        splits={},
        published=_published(known),
    )
    if is_prepared(root, name):
        _check_agrees(read_info(root, name), info, split)
    return info, split, parts, preparation


def _published(known: Published | None) -> dict[str, Counts]:
    if known is None:
        return {}
    return {split: Counts(captions=known.captions[split], media=known.media[split]) for split in known.captions}


def _is_image(source: Path) -> bool:
    """Return whether the captions are of pictures, by the first row or sample."""
    if not source.is_dir():
        return singularity.is_of_pictures(source)
    for shard in shards_in(source):
        for member in index_tar(shard):
            suffix = Path(member.name).suffix.lower()
            if suffix in PICTURES or suffix in CLIPS:
                return suffix in PICTURES
    raise SmaugError(f"{source}: expected shards with pictures or clips, got none with either")


def _check_agrees(there: DatasetInfo, new: DatasetInfo, split: str) -> None:
    """Check that a split fits those of the data set that were prepared before."""
    if set(there.splits) <= {split}:
        return
    for fact in ("is_image", "is_paragraph", "media", "preparation"):
        before, now = getattr(there, fact), getattr(new, fact)
        if before != now:
            others = ", ".join(sorted(set(there.splits) - {split}))
            raise SmaugError(
                f"{there.file}: {fact}: expected {before!r}, as of the prepared splits ({others}), got {now!r};"
                " prepare this split alike, under another name, or delete the folder and prepare all splits"
            )


def _words(is_image: bool) -> str:
    return "pictures" if is_image else "clips"
