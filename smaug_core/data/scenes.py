"""What the embedded clips show and what is said about them: attributes, splits, events, captions."""

from dataclasses import dataclass
from hashlib import blake2b
from itertools import product

import numpy as np

from smaug_core.data.draws import draws_for
from smaug_core.errors import SmaugError

SIZES = ("small", "large")
COLOURS = ("red", "yellow", "green", "blue", "pink")
SHAPES = ("circle", "ring", "cross", "bar")
PATTERNS = ("stripes", "columns", "diagonals", "checks", "dots", "waves", "ripples")
SIDES = ("top", "bottom", "left", "right")
MOTIONS = {
    "left": ("moves left", "slides left"),
    "right": ("moves right", "slides right"),
    "up": ("moves up", "climbs"),
    "down": ("moves down", "drops"),
    "grows": ("grows",),
    "shrinks": ("shrinks",),
    "blinks": ("blinks",),
    "spins": ("spins",),
}
"""What an event can be, and how a caption says it."""
ROUND = frozenset({"circle", "ring"})
"""Shapes that cannot be seen to spin."""
PREPOSITIONS = ("over", "on")

TWO_EVENTS_RATIO = 0.12
EMPTY_RATIO = 0.12
HELD_OUT_RATIO = 0.3
"""Share of the attribute combinations that only the test split shows; as many again for validation."""
MIN_FRAMES = 11
"""Two events that can be seen to blink, and the empty frames around them, need this many."""

Ground = tuple[str, str]
"""A pattern and the side of the background that shows it; its tones, and the other half, mean nothing."""
Look = tuple[str, str, str]
"""Size, colour and shape of an object."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """One object doing one thing."""

    look: Look
    motion: str
    visible: tuple[int, ...]
    """Frames that show the object; the event lasts from the first to the last."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Scene:
    """What a clip or a still shows."""

    id: str
    """Split and number, e.g. `val/000012`."""
    ground: Ground
    events: tuple[Event, ...]
    num_frames: int
    caption: str

    @property
    def relevant(self) -> list[int]:
        """Frames that show something the caption names."""
        return sorted({frame for event in self.events for frame in event.visible})


def split_of(look: Look, ground: Ground) -> str:
    """The only split that shows this object on this background, whatever the seed."""
    digest = blake2b(" ".join((*look, *ground)).encode(), digest_size=4).digest()
    place = int.from_bytes(digest, "big") / 2**32
    if place < HELD_OUT_RATIO:
        return "test"
    return "val" if place < 2 * HELD_OUT_RATIO else "train"


def draw_scenes(split: str, count: int, num_frames: int, seed: int) -> list[Scene]:
    """The scenes of a split: `train`, `val`, `test` or `stills`.

    Scene n does not depend on `count`. In `val` and `test` no object is seen twice on the same background, so
    no caption fits two clips.

    Raises:
        SmaugError: there are too few frames, or too few combinations for `count` clips.
    """
    if num_frames < MIN_FRAMES:
        raise SmaugError(f"data.frames: {num_frames} is too few; moving_shapes needs at least {MIN_FRAMES}")
    stills = split == "stills"
    decks = _Decks("train" if stills else split, seed, refill=split in ("train", "stills"))
    scenes: list[Scene] = []
    for index in range(count):
        name = f"{split}/{index:06d}"
        draws = draws_for(seed, 0, name, "scene")
        objects = 2 if not stills and draws.random() < TWO_EVENTS_RATIO else 1
        dealt = decks.deal(objects)
        if dealt is None:
            raise SmaugError(
                f"data.{split}_clips: {count} is too many; no two {split} clips show the same object on the same"
                f" background, which leaves room for {index}"
            )
        ground, looks = dealt
        scenes.append(
            _still(name, ground, looks[0], draws) if stills else _clip(name, ground, looks, num_frames, draws)
        )
    return scenes


def vocabulary() -> list[str]:
    """Every word that a caption can hold, sorted."""
    verbs = {word for texts in MOTIONS.values() for text in texts for word in text.split()}
    return sorted({"a", "then", "at", "the", *PREPOSITIONS, *SIZES, *COLOURS, *SHAPES, *PATTERNS, *SIDES, *verbs})


class _Decks:
    """For each background a shuffled deck of the objects that the split may show on it."""

    def __init__(self, split: str, seed: int, *, refill: bool) -> None:
        self.refill = refill
        self.draws = draws_for(seed, 0, split, "decks")
        looks = list(product(SIZES, COLOURS, SHAPES))
        self.full = {
            ground: [look for look in looks if split_of(look, ground) == split] for ground in product(PATTERNS, SIDES)
        }
        self.left: dict[Ground, list[Look]] = {ground: [] for ground in self.full}
        for ground in self.full:
            self._shuffle(ground)
        self.order: list[Ground] = []

    def deal(self, objects: int) -> tuple[Ground, list[Look]] | None:
        """A background and `objects` different objects, each background as often as any other; None at the end."""
        for _ in range(2 * len(self.full)):
            if not self.order:
                grounds = list(self.full)
                self.order = [grounds[i] for i in self.draws.permutation(len(grounds))]
            ground = self.order.pop()
            if self.refill and len(self.left[ground]) < len(self.full[ground]) / 2:
                self._shuffle(ground)
            looks = _take(self.left[ground], objects)
            if looks:
                return ground, looks
        return None

    def _shuffle(self, ground: Ground) -> None:
        deck = self.full[ground]
        self.left[ground] = [deck[i] for i in self.draws.permutation(len(deck))]


def _take(deck: list[Look], objects: int) -> list[Look]:
    """Take one object off a deck, or two of one colour (their mean colours must not tell clips apart); or none."""
    for place in reversed(range(len(deck))):
        alike = [other for other in range(place) if deck[other][1] == deck[place][1]]
        if objects == 1:
            return [deck.pop(place)]
        if alike:
            return [deck.pop(place), deck.pop(alike[-1])]
    return []


def _still(name: str, ground: Ground, look: Look, draws: np.random.Generator) -> Scene:
    event = Event(look=look, motion="none", visible=(0,))
    caption = f"a {' '.join(look)} {_where(ground, draws)}"
    return Scene(id=name, ground=ground, events=(event,), num_frames=1, caption=caption)


def _clip(name: str, ground: Ground, looks: list[Look], num_frames: int, draws: np.random.Generator) -> Scene:
    events = []
    phrases = []
    for look, (first, last) in zip(looks, _draw_spans(len(looks), num_frames, draws), strict=True):
        possible = [motion for motion in MOTIONS if not (motion == "spins" and look[2] in ROUND)]
        motion = possible[draws.integers(len(possible))]
        visible = list(range(first, last + 1))
        if motion == "blinks":
            # Two frames on, one off, but on at the end, so that the span holds.
            visible = [frame for frame in visible if (frame - first) % 3 != 2 or frame == last]
        events.append(Event(look=look, motion=motion, visible=tuple(visible)))
        phrases.append(f"a {' '.join(look)} {MOTIONS[motion][draws.integers(len(MOTIONS[motion]))]}")
    caption = f"{' then '.join(phrases)} {_where(ground, draws)}"
    return Scene(id=name, ground=ground, events=tuple(events), num_frames=num_frames, caption=caption)


def _where(ground: Ground, draws: np.random.Generator) -> str:
    return f"{PREPOSITIONS[draws.integers(len(PREPOSITIONS))]} {ground[0]} at the {ground[1]}"


def _draw_spans(events: int, num_frames: int, draws: np.random.Generator) -> list[tuple[int, int]]:
    """First and last frame of each event, with an empty frame or more before, between and after them."""
    gaps = events + 1
    empty = max(gaps, round(num_frames * EMPTY_RATIO) + int(draws.integers(-1, 2)))
    spare = np.bincount(draws.integers(gaps, size=empty - gaps), minlength=gaps)
    shown = num_frames - empty
    lengths = [shown] if events == 1 else [shown // 2, shown - shown // 2]
    spans = []
    frame = 0
    for gap, length in zip(spare[:-1] + 1, lengths, strict=True):
        first = frame + int(gap)
        frame = first + length
        spans.append((first, frame - 1))
    return spans
