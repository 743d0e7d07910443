"""How facts are told in MLflow's runs, and read back from them; without mlflow."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from experiments.store.examples import FOLDER as EXAMPLES
from experiments.store.examples import LIST, Example
from experiments.store.facts import RunStatus, StageFacts, TrialFacts
from experiments.store.trials import identity
from experiments.tracking.ui_views import COLOR, NOTE, color, per_hour, signed, trial_note

STAGES = "smaug/stages"
"""The experiment of all stages; the trials of a sweep are in `smaug/<sweep>`."""
LATER = "results stay in the store, and `smaug sync` records them later"
"""What to do about a ledger that cannot be written."""
FINGERPRINT, SUPERSEDED = "smaug.fingerprint", "smaug.superseded_by"
ENERGY = "energy.kwh"
"""Of a stage's run: what its GPUs used in all attempts."""
MEMORY = "memory.peak_bytes"
"""Of a stage's run: the most that the processes of an attempt held of their machine's memory."""
IDENTITY = ("smaug.sweep", "smaug.scale", "smaug.variant", "smaug.seed")
"""Tags that one valid trial has."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Telling:
    """All that the run of a stage or of a trial is to say."""

    experiment: str
    claim: dict[str, str]
    """Tags of which there is one valid run; the others are superseded."""
    own: dict[str, str]
    """Further tags by which the run is found again."""
    name: str
    started: float
    valid: bool
    """It is the one that its claim is true of."""
    status: RunStatus
    ended: float
    """When it last gave a sign of life, or ended, seconds since 1970."""
    metrics: dict[str, tuple[float, float]]
    """Value and time of each."""
    params: dict[str, str]
    tags: dict[str, str]
    files: dict[str, Any]
    """What each file holds, by name."""
    shown: dict[str, str]
    """Tags for MLflow's own pages, which people may change there."""
    examples: Sequence[Example]
    """Pictures; `files` changes with them, for it holds their list."""
    curve: Callable[[], list[dict[str, Any]]]
    """`time`, `step`, `values` of all that was reported; it never changes without `files` changing too."""

    @property
    def key(self) -> tuple[str, ...]:
        """What it is found again by."""
        return key_of(self.experiment, self.claim | self.own, milliseconds(self.started))

    @property
    def digest(self) -> str:
        """Changes with whatever is told, status and end aside."""
        return short_digest([self.valid, self.metrics, self.params, self.tags, self.files, self.shown])


def key_of(experiment: str, tags: Mapping[str, str], started: int) -> tuple[str, ...]:
    """What tells a run from all others: a stage that was begun anew, after it was set aside, has a run of its own."""
    if experiment == STAGES:
        return experiment, tags.get(FINGERPRINT, ""), str(started)
    return experiment, *(tags.get(name, "") for name in (*IDENTITY, FINGERPRINT))


def milliseconds(seconds: float) -> int:
    """As MLflow counts time."""
    return round(seconds * 1000)


def short_digest(value: Any) -> str:
    """Sixteen digits of what JSON can hold, NaN included."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def tell_stage(facts: StageFacts) -> Telling:
    """The run of a stage."""
    hours, gallery = facts.hours, facts.gallery
    spent = {"useful": hours.useful, "lost": hours.lost, "overhead": hours.overhead, "billed": hours.billed}
    metrics = {f"hours.{part}": (value, facts.last_sign) for part, value in spent.items()}
    if facts.energy_kwh is not None:
        metrics[ENERGY] = (facts.energy_kwh, facts.last_sign)
    if facts.peak_memory_bytes is not None:
        metrics[MEMORY] = (float(facts.peak_memory_bytes), facts.last_sign)
    if facts.prediction is not None:
        metrics["hours.predicted"] = (facts.prediction["hours"], facts.prediction["time"])
    return Telling(
        experiment=STAGES,
        claim={FINGERPRINT: facts.fingerprint},
        own={},
        name=f"{facts.document['name']} {facts.fingerprint[:12]}",
        started=facts.started,
        valid=True,
        status=facts.status,
        ended=facts.last_sign,
        metrics=metrics,
        params={},
        tags=_stage_tags(facts) | ({} if gallery is None else {"smaug.examples": gallery.summary[:5000]}),
        files={"attempts.json": {"attempts": facts.account()} | ({"failure": facts.early} if facts.early else {})}
        | ({} if gallery is None else {f"{EXAMPLES}/{LIST}": gallery.listing()}),
        shown={},
        examples=() if gallery is None else gallery.examples,
        curve=facts.details.curve,
    )


def tell_trial(facts: TrialFacts, stage_runs: dict[str, str], stages: str, *, driven: bool, valid: bool) -> Telling:
    """The run of a trial; `stage_runs`: run ids by the stage's name; `stages`: id of the experiment that holds them."""
    document, metrics = facts.document, facts.metrics()
    return Telling(
        experiment=experiment_of(document["sweep"]),
        claim=dict(zip(IDENTITY, identity(document), strict=True)),
        own={FINGERPRINT: document["fingerprint"]},
        name=f"{document['variant']} seed {document['seed']} {document['scale']}",
        started=facts.started,
        valid=valid,
        status=facts.status(driven=driven and valid),
        ended=facts.last_sign,
        metrics=metrics | per_hour(metrics),
        params={key: str(value) for key, value in document["params"].items()},
        tags=_trial_tags(facts, stage_runs),
        files={ranks_file(task): ranks for task, ranks in facts.ranks().items()},
        shown={NOTE: signed(trial_note(document, stage_runs, stages, facts.early)), COLOR: color(document)},
        examples=(),
        curve=list,
    )


def experiment_of(sweep: str) -> str:
    """Name of the experiment that holds a sweep's trials."""
    return f"smaug/{sweep}"


def ranks_file(task: str) -> str:
    """Where a trial's run keeps the ranks of a slot's queries."""
    return f"ranks/{task}.json"


def _text(value: Any) -> str:
    """JSON that does not depend on the order of keys."""
    return json.dumps(value, sort_keys=True)


def _device(host: dict[str, Any]) -> str:
    count = host["gpus"] or host["cpus"]
    apart = f" on {host['nodes']} nodes" if host.get("nodes", 1) > 1 else ""
    return f"{host['device_name']} x {count}{apart}" if count > 1 else str(host["device_name"])


def _stage_tags(facts: StageFacts) -> dict[str, str]:
    host = facts.host
    tags = {
        "smaug.kind": facts.document["kind"],
        "smaug.unit": host["unit"],
        "smaug.device": _device(host),
        "smaug.host": host["host"],
        "smaug.versions": _text(host["versions"]),
        "smaug.attempts": str(len(facts.attempts)),
        "smaug.hours_estimated": str(facts.hours.estimated).lower(),
        "smaug.hours_corrected": str(facts.num_corrected),
        "smaug.no_energy": facts.no_energy,
        "smaug.settings": _text(facts.document["settings"])[:5000],
    }
    if facts.result is not None and facts.result["commit"]:
        tags["smaug.commit"] = _text(facts.result["commit"])
    return tags


def _trial_tags(facts: TrialFacts, stage_runs: dict[str, str]) -> dict[str, str]:
    document, evaluations, trained = facts.document, facts.evaluations(), facts.pretrained_on
    unreadable = facts.unreadable()
    return ({"smaug.unreadable": _text(unreadable)} if unreadable else {}) | {
        "smaug.title": document["title"],
        "smaug.table": document["table"] or "",
        "smaug.row": document["report"]["row"],
        "smaug.columns": json.dumps(document["report"]["columns"]),
        "smaug.position": str(document["position"]),
        "smaug.baseline": document["baseline"],
        "smaug.stage_runs": json.dumps(stage_runs),
        "smaug.device": "" if trained is None else _device(trained.host),
        "smaug.unit": "" if trained is None else trained.host["unit"],
        "smaug.evaluations": _text(evaluations),
        "smaug.test_digest": json.dumps({task: notes["test_digest"] for task, notes in evaluations.items()}),
        "smaug.code": facts.code,
        "smaug.marks": json.dumps(facts.marks),
    }
