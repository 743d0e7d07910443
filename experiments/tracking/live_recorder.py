"""Recorder of a running sweep: has the writer copy the store's records to MLflow, in a background thread."""

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

from experiments.planning.plan import distinct_stages
from experiments.scheduler.events import Event
from experiments.stages.stage import Stage
from experiments.stages.trial import Trial
from experiments.store.documents import TrialDocument
from experiments.store.store import Store, stage_record
from experiments.store.trials import trial_documents, trial_record, valid_documents
from experiments.tracking.accounting import Accountant
from experiments.tracking.database import LATER, redacted
from experiments.tracking.location import tracking_uri
from experiments.tracking.run_content import STAGES, experiment_of
from smaug_core.errors import SmaugError

if TYPE_CHECKING:
    from experiments.tracking.writer import MlflowWriter

CURVE_EVERY_S = 15.0
"""Time between two readings of a running stage's curve."""
ACCOUNT_EVERY_S = 60.0
"""Time between two queries of Slurm's accounting: each delays one of its queue."""
RETRY_S = 30.0
"""Time between a failure of MLflow and the next try."""
PATIENCE_S = 60.0
"""Time that the end of a run waits for an MLflow that does not respond; while it responds, the run waits on."""
MESSAGE_EVERY_S = 15.0
"""Time between two messages while the end of a run waits."""
POLL_S = 0.1
REST = 4.0
"""Pause after recording, as a multiple of its time: the processor is needed for the driver."""
READ_AHEAD_FROM = 100
"""Number of stages from which all recorded ones are read at once rather than one by one."""


class Recorder:
    """Listener of a scheduler's events: records the stages and trials that they concern, soon.

    MLflow may be down, slow or locked: it is tried again later in the run, and at its end. If that fails too, `error`
    names what is missing, and `smaug sync` makes up for it. Only the end of the run waits for MLflow, as long as it
    responds; Ctrl-C ends that wait. The same thread queries Slurm's accounting, now and then and at the end; there the
    run waits half a minute at most if that hangs.

    Args:
        home: the home folder, which holds the trials' documents already.
        trials: to be recorded.
        say: called with what the end of the run waits for, and its progress.
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
        self._read_at: dict[str, float] = {}
        """Time when a stage's curve was last due."""
        self._settled: set[str] = set()
        """Stages whose last news is recorded."""
        self._trials = _Trials(home, self._sweeps)
        self._accountant, self._account_at = Accountant(Store(home), self._stages), 0.0
        self._progress_at, self._is_complete = time.monotonic(), False
        """Time of MLflow's last response or of the last step without it, and whether everything is recorded."""
        self._waits_for: Literal["imports", "Slurm", "MLflow"] = "imports"
        """What the thread depends on now."""
        self._is_interrupted = self._has_failed = False
        """Whether Ctrl-C ended the wait, whether the run raised an error."""
        self._failure: SmaugError | None = None
        # A daemon: a call that hangs does not keep the process from ending.
        self._thread = threading.Thread(target=self._work, name="recorder", daemon=True)
        self.error: SmaugError | None = None
        """After the run: what is not recorded, and why."""

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with self._changed:
            self._closed, self._has_failed, self._progress_at = True, kind is not None, time.monotonic()
            self._changed.notify()
        try:
            self._wait_for_the_end()
        except KeyboardInterrupt:
            self._is_interrupted = True
        self.error = self._missing()

    def _wait_for_the_end(self) -> None:
        """Wait until all is recorded, as long as MLflow responds; imports and Slurm take as long as they take."""
        next_message = time.monotonic() + MESSAGE_EVERY_S
        while self._thread.is_alive() and not (
            self._waits_for == "MLflow" and time.monotonic() - self._progress_at > PATIENCE_S
        ):
            self._thread.join(timeout=POLL_S)
            if self._thread.is_alive() and time.monotonic() > next_message:
                next_message = time.monotonic() + MESSAGE_EVERY_S
                done, count = len(self._settled), len(self._stages)
                mlflow = f"MLflow at {redacted(tracking_uri(self._home))}"
                what = "Slurm's accounting" if self._waits_for == "Slurm" else mlflow
                self._say(
                    f"waiting for {what}: {done} of {count} stages are recorded;"
                    " Ctrl-C ends the wait, and `smaug sync` records the rest"
                )

    def __call__(self, event: Event) -> None:
        """Note that a stage has news."""
        name, now = event.stage.fingerprint, time.monotonic()
        self._accountant(event)
        if event.kind in ("queued", "waiting", "held", "blocked", "paused"):
            return
        if event.kind == "progress" and now - self._read_at.get(name, 0.0) < CURVE_EVERY_S:
            return
        with self._changed:
            self._read_at[name] = now
            self._due[name] = (event.stage, event.kind in ("cached", "done", "failed"))
            if event.kind != "progress":
                self._touched.add(name)
            self._changed.notify()

    def _work(self) -> None:
        from experiments.tracking.writer import MlflowWriter  # takes seconds to load: while the stages start

        writer, rest = MlflowWriter(self._home, self._progressed), 0.0
        self._account(self._accountant.query)
        while self._wait(rest):
            began, rest = time.monotonic(), 0.0
            if self._due or self._trials.due:
                rest = REST * (time.monotonic() - began) if self._record(writer, driven=True) else RETRY_S
            if time.monotonic() >= self._account_at:
                self._account(self._accountant.query)
        if not self._has_failed:
            self._account(self._accountant.finish)
        with self._changed:
            for stage in self._stages:
                if stage.fingerprint not in self._settled:
                    self._due[stage.fingerprint] = (stage, True)
        self._is_complete = self._record(writer, driven=False)

    def _account(self, query: Callable[[], list[Stage]]) -> None:
        """Query Slurm's accounting, and note which stages have corrected hours."""
        self._waits_for = "Slurm"
        corrected = query()
        with self._changed:
            for stage in corrected:
                self._due[stage.fingerprint] = (stage, stage.fingerprint in self._settled)
                self._touched.add(stage.fingerprint)
        self._progressed()
        self._waits_for, self._account_at = "MLflow", time.monotonic() + ACCOUNT_EVERY_S

    def _progressed(self) -> None:
        self._progress_at = time.monotonic()

    def _wait(self, rest: float) -> bool:
        """Pause, then wait for news or for the next query of Slurm; return whether the run goes on."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed, timeout=rest)
            until = max(0.0, self._account_at - time.monotonic())
            self._changed.wait_for(lambda: self._closed or self._due or self._trials.due, timeout=until)
            return not self._closed

    def _record(self, writer: "MlflowWriter", *, driven: bool) -> bool:
        """Flush pending updates to MLflow; return False on failure and keep them pending."""
        self._progressed()
        try:
            self._prepare(writer, again=not driven)
            self._record_stages(writer)
            self._record_trials(writer, driven=driven)
            if not driven:
                writer.record_spending()
        except SmaugError as error:
            self._failure = error
            return False
        return True

    def _prepare(self, writer: "MlflowWriter", *, again: bool) -> None:
        """Read once which runs are recorded already, and which trials there are."""
        if not self._trials.documents:
            writer.prepare(*self._sweeps)
            many = [STAGES] if len(self._stages) >= READ_AHEAD_FROM else []
            writer.read_ahead(*many, *map(experiment_of, self._sweeps))
        if again or not self._trials.documents:
            self._trials.read()  # again at the end: another driver may have added some

    def _record_stages(self, writer: "MlflowWriter") -> None:
        with self._changed:
            news = list(self._due.items())
            self._trials.touch(self._touched)
            self._touched.clear()
        for name, due in news:
            stage, is_last = due
            facts = stage_record(self._home, stage.kind, stage.fingerprint)
            if facts is not None:
                writer.record_stage(facts)
            with self._changed:
                if self._due[name] is due:
                    del self._due[name]
                    self._settled |= {name} if is_last else set()
            self._progressed()

    def _record_trials(self, writer: "MlflowWriter", *, driven: bool) -> None:
        for index in list(self._trials.due):
            document = self._trials.documents[index]
            facts = trial_record(self._home, document)
            ours = (document.fingerprint, document.variant) in self._ours
            writer.record_trial(facts, driven=driven and ours, valid=index in self._trials.valid)
            self._trials.due.pop(index)
            self._progressed()

    def _missing(self) -> SmaugError | None:
        if self._is_complete:
            return None
        store = Store(self._home)
        with self._changed:
            begun = [stage for stage in self._stages if (store.directory(stage) / "attempts").exists()]
            missing = [s for s in begun if s.fingerprint in self._due or s.fingerprint not in self._settled]
        what = f"{len(missing)} of {len(self._stages)} stages" if missing else "trials"
        if self._thread.is_alive() and self._is_interrupted:
            return SmaugError(f"{what}: the wait for MLflow was ended by Ctrl-C; {LATER}")
        if self._thread.is_alive():
            return SmaugError(f"{what}: MLflow did not answer for {PATIENCE_S:.0f} s; {LATER}")
        return SmaugError(f"{what}: {self._failure or f'the thread that records ended early; {LATER}'}")


class _Trials:
    """Trials of some sweeps, those of a killed driver included, and which of them have news."""

    def __init__(self, home: Path, sweeps: Sequence[str]) -> None:
        self._home, self._sweeps = home, sweeps
        self.documents: list[TrialDocument] = []
        self.valid: set[int] = set()
        """Indices of the valid documents."""
        self.due: dict[int, None] = {}
        self._by_stage: dict[str, list[int]] = {}

    def read(self) -> None:
        """Read all trials; each of them has news."""
        self.documents = [document for sweep in self._sweeps for document in trial_documents(self._home, sweep)]
        valid = {id(document) for document in valid_documents(self.documents)}
        self.valid = {index for index, document in enumerate(self.documents) if id(document) in valid}
        self.due, self._by_stage = dict.fromkeys(range(len(self.documents))), {}
        for index in self.valid:
            for stage in self.documents[index].stages:
                self._by_stage.setdefault(stage.fingerprint, []).append(index)

    def touch(self, stages: set[str]) -> None:
        """Note that these stages changed their state."""
        for name in stages:
            self.due |= dict.fromkeys(self._by_stage.get(name, ()))
