"""Rendering of scenes into files, by several processes."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

from smaug_core.data.loading.child_process import end_with_parent
from smaug_core.data.media.video import write_clip
from smaug_core.data.moving_shapes.rasterize import paint
from smaug_core.data.moving_shapes.scenes import Scene

FPS = 8
KEYFRAME_EVERY = 8
CHUNK = 32
"""Files that a process renders at a time."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RenderJob:
    """A scene, and the file to paint it into."""

    path: Path
    scene: Scene


def render_all(
    jobs: Sequence[RenderJob], size: int, seed: int, *, workers: int, progress: Callable[[int, int], None] | None
) -> None:
    """Paint every scene into its file; `progress` is called with the files written so far and their total.

    Raises:
        OSError: a file cannot be written.
        BrokenProcessPool: a process died.
    """
    chunks = [jobs[first : first + CHUNK] for first in range(0, len(jobs), CHUNK)]
    done = 0
    for written in _each_done(chunks, size, seed, workers):
        done += written
        if progress:
            progress(done, len(jobs))


def _each_done(chunks: Sequence[Sequence[RenderJob]], size: int, seed: int, workers: int) -> Iterator[int]:
    """Render every chunk, in any order; the number of files of each as it is done."""
    if workers == 1:
        for chunk in chunks:
            yield _render_chunk(chunk, size, seed)
        return
    # Fresh processes, not forks: the caller may have threads.
    pool = ProcessPoolExecutor(workers, get_context("spawn"), initializer=end_with_parent)
    try:
        for future in as_completed([pool.submit(_render_chunk, chunk, size, seed) for chunk in chunks]):
            yield future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _render_chunk(jobs: Sequence[RenderJob], size: int, seed: int) -> int:
    from PIL import Image

    for job in jobs:
        frames = paint(job.scene, size, seed)
        if job.scene.num_frames == 1:
            Image.fromarray(frames[0]).save(job.path, compress_level=1)
        else:
            write_clip(job.path, frames, FPS, keyframe_every=KEYFRAME_EVERY)
    return len(jobs)
