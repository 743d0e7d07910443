"""Placement of labels so that they can be read: plain geometry, in points."""

from collections.abc import Sequence
from dataclasses import dataclass

CHARACTER = 0.56
"""Mean width of a character of a sans-serif font, by its size; a little more than that of most fonts."""
LINE = 1.25
"""Height of a line, by the size of its font."""


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle, its lower left corner first."""

    left: float
    bottom: float
    right: float
    top: float

    def overlap(self, other: "Box") -> float:
        """The area that both cover."""
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.top, other.top) - max(self.bottom, other.bottom)
        return max(0.0, width) * max(0.0, height)

    def nearest(self, x: float, y: float) -> tuple[float, float]:
        """Its point that is nearest to another."""
        return min(max(x, self.left), self.right), min(max(y, self.bottom), self.top)

    def outside(self, other: "Box") -> float:
        """The area that the other one does not cover."""
        return (self.right - self.left) * (self.top - self.bottom) - self.overlap(other)


def text_width(text: str, size: float) -> float:
    """Estimate the width of a line of text."""
    return CHARACTER * size * len(text)


def place_labels(
    points: Sequence[tuple[float, float]], texts: Sequence[str], obstacles: Sequence[Box], frame: Box, size: float
) -> list[Box]:
    """Place a label beside each point, on as little as possible of points, obstacles and other labels.

    Args:
        points: to be labelled.
        texts: one line for each.
        obstacles: what else is drawn.
        frame: the axes; labels stay within.
        size: of the font.
    """
    taken = [*obstacles, *(Box(x - 4, y - 4, x + 4, y + 4) for x, y in points)]
    placed: list[Box] = []
    for (x, y), text in zip(points, texts, strict=True):
        candidates = _around(x, y, text_width(text, size), LINE * size)
        # A label that is cut off is worse than one that touches a line.
        costs = [sum(box.overlap(other) for other in taken) + 10 * box.outside(frame) for box in candidates]
        best = candidates[costs.index(min(costs))]
        placed.append(best)
        taken.append(best)
    return placed


def _around(x: float, y: float, width: float, height: float) -> list[Box]:
    """Positions for a label, the best first: right, left, above, below, corners, then the same farther away."""
    found = []
    for gap in (6.0, 13.0, 22.0, 34.0, 48.0):
        for across, up in ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (1, -1), (-1, 1), (-1, -1)):
            left = x + gap if across > 0 else x - gap - width if across < 0 else x - width / 2
            bottom = y + gap - 2 if up > 0 else y - gap + 2 - height if up < 0 else y - height / 2
            found.append(Box(left, bottom, left + width, bottom + height))
    return found


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Find heights nearest to the wanted ones, in their order, at least `gap` apart, from `low` to `high`.

    If there is no room for all, they are spaced evenly and closer than `gap`.
    """
    if not wanted:
        return []
    gap = min(gap, (high - low) / max(1, len(wanted) - 1))
    order = sorted(range(len(wanted)), key=lambda place: (wanted[place], place))
    # Less their place times the gap, heights need only not fall: isotonic regression by pooling neighbours that do.
    pools: list[tuple[float, int]] = []
    for number, place in enumerate(order):
        pools.append((wanted[place] - number * gap, 1))
        while len(pools) > 1 and pools[-2][0] > pools[-1][0]:
            (lower, few), (upper, more) = pools[-2:]
            pools[-2:] = [((lower * few + upper * more) / (few + more), few + more)]
    highest = high - (len(wanted) - 1) * gap
    shifted = [min(max(mean, low), highest) for mean, count in pools for _ in range(count)]
    found = [0.0] * len(wanted)
    for number, place in enumerate(order):
        found[place] = shifted[number] + number * gap
    return found
