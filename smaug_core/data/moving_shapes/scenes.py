"""Scenes of the embedded data: the content of each clip or still, and its caption."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from smaug_core.data.moving_shapes.attributes import MOTIONS, PREPOSITIONS, ROUND, Ground, Look
from smaug_core.data.moving_shapes.sampling import Decks, keep_back, looks_of, pairs_of, take_alike, take_one
from smaug_core.data.rng import draws_for
from smaug_core.errors import SmaugError

TWO_EVENTS_RATIO = 0.12
EMPTY_RATIO = 0.12
SHORTEST = 4
"""Frames in which an object can be seen to blink."""
BRIEF_RATIO = 0.25
"""Share of a brief clip that its one event lasts."""
DISTRACTED_RATIO = 0.5
"""Share of the brief clips that show another object too, which the caption does not name."""
KEPT_BACK = 2
"""Objects on each background that, in the held-out brief clips, only distract and no caption names."""
MIN_FRAMES = {"sentence": 11, "paragraph": 21, "brief": 16}
"""Two events, four events, and a quarter of the clip must each be long enough to be seen to blink."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SceneEvent:
    """One object doing one thing."""

    look: Look
    motion: str
    visible: tuple[int, ...]
    """Frames that show the object; the event lasts from the first to the last."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Scene:
    """Content of a clip or a still."""

    id: str
    """Unique over all sources, e.g. `val/000012`; the key of its draws."""
    ground: Ground
    events: tuple[SceneEvent, ...]
    """Events that the caption describes, in its order."""
    distractors: tuple[SceneEvent, ...] = ()
    """Events that the caption does not describe."""
    num_frames: int
    caption: str | tuple[str, ...]
    """One text, or the sentences of a paragraph."""

    @property
    def relevant(self) -> list[int]:
        """Frames that show something the caption names."""
        return _frames_of(self.events)

    @property
    def distracting(self) -> list[int]:
        """Frames that show an object the caption does not name."""
        return _frames_of(self.distractors)


def draw_scenes(source: str, split: str, count: int, num_frames: int, seed: int) -> list[Scene]:
    """The scenes of one split of `stills`, `more_stills`, `sentence`, `paragraph` or `brief`.

    Scene n does not depend on `count`. No caption of `val` or `test` fits two clips of its source.

    Raises:
        SmaugError: there are too few frames, or too few combinations for `count` clips.
    """
    if num_frames < MIN_FRAMES.get(source, 1):
        setting = "data.frames" if source == "sentence" else f"data.{source}_frames"
        raise SmaugError(f"{setting}: {num_frames} is too few; {source} needs at least {MIN_FRAMES[source]}")
    prefix = {"sentence": split, "stills": "stills", "more_stills": "more_stills"}.get(source, f"{source}/{split}")
    cast = CASTS[source](split, draws_for(seed, 0, "train" if source == "stills" else prefix, "decks"))
    scenes: list[Scene] = []
    for index in range(count):
        name = f"{prefix}/{index:06d}"
        scene = cast.scene(name, num_frames, draws_for(seed, 0, name, "scene"))
        if scene is None:
            raise SmaugError(
                f"data.{split}_clips: {count} is too many; no two {split} clips of {source} may fit one caption,"
                f" which leaves room for {index}"
            )
        scenes.append(scene)
    return scenes


class _Cast(Protocol):
    """Deals the objects of one split of a source."""

    def __init__(self, split: str, draws: np.random.Generator) -> None: ...

    def scene(self, name: str, num_frames: int, draws: np.random.Generator) -> Scene | None:
        """The next scene; None when the split has no more to show."""


class _Stills:
    """One object on a background."""

    def __init__(self, split: str, draws: np.random.Generator) -> None:
        self.decks = Decks(looks_of(split), draws, refill=True)

    def scene(self, name: str, num_frames: int, draws: np.random.Generator) -> Scene | None:
        dealt = self.decks.deal(take_one)
        if dealt is None:
            return None
        ground, look = dealt
        event = SceneEvent(look=look, motion="none", visible=(0,))
        caption = f"a {' '.join(look)} {_where(ground, draws)}"
        return Scene(id=name, ground=ground, events=(event,), num_frames=1, caption=caption)


class _Sentences:
    """One object doing one thing, or two of one colour one after the other; one sentence for all of it."""

    def __init__(self, split: str, draws: np.random.Generator) -> None:
        self.decks = Decks(looks_of(split), draws, refill=split == "train")

    def scene(self, name: str, num_frames: int, draws: np.random.Generator) -> Scene | None:
        dealt: tuple[Ground, Sequence[Look]] | None
        if draws.random() < TWO_EVENTS_RATIO:
            dealt = self.decks.deal(take_alike)
        else:
            dealt = self.decks.deal(lambda deck: [deck.pop()] if deck else None)
        if dealt is None:
            return None
        ground, looks = dealt
        events, phrases = _act(looks, _draw_spans(looks, num_frames, draws), draws)
        caption = f"{' then '.join(phrases)} {_where(ground, draws)}"
        return Scene(id=name, ground=ground, events=events, num_frames=num_frames, caption=caption)


class _Paragraphs:
    """Two objects of one colour doing three or four things; one sentence for each, the first names the background.

    In the held-out splits no two objects share a background in two clips: captions that name both fit one clip.
    """

    def __init__(self, split: str, draws: np.random.Generator) -> None:
        self.decks = Decks(pairs_of(split), draws, refill=split == "train")

    def scene(self, name: str, num_frames: int, draws: np.random.Generator) -> Scene | None:
        dealt = self.decks.deal(take_one)
        if dealt is None:
            return None
        ground, pair = dealt
        first = int(draws.integers(2))
        others = draws.integers(2, size=draws.integers(1, 3)).tolist()
        looks = [pair[which] for which in (first, 1 - first, *others)]
        events, phrases = _act(looks, _draw_spans(looks, num_frames, draws), draws)
        caption = (f"{phrases[0]} {_where(ground, draws)}.", *(f"then {phrase}." for phrase in phrases[1:]))
        return Scene(id=name, ground=ground, events=events, num_frames=num_frames, caption=caption)


class _Briefs:
    """One object for a quarter of the clip; in half of the clips another for as long, which no caption mentions."""

    def __init__(self, split: str, draws: np.random.Generator) -> None:
        dealt = self.others = looks_of(split)
        if split != "train":
            dealt, self.others = keep_back(dealt, KEPT_BACK, draws)
        self.decks = Decks(dealt, draws, refill=split == "train")

    def scene(self, name: str, num_frames: int, draws: np.random.Generator) -> Scene | None:
        dealt = self.decks.deal(take_one)
        if dealt is None:
            return None
        ground, look = dealt
        spans = _draw_brief_spans(num_frames, draws)
        events, phrases = _act([look], spans[:1], draws)
        distractors: tuple[SceneEvent, ...] = ()
        if draws.random() < DISTRACTED_RATIO:
            others = [other for other in self.others[ground] if other != look]
            distractors, _ = _act([others[draws.integers(len(others))]], spans[1:], draws)
        caption = f"{phrases[0]} {_where(ground, draws)}"
        return Scene(
            id=name, ground=ground, events=events, distractors=distractors, num_frames=num_frames, caption=caption
        )


CASTS: dict[str, type[_Cast]] = {
    "stills": _Stills,
    "more_stills": _Stills,
    "sentence": _Sentences,
    "paragraph": _Paragraphs,
    "brief": _Briefs,
}
"""Objects that appear, by source."""


def _act(
    looks: Sequence[Look], spans: Sequence[tuple[int, int]], draws: np.random.Generator
) -> tuple[tuple[SceneEvent, ...], list[str]]:
    """Each object doing something from the first to the last frame of its span, and the words for it."""
    events = []
    phrases = []
    for look, (first, last) in zip(looks, spans, strict=True):
        possible = [motion for motion in MOTIONS if not (motion == "spins" and look[2] in ROUND)]
        motion = possible[draws.integers(len(possible))]
        visible = list(range(first, last + 1))
        if motion == "blinks":
            # Two frames on, one off, but on at the end, so that the span holds.
            visible = [frame for frame in visible if (frame - first) % 3 != 2 or frame == last]
        events.append(SceneEvent(look=look, motion=motion, visible=tuple(visible)))
        phrases.append(f"a {' '.join(look)} {MOTIONS[motion][draws.integers(len(MOTIONS[motion]))]}")
    return tuple(events), phrases


def _where(ground: Ground, draws: np.random.Generator) -> str:
    return f"{PREPOSITIONS[draws.integers(len(PREPOSITIONS))]} {ground[0]} at the {ground[1]}"


def _draw_spans(looks: Sequence[Look], num_frames: int, draws: np.random.Generator) -> list[tuple[int, int]]:
    """First and last frame of each look's event, with an empty frame or more before, between and after them."""
    gaps = len(looks) + 1
    empty = max(gaps, round(num_frames * EMPTY_RATIO) + int(draws.integers(-1, 2)))
    spare = np.bincount(draws.integers(gaps, size=empty - gaps), minlength=gaps)
    shown = num_frames - empty
    lengths = [shown] if gaps == 2 else [shown // 2, shown - shown // 2]
    if gaps > 3:
        lengths = _draw_lengths(looks, shown, draws)
    spans = []
    frame = 0
    for gap, length in zip(spare[:-1] + 1, lengths, strict=True):
        first = frame + int(gap)
        frame = first + length
        spans.append((first, frame - 1))
    return spans


def _draw_lengths(looks: Sequence[Look], shown: int, draws: np.random.Generator) -> list[int]:
    """Frames of each event of two objects: each object is shown for any time, however often, then cut at random.

    So the amount of a colour in a clip does not reveal which object its caption describes in more events.
    """
    one = [place for place, look in enumerate(looks) if look == looks[0]]
    other = [place for place, look in enumerate(looks) if look != looks[0]]
    least, most = SHORTEST * len(one), shown - SHORTEST * len(other)
    share = int(draws.integers(least, most + 1))
    lengths = [SHORTEST] * len(looks)
    for places, frames in ((one, share), (other, shown - share)):
        spare = frames - SHORTEST * len(places)
        cuts = np.sort(draws.integers(spare + 1, size=len(places) - 1))
        for place, more in zip(places, np.diff(cuts, prepend=0, append=spare), strict=True):
            lengths[place] += int(more)
    return lengths


def _draw_brief_spans(num_frames: int, draws: np.random.Generator) -> list[tuple[int, int]]:
    """First and last frame of two events that do not touch, each a quarter of the clip.

    The first may start at any place, and so may the second; and which of two places is the first's is even.
    """
    length = int(num_frames * BRIEF_RATIO)
    places = num_frames - length + 1
    first = int(draws.integers(places))
    # Around a circle, at distances that are symmetric: so neither is nearer to the ends than the other.
    second = (first + int(draws.integers(length + 1, places - length))) % places
    return [(place, place + length - 1) for place in (first, second)]


def _frames_of(events: Sequence[SceneEvent]) -> list[int]:
    return sorted({frame for event in events for frame in event.visible})
