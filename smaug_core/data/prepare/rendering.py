"""Rendering of embedded data into folders that appear complete or not at all."""

import json
import shutil
from collections.abc import Callable, Iterable
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict
from pathlib import Path
from typing import Any

from smaug_core.config import DataConfig
from smaug_core.data.datasets import EMBEDDED, embedded_section, splits_of
from smaug_core.data.media.video import decoded_digest
from smaug_core.data.moving_shapes.dataset import (
    directory,
    frames_of,
    is_rendered,
    recipe_digest,
    recipe_of,
    sample_of,
    split_sizes,
    write_manifests,
)
from smaug_core.data.moving_shapes.scenes import Scene, draw_scenes
from smaug_core.data.prepare.leftovers import name_aside, remove_leftovers
from smaug_core.data.prepare.render_jobs import RenderJob, render_all
from smaug_core.errors import SmaugError

Progress = Callable[[int, int], None]
"""Receives the number of files written so far, and their total."""


def prepare(
    sources: Iterable[str], data: DataConfig | None, root: Path, progress: Progress | None = None, *, workers: int = 1
) -> None:
    """Render the embedded data that these sources need and `root` does not hold yet. Real media are left alone.

    Args:
        sources: names of sources.
        data: recipe of the embedded data.
        root: folder of all media.
        progress: counts files over all of these sources; never called if nothing is missing.
        workers: processes that render.
    """
    missing = {}
    for name in dict.fromkeys(sources):
        splits_of(name, root)
        if name in EMBEDDED:
            config = embedded_section(name, data)
            if not is_rendered(EMBEDDED[name], config, root):
                missing[EMBEDDED[name]] = sum(split_sizes(EMBEDDED[name], config).values())
    before = 0
    for source, size in missing.items():

        def show(done: int, _: int, before: int = before) -> None:
            if progress:
                progress(before + done, sum(missing.values()))

        render(source, config, root, workers=workers, progress=show)
        before += size


def render(source: str, config: DataConfig, root: Path, *, workers: int, progress: Progress | None = None) -> Path:
    """Render a source under `root` unless it is there, and return its folder.

    It is written to a temporary folder, renamed when complete. Of two processes that render the same at once, one wins
    and the other's copy is deleted. Incomplete folders of processes that died on this host are deleted first.

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


def _render_into(folder: Path, source: str, config: DataConfig, workers: int, progress: Progress | None) -> None:
    import av

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
    write_manifests(folder, source, rows)
    manifest = {
        "recipe": recipe_of(source, config, sizes),
        "digest": recipe_digest(source, config),
        "counts": sizes,
        "decoded_sha256": {
            split: decoded_digest(folder / row["media"] for row in sample_of(part)) for split, part in rows.items()
        },
        "av": av.__version__,
        "libraries": av.library_versions,
    }
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")


def _row(split: str, scene: Scene) -> dict[str, Any]:
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
