"""Shuffled decks of objects, one for each background, so that each background appears equally often."""

from collections.abc import Callable, Mapping
from itertools import combinations, product
from typing import Generic, TypeVar

import numpy as np

from smaug_core.data.moving_shapes.attributes import COLOURS, PATTERNS, SHAPES, SIDES, SIZES, Ground, Look, split_of

Card = TypeVar("Card")
Hand = TypeVar("Hand")
Pair = tuple[Look, Look]


class Decks(Generic[Card]):
    """Shuffled decks of cards, one for each background."""

    def __init__(self, full: Mapping[Ground, list[Card]], draws: np.random.Generator, *, refill: bool) -> None:
        """Shuffle `full`; with `refill` a deck is whole and shuffled again when half of it is gone."""
        self.full, self.draws, self.refill = full, draws, refill
        self.left: dict[Ground, list[Card]] = {}
        for ground in self.full:
            self._shuffle(ground)
        self.order: list[Ground] = []

    def deal(self, take: Callable[[list[Card]], Hand | None]) -> tuple[Ground, Hand] | None:
        """Background and the cards that `take` takes off its deck, each background equally often; None at the end."""
        for _ in range(2 * len(self.full)):
            if not self.order:
                grounds = list(self.full)
                self.order = [grounds[i] for i in self.draws.permutation(len(grounds))]
            ground = self.order.pop()
            if self.refill and len(self.left[ground]) < len(self.full[ground]) / 2:
                self._shuffle(ground)
            hand = take(self.left[ground])
            if hand is not None:
                return ground, hand
        return None

    def _shuffle(self, ground: Ground) -> None:
        deck = self.full[ground]
        self.left[ground] = [deck[i] for i in self.draws.permutation(len(deck))]


def looks_of(split: str) -> dict[Ground, list[Look]]:
    """The objects that a split may show on each background."""
    looks = list(product(SIZES, COLOURS, SHAPES))
    return {ground: [look for look in looks if split_of(look, ground) == split] for ground in product(PATTERNS, SIDES)}


def pairs_of(split: str) -> dict[Ground, list[Pair]]:
    """Every two objects of one colour that a split may show on each background."""
    return {
        ground: [(one, other) for one, other in combinations(looks, 2) if one[1] == other[1]]
        for ground, looks in looks_of(split).items()
    }


def keep_back(
    full: Mapping[Ground, list[Look]], num: int, draws: np.random.Generator
) -> tuple[dict[Ground, list[Look]], dict[Ground, list[Look]]]:
    """Each background's objects, less `num` of them drawn at random; and those."""
    dealt, kept = {}, {}
    for ground, looks in full.items():
        apart = set(draws.permutation(len(looks))[:num].tolist())
        dealt[ground] = [look for place, look in enumerate(looks) if place not in apart]
        kept[ground] = [look for place, look in enumerate(looks) if place in apart]
    return dealt, kept


def take_one(deck: list[Card]) -> Card | None:
    """Take the last card off a deck; None if there is none."""
    return deck.pop() if deck else None


def take_alike(deck: list[Look]) -> Pair | None:
    """Take two objects of one colour off a deck (their mean colours must not distinguish clips); None if none match."""
    for place in reversed(range(len(deck))):
        alike = [other for other in range(place) if deck[other][1] == deck[place][1]]
        if alike:
            return deck.pop(place), deck.pop(alike[-1])
    return None
