"""The embedded data: captioned clips and stills, rendered from a seed, the same wherever they are rendered."""

import hashlib
import json
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smaug_core.config import DataConfig
from smaug_core.errors import ClipError, SmaugError

if TYPE_CHECKING:
    from smaug_core.data.scenes import Scene

VERSION = 1
"""To be raised when the same settings give other clips or captions."""
FPS = 8
KEYFRAME_EVERY = 8
CHUNK = 32
"""Files that a process renders at a time."""
SAMPLE = 16
"""Files of each split whose decoded frames are compared whenever the split is opened."""

Progress = Callable[[int, int], None]


def recipe_digest(config: DataConfig) -> str:
    """SHA-256 of all that decides what is rendered: equal digests, equal clips and captions."""
    recipe = {"generator": "moving_shapes", "version": VERSION, **asdict(config)}
    return hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()


def directory(config: DataConfig, root: Path) -> Path:
    """Where `render` puts this data."""
    return root / "moving_shapes" / recipe_digest(config)[:12]


def split_sizes(config: DataConfig) -> dict[str, int]:
    """Clips of `train`, `val` and `test`, and pictures of `stills`."""
    return {
        "train": config.train_clips,
        "val": config.val_clips,
        "test": config.test_clips,
        "stills": config.train_stills,
    }


def render(config: DataConfig, root: Path, *, workers: int, progress: Progress | None = None) -> Path:
    """Render the data under `root` unless it is there, and return its folder.

    It is written aside and renamed when whole. Of two processes that render the same at once, one wins and the
    other's copy is deleted.

    Args:
        config: what to render.
        root: folder of all media.
        workers: processes that render; 1 renders in this one.
        progress: called with the files written so far and their total.

    Raises:
        SmaugError: the settings ask for too much, or the files cannot be written.
    """
    target = directory(config, root)
    if (target / "manifest.json").exists():
        return target
    aside = target.parent / f".{target.name}.{os.getpid()}.{os.urandom(4).hex()}"
    try:
        aside.mkdir(parents=True)
        _render_into(aside, config, workers, progress)
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
    """The rows of one split (`train`, `val`, `test`, `stills`), after a look at whether its files still hold.

    Each row has `id`, `media` (relative to `directory`), `caption`, `relevant` (frames that show what the caption
    names) and `facts`.

    Raises:
        SmaugError: the data is not rendered, or decodes to other frames than when it was.
    """
    from smaug_core.data.video import decoded_digest

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


def _render_into(folder: Path, config: DataConfig, workers: int, progress: Progress | None) -> None:
    import av

    from smaug_core.data.scenes import draw_scenes
    from smaug_core.data.video import decoded_digest

    scenes = {
        split: draw_scenes(split, count, config.frames, config.seed) for split, count in split_sizes(config).items()
    }
    chunks = [
        (folder, part[first : first + CHUNK], config.size, config.seed)
        for part in scenes.values()
        for first in range(0, len(part), CHUNK)
    ]
    for split in scenes:
        (folder / _media(f"{split}/")).mkdir(parents=True)
    done, total = 0, sum(map(len, scenes.values()))
    for written in _each_done(chunks, workers):
        done += written
        if progress:
            progress(done, total)
    checksums = {}
    for split, part in scenes.items():
        rows = [_row(scene) for scene in part]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        checksums[split] = decoded_digest(folder / row["media"] for row in _sample(rows))
    manifest = {
        "recipe": {"generator": "moving_shapes", "version": VERSION, **asdict(config)},
        "digest": recipe_digest(config),
        "counts": {split: len(part) for split, part in scenes.items()},
        "decoded_sha256": checksums,
        "av": av.__version__,
        "libraries": av.library_versions,
    }
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")


def _media(name: str) -> str:
    """File of the scene `name` within the folder: `val/000012` is `clips/val/000012.mp4`."""
    split, number = name.split("/")
    if split == "stills":
        return f"stills/train/{number}.png" if number else "stills/train"
    return f"clips/{split}/{number}.mp4" if number else f"clips/{split}"


def _row(scene: "Scene") -> dict[str, Any]:
    return {
        "id": scene.id,
        "media": _media(scene.id),
        "caption": scene.caption,
        "relevant": scene.relevant,
        "facts": {"ground": scene.ground, "events": [asdict(event) for event in scene.events]},
    }


def _each_done(chunks: list[tuple[Path, list["Scene"], int, int]], workers: int) -> Iterator[int]:
    """Render every chunk, in any order; the number of files of each as it is done."""
    if workers == 1:
        for chunk in chunks:
            yield _render_chunk(*chunk)
        return
    # Fresh processes, not forks: the caller may have threads.
    pool = ProcessPoolExecutor(workers, get_context("spawn"), initializer=_start_worker)
    try:
        for future in as_completed([pool.submit(_render_chunk, *chunk) for chunk in chunks]):
            yield future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _start_worker() -> None:
    """Leave Ctrl-C to the caller, and end with it: a pool's workers wait for ever once their caller is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _render_chunk(folder: Path, scenes: list["Scene"], size: int, seed: int) -> int:
    from PIL import Image

    from smaug_core.data.painting import paint
    from smaug_core.data.video import write_clip

    for scene in scenes:
        path = folder / _media(scene.id)
        frames = paint(scene, size, seed)
        if scene.num_frames == 1:
            Image.fromarray(frames[0]).save(path, compress_level=1)
        else:
            write_clip(path, frames, FPS, keyframe_every=KEYFRAME_EVERY)
    return len(scenes)


def _publish(aside: Path, target: Path) -> None:
    """Rename a finished folder into place, unless another process was first."""
    try:
        aside.rename(target)
    except OSError:
        if not (target / "manifest.json").exists():
            raise
