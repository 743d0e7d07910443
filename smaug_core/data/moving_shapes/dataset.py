"""The embedded data: captioned clips and stills by source, rendered from a seed, the same wherever that is done."""

import hashlib
import json
import shutil
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smaug_core.config import DataConfig
from smaug_core.data.leftovers import name_aside, remove_leftovers
from smaug_core.errors import ClipError, SmaugError

if TYPE_CHECKING:
    from smaug_core.data.moving_shapes.scenes import Scene

SAMPLE = 16
"""Files of each split whose decoded frames are compared whenever the split is opened."""

Progress = Callable[[int, int], None]


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
    return _digest(_recipe(source, config, {split: split_sizes(source, config)[split]}))


def recipe_digest(source: str, config: DataConfig) -> str:
    """SHA-256 of all that decides what is rendered for a source."""
    return _digest(_recipe(source, config, split_sizes(source, config)))


def _recipe(source: str, config: DataConfig, sizes: dict[str, int]) -> dict[str, Any]:
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
    """Folder into which `render` writes a source."""
    return root / "moving_shapes" / f"{source}-{recipe_digest(source, config)[:12]}"


def is_rendered(source: str, config: DataConfig, root: Path) -> bool:
    """Whether the source is already rendered."""
    return (directory(source, config, root) / "manifest.json").exists()


def render(source: str, config: DataConfig, root: Path, *, workers: int, progress: Progress | None = None) -> Path:
    """Render a source under `root` unless it is there, and return its folder.

    It is written to a temporary folder, renamed when complete. Of two processes that render the same at once, one wins
    and the other's copy is deleted. Incomplete folders of processes that died on this host are deleted first.

    Args:
        source: one of `SOURCES`.
        config: what to render.
        root: folder of all media.
        workers: processes that render; 1 renders in this one.
        progress: called with the files written so far and their total.

    Raises:
        SmaugError: the settings ask for too much, or the files cannot be written.
    """
    target = directory(source, config, root)
    if is_rendered(source, config, root):
        return target
    remove_leftovers(target.parent)
    aside = target.parent / name_aside(target.name)
    try:
        aside.mkdir(parents=True)
        _render_into(aside, source, config, workers, progress)
        _publish(aside, target)
    except OSError as error:
        raise SmaugError(
            f"{target}: cannot be written ({error}); free some space or choose another data folder"
        ) from error
    except BrokenProcessPool as error:
        raise SmaugError(
            f"{target}: one of {workers} rendering processes died (killed, or see its message above); try fewer"
        ) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return target


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
        found = decoded_digest(directory / row["media"] for row in _sample(rows))
    except ClipError as error:
        raise _damaged(directory, split, str(error)) from error
    if found != expected:
        raise _damaged(directory, split, f"a sample decodes to {found}, it was {expected} when rendered")
    return rows


def _damaged(directory: Path, split: str, what: str) -> SmaugError:
    return SmaugError(f"{directory}: {split} is damaged ({what}); delete this folder and render it again")


def _sample(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Up to `SAMPLE` rows, evenly spread."""
    picked = min(SAMPLE, len(rows))
    return [rows[k * len(rows) // picked] for k in range(picked)]


def _render_into(folder: Path, source: str, config: DataConfig, workers: int, progress: Progress | None) -> None:
    import av

    from smaug_core.data.media.video import decoded_digest
    from smaug_core.data.moving_shapes.render import RenderJob, render_all
    from smaug_core.data.moving_shapes.scenes import draw_scenes

    sizes, frames = split_sizes(source, config), frames_of(source, config)
    scenes = {split: draw_scenes(source, split, count, frames, config.seed) for split, count in sizes.items()}
    rows = {split: [_row(split, scene) for scene in part] for split, part in scenes.items()}
    for part in rows.values():
        (folder / part[0]["media"]).parent.mkdir(parents=True)
    jobs = [
        RenderJob(path=folder / row["media"], scene=scene)
        for split, part in scenes.items()
        for row, scene in zip(rows[split], part, strict=True)
    ]
    render_all(jobs, config.size, config.seed, workers=workers, progress=progress)
    for split, part in rows.items():
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    manifest = {
        "recipe": _recipe(source, config, sizes),
        "digest": recipe_digest(source, config),
        "counts": sizes,
        "decoded_sha256": {
            split: decoded_digest(folder / row["media"] for row in _sample(part)) for split, part in rows.items()
        },
        "av": av.__version__,
        "libraries": av.library_versions,
    }
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")


def _row(split: str, scene: "Scene") -> dict[str, Any]:
    number = scene.id.rsplit("/", 1)[1]
    return {
        "id": scene.id,
        "media": f"stills/{split}/{number}.png" if scene.num_frames == 1 else f"clips/{split}/{number}.mp4",
        "caption": scene.caption if isinstance(scene.caption, str) else list(scene.caption),
        "relevant": scene.relevant,
        "distractors": scene.distracting,
        "facts": {
            "ground": scene.ground,
            "events": [asdict(event) for event in scene.events],
            "distractors": [asdict(event) for event in scene.distractors],
        },
    }


def _publish(aside: Path, target: Path) -> None:
    """Rename a complete folder into place, unless another process was first."""
    try:
        aside.rename(target)
    except OSError:
        if not (target / "manifest.json").exists():
            raise
