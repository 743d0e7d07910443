"""The ledger in MLflow, writing; `reading` is its other half.

Experiment `smaug/stages` has a run for each stage, the owner of the hours spent; experiment `smaug/<sweep>` has a
flat run for each trial. A run is found again by its fingerprint, so that recording twice changes nothing.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.console import complain
from experiments.store.drivers import living
from experiments.store.examples import FOLDER as EXAMPLES
from experiments.store.export import Records, read_records
from experiments.store.facts import StageFacts, TrialFacts
from experiments.store.trials import all_stages, identity, superseded, trial_documents, trial_facts
from experiments.tracking.client import (
    Experiment,
    MlflowClient,
    Run,
    TrackingError,
    connect,
    exists,
    experiment_named,
    faults_told,
    metric,
    remove_partials,
    runs_tagged,
    tag_experiment,
    write,
    write_files,
)
from experiments.tracking.database import DATABASE, database_file, lock, redacted, set_aside, settle
from experiments.tracking.location import tracking_uri
from experiments.tracking.runs import (
    FINGERPRINT,
    STAGES,
    SUPERSEDED,
    Telling,
    experiment_of,
    key_of,
    milliseconds,
    short_digest,
    tell_stage,
    tell_trial,
)
from experiments.tracking.spending import sweep_spending
from experiments.tracking.ui_views import (
    KIND,
    NOTE,
    SPENT,
    STAGES_NOTE,
    signed,
    spent_tag,
    stages_view,
    sweep_note,
    sweep_view,
    to_write,
)

MADE, TOLD, FILES, CURVE_STEP = "smaug.made", "smaug.told", "smaug.files", "smaug.curve_step"
"""Tags that say when a run was made, and how much of what was to be told has arrived."""


@dataclass(frozen=True, slots=True)
class _Known:
    """What is known of a run without asking for it."""

    run_id: str
    superseded: bool
    told: str
    """Digest of what was told last."""
    status: str
    ended: int | None

    def tells(self, telling: Telling) -> bool:
        """Whether there is nothing to add."""
        if self.superseded and telling.valid:
            return False
        return (self.told, self.status, self.ended) == (telling.digest, telling.status, _end_of(telling))


class Tracker:
    """Writes the ledger; every call may be repeated, and one that fails may be made up for later."""

    def __init__(self, home: Path, answered: Callable[[], None] | None = None) -> None:
        """Record what happens in a home folder; nothing is opened yet.

        Args:
            home: the home folder.
            answered: called after each answer of MLflow.
        """
        self._home, self.uri, self._answered = home.resolve(), tracking_uri(home), answered
        self._experiments: dict[str, Experiment] = {}
        self._shown: dict[str, dict[str, str]] = {}
        self._documents: dict[str, dict[str, Any]] = {}
        """Of each sweep whose trials were recorded, one that counts."""
        self._has_news = False
        """Something was written, so that sweeps may have cost more than they tell."""
        self._dressed: set[tuple[str, str]] = set()
        self._known: dict[tuple[str, ...], _Known] = {}
        self._stages: dict[str, str] = {}
        self._client: MlflowClient | None = None

    def prepare(self, *sweeps: str) -> None:
        """Make the database and the experiments, where they are missing.

        Raises:
            TrackingError: MLflow cannot be reached or refuses.
        """
        with faults_told(self.uri):
            for name in (STAGES, *map(experiment_of, sweeps)):
                self._experiment(name)

    def read_ahead(self, *experiments: str) -> None:
        """Look at all runs of some experiments at once; what has not changed since then costs no call.

        Raises:
            TrackingError: MLflow cannot be reached or refuses.
        """
        if not exists(self.uri):
            return
        with faults_told(self.uri):
            for name in experiments:
                found = self.client.get_experiment_by_name(name)
                if found is not None and found.lifecycle_stage == "active":
                    self._experiments[name] = found
                for run in runs_tagged(self.client, [found.experiment_id], {}) if found is not None else ():
                    tags, info = run.data.tags, run.info
                    known = _Known(info.run_id, SUPERSEDED in tags, tags.get(TOLD, ""), info.status, info.end_time)
                    self._known[key_of(name, tags, info.start_time)] = known
                    if name == STAGES and not known.superseded:
                        self._stages[tags.get(FINGERPRINT, "")] = info.run_id

    def record_stage(self, facts: StageFacts) -> str:
        """Make the stage's run tell what is known now; gives the run's id.

        Raises:
            TrackingError: MLflow cannot be reached or refuses.
        """
        with faults_told(self.uri):
            self._stages[facts.fingerprint] = self._record(tell_stage(facts))
            self._dress(STAGES, "", KIND | {NOTE: signed(STAGES_NOTE)} | stages_view())
        return self._stages[facts.fingerprint]

    def record_spending(self) -> None:
        """Have each sweep whose trials were recorded tell what its distinct stages took.

        Read from MLflow, not from what this home folder knows: another may have run a part of the sweep.

        Raises:
            TrackingError: MLflow cannot be reached or refuses.
        """
        with faults_told(self.uri):
            for document in self._documents.values() if self._has_news else ():
                name = experiment_of(document["sweep"])
                spent = sweep_spending(self.client, self._experiment(name), self._experiment(STAGES))
                for scale, totals in spent.items():
                    self._show(name, spent_tag(scale, totals))
                self._show(name, {NOTE: signed(sweep_note(document, spent))})
        self._has_news = False

    def record_trial(self, facts: TrialFacts, *, driven: bool = False, valid: bool = True) -> str:
        """Make the trial's run tell what is known now; gives the run's id.

        Args:
            facts: what its stages did so far.
            driven: a driver is at it, so what is not done is still to come.
            valid: it is the newest of its sweep, scale, variant and seed; the others are tagged as superseded.

        Raises:
            TrackingError: MLflow cannot be reached or refuses.
        """
        with faults_told(self.uri):
            stage_runs, stages = self._stage_runs(facts), self._experiment(STAGES)
            telling = tell_trial(facts, stage_runs, stages, driven=driven, valid=valid)
            run_id, document = self._record(telling), facts.document
            if valid:
                self._documents[document["sweep"]] = document
                shown = self._shown_by(telling.experiment)
                self._has_news |= not (shown.get(NOTE) and shown.get(SPENT + document["scale"]))
                # A description that is there stays until it is known what was spent.
                note = {} if shown.get(NOTE) else {NOTE: signed(sweep_note(document))}
                self._dress(telling.experiment, document["scale"], KIND | note | sweep_view(document))
            return run_id

    @property
    def client(self) -> MlflowClient:
        """The connection, opened when first used; one process at a time makes a new database."""
        if self._client is None:
            if (moved := settle(self._home, self.uri)) is not None:
                complain(moved)
            with lock(self._home):
                if database_file(self.uri) == self._home / DATABASE:  # another home's drivers do not take this lock
                    remove_partials(self.uri)
                self._client = connect(self.uri, self._answered)
        return self._client

    def _experiment(self, name: str) -> str:
        if name not in self._experiments:
            client = self.client
            with lock(self._home):
                found = experiment_named(client, name, self._home / "artifacts")
            if found.lifecycle_stage != "active":
                raise TrackingError(f"{redacted(self.uri)}: experiment {name} was deleted there; restore it in MLflow")
            self._experiments[name] = found
        return self._experiments[name].experiment_id

    def _dress(self, name: str, scale: str, wanted: dict[str, str]) -> None:
        """Give an experiment what its pages show, once, unless somebody changed it there."""
        if (name, scale) not in self._dressed:
            self._show(name, wanted)
            self._dressed.add((name, scale))

    def _show(self, name: str, wanted: dict[str, str]) -> None:
        """Write tags of an experiment, but what somebody changed there."""
        shown = self._shown_by(name)
        news = to_write(shown, wanted)
        tag_experiment(self.client, self._experiment(name), news)
        shown |= news

    def _shown_by(self, name: str) -> dict[str, str]:
        """Tags of an experiment, as far as they were read and written here."""
        self._experiment(name)
        return self._shown.setdefault(name, dict(self._experiments[name].tags))

    def _record(self, telling: Telling) -> str:
        known = self._known.pop(telling.key, None)  # forgotten if anything goes wrong
        if known is None or not known.tells(telling):
            run, digest = self._run(telling, known), telling.digest
            self._has_news = True
            self._write(run, telling, digest)
            self._set_status(run, telling)
            known = _Known(run.info.run_id, False, digest, telling.status, _end_of(telling))
        self._known[telling.key] = known
        return known.run_id

    def _run(self, telling: Telling, known: _Known | None) -> Run:
        """The run to write to, made if missing, and left the only one of its claim that counts."""
        if known is not None:
            run = self.client.get_run(known.run_id)
            if run.info.lifecycle_stage == "active" and not (telling.valid and SUPERSEDED in run.data.tags):
                return run
        self._experiment(telling.experiment)  # before the lock, which it takes too
        with lock(self._home):
            mine, others = self._find(telling)
            run = mine[0] if mine else self._new_run(telling)
        if telling.valid:
            self._supersede(run, others)
        return run

    def _find(self, telling: Telling) -> tuple[list[Run], list[Run]]:
        """The runs of a telling, the first one made first, and those that make the same claim."""
        mine: list[Run] = []
        others: list[Run] = []
        experiment_id = self._experiment(telling.experiment)
        for run in runs_tagged(self.client, [experiment_id], telling.claim):
            found = key_of(telling.experiment, run.data.tags, run.info.start_time)
            (mine if found == telling.key else others).append(run)
        return sorted(mine, key=lambda run: (run.data.tags.get(MADE, ""), run.info.run_id)), others

    def _new_run(self, telling: Telling) -> Run:
        made = self.client.create_run(
            self._experiment(telling.experiment),
            start_time=milliseconds(telling.started),
            tags=telling.claim | telling.own | {MADE: f"{time.time():.6f}"},
            run_name=telling.name,
        )
        first = self._find(telling)[0][0]
        if first.info.run_id != made.info.run_id:  # a driver of another home folder was quicker
            self.client.delete_run(made.info.run_id)
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

    def _write(self, run: Run, telling: Telling, digest: str) -> None:
        """Add what the run does not hold yet; the tags last, since they say that the rest is there."""
        run_id, data, files = run.info.run_id, run.data, short_digest(telling.files)
        if data.tags.get(FILES) != files:
            write_files(
                self.client, run_id, {f"{EXAMPLES}/{example.file}": example.png for example in telling.examples}
            )
            for name, content in telling.files.items():
                self.client.log_dict(run_id, content, name)
        points = telling.curve()
        metrics = _new_points(points, int(data.tags.get(CURVE_STEP, -1))) + _changed(data.metrics, telling.metrics)
        params = {key: value for key, value in telling.params.items() if key not in data.params}
        tags = telling.tags | {FILES: files, TOLD: digest} | ({CURVE_STEP: str(points[-1]["step"])} if points else {})
        new_tags = {key: value for key, value in tags.items() if data.tags.get(key) != value}
        write(self.client, run_id, metrics, params, new_tags | to_write(data.tags, telling.shown))

    def _set_status(self, run: Run, telling: Telling) -> None:
        run_id, ended = run.info.run_id, _end_of(telling)
        if ended is None:
            if run.info.status != "RUNNING":
                self.client.update_run(run_id, status="RUNNING")
        elif (run.info.status, run.info.end_time) != (telling.status, ended):
            self.client.set_terminated(run_id, telling.status, ended)

    def _stage_runs(self, facts: TrialFacts) -> dict[str, str]:
        """Run ids of the trial's stages that are recorded, by name."""
        found = {}
        for told, stage in facts.stages:
            fingerprint = told["fingerprint"]
            if stage is not None and fingerprint not in self._stages:
                for run in runs_tagged(self.client, [self._experiment(STAGES)], {FINGERPRINT: fingerprint}):
                    if SUPERSEDED not in run.data.tags:
                        self._stages[fingerprint] = run.info.run_id
            if fingerprint in self._stages:
                found[told["name"]] = self._stages[fingerprint]
        return found


def sync(home: Path, *, records: Path | None = None) -> tuple[int, int]:
    """Make the ledger tell all that the home folder holds; gives the numbers of stages and of trials.

    Args:
        home: the folder that holds the store.
        records: a folder of portable records, to be told as well. What the home folder has itself goes first: of a
            stage that was begun here, and of a trial that was asked for here, the records are left out.

    Raises:
        TrackingError: MLflow cannot be reached or refuses.
        RecordError: a record cannot be read; nothing was told.
    """
    given = Records({}, []) if records is None else read_records(records)
    documents, tracker = trial_documents(home), Tracker(home)
    asked = {identity(document) for document in documents}
    more = [document for document in given.documents if identity(document) not in asked]
    tracker.read_ahead(STAGES, *(experiment_of(sweep) for sweep in {d["sweep"] for d in (*documents, *more)}))
    begun = {facts.fingerprint for facts in all_stages(home) if tracker.record_stage(facts)}
    others = [facts for fingerprint, facts in given.stages.items() if fingerprint not in begun]
    for facts in others:
        tracker.record_stage(facts)
    outdated = [id(old) for old, _ in superseded(documents)]
    for document in documents:
        valid, trial = id(document) not in outdated, trial_facts(home, document)
        if valid or all(stage is not None for _, stage in trial.stages):  # else `gc` took some: what was told holds
            tracker.record_trial(trial, valid=valid)
    for document in more:
        tracker.record_trial(given.trial(document))
    tracker.record_spending()
    return len(begun) + len(others), len(documents) + len(more)


def rebuild(home: Path, *, records: Path | None = None) -> tuple[Path | None, int, int]:
    """Set the ledger's database aside and make a new one, as `sync` does; gives where it is now, stages and trials.

    Raises:
        TrackingError: the ledger is on a server, or a driver of this home folder writes to it.
    """
    uri = tracking_uri(home)
    file = database_file(uri)
    if file is None:
        raise TrackingError(f"MLFLOW_TRACKING_URI is {redacted(uri)}: expected an SQLite file to set aside")
    if drivers := living(home):
        owner = drivers[0].owner
        raise TrackingError(
            f"{file}: process {owner['pid']} on {owner['host']} writes to it; wait for its end, or end it"
        )
    with lock(home.resolve()):
        aside = set_aside(file)
    return aside, *sync(home, records=records)


def _end_of(telling: Telling) -> int | None:
    """When the run ended; none while it runs."""
    return None if telling.status == "RUNNING" else milliseconds(telling.ended)


def _new_points(points: list[dict[str, Any]], recorded: int) -> list[Any]:
    """A training curve beyond the step that was recorded; steps done again are not told twice."""
    return [
        metric(name, value, milliseconds(point["time"]), point["step"])
        for point in points
        for name, value in point["values"].items()
        if point["step"] > recorded
    ]


def _changed(recorded: dict[str, float], values: dict[str, tuple[float, float]]) -> list[Any]:
    """The metrics whose value is not the one recorded last."""
    return [
        metric(name, value, milliseconds(at), 0) for name, (value, at) in values.items() if recorded.get(name) != value
    ]
