"""The folder of a submission to Slurm: what jobs and drivers tell each other in it.

`jobs/` says what to run, `slurm/` is what a job unpickles and prints, marks in `cancel/` ask jobs to end, `ended/` says
how they did, and `saved/` how far those came that queued themselves again. `placed-*.json` hold ids by stages'
fingerprints; `slurm.json` says which Slurm has the jobs, and what they are all called there.
"""

import re
import secrets
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.engines.slurm.job import JOB, SUBMITTED_ADVICE, in_folder
from experiments.store.attempt import write_json
from experiments.store.documents import Shape, read_document
from experiments.worker.outcome import INTERRUPTED
from smaug_core.files import NAME, Map

SUBMISSION = re.compile(r"[a-z0-9_]+-\d{8}-\d{6}-[0-9a-f]{8}")
"""How such folders are called: by the profile, the time, and chance."""
PLACED = Shape(Map(NAME), SUBMITTED_ADVICE)
"""Ids of jobs by the stages' fingerprints: a `placed-*.json`."""
_SLURM = Shape({"slurm?": str, "jobs?": str}, SUBMITTED_ADVICE)
"""slurm.json of a submission."""
ANSWER_S = 10.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Submission:
    """What a folder tells of its jobs."""

    names: frozenset[str]
    """Fingerprints of the stages that a job was, or was to be, submitted for."""
    placed: tuple[tuple[str, str, Path], ...]
    """Each job that Slurm took: fingerprint, id, and the file that tells both."""
    slurm: str
    """Name of the cluster that has the jobs, in Slurm's own words; empty where that is not known."""
    jobs: str
    """What all of its jobs are called."""


def new_folder(root: Path, cluster: str, jobs: str) -> Path:
    """A folder that nobody else has used, closed to others: what a job unpickles lies in it."""
    root.mkdir(parents=True, exist_ok=True)
    folder = root / f"{cluster}-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(4)}"
    folder.mkdir(mode=0o700)
    for name in ("jobs", "cancel", "ended", "slurm"):
        (folder / name).mkdir(mode=0o700)
    write_json(folder / "slurm.json", {"slurm": slurms_name(), "jobs": jobs})
    return folder


def read_submission(folder: Path) -> Submission:
    """What a folder tells of its jobs; another process may be writing it.

    Raises:
        StoreError: a file of it holds something else.
    """
    jobs = (read_document(path, JOB) for path in (folder / "jobs").glob("[!.]*.json"))
    told = [document for document in jobs if document is not None]
    files = [(path, read_document(path, PLACED) or {}) for path in sorted(folder.glob("placed-*.json"))]
    known = read_document(folder / "slurm.json", _SLURM) or {}
    placed = tuple((name, str(job), path) for path, ids in files for name, job in ids.items())
    names = frozenset(str(document["name"]) for document in told) | {name for name, _, _ in placed}
    return Submission(names=names, placed=placed, slurm=known.get("slurm", ""), jobs=known.get("jobs", ""))


def last_word(folder: Path, job: str, name: str) -> Path:
    """The file in which a job's supervisor tells how it ended."""
    return folder / "ended" / in_folder(job, name)


def is_final(told: dict[str, Any] | None) -> bool:
    """Whether a supervisor's word is the end of its job.

    One whose worker was interrupted or killed may be in the queue again, and Slurm may know more of why.
    """
    return told is not None and told["exit_code"] >= 0 and told["exit_code"] != INTERRUPTED


def slurms_name() -> str:
    """What the Slurm that is reached from here calls itself; empty if none answers."""
    try:
        asked = subprocess.run(
            ["scontrol", "show", "config"], capture_output=True, text=True, timeout=ANSWER_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    found = dict(re.findall(r"^(ClusterName|SlurmctldHost\[0\])\s*= (\S+)", asked.stdout, re.MULTILINE))
    return f"{found['ClusterName']}@{found['SlurmctldHost[0]']}" if len(found) > 1 else ""
