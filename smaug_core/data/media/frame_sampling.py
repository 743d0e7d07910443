"""Sampling of a clip's frames."""

from collections.abc import Sequence


def sample_frames(available: int, wanted: int, draws: Sequence[float] | None = None) -> list[int]:
    """Sample one frame from each of `wanted` equal intervals of a clip, in order.

    A clip with fewer frames than wanted gives all of them, then repeats its last one.

    Args:
        available: frames of the clip.
        wanted: frames to return.
        draws: uniform in [0, 1), one for each wanted frame: picks within the interval, as in training. None takes
            the middles, as in evaluation.

    Raises:
        ValueError: `available` or `wanted` is below 1, or the number of draws is not `wanted`.

    Source: Singularity (dataset/video_utils.py), whose draw can never reach the last frame of an interval.
    """
    if available < 1 or wanted < 1:
        raise ValueError(f"available and wanted must be at least 1, got {available} and {wanted}")
    if draws is not None and len(draws) != wanted:
        raise ValueError(f"draws must hold one number for each of the {wanted} frames, got {len(draws)}")
    intervals = min(available, wanted)
    chosen = []
    for k in range(intervals):
        first, end = k * available // intervals, (k + 1) * available // intervals
        chosen.append((first + end - 1) // 2 if draws is None else first + int(draws[k] * (end - first)))
    return chosen + [available - 1] * (wanted - intervals)
