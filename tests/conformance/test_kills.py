"""Whatever is killed, whenever: the same command given again ends with the same results, and each hour is billed once.

What a kill leaves at every single write is tested in tests/experiments/test_worker.py, on Ray in test_engines.py.
"""

import hashlib
import json
import sys
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import pytest

from experiments.engines.inline import InlineEngine
from experiments.scheduler.scheduler import Scheduler
from experiments.stages.stage import Stage
from experiments.store.attempt import Attempt
from experiments.store.store import Store, read_curve
from smaug_core.stage_protocol import KINDS
from tests.conformance.drivers import Site
from tests.conformance.siege import Siege, random_graph
from tests.conformance.test_engines import PROCESS, RAY, trail, wait_until

KILLS_OF_A_GRAPH = 25
TICKS_S = 0.04
"""The system tells the CPU time of another process in four sums of whole hundredths of a second."""


@pytest.mark.slow
def test_ten_random_kills(tmp_path: Path) -> None:
    assert_survives(tmp_path, kills=10)


@pytest.mark.nightly
@pytest.mark.timeout(3600)
def test_two_hundred_random_kills(tmp_path: Path) -> None:
    """About three minutes on two quiet cores."""
    assert_survives(tmp_path, kills=200)


@pytest.mark.nightly
@pytest.mark.timeout(3600)
def test_forty_random_kills_on_ray(tmp_path: Path) -> None:
    """About four minutes on two shared cores: each driver starts a Ray of its own."""
    assert_survives(tmp_path, kills=40, site=RAY)


def assert_survives(folder: Path, *, kills: int, site: Site = PROCESS) -> None:
    """Attack one random graph after the other until so many kills have met a living process."""
    sieges: list[Siege] = []
    while (left := kills - sum(siege.hits for siege in sieges)) > 0:
        number = len(sieges)
        chance = Random(number)
        most = min(left, KILLS_OF_A_GRAPH)
        siege = Siege(folder / f"graph{number}", random_graph(chance), chance, most, site)
        siege.run()
        assert_nothing_is_lost_or_billed_twice(siege, folder / f"undisturbed{number}")
        sieges.append(siege)
    counts = ("drivers_killed", "workers_killed", "commands", "given_up")
    totals = {name: sum(getattr(siege, name) for siege in sieges) for name in counts}
    sys.stdout.write(f"{len(sieges)} graphs, {totals}\n")
    assert totals["drivers_killed"] + totals["workers_killed"] == kills
    assert kills < 50 or min(totals["drivers_killed"], totals["workers_killed"]) > kills / 5


def assert_nothing_is_lost_or_billed_twice(siege: Siege, undisturbed: Path) -> None:
    wait_until(lambda: not siege.survivors())
    other = Store(undisturbed)
    summary = Scheduler(siege.stages, other, InlineEngine(), data_root=undisturbed / "data", on_event=repr).run()
    assert len(summary.done) == len(siege.stages)
    for stage in siege.stages:
        assert content(siege.store, stage) == content(other, stage)
        assert_attempts_are_one_history(siege, stage)
        assert_every_attempt_is_billed_once(siege, stage)
        assert_resumed_from_the_last_checkpoint(siege.store, stage)
        assert trail(siege.store, stage) == siege.published[stage.fingerprint], "a finished stage was run again"
    found = [record.directory for kind in KINDS for record in siege.store.done(kind)]
    assert sorted(found) == sorted(siege.store.directory(stage) for stage in siege.stages)


def content(store: Store, stage: Stage) -> tuple[Any, ...]:
    """What a stage made, wherever its store lies; each file has the digest that was published."""
    result, directory = store.result(stage), store.directory(stage)
    assert result is not None
    texts = {}
    for name, digest in result.files.items():
        assert hashlib.sha256((directory / name).read_bytes()).hexdigest() == digest
        texts[name] = (directory / name).read_text().replace(str(store.home), "HOME")
    return result.fingerprint, result.metrics, result.notes, texts


def assert_attempts_are_one_history(siege: Siege, stage: Stage) -> None:
    """One attempt published, those before it were killed or stopped, those after it saw that and did nothing."""
    record = siege.store.record(stage)
    assert record.result is not None
    maker = record.result.attempt
    assert [attempt.number for attempt in record.attempts] == list(range(1, len(record.attempts) + 1))
    for attempt in record.attempts:
        allowed = ["dead", "interrupted"] if attempt.number < maker else ["dead", "done"]
        assert attempt.state in (allowed if attempt.number <= maker else ["dead", "cancelled"])
        assert attempt.number <= maker or (attempt.last.spent_s, reported(attempt)) == (0.0, [])
        assert all(point["time"] <= record.result.time for point in reported(attempt))
    assert [point.step for point in read_curve(record.directory)] == list(range(1, steps_of(stage) + 1))


def assert_every_attempt_is_billed_once(siege: Siege, stage: Stage) -> None:
    record = siege.store.record(stage)
    spent_s = sum(attempt.last.spent_s for attempt in record.attempts)
    # Work that was saved right before a kill, after the last sign of life, was paid for.
    assert record.hours.billed * 3600 == pytest.approx(max(spent_s, record.hours.useful * 3600))
    assert record.hours.billed == pytest.approx(record.hours.useful + record.hours.lost + record.hours.overhead)
    for attempt in record.attempts:
        if attempt.state == "dead":
            assert attempt.last.spent_s <= siege.used_s[attempt.owner.pid] + TICKS_S
        else:
            assert 0.0 <= attempt.last.spent_s <= attempt.last.cpu_s


def assert_resumed_from_the_last_checkpoint(store: Store, stage: Stage) -> None:
    """Steps go on one by one, or go back to right after a checkpoint: the last one that had surely been saved."""
    record = store.record(stage)
    starts = [points[0]["step"] for points in map(reported, record.attempts) if points]
    assert starts == sorted(starts), "a checkpoint was lost"
    every, taken, saved = own(stage).get("checkpoint_every", steps_of(stage) + 1), trail(store, stage), 0
    assert (taken[0], taken[-1]) == (1, steps_of(stage))
    for before, after in pairwise(taken):
        if after == before + 1:
            continue
        # The step before the last one had ended with its checkpoint; the last one itself may have been saved or not.
        saved = max(saved, (before - 1) // every * every)
        assert saved < after <= before, f"{taken}: from {before} back to {after}, with a checkpoint every {every}"
        saved = after - 1


def own(stage: Stage) -> dict[str, Any]:
    settings: dict[str, Any] = stage.settings[stage.kind]
    return settings


def steps_of(stage: Stage) -> int:
    return int(own(stage)["steps"])


def reported(attempt: Attempt) -> list[dict[str, Any]]:
    """What one attempt reported, but for a last line that a kill tore."""
    path = attempt.directory / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]
