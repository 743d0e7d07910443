"""The pixels of an embedded scene: background, light, shake, objects, noise."""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, UInt8

from smaug_core.data.moving_shapes.attributes import Ground
from smaug_core.data.moving_shapes.scenes import Scene, SceneEvent
from smaug_core.data.rng import draws_for

OBJECT_COLOURS = {
    "red": (235, 40, 40),
    "yellow": (245, 220, 45),
    "green": (50, 200, 50),
    "blue": (50, 80, 250),
    "pink": (245, 90, 215),
}
RADIUS = {"small": 0.18, "large": 0.33}
"""Half the width of an object before `STRETCH`, in widths of the frame."""
STRETCH = {"circle": 0.86, "ring": 0.95, "cross": 1.03, "bar": 1.2}
"""Makes the shapes of one size equal in area, so that the amount of colour does not reveal the shape."""
DARK, LIGHT, PLAIN = (0.1, 0.28), (0.48, 0.72), (0.25, 0.55)
"""Brightest channel of a pattern's two tones, each on half of its area, and of the plain side; objects are near 1."""
NOISE = 5.0
SHAKE = 0.8 / 64
"""Deviation of the camera's place, in widths of the frame; at most two deviations."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Path:
    """Position of an object in each frame that shows it; positions and sizes in widths of the frame."""

    x: Float32[np.ndarray, " shown"]
    y: Float32[np.ndarray, " shown"]
    radius: Float32[np.ndarray, " shown"]
    angle: Float32[np.ndarray, " shown"]


def paint(scene: Scene, size: int, seed: int) -> UInt8[np.ndarray, "frames {size} {size} 3"]:
    """Render the frames of a scene, the same for the same scene, size and seed."""
    draws = draws_for(seed, 0, scene.id, "pixels")
    shake = draws.standard_normal((2, scene.num_frames)).clip(-2, 2).astype(np.float32) * np.float32(SHAKE)
    y, x = np.meshgrid(*[(np.arange(size, dtype=np.float32) + 0.5) / size] * 2, indexing="ij")
    frames = _background(scene.ground, x + shake[0, :, None, None], y + shake[1, :, None, None], draws)
    for event in (*scene.events, *scene.distractors):
        _draw_object(frames, event, shake, draws)
    frames *= _light(x, y, draws)
    noise = draws.standard_normal(frames.shape[:3], dtype=np.float32) * np.float32(NOISE)
    return np.clip(frames + noise[..., None], 0, 255).round().astype(np.uint8)


def _background(
    ground: Ground,
    x: Float32[np.ndarray, "frames height width"],
    y: Float32[np.ndarray, "frames height width"],
    draws: np.random.Generator,
) -> Float32[np.ndarray, "frames height width 3"]:
    """A pattern on one side of the frame, nothing on the other, in greys that are independent of the caption."""
    pattern, side = ground
    along = y if side in ("top", "bottom") else x
    border = np.float32(draws.uniform(0.46, 0.54))
    shown = along < border if side in ("top", "left") else along >= border
    light, dark, plain = (_random_grey(brightness, draws) for brightness in (LIGHT, DARK, PLAIN))
    # Edges of about a pixel: a wave of 4.5 periods passes through 0 in about 1/14 of the frame.
    wave = np.clip(_pattern(pattern, x, y, draws) * np.float32(x.shape[2] / 14), -1, 1)
    return np.where(shown[..., None], dark + (wave + 1)[..., None] / 2 * (light - dark), plain)


def _random_grey(brightness: tuple[float, float], draws: np.random.Generator) -> Float32[np.ndarray, "3"]:
    """A pale tone of any hue, with its brightest channel in the range `brightness` of 255."""
    channels = draws.permutation([0.0, draws.random(), 1.0])
    channels = 1 - draws.uniform(0, 0.25) * (1 - channels)
    return (255 * draws.uniform(*brightness) * channels).astype(np.float32)


def _pattern(
    name: str,
    x: Float32[np.ndarray, "frames height width"],
    y: Float32[np.ndarray, "frames height width"],
    draws: np.random.Generator,
) -> Float32[np.ndarray, "frames height width"]:
    """Positive on half of the area, so that no pattern shows in the mean colour; about 4.5 periods wide."""
    phase_x, phase_y = draws.random(2, dtype=np.float32)
    period = np.float32(0.22 * draws.uniform(0.88, 1.12))
    turn = np.float32(2 * math.pi)
    u, v = x / period + phase_x, y / period + phase_y
    if name == "stripes":
        return np.sin(turn * v)
    if name == "columns":
        return np.sin(turn * u)
    if name == "diagonals":
        return np.sin(turn * (u + v) * np.float32(math.sqrt(0.5)))
    if name == "checks":
        return 2 * np.sin(turn * u * np.float32(0.75)) * np.sin(turn * v * np.float32(0.75))
    if name == "dots":
        # A disc of radius 0.4 covers half of its square.
        return 4 * (np.float32(0.4) - np.hypot(u % 1 - np.float32(0.5), v % 1 - np.float32(0.5)))
    if name == "waves":
        return np.sin(turn * (v + np.float32(0.4) * np.sin(turn * u * np.float32(0.5))))
    if name == "ripples":
        around_x, around_y = 0.3 + 0.4 * phase_x, 0.3 + 0.4 * phase_y
        return np.sin(turn * np.hypot(x - around_x, y - around_y) / period)
    raise ValueError(f"pattern {name!r} cannot be painted")


def _draw_object(
    frames: Float32[np.ndarray, "frames height width 3"],
    event: SceneEvent,
    shake: Float32[np.ndarray, "2 frames"],
    draws: np.random.Generator,
) -> None:
    """Paint the object of one event, with a dark rim, into the frames that show it."""
    size_word, colour, shape = event.look
    path = _path(event, RADIUS[size_word] * STRETCH[shape], draws)
    shown = list(event.visible)
    size = frames.shape[1]
    steps = (np.arange(size, dtype=np.float32) + 0.5) / size
    dx = steps[None, None, :] - (path.x - shake[0, shown])[:, None, None]
    dy = steps[None, :, None] - (path.y - shake[1, shown])[:, None, None]
    cos, sin = np.cos(path.angle)[:, None, None], np.sin(path.angle)[:, None, None]
    outside = size * _distance(shape, cos * dx + sin * dy, cos * dy - sin * dx, path.radius[:, None, None])
    covered = np.clip(0.5 - outside, 0, 1)[..., None]
    # A rim of any width: a fixed one would reveal the shape by its length.
    inner = np.clip(-draws.uniform(0, 2) - outside, 0, 1)[..., None]
    paint_colour = np.array(OBJECT_COLOURS[colour], dtype=np.float32) * (0.25 + 0.75 * inner)
    frames[shown] += covered * (paint_colour - frames[shown])


def _path(event: SceneEvent, radius: float, draws: np.random.Generator) -> _Path:
    first, last = event.visible[0], event.visible[-1]
    time = (np.array(event.visible, dtype=np.float32) - first) / max(1, last - first)
    still = np.ones_like(time)
    low, high = radius + 0.03, 1 - radius - 0.03
    x, y = (still * np.float32(draws.uniform(low, high)) for _ in range(2))
    angle = still * np.float32(draws.uniform(-0.25, 0.25))
    scale = still * np.float32(draws.uniform(0.93, 1.07))
    across = low + (high - low) * time
    if event.motion in ("left", "right"):
        x = across if event.motion == "right" else 1 - across
    elif event.motion in ("up", "down"):
        y = across if event.motion == "down" else 1 - across
    elif event.motion in ("grows", "shrinks"):
        # 0.7 and 1.1 keep a large object that has shrunk well above a small one that has grown.
        scale = 0.7 + 0.4 * (time if event.motion == "grows" else 1 - time)
    elif event.motion == "spins":
        angle = angle + np.float32(1.5 * math.pi) * time
    return _Path(x=x, y=y, radius=radius * scale, angle=angle)


def _distance(
    shape: str,
    x: Float32[np.ndarray, "shown height width"],
    y: Float32[np.ndarray, "shown height width"],
    radius: Float32[np.ndarray, "shown 1 1"],
) -> Float32[np.ndarray, "shown height width"]:
    """Distance of a point from the shape, exact enough at the edge; negative inside."""
    if shape == "circle":
        return np.hypot(x, y) - radius
    if shape == "ring":
        return np.abs(np.hypot(x, y) - 0.72 * radius) - 0.28 * radius
    if shape == "bar":
        return np.maximum(np.abs(x) - radius, np.abs(y) - 0.4 * radius)
    if shape == "cross":
        wide = np.maximum(np.abs(x) - radius, np.abs(y) - 0.32 * radius)
        return np.minimum(wide, np.maximum(np.abs(y) - radius, np.abs(x) - 0.32 * radius))
    raise ValueError(f"shape {shape!r} cannot be painted")


def _light(
    x: Float32[np.ndarray, "height width"],
    y: Float32[np.ndarray, "height width"],
    draws: np.random.Generator,
) -> Float32[np.ndarray, "height width 3"]:
    """Brightness, tint and a slope of brightness across the frame: one light for a whole clip."""
    brightness = draws.uniform(0.7, 1.15)
    tint = draws.uniform(0.88, 1.12, size=3).astype(np.float32)
    direction = draws.uniform(0, 2 * math.pi)
    slope = np.float32(draws.uniform(0, 0.5))
    along = np.float32(math.cos(direction)) * (x - 0.5) + np.float32(math.sin(direction)) * (y - 0.5)
    return ((1 + slope * along)[..., None] * tint * np.float32(brightness)).astype(np.float32)
