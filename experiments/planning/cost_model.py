"""Measured or predicted cost of a stage, in hours of its device, and the source of that number."""

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any, Literal

from experiments.stages.kinds import TRAININGS
from experiments.stages.stage import Stage
from experiments.stages.workload import stage_macs
from experiments.store.device_hours import peak_memory_bytes
from experiments.store.documents import RATE, StageDocument, StoreError, read_document
from experiments.store.records import StageRecord
from experiments.store.store import Store
from smaug_core.errors import SmaugError

Basis = Literal["measured", "earlier", "rate", "probe", "published", "unknown"]
"""How a price is known, the surest first."""

WORDS_OF_BASIS: dict[Basis, str] = {
    "measured": "measured",
    "earlier": "median of earlier stages of the same shape",
    "rate": "closed form at the rate of earlier stages",
    "probe": "closed form at the rate of a probe",
    "published": "closed form at the paper's rate",
    "unknown": "no earlier attempts",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Price:
    """Hours of one undisturbed attempt at a stage."""

    hours: float | None
    """None where nothing is known."""
    unit: str | None
    """E.g. `CPU h`."""
    basis: Basis
    count: int = 0
    """Of earlier stages that it is taken from."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rate:
    """Rate at which a device does the work that the closed form counts."""

    macs_per_hour: float
    unit: str
    """Of the hours."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Past:
    """A finished stage."""

    hours: float
    unit: str
    shape: str
    """Equal for stages that take about the same time."""
    macs: int | None
    """None where its closed form is not known."""
    build: tuple[int | None, bool]
    """What its rate depends on."""
    ended: float
    size: str
    """Equal for stages that take about the same memory."""
    peak_bytes: int | None
    """Largest memory that an attempt at it held; None where it was not measured."""


class Prices:
    """Prices of stages by the finished stages of a store, and by those that finish meanwhile.

    A stage that is not done is priced by the first of these that there is: finished stages of its shape; its closed
    form at the rate of finished stages of its kind, else of trainings, of the same width; its closed form at the rate
    that a probe found; for work on GPUs, at the rate that the paper's hours imply.
    """

    def __init__(self, store: Store, *, published: Callable[[], Rate] | None = None) -> None:
        """Look things up in `store` when asked; `published` gives the rate that the paper's hours imply."""
        self._store, self._data_root = store, store.home / "data"
        self._published = None if published is None else cache(published)
        self._pasts: dict[str, dict[str, list[_Past]]] = {}

    def of(self, stage: Stage, record: StageRecord | None = None) -> Price:
        """The price of a stage; `record`: what the store holds of it, where the caller knows."""
        if record is not None and record.result is not None:
            return Price(hours=_hours(record), unit=record.unit, basis="measured", count=1)
        document, macs = StageDocument.of(stage.document()), self._macs_of(stage)
        shape = _shape(document, macs)
        alike = _of_newest_unit(self._past(stage.kind).get(shape, []))
        if alike:
            return Price(hours=median(p.hours for p in alike), unit=alike[0].unit, basis="earlier", count=len(alike))
        if macs is None:
            return Price(hours=None, unit=None, basis="unknown")
        paced = self._paced(document)
        if paced:
            hours = macs / median(past.macs / past.hours for past in paced if past.macs)
            return Price(hours=hours, unit=paced[0].unit, basis="rate", count=len(paced))
        return self._by_foreign_rate(stage, document, macs)

    def peak_bytes(self, stage: Stage) -> int | None:
        """The most memory that finished stages like this one held: of its shape, batch and resources; none if unknown.

        Stages of one shape do the same work, maybe in batches of another size.
        """
        document = StageDocument.of(stage.document())
        alike = self._past(stage.kind).get(_shape(document, self._macs_of(stage)), [])
        peaks = (past.peak_bytes for past in alike if past.size == _size(document))
        return max((peak for peak in peaks if peak is not None), default=None)

    def learn(self, stage: Stage, record: StageRecord) -> None:
        """Take a stage into account that has finished since this was made."""
        if stage.kind in self._pasts and record.result is not None:
            past = self._past_of(StageDocument.of(stage.document()), record, self._macs_of(stage))
            self._pasts[stage.kind].setdefault(past.shape, []).append(past)

    def _by_foreign_rate(self, stage: Stage, document: StageDocument, macs: int) -> Price:
        if (rate := read_rate(self._store, document)) is not None:
            return Price(hours=macs / rate.macs_per_hour, unit=rate.unit, basis="probe")
        if stage.resources["gpus"] and self._published is not None:
            rate = self._published()
            counted = self._macs_of(stage, as_published=True) or macs
            return Price(hours=counted / rate.macs_per_hour, unit=rate.unit, basis="published")
        return Price(hours=None, unit=None, basis="unknown")

    def _paced(self, document: StageDocument) -> list[_Past]:
        """Finished stages whose rate should hold: of the same kind, if there are any, else trainings."""
        for kinds in ([document.kind], TRAININGS):
            pasts = [past for kind in kinds for alike in self._past(kind).values() for past in alike]
            fit = [past for past in pasts if past.build == _build(document) and past.macs and past.hours]
            if fit:
                return _of_newest_unit(fit)
        return []

    def _past(self, kind: str) -> dict[str, list[_Past]]:
        """The finished stages of a kind, by shape."""
        if kind not in self._pasts:
            found: dict[str, list[_Past]] = {}
            for record in self._store.done(kind):
                past = self._past_of(record.document, record, self._macs_of_document(record.document))
                found.setdefault(past.shape, []).append(past)
            self._pasts[kind] = found
        return self._pasts[kind]

    def _past_of(self, document: StageDocument, record: StageRecord, macs: int | None) -> _Past:
        assert record.unit is not None
        return _Past(
            hours=_hours(record),
            unit=record.unit,
            shape=_shape(document, macs),
            macs=macs,
            build=_build(document),
            ended=record.attempts[-1].last.time,
            size=_size(document),
            peak_bytes=peak_memory_bytes(record.attempts),
        )

    def _macs_of(self, stage: Stage, *, as_published: bool = False) -> int | None:
        before = stage.parents[-1].settings if stage.parents else None
        return _macs(stage.kind, stage.settings, before, self._data_root, as_published=as_published)

    def _macs_of_document(self, document: StageDocument) -> int | None:
        before = None
        for fingerprint in document.parents:
            with suppress(StoreError):  # it teaches nothing; who needs that very stage gets the error
                parent = self._store.document(fingerprint)
                before = None if parent is None else parent.settings
        return _macs(document.kind, document.settings, before, self._data_root)


def read_rate(store: Store, document: StageDocument) -> Rate | None:
    """The rate that a probe found for stages like this one."""
    found = read_document(rate_file(store, document), RATE)
    return None if found is None else Rate(macs_per_hour=found["macs_per_hour"], unit=found["unit"])


def rate_file(store: Store, document: StageDocument) -> Path:
    """Return the file of a probe's rate."""
    width, gpus = _build(document)
    return store.home / "probes" / f"{'gpu' if gpus else 'cpu'}-width{width}" / "rate.json"


def sources_of(prices: Mapping[str, Price]) -> str:
    """Describe the sources of prices; `prices` by the stage's name and fingerprint, e.g. `pretrain 1f3a`."""
    parts = []
    for basis, words in WORDS_OF_BASIS.items():
        names: dict[str, int] = {}
        for key, price in prices.items():
            if price.basis == basis:
                name = key.split()[0]
                names[name] = max(names.get(name, 0), price.count)
        if names and basis == "measured":
            parts.append(words)
        elif names and basis in ("earlier", "rate"):
            parts.append(f"{words}: " + ", ".join(f"{count} {name}" for name, count in names.items()))
        elif names and basis == "unknown":
            parts.append(f"{words} of " + ", ".join(names))
        elif names:
            parts.append(f"{words}: " + ", ".join(names))
    return "; ".join(parts)


def _shape(document: StageDocument, macs: int | None) -> str:
    kind = document.kind
    # Where there is no closed form, stages of the same settings are alike; the data's seed is no cost.
    settings = document.settings | {"data": None}
    return json.dumps([kind, _build(document), settings if macs is None else macs], sort_keys=True)


def _size(document: StageDocument) -> str:
    """Return what memory depends on beside the shape: the batch, and the processes and threads that share the work."""
    own, resources = document.settings[document.kind], document.resources
    return json.dumps([own.get("batch_size"), *(resources.get(name, 1) for name in ("cpus", "gpus", "nodes"))])


def _build(document: StageDocument) -> tuple[int | None, bool]:
    """Return what a rate depends on: the model's width, and whether GPUs do the work."""
    return document.settings.get("model", {}).get("width"), _on_gpus(document)


def _on_gpus(document: StageDocument) -> bool:
    return document.resources["gpus"] > 0  # CPU hours do not foretell GPU hours


def _hours(record: StageRecord) -> float:
    return record.hours.useful + record.hours.overhead


def _of_newest_unit(past: list[_Past]) -> list[_Past]:
    """Those measured in the unit of the newest: hours of different devices are no sample together."""
    if not past:
        return []
    unit = max(past, key=lambda each: each.ended).unit
    return [each for each in past if each.unit == unit]


def _macs(
    kind: str,
    settings: Mapping[str, Any],
    before: Mapping[str, Any] | None,
    data_root: Path,
    *,
    as_published: bool = False,
) -> int | None:
    """The closed form, or none where it is not known."""
    if "model" not in settings or (before is None and kind not in TRAININGS):
        return None
    try:
        return _counted(kind, json.dumps(settings), json.dumps(before), data_root, as_published)
    except SmaugError:
        return None


@cache  # seeds make many stages of the same settings
def _counted(kind: str, settings: str, before: str, data_root: Path, as_published: bool) -> int:
    return stage_macs(kind, json.loads(settings), json.loads(before), data_root, as_published=as_published)
