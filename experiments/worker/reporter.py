"""Progress reports, time accounting and heartbeats of a running stage."""

import json
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

from experiments.background import BackgroundThread
from experiments.store.attempt import NOTHING_SPENT, Lease
from experiments.store.documents import StoreError, unwritable
from experiments.store.process import HEARTBEAT_S
from experiments.worker.device import DeviceClock
from experiments.worker.signals import StopFlag

PROGRESS_EVERY_S = 1.0
"""Progress is written to the disk at most so often; the curve gets every step at once."""


class QuietWatch:
    """Watch that drops reports; implements `smaug_core.stage_protocol.Watch`."""

    def __init__(self, clock: DeviceClock, stop: StopFlag) -> None:
        self._clock, self._stop = clock, stop

    def report(self, step: int, total: int, values: Mapping[str, float]) -> None:
        """Do nothing."""

    def useful(self, seconds: float) -> None:
        """Do nothing."""

    def spent(self) -> float:
        """Device seconds of this process."""
        return self._clock.spent_s()

    def stop_requested(self) -> bool:
        """Return whether to save a checkpoint and end."""
        return self._stop.is_set()


class StageWatch:
    """Receives the reports of a running stage; implements `smaug_core.stage_protocol.Watch`.

    The clock of training starts at the stage's first call of `spent`: a stage that trains calls it right before its
    first step. Time before it is overhead, and so is all time of a stage that never calls it.

    Args:
        lease: of the attempt, whose files it writes.
        clock: of the whole attempt.
        stop: set from outside to ask for a checkpoint and an early end.
        share: what this process alone has used, where several share the work; the stage adds their shares up.
    """

    def __init__(self, lease: Lease, clock: DeviceClock, stop: StopFlag, share: DeviceClock | None = None) -> None:
        self._lease, self._clock, self._stop, self._share = lease, clock, stop, share or clock
        self._account: dict[str, Any] = dict(NOTHING_SPENT)
        self._training_from: float | None = None
        self._written_at = 0.0
        self._fault: StoreError | None = None
        self._lock, self._heart = threading.Lock(), BackgroundThread(self._beat, HEARTBEAT_S, "heartbeat")
        try:
            # By line: a kill right after a checkpoint must not lose the steps before it, which are not done again.
            self._metrics = (lease.directory / "metrics.jsonl").open("a", buffering=1)
        except OSError as error:
            raise unwritable(lease.directory / "metrics.jsonl", error) from error

    def __enter__(self) -> Self:
        self._heart.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._heart.__exit__(kind, error, trace)
        with suppress(OSError):  # a full disk has been met before, by the write that comes before publishing
            self._metrics.close()

    def report(self, step: int, total: int, values: Mapping[str, float]) -> None:
        """Note that `step` of `total` ended; raises if this attempt was superseded or cannot be recorded."""
        self._raise_fault()
        now = time.time()
        self._note_training(self._clock.spent_s())
        with self._lock:
            self._account |= {"step": step, "total": total, "values": dict(values)}
            try:
                self._metrics.write(json.dumps({"time": now, "step": step, "values": dict(values)}) + "\n")
            except OSError as error:
                raise unwritable(self._lease.directory / "metrics.jsonl", error) from error
        if time.monotonic() - self._written_at >= PROGRESS_EVERY_S:
            self.write()

    def useful(self, seconds: float) -> None:
        """Note how much work is in the state now saved, at once: a kill right after must not lose it."""
        with self._lock:
            self._account["useful_s"] = seconds
        self.write()

    def spent(self) -> float:
        """Device seconds this attempt has used, or this process's share of them."""
        share_s = self._share.spent_s()
        spent_s = share_s if self._share is self._clock else self._clock.spent_s()
        if self._training_from is None:
            self._training_from = spent_s
        self._note_training(spent_s)
        return share_s

    def stop_requested(self) -> bool:
        """Return whether to save a checkpoint and end; raises if this attempt was superseded."""
        self._raise_fault()
        return self._stop.is_set()

    def account(self) -> dict[str, Any]:
        """Time spent so far, and the step."""
        with self._lock:
            return self._account | self._clock.account()

    def _note_training(self, spent_s: float) -> None:
        if self._training_from is not None:
            with self._lock:
                self._account["train_s"] = spent_s - self._training_from

    def _raise_fault(self) -> None:
        if self._fault is not None:
            raise self._fault

    def write(self) -> None:
        """Write a heartbeat, with the time spent so far.

        Raises:
            SupersededError: a newer attempt has begun.
            StoreError: the disk is full, or the like.
        """
        self._written_at = time.monotonic()
        self._lease.heartbeat(self.account())

    def _beat(self) -> bool:
        try:
            self.write()
        except StoreError as error:
            self._fault = error  # raised at the stage's next report
        return self._fault is None


def print_error(text: str) -> None:
    """Print a line to stderr, which is the attempt's log; a full disk does not matter here."""
    with suppress(OSError):
        sys.stderr.write(f"{text}\n")
