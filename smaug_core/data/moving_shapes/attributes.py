"""Attributes that the embedded clips can show, the words for them, and the splits that may show them."""

from hashlib import blake2b

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
"""Kinds of events, and their words in a caption."""
ROUND = frozenset({"circle", "ring"})
"""Shapes that cannot be seen to spin."""
PREPOSITIONS = ("over", "on")

HELD_OUT_RATIO = 0.3
"""Share of the attribute combinations that only the test split shows; as many again for validation."""

Ground = tuple[str, str]
"""A pattern and the side of the background that shows it; its tones, and the other half, carry no meaning."""
Look = tuple[str, str, str]
"""Size, colour and shape of an object."""


def split_of(look: Look, ground: Ground) -> str:
    """The only split that shows this object on this background, whatever the source and the seed."""
    digest = blake2b(" ".join((*look, *ground)).encode(), digest_size=4).digest()
    place = int.from_bytes(digest, "big") / 2**32
    if place < HELD_OUT_RATIO:
        return "test"
    return "val" if place < 2 * HELD_OUT_RATIO else "train"


def vocabulary() -> list[str]:
    """Every word that a caption can hold, sorted."""
    verbs = {word for texts in MOTIONS.values() for text in texts for word in text.split()}
    return sorted({"a", "then", "at", "the", *PREPOSITIONS, *SIZES, *COLOURS, *SHAPES, *PATTERNS, *SIDES, *verbs})
