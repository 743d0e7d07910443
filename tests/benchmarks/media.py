"""Times the reading of four frames of a clip, beside OpenCV and decord on the same files, interleaved.

    python -m tests.benchmarks.media --repeats 15

The files are written here: small and large ones, H.264 in mp4 and mkv, VP9 in webm. Seconds are
process time, so that a busy machine disturbs them less; each reader has one thread. OpenCV (opencv-python-headless) and
decord (decord2) are no requirements of the project; what is absent is passed over with a note. Prints JSON.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from smaug_core.data.media.frame_sampling import sample_frames
from smaug_core.data.media.video import read_frames
from tests.data.media.made import written

FRAMES = 4
WARM_UP = 2
"""Readings of each file that are not counted."""
FILES = {
    "24 frames of 64x64.mp4": (24, 64, 64, "libx264"),
    "300 frames of 320x240.mp4": (300, 240, 320, "libx264"),
    "300 frames of 320x240.mkv": (300, 240, 320, "libx264"),
    "300 frames of 320x240.webm": (300, 240, 320, "libvpx-vp9"),
    "120 frames of 1280x720.mp4": (120, 720, 1280, "libx264"),
}
Reader = Callable[[Path], np.ndarray]


def make(folder: Path, name: str) -> Path:
    """A clip of moving gradients, with a key frame every 60 frames."""
    count, height, width, codec = FILES[name]
    y, x = np.indices((height, width))
    frames = np.stack([np.stack([x + 3 * n, y - 2 * n, x + y + n], axis=2) for n in range(count)]).astype(np.uint8)
    fast = {"libx264": {"preset": "veryfast"}, "libvpx-vp9": {"deadline": "realtime", "cpu-used": "8"}}[codec]
    return written(folder / name, frames, codec, options=fast | {"g": "60"})


def ours(path: Path) -> np.ndarray:
    """As training reads a clip, but from the middles of the intervals."""
    return read_frames(path, lambda available: sample_frames(available, FRAMES))


def opencv(path: Path) -> np.ndarray:
    """Frame after frame, since its seeking does not meet every frame; only the wanted ones are converted."""
    import cv2

    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
    wanted = sample_frames(int(capture.get(cv2.CAP_PROP_FRAME_COUNT)), FRAMES)
    found = []
    for number in range(wanted[-1] + 1):
        capture.grab()
        if number in wanted:
            found.append(cv2.cvtColor(capture.retrieve()[1], cv2.COLOR_BGR2RGB))
    return np.stack(found)


def decord(path: Path) -> np.ndarray:
    """All wanted frames at once."""
    from decord import VideoReader

    reader = VideoReader(str(path), num_threads=1)
    frames: np.ndarray = reader.get_batch(sample_frames(len(reader), FRAMES)).asnumpy()
    return frames


def measure(readers: dict[str, Reader], path: Path, repeats: int) -> dict[str, Any]:
    """Milliseconds of each reader, median and least, and how they compare with ours, pair by pair."""
    taken: dict[str, list[float]] = {name: [] for name in readers}
    frames = {name: reader(path) for name, reader in readers.items()}
    for number in range(WARM_UP + repeats):
        for name in list(readers)[:: 1 if number % 2 else -1]:
            began = time.process_time()
            readers[name](path)
            if number >= WARM_UP:
                taken[name].append(time.process_time() - began)
    told: dict[str, Any] = {"file": path.name}
    for name, seconds in taken.items():
        ratios = [mine / its for mine, its in zip(taken["ours"], seconds, strict=True)]
        told[name] = {
            "median_ms": round(1000 * statistics.median(seconds), 3),
            "least_ms": round(1000 * min(seconds), 3),
            "ours_relative": round(statistics.median(ratios), 3),
            "mean_difference": round(float(np.abs(frames[name].astype(int) - frames["ours"]).mean()), 3),
        }
    return told


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--files", nargs="+", choices=FILES, default=list(FILES))
    asked = parser.parse_args(arguments)
    readers: dict[str, Reader] = {"ours": ours}
    for module, package, reader in (("cv2", "opencv-python-headless", opencv), ("decord", "decord2", decord)):
        if find_spec(module) is None:
            sys.stderr.write(f"not compared with {module}: needs {package}, e.g. by PYTHONPATH\n")
        else:
            readers[module] = reader
    with tempfile.TemporaryDirectory() as folder:
        told = [measure(readers, make(Path(folder), name), asked.repeats) for name in asked.files]
    sys.stdout.write(json.dumps({"frames": FRAMES, "repeats": asked.repeats, "files": told}, indent=1) + "\n")


if __name__ == "__main__":
    main()
