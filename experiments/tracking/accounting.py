"""Has Slurm's accounting say what attempts took that ran in its jobs, and keeps that beside each attempt.

Where there is no accounting, or no Slurm, nothing is asked and nothing changes.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from experiments.engines.slurm.accounting import Sacct, by_job, run_at
from experiments.scheduler.events import Event
from experiments.stages.stage import Stage
from experiments.store.attempt import ACCOUNTING, Attempt, StoreError, read_attempts, write_json
from experiments.store.store import Store
from experiments.store.trials import all_stages

ASK_EVERY_S = 60.0
"""Time between two questions of a driver to Slurm's accounting: each delays one about the queue."""
PATIENCE_S = 15.0
"""So long the end of a run waits for what Slurm's database does not know yet."""
KNOWN_WITHIN_S = 600.0
"""An attempt that Slurm's database does not know so long after its last sign of life it may never know: a driver asks
once about it, and no more; `smaug sync` asks again."""
ENDS = frozenset(("retry", "done", "failed", "cancelled"))
"""Events after which an attempt may be over."""

_log = logging.getLogger(__name__)


def unaccounted(attempts: Iterable[Attempt]) -> list[Attempt]:
    """Those that are over and of which Slurm's accounting could tell more: what held GPUs in a job, what died in one.

    What processor time another attempt took it knows itself.
    """
    return [
        attempt
        for attempt in attempts
        if "slurm" in attempt.owner
        and attempt.accounting is None
        and (attempt.owner["gpus"] or attempt.end is None)
        and attempt.state != "running"
    ]


def account(attempts: Sequence[Attempt], sacct: Sacct) -> list[Attempt]:
    """Ask about attempts, all at once; gives those of which there was an answer, which is in their folders now.

    Raises:
        StoreError: an answer cannot be written.
    """
    runs, answered = by_job(sacct.ask({attempt.owner["slurm"]["job"] for attempt in attempts})), []
    for attempt in attempts:
        slurm = attempt.owner["slurm"]
        run = run_at(runs.get(slurm["job"], ()), float(attempt.owner["started"]), slurm["restart"])
        if run is not None and run.end is not None:
            told = {"source": "sacct", "state": run.state, "start": run.start, "end": run.end, "cpu_s": run.cpu_s}
            write_json(attempt.directory / ACCOUNTING, told | {"time": time.time()})
            answered.append(attempt)
    return answered


def account_all(home: Path) -> int:
    """Ask about all attempts in a home folder, for a driver that was away; gives how many were answered.

    Raises:
        StoreError: an answer cannot be written, or an attempt cannot be read.
    """
    return len(account([attempt for facts in all_stages(home) for attempt in unaccounted(facts.attempts)], Sacct()))


class Accountant:
    """Told every event of a scheduler; asks about attempts that ended, now and then, in a thread of its own.

    Args:
        store: where the attempts are.
        stages: those to look after; an earlier driver may have left some of their attempts unaccounted.
        on_news: told of each stage whose hours were corrected.
    """

    def __init__(self, store: Store, stages: Iterable[Stage], on_news: Callable[[Stage], None]) -> None:
        self._store, self._on_news, self._sacct = store, on_news, Sacct()
        self._changed, self._closed = threading.Condition(), False
        self._due = {stage.fingerprint: stage for stage in stages}
        # A daemon: a question that hangs does not keep the process from ending.
        self._thread = threading.Thread(target=self._work, name="accountant", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify()
        if kind is None:
            self._thread.join(timeout=PATIENCE_S)

    def __call__(self, event: Event) -> None:
        """Note that an attempt at a stage may be over."""
        if event.kind in ENDS:
            with self._changed:
                self._due[event.stage.fingerprint] = event.stage

    def _work(self) -> None:
        while not self._closed:
            self._look()
            with self._changed:
                self._changed.wait_for(lambda: self._closed, timeout=ASK_EVERY_S)
        give_up = time.monotonic() + PATIENCE_S
        while self._look() and time.monotonic() < give_up:  # each question waits for its turn
            pass

    def _look(self) -> bool:
        """Ask about what ended of the stages that are due; gives whether Slurm may yet know more of some."""
        if self._sacct.is_off or not (self._store.home / "slurm").is_dir():
            return False
        with self._changed:
            due, self._due = self._due, {}
        attempts = {name: self._attempts_at(stage) for name, stage in due.items()}
        asked = [(name, attempt) for name, held in attempts.items() for attempt in unaccounted(held)]
        answered = {attempt.directory for attempt in self._ask([attempt for _, attempt in asked])}
        for name in dict.fromkeys(name for name, attempt in asked if attempt.directory in answered):
            self._on_news(due[name])
        since = time.time() - KNOWN_WITHIN_S
        open_ = {name for name, attempt in asked if attempt.directory not in answered and attempt.last["time"] > since}
        running = {name for name, held in attempts.items() if held and held[-1].state == "running"}
        with self._changed:
            self._due = {name: due[name] for name in open_ | running} | self._due
        return bool(open_)

    def _attempts_at(self, stage: Stage) -> list[Attempt]:
        try:
            return read_attempts(self._store.directory(stage))
        except StoreError as error:
            _log.warning("not asked about in Slurm's accounting: %s", error)
            return []

    def _ask(self, attempts: list[Attempt]) -> list[Attempt]:
        try:
            return account(attempts, self._sacct)
        except StoreError as error:
            _log.warning("what Slurm's accounting says is not kept: %s", error)
            return []
