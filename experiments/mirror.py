"""Copies what happens in the store into MLflow while a sweep runs, in a thread of its own."""

import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from experiments.events import Event
from experiments.expand import Trial
from experiments.plan import distinct_stages
from experiments.records import stage_facts, superseded, trial_documents, trial_facts
from experiments.stage import Stage
from smaug_core.errors import SmaugError

if TYPE_CHECKING:
    from experiments.tracking import Tracker

CURVE_EVERY_S = 15.0
"""Time between two looks at a running stage's curve."""


class Mirror:
    """Told every event of a scheduler; records the stages and trials that it concerns, soon.

    MLflow may be down: then `fault` says so, nothing waits for it, and `smaug sync` makes up for it.
    """

    def __init__(self, home: Path, trials: Sequence[Trial]) -> None:
        """Record some trials, whose documents are in the home folder already."""
        self._home, self._trials = home, trials
        self._sweeps = list(dict.fromkeys(trial.sweep.name for trial in trials))
        self._due: dict[str, Stage] = {}
        self._seen: dict[str, float] = {}
        self._changed, self._closed = threading.Condition(), False
        self._thread = threading.Thread(target=self._work, name="mirror")
        self.fault: SmaugError | None = None
        """Why MLflow did not take everything."""

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
        self._thread.join()

    def __call__(self, event: Event) -> None:
        """Note that a stage has something new to tell."""
        name, now = event.stage.fingerprint, time.monotonic()
        if event.kind in ("queued", "waiting", "held", "blocked"):
            return
        if event.kind == "progress" and now - self._seen.get(name, 0.0) < CURVE_EVERY_S:
            return
        with self._changed:
            self._seen[name] = now
            self._due[name] = event.stage
            self._changed.notify()

    def _work(self) -> None:
        try:
            self._record()
        except SmaugError as error:
            self.fault = error

    def _record(self) -> None:
        from experiments.tracking import Tracker  # takes seconds to load: while the stages start

        tracker = Tracker(self._home)
        tracker.prepare(*self._sweeps)
        self._record_trials(tracker, driven=True)
        while due := self._next():
            for stage in due:
                self._record_stage(tracker, stage)
            touched = {stage.fingerprint for stage in due}
            self._record_trials(tracker, driven=True, touched=touched)
        for stage in distinct_stages(self._trials):
            self._record_stage(tracker, stage)
        self._record_trials(tracker, driven=False)

    def _next(self) -> list[Stage]:
        """The stages that something happened to; none once the run is over."""
        with self._changed:
            self._changed.wait_for(lambda: self._due or self._closed)
            due = [] if self._closed else list(self._due.values())
            self._due.clear()
        return due

    def _record_stage(self, tracker: "Tracker", stage: Stage) -> None:
        facts = stage_facts(self._home, stage.kind, stage.fingerprint)
        if facts is not None:
            tracker.record_stage(facts)

    def _record_trials(self, tracker: "Tracker", *, driven: bool, touched: set[str] | None = None) -> None:
        """Record these sweeps' trials, a killed driver's too, or only those that hold a touched stage."""
        documents = [document for sweep in self._sweeps for document in trial_documents(self._home, sweep)]
        outdated = [id(old) for old, _ in superseded(documents)]
        ours = {(trial.fingerprint, trial.variant) for trial in self._trials}
        for document in documents:
            if touched is None or touched & {told["fingerprint"] for told in document["stages"]}:
                tracker.record_trial(
                    trial_facts(self._home, document),
                    driven=driven and (document["fingerprint"], document["variant"]) in ours,
                    valid=id(document) not in outdated,
                )
