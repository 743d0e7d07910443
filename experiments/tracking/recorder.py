"""Copies what happens in the store into MLflow while a sweep runs, in a thread of its own."""

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from experiments.planning.plan import distinct_stages
from experiments.scheduler.events import Event
from experiments.stages.stage import Stage
from experiments.stages.trial import Trial
from experiments.store.trials import stage_facts, trial_documents, trial_facts, valid_documents
from experiments.tracking.database import LATER, redacted
from experiments.tracking.location import tracking_uri
from experiments.tracking.runs import STAGES, experiment_of
from smaug_core.errors import SmaugError

if TYPE_CHECKING:
    from experiments.tracking.writer import Tracker

CURVE_EVERY_S = 15.0
"""Time between two looks at a running stage's curve."""
RETRY_S = 30.0
"""Time between a failure of MLflow and the next try."""
PATIENCE_S = 60.0
"""How long the end of a run waits for an MLflow that answers nothing; while it answers, the run waits on."""
WORD_EVERY_S = 15.0
"""Time between two messages that say what the end of a run waits for."""
POLL_S = 0.1
REST = 4.0
"""After telling for a while, so many times as long nothing is told: the processor is the driver's, not ours."""
READ_AHEAD_FROM = 100
"""Of so many stages, all recorded ones are looked at together rather than one by one."""


class Mirror:
    """Told every event of a scheduler; records the stages and trials that it concerns, soon.

    MLflow may be down, slow or locked: it is tried again later in the run, and at its end. If that fails too, `fault`
    says what is missing, and `smaug sync` makes up for it. Only the end of the run waits for MLflow, as long as it
    answers; Ctrl-C ends that wait.

    Args:
        home: the home folder, which holds the trials' documents already.
        trials: to be recorded.
        say: called with what the end of the run waits for, and how far that is.
    """

    def __init__(self, home: Path, trials: Sequence[Trial], say: Callable[[str], None]) -> None:
        self._home, self._stages, self._say = home, distinct_stages(trials), say
        self._sweeps = list(dict.fromkeys(trial.sweep.name for trial in trials))
        self._ours = {(trial.fingerprint, trial.variant) for trial in trials}
        self._changed, self._closed = threading.Condition(), False
        self._due: dict[str, tuple[Stage, bool]] = {}
        """Stages with news, and whether it is their last."""
        self._touched: set[str] = set()
        """Stages that changed their state, so that their trials have news too."""
        self._seen: dict[str, float] = {}
        self._settled: set[str] = set()
        self._trials = _Trials(home, self._sweeps)
        self._sign, self._complete = time.monotonic(), False
        """When MLflow answered last or something was looked at, and whether it has everything."""
        self._loaded = self._given_up = False
        self._failure: SmaugError | None = None
        # A daemon: a call that hangs does not keep the process from ending.
        self._thread = threading.Thread(target=self._work, name="mirror", daemon=True)
        self.fault: SmaugError | None = None
        """Once the run is over: what MLflow did not take, and why."""

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
            self._closed, self._sign = True, time.monotonic()
            self._changed.notify()
        try:
            self._wait_for_the_end()
        except KeyboardInterrupt:
            self._given_up = True
        self.fault = self._what_is_missing()

    def _wait_for_the_end(self) -> None:
        """Wait until all is recorded, as long as MLflow answers; loading it takes as long as it takes."""
        next_word = time.monotonic() + WORD_EVERY_S
        while self._thread.is_alive() and not (self._loaded and time.monotonic() - self._sign > PATIENCE_S):
            self._thread.join(timeout=POLL_S)
            if self._thread.is_alive() and time.monotonic() > next_word:
                next_word = time.monotonic() + WORD_EVERY_S
                done, count = len(self._settled), len(self._stages)
                where = redacted(tracking_uri(self._home))
                self._say(
                    f"waiting for MLflow at {where}: {done} of {count} stages are recorded;"
                    " Ctrl-C ends the wait, and `smaug sync` records the rest"
                )

    def __call__(self, event: Event) -> None:
        """Note that a stage has something new to tell."""
        name, now = event.stage.fingerprint, time.monotonic()
        if event.kind in ("queued", "waiting", "held", "blocked", "paused"):
            return
        if event.kind == "progress" and now - self._seen.get(name, 0.0) < CURVE_EVERY_S:
            return
        with self._changed:
            self._seen[name] = now
            self._due[name] = (event.stage, event.kind in ("cached", "done", "failed"))
            if event.kind != "progress":
                self._touched.add(name)
            self._changed.notify()

    def again(self, stage: Stage) -> None:
        """Note that what a stage took is known better than when it ended."""
        with self._changed:
            self._due[stage.fingerprint] = (stage, stage.fingerprint in self._settled)
            self._touched.add(stage.fingerprint)
            self._changed.notify()

    def _work(self) -> None:
        from experiments.tracking.writer import Tracker  # takes seconds to load: while the stages start

        tracker, rest = Tracker(self._home, self._progressed), 0.0
        self._loaded, self._sign = True, time.monotonic()
        while self._wait(rest):
            began = time.monotonic()
            if self._tell(tracker, driven=True):
                rest = REST * (time.monotonic() - began)
            else:
                rest = RETRY_S
        with self._changed:
            for stage in self._stages:
                if stage.fingerprint not in self._settled:
                    self._due[stage.fingerprint] = (stage, True)
        self._complete = self._tell(tracker, driven=False)

    def _progressed(self) -> None:
        self._sign = time.monotonic()

    def _wait(self, rest: float) -> bool:
        """Wait so long, and then for news; gives whether the run goes on."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed, timeout=rest)
            self._changed.wait_for(lambda: self._closed or self._due or self._trials.due)
            return not self._closed

    def _tell(self, tracker: "Tracker", *, driven: bool) -> bool:
        """Tell MLflow all news; gives whether it took them. What it did not take remains news."""
        self._sign = time.monotonic()
        try:
            self._prepare(tracker, anew=not driven)
            self._tell_stages(tracker)
            self._tell_trials(tracker, driven=driven)
            if not driven:
                tracker.record_spending()
        except SmaugError as error:
            self._failure = error
            return False
        return True

    def _prepare(self, tracker: "Tracker", *, anew: bool) -> None:
        """Look once at what is recorded already, and at which trials there are."""
        if not self._trials.documents:
            tracker.prepare(*self._sweeps)
            many = [STAGES] if len(self._stages) >= READ_AHEAD_FROM else []
            tracker.read_ahead(*many, *map(experiment_of, self._sweeps))
        if anew or not self._trials.documents:
            self._trials.read()  # at the end once more: another driver may have added some

    def _tell_stages(self, tracker: "Tracker") -> None:
        with self._changed:
            news = list(self._due.items())
            self._trials.touch(self._touched)
            self._touched.clear()
        for name, due in news:
            stage, is_last = due
            facts = stage_facts(self._home, stage.kind, stage.fingerprint)
            if facts is not None:
                tracker.record_stage(facts)
            with self._changed:
                if self._due[name] is due:
                    del self._due[name]
                    self._settled |= {name} if is_last else set()
            self._progressed()

    def _tell_trials(self, tracker: "Tracker", *, driven: bool) -> None:
        for place in list(self._trials.due):
            document = self._trials.documents[place]
            facts = trial_facts(self._home, document)
            ours = (document["fingerprint"], document["variant"]) in self._ours
            tracker.record_trial(facts, driven=driven and ours, valid=place in self._trials.valid)
            self._trials.due.pop(place)
            self._progressed()

    def _what_is_missing(self) -> SmaugError | None:
        if self._complete:
            return None
        with self._changed:
            begun = [stage for stage in self._stages if (self._folder(stage) / "attempts").exists()]
            missing = [s for s in begun if s.fingerprint in self._due or s.fingerprint not in self._settled]
        what = f"{len(missing)} of {len(self._stages)} stages" if missing else "trials"
        if self._thread.is_alive() and self._given_up:
            return SmaugError(f"{what}: the wait for MLflow was ended by Ctrl-C; {LATER}")
        if self._thread.is_alive():
            return SmaugError(f"{what}: MLflow did not answer for {PATIENCE_S:.0f} s; {LATER}")
        return SmaugError(f"{what}: {self._failure or f'the thread that records ended early; {LATER}'}")

    def _folder(self, stage: Stage) -> Path:
        return self._home / "store" / stage.kind / stage.fingerprint[:12]


class _Trials:
    """The trials of some sweeps, a killed driver's too, and which of them have news."""

    def __init__(self, home: Path, sweeps: Sequence[str]) -> None:
        self._home, self._sweeps = home, sweeps
        self.documents: list[dict[str, Any]] = []
        self.valid: set[int] = set()
        """Places among the documents."""
        self.due: dict[int, None] = {}
        self._by_stage: dict[str, list[int]] = {}

    def read(self) -> None:
        """Look which there are; all of them have news."""
        self.documents = [document for sweep in self._sweeps for document in trial_documents(self._home, sweep)]
        valid = {id(document) for document in valid_documents(self.documents)}
        self.valid = {place for place, document in enumerate(self.documents) if id(document) in valid}
        self.due, self._by_stage = dict.fromkeys(range(len(self.documents))), {}
        for place in self.valid:
            for told in self.documents[place]["stages"]:
                self._by_stage.setdefault(told["fingerprint"], []).append(place)

    def touch(self, stages: set[str]) -> None:
        """Note that these stages changed their state."""
        for name in stages:
            self.due |= dict.fromkeys(self._by_stage.get(name, ()))
