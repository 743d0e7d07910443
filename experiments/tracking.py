"""The ledger in MLflow, writing and reading; the only importer of mlflow.

Experiment `smaug/stages` has a run for each stage, the owner of the hours spent; experiment `smaug/<sweep>` has a
flat run for each trial. A run is found again by its fingerprint, so that recording twice changes nothing.
"""

import fcntl
import json
import logging
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from experiments.ledger import TrialRow, identity_tags, row_of_run, stage_tags, trial_tags
from experiments.records import StageFacts, TrialFacts, all_stages, superseded, trial_documents, trial_facts
from smaug_core.errors import SmaugError

os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # mlflow's own choice keeps a driver waiting for minutes
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")

from mlflow.entities import Experiment, Metric, Param, Run, RunTag  # noqa: E402
from mlflow.exceptions import MlflowException  # noqa: E402
from mlflow.tracking import MlflowClient  # noqa: E402
from sqlalchemy.exc import SQLAlchemyError  # noqa: E402

STAGES = "smaug/stages"
READ_ADVICE = "see that it is up, and that MLFLOW_TRACKING_URI is right"
METRICS_AT_ONCE = 1000
"""MLflow refuses more in one call; of parameters and tags, more than 100."""
PARAMS_AT_ONCE = 100


class TrackingError(SmaugError):
    """MLflow cannot be reached, refuses, or holds something that contradicts itself."""


def tracking_uri(home: Path) -> str:
    """Where the ledger is: MLFLOW_TRACKING_URI, else a database in the home folder."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{home.resolve() / 'mlflow.db'}"


class Tracker:
    """Writes the ledger; every call may be repeated, and one that fails may be made up for later."""

    def __init__(self, home: Path) -> None:
        """Record what happens in a home folder; nothing is opened yet."""
        self._home, self.uri = home.resolve(), tracking_uri(home)
        self._experiments: dict[str, str] = {}
        self._runs: dict[tuple[str, str], str] = {}
        self._client: MlflowClient | None = None

    def prepare(self, *sweeps: str) -> None:
        """Make the database and the experiments, where they are missing.

        Raises:
            TrackingError: MLflow cannot be reached or refuses.
        """
        with _told(self.uri):
            for name in (STAGES, *(f"smaug/{sweep}" for sweep in sweeps)):
                self._experiment(name)

    def record_stage(self, facts: StageFacts) -> str:
        """Make the stage's run tell what is known now; gives the run's id.

        Raises:
            TrackingError: MLflow cannot be reached or refuses.
        """
        with _told(self.uri):
            name = f"{facts.document['name']} {facts.fingerprint[:12]}"
            run = self._run(STAGES, facts.fingerprint, {"smaug.fingerprint": facts.fingerprint}, name, facts.started)
            hours, at = facts.record.hours, facts.last_sign
            spent = {f"hours.{part}": (getattr(hours, part), at) for part in ("useful", "lost", "overhead", "billed")}
            self._log(run, self._new_points(run, facts) + _changed(run, spent))
            self._tag(run, stage_tags(facts))
            self.client.log_dict(run.info.run_id, {"attempts": facts.attempts()}, "attempts.json")
            self._set_status(run, facts.status, facts.last_sign)
            return str(run.info.run_id)

    def record_trial(self, facts: TrialFacts, *, driven: bool = False, valid: bool = True) -> str:
        """Make the trial's run tell what is known now; gives the run's id.

        Args:
            facts: what its stages did so far.
            driven: a driver is at it, so what is not done is still to come.
            valid: it is the newest of its sweep, scale, variant and seed; the others are tagged as superseded.

        Raises:
            TrackingError: MLflow cannot be reached or refuses.
        """
        document = facts.document
        with _told(self.uri):
            experiment = f"smaug/{document['sweep']}"
            key = identity_tags(document) | {"smaug.fingerprint": document["fingerprint"]}
            name = f"{document['variant']} seed {document['seed']} {document['scale']}"
            run = self._run(experiment, json.dumps(key), key, name, facts.started)
            self._log(run, _changed(run, facts.metrics()))
            new = [Param(k, str(v)) for k, v in document["params"].items() if k not in run.data.params]
            for start in range(0, len(new), PARAMS_AT_ONCE):
                self.client.log_batch(run.info.run_id, params=new[start : start + PARAMS_AT_ONCE])
            self._tag(run, trial_tags(facts, self._stage_runs(facts)))
            for dataset, ranks in facts.ranks().items():
                self.client.log_dict(run.info.run_id, ranks, _ranks_file(dataset))
            self._set_status(run, facts.status(driven=driven and valid), facts.last_sign)
            if valid:
                self._supersede(run, experiment, document)
            return str(run.info.run_id)

    @property
    def client(self) -> MlflowClient:
        """The connection, opened when first used; one process at a time makes a new database."""
        if self._client is None:
            with self._lock():
                self._client = _connect(self.uri)
        return self._client

    @contextmanager
    def _lock(self) -> Iterator[None]:
        """Exclude other drivers of this home folder while something is looked for and made if missing."""
        self._home.mkdir(parents=True, exist_ok=True)
        with (self._home / "tracking.lock").open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _experiment(self, name: str) -> str:
        if name not in self._experiments:
            client = self.client
            with self._lock():
                found = client.get_experiment_by_name(name)
                if found is None:
                    local = (self._home / "artifacts").as_uri() if self.uri.startswith("sqlite:") else None
                    self._experiments[name] = client.create_experiment(name, artifact_location=local)
                elif found.lifecycle_stage != "active":
                    raise TrackingError(f"{self.uri}: experiment {name} was deleted there; restore it in MLflow")
                else:
                    self._experiments[name] = found.experiment_id
        return self._experiments[name]

    def _run(self, experiment: str, key: str, tags: dict[str, str], name: str, started: float) -> Run:
        """The run with these tags, made if missing."""
        if (experiment, key) not in self._runs:
            experiment_id = self._experiment(experiment)
            with self._lock():
                found = _search(self.client, [experiment_id], _filter(tags))
                run = found[0] if found else None
                if run is None:
                    run = self.client.create_run(
                        experiment_id, start_time=_milliseconds(started), tags=tags, run_name=name
                    )
            self._runs[experiment, key] = run.info.run_id
        return self.client.get_run(self._runs[experiment, key])

    def _new_points(self, run: Run, facts: StageFacts) -> list[Metric]:
        """The training curve beyond what was recorded; steps done again are not told twice."""
        recorded = int(run.data.tags.get("smaug.curve_step", -1))
        return [
            Metric(name, value, _milliseconds(point["time"]), point["step"])
            for point in facts.curve()
            for name, value in point["values"].items()
            if point["step"] > recorded
        ]

    def _log(self, run: Run, points: list[Metric]) -> None:
        for point in points:
            if not re.fullmatch(r"[\w\-. /:]+", point.key, re.ASCII):
                raise TrackingError(
                    f"metric {point.key!r}: MLflow allows letters, digits, _ - . / : and space; rename it"
                )
        for start in range(0, len(points), METRICS_AT_ONCE):
            self.client.log_batch(run.info.run_id, metrics=points[start : start + METRICS_AT_ONCE])

    def _tag(self, run: Run, tags: dict[str, str]) -> None:
        new = [RunTag(key, value) for key, value in tags.items() if run.data.tags.get(key) != value]
        if new:
            self.client.log_batch(run.info.run_id, tags=new)

    def _set_status(self, run: Run, status: str, ended: float) -> None:
        if status == "RUNNING":
            if run.info.status != "RUNNING":
                self.client.update_run(run.info.run_id, status="RUNNING")
        elif (run.info.status, run.info.end_time) != (status, _milliseconds(ended)):
            self.client.set_terminated(run.info.run_id, status, _milliseconds(ended))

    def _stage_runs(self, facts: TrialFacts) -> dict[str, str]:
        """Run ids of the trial's stages that are recorded, by name."""
        found = {}
        for told, _ in facts.stages:
            fingerprint = told["fingerprint"]
            if (STAGES, fingerprint) not in self._runs:
                tags = {"smaug.fingerprint": fingerprint}
                for run in _search(self.client, [self._experiment(STAGES)], _filter(tags)):
                    self._runs[STAGES, fingerprint] = run.info.run_id
            if (STAGES, fingerprint) in self._runs:
                found[told["name"]] = self._runs[STAGES, fingerprint]
        return found

    def _supersede(self, valid: Run, experiment: str, document: dict[str, Any]) -> None:
        """Leave `valid` the only run of its sweep, scale, variant and seed that counts."""
        run_id = valid.info.run_id
        for other in _search(self.client, [self._experiment(experiment)], _filter(identity_tags(document))):
            if other.info.run_id != run_id:
                self._tag(other, {"smaug.superseded_by": run_id})
                if other.info.status == "RUNNING":
                    self.client.set_terminated(other.info.run_id, "KILLED")
        if "smaug.superseded_by" in valid.data.tags:
            self.client.delete_tag(run_id, "smaug.superseded_by")


def sync(home: Path) -> tuple[int, int]:
    """Make the ledger tell all that the home folder holds; gives the numbers of stages and of trials.

    Raises:
        TrackingError: MLflow cannot be reached or refuses.
    """
    tracker, documents = Tracker(home), trial_documents(home)
    stages = [tracker.record_stage(facts) for facts in all_stages(home)]
    outdated = [id(old) for old, _ in superseded(documents)]
    for document in documents:
        tracker.record_trial(trial_facts(home, document), valid=id(document) not in outdated)
    return len(stages), len(documents)


def read_trials(home: Path) -> list[TrialRow]:
    """Every trial that is not superseded, of all sweeps; none where nothing was ever recorded.

    Raises:
        TrackingError: MLflow cannot be reached, or two runs claim the same sweep, scale, variant and seed.
    """
    uri = tracking_uri(home)
    if not _exists(uri):
        return []
    with _told(uri, READ_ADVICE):
        client = _connect(uri)
        experiments: list[Experiment] = _pages(
            lambda token: client.search_experiments(filter_string="name LIKE 'smaug/%'", page_token=token)
        )
        ids = [e.experiment_id for e in experiments if e.name != STAGES]
        runs = _search(client, ids, "") if ids else []
    rows = [
        row_of_run(run.info.run_id, run.info.status, run.data.tags, run.data.metrics)
        for run in runs
        if "smaug.superseded_by" not in run.data.tags and "smaug.columns" in run.data.tags
    ]
    seen: dict[tuple[str, str, str, str], TrialRow] = {}
    for row in rows:
        other = seen.setdefault((row.sweep, row.scale, row.variant, row.seed), row)
        if other is not row:
            raise TrackingError(
                f"{uri}: runs {other.run_id} and {row.run_id} both claim {row.sweep}, scale {row.scale}, variant"
                f" {row.variant}, seed {row.seed}; delete one, or tag it smaug.superseded_by with the other's id"
            )
    return sorted(rows, key=lambda row: (row.sweep, row.scale, row.position, row.variant, row.seed))


def read_ranks(home: Path, run_id: str, dataset: str) -> dict[str, int]:
    """The rank of each query's clip, by query id, in a trial's evaluation on a dataset.

    Raises:
        TrackingError: MLflow cannot be reached or holds no such ranks.
    """
    uri = tracking_uri(home)
    if not _exists(uri):
        raise TrackingError(f"{uri}: no such database; run a sweep first")
    missing = f"run {run_id} must hold {_ranks_file(dataset)}"
    with _told(uri, missing), TemporaryDirectory() as folder:
        path = _connect(uri).download_artifacts(run_id, _ranks_file(dataset), folder)
        ranks: dict[str, int] = json.loads(Path(path).read_text())
        return ranks


def serve_ui(home: Path, *, host: str = "127.0.0.1", port: int = 5000) -> None:
    """Become MLflow's web server for this ledger; does not return.

    Raises:
        TrackingError: the ledger is on a server, which shows it itself.
    """
    uri = tracking_uri(home)
    if not uri.startswith("sqlite:"):
        raise TrackingError(f"MLFLOW_TRACKING_URI is {uri}: open that server's own page")
    Tracker(home).prepare()
    options = {
        "--backend-store-uri": uri,
        "--default-artifact-root": str(home.resolve() / "artifacts"),
        "--host": host,
        "--port": str(port),
        "--workers": "1",
    }
    arguments = [word for option in options.items() for word in option]
    os.execv(sys.executable, [sys.executable, "-m", "mlflow", "server", *arguments, "--no-serve-artifacts"])


def _connect(uri: str) -> MlflowClient:
    for name in ("alembic", "mlflow.store.db.utils"):
        logging.getLogger(name).setLevel(logging.WARNING)
    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    client.search_experiments(max_results=1)  # a new database is made here, not at some later call
    return client


def _exists(uri: str) -> bool:
    return not uri.startswith("sqlite:///") or Path(uri.removeprefix("sqlite:///")).exists()


@contextmanager
def _told(uri: str, advice: str = "results stay in the store, and `smaug sync` records them later") -> Iterator[None]:
    """Let whatever MLflow meets be told as one error."""
    try:
        yield
    except (MlflowException, SQLAlchemyError, OSError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise TrackingError(f"MLflow at {uri}: {lines[0][:300]}; {advice}") from error


def _pages(ask: Callable[[str | None], Any]) -> list[Any]:
    """All pages of an answer."""
    page = ask(None)
    found = list(page)
    while page.token:
        page = ask(page.token)
        found += page
    return found


def _search(client: MlflowClient, experiment_ids: list[str], wanted: str) -> list[Run]:
    """All runs that are wanted, in the order of their start."""
    order = ["attributes.start_time ASC", "attributes.run_id ASC"]
    return _pages(lambda token: client.search_runs(experiment_ids, wanted, order_by=order, page_token=token))


def _filter(tags: dict[str, str]) -> str:
    return " and ".join(f"tags.`{key}` = {_quoted(value)}" for key, value in tags.items())


def _quoted(value: str) -> str:
    return f'"{value}"' if "'" in value else f"'{value}'"


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)


def _changed(run: Run, values: dict[str, tuple[float, float]]) -> list[Metric]:
    """The metrics whose value is not the one recorded last."""
    return [
        Metric(name, value, _milliseconds(at), 0)
        for name, (value, at) in values.items()
        if run.data.metrics.get(name) != value
    ]


def _ranks_file(dataset: str) -> str:
    return f"ranks/{dataset.replace('/', '__')}.json"
