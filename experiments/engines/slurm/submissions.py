"""The folders of submissions to Slurm: their documents, which of their jobs wait, and which folders are unused.

`jobs/` holds the commands to run, `slurm/` the files that a job unpickles and prints, `cancel/` requests to end,
`ended/` exit records, and `saved/` the step of jobs that queued themselves again. `placed-*.json` hold ids by stages'
fingerprints; `slurm.json` names the Slurm that has the jobs, and the name that all of them have there.
"""

import os
import re
import secrets
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from experiments.engines.slurm.commands import CommandError, output_of
from experiments.engines.slurm.job import EXIT_RECORD, JOB, SUBMITTED_ADVICE, ExitRecord, file_name
from experiments.engines.slurm.queue import QueueStatus, query, status_of
from experiments.store.documents import Shape, StoreError, plain, read_document, write_json
from experiments.store.drivers import Driver
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
"""Age after which a job with a final exit record is certainly over, whether Slurm can be queried or not."""
LISTED_AFTER_S = 60.0
"""Age after which Slurm lists a job, or has forgotten it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SubmissionDocument(StoredDocument):
    """slurm.json of a submission: the Slurm it was sent to, and the name of its jobs."""

    slurm: str = key(str, absent="")
    jobs: str = key(str, absent="")


SUBMITTED = Shape(SubmissionDocument.form(), SUBMITTED_ADVICE, SubmissionDocument.of)


@dataclass(frozen=True, kw_only=True, slots=True)
class Submission:
    """The jobs of a folder."""

    names: frozenset[str]
    """Fingerprints of the stages that a job was, or was to be, submitted for."""
    placed: tuple[tuple[str, str, Path], ...]
    """Each job that Slurm took: fingerprint, id, and the file that holds both."""
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
    jobs = (read_document(path, JOB) for path in (folder / "jobs").glob("[!.]*.json"))
    wanted = frozenset(document.name for document in jobs if document is not None)
    files = [(path, read_document(path, PLACED) or {}) for path in sorted(folder.glob("placed-*.json"))]
    sent = read_document(folder / "slurm.json", SUBMITTED) or SubmissionDocument(raw={})
    placed = tuple((name, str(job), path) for path, ids in files for name, job in ids.items())
    names = wanted | {name for name, _, _ in placed}
    return Submission(names=names, placed=placed, slurm=sent.slurm, jobs=sent.jobs)


def exit_file(folder: Path, job: str, name: str) -> Path:
    """The file of a job's exit record."""
    return folder / "ended" / file_name(job, name)


def is_final(record: ExitRecord | None) -> bool:
    """Whether an exit record is the end of its job.

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
                    for name, job, _ in submission.placed
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


class Submissions:
    """Judges the folders in `root`; queries Slurm once for all of them, and only if their files do not suffice."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._slurm: str | None = None
        self._answers: dict[str, dict[str, QueueStatus] | str] = {}

    def why_kept(self, folder: Path, drivers: Sequence[Driver], now: float | None = None) -> str | None:
        """Why a folder must stay; None if no job of it can still wait or run, and no driver uses it.

        A folder that went too early would fail a job that starts later, and have the next driver submit it again.

        Raises:
            StoreError: a file in it is damaged.
        """
        now = time.time() if now is None else now
        if (owner := folder.stat().st_uid) != os.getuid():
            return f"belongs to user {owner}; Slurm shows its jobs only to them"
        submission = read_submission(folder)
        for driver in drivers:
            if not submission.names or submission.names & driver.fingerprints:
                return f"process {driver.owner.pid} on {driver.owner.host} may use its jobs"
        if not submission.names:
            return None if now - folder.stat().st_mtime > SETTLED_S else "was made just now"
        unknown = list(_unsettled(folder, submission, now))
        return self._why_slurm_keeps(submission, unknown, now) if unknown else None

    def _why_slurm_keeps(self, submission: Submission, unknown: Sequence[str], now: float) -> str | None:
        words = f"{len(unknown)} of its jobs have no exit record that is an hour old"
        if not submission.slurm:
            return f"{words}, and it does not name the Slurm that has them"
        answer = self._query(submission)
        if isinstance(answer, str):
            return f"{words}, and {answer}"
        for name, job, file in submission.placed:
            status = status_of(answer, job)
            if status is not None and not status.ended:
                return f"Slurm lists its job {job}, for {name[:12]}, as {status.state}"
            if status is None and now - file.stat().st_mtime < LISTED_AFTER_S:
                return f"its job {job} was submitted just now"
        known = self._placed_in_all()
        for job, status in answer.items():
            if job not in known and not status.ended:  # its driver was killed before it could record it
                return f"Slurm has job {job} ({status.state}) that no driver has recorded; it may be of this folder"
        return None

    def _query(self, submission: Submission) -> dict[str, QueueStatus] | str:
        """Slurm's answer, or why there is none."""
        if self._slurm is None:
            self._slurm = slurm_name()
        if self._slurm != submission.slurm:
            here = f"here is {self._slurm}" if self._slurm else "no Slurm answers here"
            return f"the Slurm that has them is {submission.slurm}; {here}"
        if submission.jobs not in self._answers:
            try:
                self._answers[submission.jobs] = query(submission.jobs)
            except CommandError as error:
                self._answers[submission.jobs] = f"Slurm does not answer ({error})"
        return self._answers[submission.jobs]

    def _placed_in_all(self) -> set[str]:
        ids: set[str] = set()
        for folder in self._root.iterdir():
            if SUBMISSION.fullmatch(folder.name.removeprefix(".")) and folder.is_dir():
                try:
                    ids |= {job for _, job, _ in read_submission(folder).placed}
                except StoreError:
                    continue  # its jobs then count as unrecorded, and everything stays
        return ids


def _unsettled(folder: Path, submission: Submission, now: float) -> Iterator[str]:
    """Stages whose jobs may wait or run, as far as files show."""
    yield from submission.names - {name for name, _, _ in submission.placed}  # Slurm may have taken them
    for name, job, _ in submission.placed:
        file = exit_file(folder, job, name)
        if not is_final(read_document(file, EXIT_RECORD)) or now - file.stat().st_mtime < SETTLED_S:
            yield name
