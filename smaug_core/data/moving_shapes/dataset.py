"""The embedded data: its sources, the digests of their recipes, and the captions of what was rendered."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smaug_core.config import DataConfig
from smaug_core.data.dataset_info import manifest_of
from smaug_core.data.manifest import ManifestKind, ManifestRow, write_manifest
from smaug_core.errors import ClipError, SmaugError

SAMPLE = 16
"""Files of each split whose decoded frames are compared whenever the split is opened."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """One kind of clips or stills, and the settings that it reads besides `seed` and `size`."""

    frames: str | None
    """Setting for the frames of a clip; none for stills."""
    sizes: dict[str, str]
    """For each split the setting for its clips or stills."""
    version: int = 1
    """Version, to be raised when the same settings give other clips or captions."""


HELD_OUT = {"val": "val_clips", "test": "test_clips"}
SOURCES = {
    "stills": Source(frames=None, sizes={"train": "train_stills"}),
    "more_stills": Source(frames=None, sizes={"train": "more_stills"}),
    "sentence": Source(frames="frames", sizes={"train": "train_clips", **HELD_OUT}),
    "paragraph": Source(frames="paragraph_frames", sizes={"train": "paragraph_train_clips", **HELD_OUT}),
    "brief": Source(frames="brief_frames", sizes={"train": "brief_train_clips", **HELD_OUT}),
}


def split_sizes(source: str, config: DataConfig) -> dict[str, int]:
    """Clips or stills of each split."""
    return {split: getattr(config, setting) for split, setting in SOURCES[source].sizes.items()}


def frames_of(source: str, config: DataConfig) -> int:
    """Frames of each clip; 1 for stills."""
    setting = SOURCES[source].frames
    return 1 if setting is None else getattr(config, setting)


def split_digest(source: str, split: str, config: DataConfig) -> str:
    """SHA-256 of all that decides what one split holds: equal digests, equal clips and captions."""
    return _digest(recipe_of(source, config, {split: split_sizes(source, config)[split]}))


def recipe_digest(source: str, config: DataConfig) -> str:
    """SHA-256 of all that decides what is rendered for a source."""
    return _digest(recipe_of(source, config, split_sizes(source, config)))


def recipe_of(source: str, config: DataConfig, sizes: dict[str, int]) -> dict[str, Any]:
    """All that decides what is rendered for splits of these sizes."""
    return {
        "generator": "moving_shapes",
        "source": source,
        "version": SOURCES[source].version,
        "seed": config.seed,
        "size": config.size,
        "frames": frames_of(source, config),
        "splits": sizes,
    }


def _digest(recipe: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()


def directory(source: str, config: DataConfig, root: Path) -> Path:
    """Folder of a rendered source."""
    return root / "moving_shapes" / f"{source}-{recipe_digest(source, config)[:12]}"


def is_rendered(source: str, config: DataConfig, root: Path) -> bool:
    """Return whether the source is already rendered."""
    return (directory(source, config, root) / "manifest.json").exists()


def open_split(directory: Path, split: str) -> list[dict[str, Any]]:
    """Read the rows of one split, after a check of a sample of its files.

    Each row has `id`, `media` (relative to `directory`), `caption` (a text, or a list of sentences), `relevant`
    (frames that show what the caption names), `distractors` (frames that show an object it does not name) and `facts`.

    Raises:
        SmaugError: the data is not rendered, or decodes to other frames than when it was.
    """
    from smaug_core.data.media.video import decoded_digest

    try:
        manifest = json.loads((directory / "manifest.json").read_bytes())
        rows = [json.loads(line) for line in (directory / f"{split}.jsonl").read_bytes().splitlines()]
        count, expected = manifest["counts"][split], manifest["decoded_sha256"][split]
    except FileNotFoundError as error:
        raise SmaugError(f"{directory}: {split} is not rendered here; render it first (`prepare`)") from error
    except (ValueError, KeyError) as error:
        raise _damaged(directory, split, f"{type(error).__name__}: {error}") from error
    if len(rows) != count:
        raise _damaged(directory, split, f"{len(rows)} captions, {count} were written")
    try:
        found = decoded_digest(directory / row["media"] for row in sample_of(rows))
    except ClipError as error:
        raise _damaged(directory, split, str(error)) from error
    if found != expected:
        raise _damaged(directory, split, f"a sample decodes to {found}, it was {expected} when rendered")
    return rows


def write_manifests(directory: Path, source: str, rows: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """Write the manifest of each split, given its rows as `open_split` returns them.

    Raises:
        OSError: one cannot be written.
    """
    for split, part in rows.items():
        is_paragraph = not isinstance(part[0]["caption"], str)
        found = (
            ManifestRow(
                id=f"moving_shapes/{source}/{row['id']}",
                sentences=tuple(row["caption"]) if is_paragraph else (row["caption"],),
                path=row["media"],
                flip=False,
                relevant=tuple(row["relevant"]),
            )
            for row in part
        )
        kind = ManifestKind(is_image=SOURCES[source].frames is None, is_paragraph=is_paragraph)
        write_manifest(manifest_of(directory, split), found, kind)


def _damaged(directory: Path, split: str, what: str) -> SmaugError:
    return SmaugError(f"{directory}: {split} is damaged ({what}); delete this folder and render it again")


def sample_of(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Up to `SAMPLE` rows, evenly spread."""
    picked = min(SAMPLE, len(rows))
    return [rows[k * len(rows) // picked] for k in range(picked)]
