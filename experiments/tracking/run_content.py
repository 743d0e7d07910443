"""Content of MLflow's runs, made of the records of stages and trials. Imports no mlflow."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from experiments.store.attempt_files import Owner
from experiments.store.documents import CurvePoint
from experiments.store.examples import FOLDER as EXAMPLES
from experiments.store.examples import LIST, Example
from experiments.store.records import RunStatus, StageRecord, TrialRecord
from experiments.tracking.run_schema import ENERGY, HOURS, StageRow, TrialRow, encode, sorted_json, tags_of
from experiments.tracking.ui_views import COLOR, NOTE, color, per_hour, trial_note

STAGES = "smaug/stages"
"""Experiment of all stages; the trials of a sweep are in `smaug/<sweep>`."""
FINGERPRINT, SUPERSEDED = tags_of(StageRow)["fingerprint"].name, "smaug.superseded_by"
CONTENT = "smaug.told"
"""Tag with the digest of all content; written last."""
MEMORY = "memory.peak_bytes"
"""Metric of a stage's run: the most memory that the processes of an attempt held."""
IDENTITY = ("sweep", "scale", "variant", "seed")
"""Fields of a row of which there is one valid trial."""
Point = tuple[str, float, int, int]
"""Name, value, milliseconds since 1970 and step of a metric."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunContent:
    """Everything that the run of a stage or of a trial holds."""

    experiment: str
    claim: dict[str, str]
    """Tags of which there is one valid run; the others are superseded."""
    own: dict[str, str]
    """Further tags that identify the run."""
    name: str
    started: float
    valid: bool
    """Whether it is the valid run of its claim."""
    status: RunStatus
    ended: float
    """Time of the last heartbeat, or of the end, in seconds since 1970."""
    metrics: dict[str, tuple[float, float]]
    """Value and time of each."""
    params: dict[str, str]
    tags: dict[str, str]
    files: dict[str, Any]
    """Content of each file, by name."""
    defaults: dict[str, str]
    """Tags that people may change in MLflow: written only where they are missing."""
    examples: Sequence[Example]
    """Pictures; `files` changes with them, since it holds their list."""
    curve: Callable[[], list[CurvePoint]]
    """`time`, `step`, `values` of every report; it never changes without `files` changing too."""

    @property
    def key(self) -> tuple[str, ...]:
        """Identity of the run."""
        return key_of(self.experiment, self.claim | self.own, milliseconds(self.started))

    @property
    def digest(self) -> str:
        """Digest of all content but the status and the end."""
        return short_digest([self.valid, self.metrics, self.params, self.tags, self.files, self.defaults])

    @property
    def end_time(self) -> int | None:
        """End of the run in milliseconds; None while it runs."""
        return None if self.status == "RUNNING" else milliseconds(self.ended)

    def changed_metrics(self, recorded: Mapping[str, float]) -> list[Point]:
        """Metrics whose value is not the recorded one."""
        metrics = self.metrics.items()
        return [(name, value, milliseconds(at), 0) for name, (value, at) in metrics if recorded.get(name) != value]


@dataclass(frozen=True, slots=True)
class KnownRun:
    """State of a run as it was last read or written."""

    run_id: str
    is_superseded: bool
    digest: str
    status: str
    end_time: int | None

    def holds(self, content: RunContent) -> bool:
        """Return whether there is nothing to write."""
        if self.is_superseded and content.valid:
            return False
        return (self.digest, self.status, self.end_time) == (content.digest, content.status, content.end_time)


def key_of(experiment: str, tags: Mapping[str, str], started: int) -> tuple[str, ...]:
    """Return the identity of a run; a stage that was archived and started again has a run for each start."""
    if experiment == STAGES:
        return experiment, tags.get(FINGERPRINT, ""), str(started)
    names = [tags_of(TrialRow)[field].name for field in IDENTITY]
    return experiment, *(tags.get(name, "") for name in (*names, FINGERPRINT))


def new_points(curve: Sequence[CurvePoint], recorded: int) -> list[Point]:
    """Return the points of a curve beyond the recorded step: a step that was repeated is recorded once."""
    return [
        (name, value, milliseconds(point.time), point.step)
        for point in curve
        for name, value in point.values.items()
        if point.step > recorded
    ]


def milliseconds(seconds: float) -> int:
    """Return a time as MLflow counts it."""
    return round(seconds * 1000)


def short_digest(value: Any) -> str:
    """Return sixteen digits of anything that JSON can hold, NaN included."""
    return hashlib.sha256(sorted_json(value).encode()).hexdigest()[:16]


def experiment_of(sweep: str) -> str:
    """Return the name of the experiment that holds a sweep's trials."""
    return f"smaug/{sweep}"


def ranks_file(task: str) -> str:
    """Return the path of the ranks of a slot's queries among the files of a trial's run."""
    return f"ranks/{task}.json"


def run_of_stage(facts: StageRecord) -> RunContent:
    """Return the content of a stage's run."""
    hours, gallery = facts.hours, facts.gallery
    spent = {"useful": hours.useful, "lost": hours.lost, "overhead": hours.overhead, "billed": hours.billed}
    metrics = {HOURS + part: (value, facts.last_sign) for part, value in spent.items()}
    if facts.result is not None:
        parts = {"loader_wait": facts.result.loader_wait_s, "checkpoint": facts.result.checkpoint_s}
        metrics |= {HOURS + part: (s / 3600, facts.last_sign) for part, s in parts.items() if s}
    if facts.energy_kwh is not None:
        metrics[ENERGY] = (facts.energy_kwh, facts.last_sign)
    if facts.peak_memory_bytes is not None:
        metrics[MEMORY] = (float(facts.peak_memory_bytes), facts.last_sign)
    if (prediction := facts.details.prediction()) is not None:
        metrics[f"{HOURS}predicted"] = (prediction.hours, prediction.time)
    return RunContent(
        experiment=STAGES,
        claim={FINGERPRINT: facts.fingerprint},
        own={},
        name=f"{facts.document.name} {facts.fingerprint[:12]}",
        started=facts.started,
        valid=True,
        status=facts.status,
        ended=facts.last_sign,
        metrics=metrics,
        params={},
        tags=_stage_tags(facts),
        files={"attempts.json": {"attempts": facts.account()} | ({"failure": facts.early.raw} if facts.early else {})}
        | ({} if gallery is None else {f"{EXAMPLES}/{LIST}": gallery.raw}),
        defaults={},
        examples=() if gallery is None else gallery.examples,
        curve=facts.details.curve,
    )


def run_of_trial(
    facts: TrialRecord, stage_runs: dict[str, str], stages: str, *, driven: bool, valid: bool
) -> RunContent:
    """Return the content of a trial's run; `stages` is the id of the experiment that holds its `stage_runs`."""
    document, metrics = facts.document, facts.metrics()
    return RunContent(
        experiment=experiment_of(document.sweep),
        claim=encode(TrialRow, {field: document.raw[field] for field in IDENTITY}),
        own={FINGERPRINT: document.fingerprint},
        name=f"{document.variant} seed {document.seed} {document.scale}",
        started=facts.started,
        valid=valid,
        status=facts.status(driven=driven and valid),
        ended=facts.last_sign,
        metrics=metrics | per_hour(metrics),
        params={key: str(value) for key, value in document.params.items()},
        tags=_trial_tags(facts, stage_runs) | {NOTE: trial_note(document, stage_runs, stages, facts.early)},
        files={ranks_file(task): ranks for task, ranks in facts.ranks().items()},
        defaults={COLOR: color(document)},
        examples=(),
        curve=list,
    )


def _device(host: Owner) -> str:
    count = host.gpus or host.cpus
    nodes = f" on {host.nodes} nodes" if host.nodes > 1 else ""
    return f"{host.device_name} x {count}{nodes}" if count > 1 else host.device_name


def _stage_tags(facts: StageRecord) -> dict[str, str]:
    host, commit, gallery = facts.host, None if facts.result is None else facts.result.commit, facts.gallery
    values = {
        "kind": facts.document.kind,
        "unit": host.unit,
        "device": _device(host),
        "versions": host.versions,
        "attempts": len(facts.attempts),
        "estimated": facts.hours.estimated,
        "corrected": facts.num_corrected,
        "no_energy": facts.no_energy,
        "settings": sorted_json(facts.document.settings),
    }
    values |= {"commit": sorted_json(commit)} if commit else {}
    values |= {} if gallery is None else {"examples": gallery.summary}
    return encode(StageRow, values) | {"smaug.host": host.host}


def _trial_tags(facts: TrialRecord, stage_runs: dict[str, str]) -> dict[str, str]:
    document, evaluations, trained = facts.document, facts.evaluations(), facts.pretrained_on
    unreadable = facts.unreadable()
    values = {
        "title": document.title,
        "table": document.table,
        "row_label": document.report.row,
        "columns": document.report.columns,
        "position": document.position,
        "baseline": document.baseline,
        "stage_runs": stage_runs,
        "device": "" if trained is None else _device(trained.host),
        "unit": "" if trained is None else trained.host.unit,
        "evaluations": evaluations,
        "code": facts.code,
        "marks": facts.marks,
    }
    values |= {"unreadable": unreadable} if unreadable else {}
    digests = {task: notes["test_digest"] for task, notes in evaluations.items()}
    return encode(TrialRow, values) | {"smaug.test_digest": json.dumps(digests)}
