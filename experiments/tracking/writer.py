"""Writer of MLflow's runs; the live recorder calls it during a sweep, `sync` for a home folder.

Experiment `smaug/stages` has a run for each stage, the owner of the hours spent; experiment `smaug/<sweep>` has a
flat run for each trial. A run is identified by its fingerprint, so that recording twice changes nothing.
"""

import time
from collections.abc import Callable
from pathlib import Path

from experiments.console import complain
from experiments.store.documents import TrialDocument
from experiments.store.examples import FOLDER as EXAMPLES
from experiments.store.records import StageRecord, TrialRecord
from experiments.tracking.client import (
    Experiment,
    MlflowClient,
    Run,
    TrackingError,
    connect,
    exists,
    experiment_named,
    metric,
    remove_partials,
    runs_where,
    tag_experiment,
    tagged,
    translate_errors,
    write,
    write_files,
)
from experiments.tracking.database import DATABASE, database_file, lock, redacted, settle
from experiments.tracking.location import tracking_uri
from experiments.tracking.reader import sweep_spending
from experiments.tracking.run_content import (
    CONTENT,
    FINGERPRINT,
    STAGES,
    SUPERSEDED,
    KnownRun,
    RunContent,
    experiment_of,
    key_of,
    milliseconds,
    new_points,
    run_of_stage,
    run_of_trial,
    short_digest,
)
from experiments.tracking.ui_views import (
    KIND,
    NOTE,
    SPENT,
    STAGES_NOTE,
    missing,
    spent_tag,
    stages_view,
    sweep_note,
    sweep_view,
)

CREATED, FILES, CURVE_STEP = "smaug.made", "smaug.files", "smaug.curve_step"
"""Tags with the time when a run was created, and with how much of its files and its curve has been written."""


class MlflowWriter:
    """Writer of stages and trials. Every call may be repeated, and one that failed can be made up for later.

    Every method raises TrackingError where MLflow cannot be reached or refuses.
    """

    def __init__(self, home: Path, on_response: Callable[[], None] | None = None) -> None:
        """Record what happens in a home folder; nothing is opened yet.

        Args:
            home: the home folder.
            on_response: called after each response of MLflow.
        """
        self._home, self.uri, self._on_response = home.resolve(), tracking_uri(home), on_response
        self._experiments: dict[str, Experiment] = {}
        self._documents: dict[str, TrialDocument] = {}
        """A valid trial of each sweep that was recorded."""
        self._has_news = False
        """Whether something was written, so that the recorded spending of sweeps may be outdated."""
        self._views: set[tuple[str, str]] = set()
        """Experiments and scales whose views exist."""
        self._known: dict[tuple[str, ...], KnownRun] = {}
        self._stages: dict[str, str] = {}
        self._client: MlflowClient | None = None

    def prepare(self, *sweeps: str) -> None:
        """Make the database and the experiments, where they are missing."""
        with translate_errors(self.uri):
            for name in (STAGES, *map(experiment_of, sweeps)):
                self._experiment(name)

    def read_ahead(self, *experiments: str) -> None:
        """Read all runs of some experiments at once; what has not changed since then costs no call."""
        if not exists(self.uri):
            return
        with translate_errors(self.uri):
            for name in experiments:
                experiment = self.client.get_experiment_by_name(name)
                if experiment is None:
                    continue
                if experiment.lifecycle_stage == "active":
                    self._experiments[name] = experiment
                for run in runs_where(self.client, [experiment.experiment_id]):
                    tags, info = run.data.tags, run.info
                    is_superseded, digest = SUPERSEDED in tags, tags.get(CONTENT, "")
                    known = KnownRun(info.run_id, is_superseded, digest, info.status, info.end_time)
                    self._known[key_of(name, tags, info.start_time)] = known
                    if name == STAGES and not is_superseded:
                        self._stages[tags.get(FINGERPRINT, "")] = info.run_id

    def record_stage(self, facts: StageRecord) -> str:
        """Record a stage as it is now; return its run's id."""
        with translate_errors(self.uri):
            self._stages[facts.fingerprint] = self._record(run_of_stage(facts))
            if (STAGES, "") not in self._views:
                self._show(STAGES, {NOTE: STAGES_NOTE})
                self._show(STAGES, missing(self._experiment(STAGES).tags, KIND | stages_view()))
                self._views.add((STAGES, ""))
        return self._stages[facts.fingerprint]

    def record_spending(self) -> None:
        """Record what the distinct stages of each recorded sweep took.

        It is read from MLflow, not from this home folder: another may have run a part of the sweep.
        """
        with translate_errors(self.uri):
            for document in self._documents.values() if self._has_news else ():
                name = experiment_of(document.sweep)
                stages = self._experiment(STAGES).experiment_id
                spent = sweep_spending(self.client, self._experiment(name).experiment_id, stages)
                for scale, totals in spent.items():
                    self._show(name, spent_tag(scale, totals))
                self._show(name, {NOTE: sweep_note(document, spent)})
        self._has_news = False

    def record_trial(self, facts: TrialRecord, *, driven: bool = False, valid: bool = True) -> str:
        """Record a trial as it is now; return its run's id.

        Args:
            facts: the trial and its stages.
            driven: a driver is active, so what is not done is still to come.
            valid: it is the newest of its sweep, scale, variant and seed; the others are tagged as superseded.
        """
        document = facts.document
        with translate_errors(self.uri):
            stages = self._experiment(STAGES).experiment_id
            content = run_of_trial(facts, self._stage_runs(facts), stages, driven=driven, valid=valid)
            run_id = self._record(content)
            if valid:
                self._describe(content.experiment, document)
            return run_id

    def _describe(self, name: str, document: TrialDocument) -> None:
        """Add what the page of a sweep's experiment lacks; its description is updated with its spending."""
        tags, scale = self._experiment(name).tags, document.scale
        self._documents[document.sweep] = document
        self._has_news |= not (tags.get(NOTE) and tags.get(SPENT + scale))
        if (name, scale) not in self._views:
            self._show(name, missing(tags, KIND | {NOTE: sweep_note(document)} | sweep_view(document)))
            self._views.add((name, scale))

    @property
    def client(self) -> MlflowClient:
        """Connection, opened when first used; one process at a time makes a new database."""
        if self._client is None:
            if (moved := settle(self._home, self.uri)) is not None:
                complain(moved)
            with lock(self._home):
                if database_file(self.uri) == self._home / DATABASE:  # another home's drivers do not take this lock
                    remove_partials(self.uri)
                self._client = connect(self.uri, self._on_response)
        return self._client

    def _experiment(self, name: str) -> Experiment:
        if name not in self._experiments:
            client = self.client
            with lock(self._home):
                experiment = experiment_named(client, name, self._home / "artifacts")
            if experiment.lifecycle_stage != "active":
                raise TrackingError(f"{redacted(self.uri)}: experiment {name} was deleted there; restore it in MLflow")
            self._experiments[name] = experiment
        return self._experiments[name]

    def _show(self, name: str, tags: dict[str, str]) -> None:
        """Write the tags of an experiment that differ."""
        experiment = self._experiment(name)
        changed = {key: value for key, value in tags.items() if experiment.tags.get(key) != value}
        tag_experiment(self.client, experiment.experiment_id, changed)
        experiment.tags.update(changed)

    def _record(self, content: RunContent) -> str:
        known = self._known.pop(content.key, None)  # forgotten if anything goes wrong
        if known is None or not known.holds(content):
            run = self._run(content, known)
            self._has_news = True
            self._write(run, content)
            self._set_status(run, content)
            known = KnownRun(run.info.run_id, False, content.digest, content.status, content.end_time)
        self._known[content.key] = known
        return known.run_id

    def _run(self, content: RunContent, known: KnownRun | None) -> Run:
        """Return the run to write to, created if missing, and left the only valid one of its claim."""
        if known is not None:
            run = self.client.get_run(known.run_id)
            if run.info.lifecycle_stage == "active" and not (content.valid and SUPERSEDED in run.data.tags):
                return run
        self._experiment(content.experiment)  # before the lock, which it takes too
        with lock(self._home):
            same, others = self._find(content)
            run = same[0] if same else self._new_run(content)
        if content.valid:
            self._supersede(run, others)
        return run

    def _find(self, content: RunContent) -> tuple[list[Run], list[Run]]:
        """Return the runs with this content's identity, first created first, and the others with its claim."""
        same: list[Run] = []
        others: list[Run] = []
        experiment_id = self._experiment(content.experiment).experiment_id
        for run in runs_where(self.client, [experiment_id], tagged(content.claim)):
            key = key_of(content.experiment, run.data.tags, run.info.start_time)
            (same if key == content.key else others).append(run)
        return sorted(same, key=lambda run: (run.data.tags.get(CREATED, ""), run.info.run_id)), others

    def _new_run(self, content: RunContent) -> Run:
        created = self.client.create_run(
            self._experiment(content.experiment).experiment_id,
            start_time=milliseconds(content.started),
            tags=content.claim | content.own | {CREATED: f"{time.time():.6f}"},
            run_name=content.name,
        )
        first = self._find(content)[0][0]
        if first.info.run_id != created.info.run_id:  # a driver of another home folder was faster
            self.client.delete_run(created.info.run_id)
        return first

    def _supersede(self, valid: Run, others: list[Run]) -> None:
        run_id = valid.info.run_id
        for other in others:
            if other.data.tags.get(SUPERSEDED) != run_id:
                self.client.set_tag(other.info.run_id, SUPERSEDED, run_id)
            if other.info.status == "RUNNING":
                self.client.set_terminated(other.info.run_id, "KILLED")
        if SUPERSEDED in valid.data.tags:
            self.client.delete_tag(run_id, SUPERSEDED)

    def _write(self, run: Run, content: RunContent) -> None:
        """Add what the run does not hold yet; the tags last, since they state that the rest is there."""
        run_id, data, files = run.info.run_id, run.data, short_digest(content.files)
        if data.tags.get(FILES) != files:
            pictures = {f"{EXAMPLES}/{example.file}": example.png for example in content.examples}
            write_files(self.client, run_id, pictures)
            for name, value in content.files.items():
                self.client.log_dict(run_id, value, name)
        curve = content.curve()
        points = new_points(curve, int(data.tags.get(CURVE_STEP, -1))) + content.changed_metrics(data.metrics)
        params = {key: value for key, value in content.params.items() if key not in data.params}
        tags = content.tags | {FILES: files, CONTENT: content.digest}
        tags |= {CURVE_STEP: str(curve[-1].step)} if curve else {}
        changed = {key: value for key, value in tags.items() if data.tags.get(key) != value}
        changed |= missing(data.tags, content.defaults)
        write(self.client, run_id, [metric(*point) for point in points], params, changed)

    def _set_status(self, run: Run, content: RunContent) -> None:
        run_id, ended = run.info.run_id, content.end_time
        if ended is None:
            if run.info.status != "RUNNING":
                self.client.update_run(run_id, status="RUNNING")
        elif (run.info.status, run.info.end_time) != (content.status, ended):
            self.client.set_terminated(run_id, content.status, ended)

    def _stage_runs(self, facts: TrialRecord) -> dict[str, str]:
        """Return the run ids of the trial's stages that are recorded, by name."""
        ids = {}
        for stage, record in facts.stages:
            fingerprint = stage.fingerprint
            if record is not None and fingerprint not in self._stages:
                experiment_id = self._experiment(STAGES).experiment_id
                for run in runs_where(self.client, [experiment_id], tagged({FINGERPRINT: fingerprint})):
                    if SUPERSEDED not in run.data.tags:
                        self._stages[fingerprint] = run.info.run_id
            if fingerprint in self._stages:
                ids[stage.name] = self._stages[fingerprint]
        return ids
