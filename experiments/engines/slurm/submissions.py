"""The folders of submissions to Slurm: their documents, which of their jobs wait, and which folders are unused.

`jobs/` holds the commands to run, `slurm/` the files that a job unpickles and prints, `cancel/` requests to end,
`ended/` exit records, and `saved/` the step of jobs that queued themselves again. `placed-*.json` hold ids by stages'
fingerprints; `slurm.json` names the Slurm that has the jobs, and the name that all of them have there.
"""

import os
import re
import secrets
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from experiments.engines.slurm.commands import CommandError, output_of
from experiments.engines.slurm.job import EXIT_RECORD, JOB, SUBMITTED_ADVICE, ExitRecord, file_name
from experiments.engines.slurm.queue import QueueStatus, query, status_of
from experiments.store.documents import Shape, StoreError, plain, read_document, write_json
from experiments.worker.outcome import INTERRUPTED
from smaug_core.files import NAME, Map, StoredDocument, key

SUBMISSION = re.compile(r"[a-z0-9_]+-\d{8}-\d{6}-[0-9a-f]{8}")
"""Names of such folders: the profile, the time, and random digits."""
PLACED = plain(Map(NAME), SUBMITTED_ADVICE)
"""Ids of jobs by the stages' fingerprints: a `placed-*.json`."""
CONFIG_LIMIT_S = 10.0
STATUS_LIMIT_S = 5.0
"""Limit of a query for `smaug status`, which waits for it."""
STATUS_EVERY_S = 30.0
"""Time between such queries: the answer is only shown."""
SETTLED_S = 3600.0
"""Age of a final exit record after which its job is certainly over."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SubmissionDocument(StoredDocument):
    """slurm.json of a submission: the Slurm it was sent to, and the name of its jobs."""

    slurm: str = key(str, absent="")
    jobs: str = key(str, absent="")


SUBMITTED = Shape(SubmissionDocument.form(), SUBMITTED_ADVICE, SubmissionDocument.of)


@dataclass(frozen=True, kw_only=True, slots=True)
class Submission:
    """The jobs of a folder."""

    placed: tuple[tuple[str, str], ...]
    """Fingerprint and id of each job that Slurm took, the oldest first."""
    slurm: str
    """Name of the cluster that has the jobs, as `slurm_name` gives it; empty where that is not known."""
    jobs: str
    """Name that all of its jobs have."""


def new_folder(root: Path, cluster: str, jobs: str) -> Path:
    """Make the folder of a submission, closed to others: it holds what a job unpickles."""
    root.mkdir(parents=True, exist_ok=True)
    folder = root / f"{cluster}-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(4)}"
    folder.mkdir(mode=0o700)
    for name in ("jobs", "cancel", "ended", "slurm"):
        (folder / name).mkdir(mode=0o700)
    write_json(folder / "slurm.json", {"slurm": slurm_name(), "jobs": jobs})
    return folder


def read_submission(folder: Path) -> Submission:
    """Read the documents of a folder; another process may be writing it.

    Raises:
        StoreError: a file of it holds something else.
    """
    files = (read_document(path, PLACED) or {} for path in sorted(folder.glob("placed-*.json")))
    placed = tuple((name, str(job)) for ids in files for name, job in ids.items())
    sent = read_document(folder / "slurm.json", SUBMITTED) or SubmissionDocument(raw={})
    return Submission(placed=placed, slurm=sent.slurm, jobs=sent.jobs)


def exit_file(folder: Path, job: str, name: str) -> Path:
    """The file of a job's exit record."""
    return folder / "ended" / file_name(job, name)


def is_final(record: ExitRecord | None) -> bool:
    """Return whether an exit record is the end of its job.

    A job whose worker was interrupted or killed may be in the queue again, and Slurm may know the reason.
    """
    return record is not None and record.exit_code >= 0 and record.exit_code != INTERRUPTED


def slurm_name() -> str:
    """Name and controller of the Slurm that is reached from here; empty if none answers."""
    try:
        config = output_of("scontrol", "show", "config", limit_s=CONFIG_LIMIT_S)
    except CommandError:
        return ""
    values = dict(re.findall(r"^(ClusterName|SlurmctldHost\[0\])\s*= (\S+)", config, re.MULTILINE))
    return f"{values['ClusterName']}@{values['SlurmctldHost[0]']}" if len(values) > 1 else ""


@dataclass(frozen=True, slots=True)
class QueuedJob:
    """A job of Slurm for a stage, as `smaug status` shows it."""

    words: str
    is_known: bool
    """Whether Slurm lists it as waiting or running; otherwise there is only the record that it was submitted."""


class QueuedJobs:
    """The jobs of a home folder that wait or run; queries Slurm at most every `STATUS_EVERY_S`."""

    def __init__(self, home: Path) -> None:
        self._root = home / "slurm"
        self._latest: dict[str, QueuedJob] = {}
        self._names: frozenset[str] = frozenset()
        self._queried = 0.0

    def of(self, names: Collection[str]) -> dict[str, QueuedJob]:
        """The jobs of some stages, by fingerprint; stages without one that may yet run are left out."""
        if not names or not self._root.is_dir():
            return {}
        wanted = frozenset(names)
        if not self._queried or not wanted <= self._names or time.monotonic() - self._queried > STATUS_EVERY_S:
            self._latest, self._names = self._query(wanted), wanted
            self._queried = time.monotonic()
        return {name: job for name, job in self._latest.items() if name in wanted}

    def _query(self, names: frozenset[str]) -> dict[str, QueuedJob]:
        queued: dict[str, QueuedJob] = {}
        here: str | None = None
        for folder in sorted(self._root.iterdir()):
            if not SUBMISSION.fullmatch(folder.name) or not folder.is_dir():
                continue
            try:
                submission = read_submission(folder)
                open_jobs = {
                    name: job
                    for name, job in submission.placed
                    if name in names and not is_final(read_document(exit_file(folder, job, name), EXIT_RECORD))
                }
            except (StoreError, OSError):
                continue  # `smaug gc` names it
            if open_jobs:
                here = slurm_name() if here is None else here
                answer = _answer(submission, here)
                shown = {name: _queued_job(job, answer) for name, job in open_jobs.items()}
                queued |= {name: job for name, job in shown.items() if job is not None}
        return queued


def _answer(submission: Submission, here: str) -> dict[str, QueueStatus] | str:
    """Status of a submission's jobs, or why it is not known."""
    if not here:
        return "no Slurm here to ask"
    if submission.slurm != here:
        return f"the Slurm here is {here}"
    try:
        return query(submission.jobs, limit_s=STATUS_LIMIT_S)
    except CommandError:
        return "Slurm does not answer"


def _queued_job(job: str, answer: dict[str, QueueStatus] | str) -> QueuedJob | None:
    if isinstance(answer, str):
        return QueuedJob(f"submitted to Slurm as job {job}; {answer}", is_known=False)
    status = status_of(answer, job)
    if status is None or status.ended:
        return None
    if status.state == "PENDING":
        reason = f": {status.reason}" if status.reason != "None" else ""
        return QueuedJob(f"queued in Slurm (job {job}{reason})", is_known=True)
    return QueuedJob(f"{status.state.lower()} in Slurm (job {job})", is_known=True)


def reason_to_keep(folder: Path, now: float) -> str | None:
    """Reason why a folder must stay; None if each of its jobs has been over for an hour, by its exit record.

    A folder that was deleted too early would fail a job that starts later, and the next driver would submit it again.

    Raises:
        StoreError: a file in it is damaged.
    """
    if (owner := folder.stat().st_uid) != os.getuid():
        return f"belongs to user {owner}"
    jobs = sorted((folder / "jobs").glob("[!.]*.json"))
    if not jobs:
        return None if now - folder.stat().st_mtime > SETTLED_S else "was made just now"
    submission = read_submission(folder)
    ids = dict(submission.placed)  # of the last of several jobs for a stage
    unsettled = sum(not _is_settled(folder, ids, path, now) for path in jobs)
    if not unsettled:
        return None
    squeue = f"squeue --name={submission.jobs}" if submission.jobs else "squeue"
    words = f"{unsettled} of its {len(jobs)} jobs have no final exit record that is an hour old"
    return f"{words}; if `{squeue}` shows no job of them, delete it"


def _is_settled(folder: Path, ids: Mapping[str, str], path: Path, now: float) -> bool:
    """Return whether the job of a file in `jobs` was over an hour ago."""
    document = read_document(path, JOB)
    if document is None or document.name not in ids:  # Slurm may have taken it before its driver was killed
        return False
    file = exit_file(folder, ids[document.name], document.name)
    if not is_final(read_document(file, EXIT_RECORD)):
        return False
    ended = file.stat().st_mtime
    return ended >= path.stat().st_mtime and now - ended > SETTLED_S  # else it was to be submitted again
