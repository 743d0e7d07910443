"""Seeds of a sweep's trials: a number of full trials, a list of their seeds, or every combination of two lists."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

from experiments.config.settings import shown
from experiments.config.yaml_source import Keys, nearest
from smaug_core.stage_protocol import FINETUNE, PRETRAIN

SEED_LIMIT = 2**31
MOST_FULL_TRIALS = 1_000
"""Limit of the trials of one row given as a number, so that a typing error does not make millions."""
A_SEED = f"a whole number from 0 to {SEED_LIMIT - 1}"
KEYS = (PRETRAIN, FINETUNE)
SHOWN_SEEDS = 10
"""Seeds that a line of text names; the rest is counted."""

Pair = tuple[int, int]
"""Seed of pre-training, seed of fine-tuning."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Seeds:
    """Seeds of every row of a sweep."""

    pretrain: tuple[int, ...] = (0,)
    finetune: tuple[int, ...] = (0,)
    full: bool = False
    """Trial i takes seed i of both lists; otherwise there is a trial for every combination."""

    @property
    def pairs(self) -> list[Pair]:
        """One pair for each trial of a row."""
        return list(
            zip(self.pretrain, self.finetune, strict=True) if self.full else product(self.pretrain, self.finetune)
        )


def read_seeds(value: Any) -> Seeds:
    """Read a valid value: `3`, `[4, 7]`, or `{pretrain: [0, 1], finetune: [0]}`."""
    if isinstance(value, dict):
        return Seeds(pretrain=tuple(value.get(PRETRAIN, (0,))), finetune=tuple(value.get(FINETUNE, (0,))))
    seeds = tuple(range(value) if isinstance(value, int) else value)
    return Seeds(pretrain=seeds, finetune=seeds, full=True)


def seed_faults(value: Any, *, sign: str = ": ") -> Iterator[tuple[Keys, str]]:
    """Errors of the value of `seeds`: the keys within it, and the message.

    Args:
        value: plain value of a YAML document.
        sign: text between a key and its value in the place where it was given.
    """
    if isinstance(value, dict):
        for name, seeds in value.items():
            if name not in KEYS:
                yield (name,), f"key 'seeds.{name}' is unknown; {nearest(name, KEYS)}"
            elif type(seeds) is int:
                trials = f", seeds{sign}{seeds} for {seeds} full trials" if 1 < seeds <= MOST_FULL_TRIALS else ""
                advice = f"write [{seeds}] for seed {seeds}{trials}" if _is_seed(seeds) else f"a seed is {A_SEED}"
                yield (name,), f"seeds.{name}: {seeds} is not a list; {advice}"
            else:
                yield from _list_faults((name,), seeds)
    elif type(value) is int:
        if not 1 <= value <= MOST_FULL_TRIALS:
            advice = f", or [{value}] for seed {value}" if _is_seed(value) else ""
            yield (), f"seeds: {value} trials of each row are not allowed; expected 1 to {MOST_FULL_TRIALS}{advice}"
    elif isinstance(value, list):
        yield from _list_faults((), value)
    else:
        forms = "a number of trials (3), their seeds ([4, 7]), or {pretrain: [0, 1], finetune: [0]}"
        yield (), f"seeds: {shown(value)} is not allowed; expected {forms}"


def _is_seed(value: Any) -> bool:
    return type(value) is int and 0 <= value < SEED_LIMIT


def _list_faults(keys: Keys, seeds: Any) -> Iterator[tuple[Keys, str]]:
    where = ".".join(["seeds", *map(str, keys)])
    if not isinstance(seeds, list) or not seeds:
        yield keys, f"{where}: {shown(seeds)} is not allowed; expected a list of seeds, e.g. [0, 1, 2]"
        return
    seen: set[int] = set()
    for number, seed in enumerate(seeds):
        if not _is_seed(seed):
            yield (*keys, number), f"{where}.{number}: {shown(seed)} is not allowed; expected {A_SEED}"
        elif seed in seen:
            yield (*keys, number), f"{where}: {seed} is given twice; drop one"
        else:
            seen.add(seed)


def describe_pairs(pairs: Iterable[Pair]) -> str:
    """Describe pairs of seeds for people: `0, 1, 2` if both are equal, otherwise those of each training."""
    distinct = list(dict.fromkeys(pairs))
    pretrain, finetune = (list(dict.fromkeys(seeds)) for seeds in zip(*distinct, strict=True))
    if all(first == second for first, second in distinct):
        return _listed(pretrain)
    if set(distinct) == set(product(pretrain, finetune)):
        return f"pre-training {_listed(pretrain)}; fine-tuning {_listed(finetune)}"
    return _listed([str(first) if first == second else f"{first}/{second}" for first, second in distinct])


def _listed(seeds: Iterable[Any]) -> str:
    texts = list(map(str, seeds))
    more = f" and {len(texts) - SHOWN_SEEDS} more" if len(texts) > SHOWN_SEEDS else ""
    return ", ".join(texts[:SHOWN_SEEDS]) + more
