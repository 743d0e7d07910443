"""Run stages as jobs of a Slurm cluster, submitted through submitit.

Jobs outlive the driver. A driver that finds a job of an earlier one still waiting or running takes it over, and
submits nothing twice. A job's end is recorded in a small JSON file, and no pickle is ever read here.
"""

import hashlib
import logging
import os
import re
import shutil
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Self

from experiments.engines.base import Engine, Inventory, Job, JobState, goes_back
from experiments.engines.slurm.commands import CommandError, run_command
from experiments.engines.slurm.ends import SubmittedJob, end_of, explained
from experiments.engines.slurm.job import file_name
from experiments.engines.slurm.profile import Cluster
from experiments.engines.slurm.queue import QueueSnapshot, SlurmQueue, status_of
from experiments.engines.slurm.submissions import PLACED, SUBMISSION, is_final, new_folder
from experiments.engines.slurm.submit import SubmissionError, checked_text, request_in_words, share_of, submit_array
from experiments.store.attempt import Attempt
from experiments.store.documents import StoreError, read_document, write_json
from experiments.worker.outcome import BAD_INPUT, INTERRUPTED
from smaug_core.errors import SmaugError

RETRY_S = 5.0
"""Time before jobs are submitted again that Slurm could not take just now."""

NEEDS_ACTION = re.compile(
    r"partition|ReqNodeNotAvail|nodes? ?down|are down|held|assoc|QOS|bad|account|reservation|licenses", re.IGNORECASE
)
"""Reasons for which a job waits that a user may have to act on."""

_log = logging.getLogger(__name__)


class SlurmEngine(Engine):
    """A Slurm cluster, by its profile.

    The folder `slurm` of the home holds all that jobs and drivers exchange; the nodes must see it at the same path.

    Raises:
        SmaugError: Slurm's commands are not here, or a job's script cannot hold the home's path.
    """

    def __init__(self, home: Path, cluster: Cluster) -> None:
        if shutil.which("sbatch") is None:
            raise SmaugError("--engine slurm: there is no sbatch here; expected a machine that submits jobs")
        self._root = home.resolve() / "slurm"
        if sign := re.search(r"[%\\]", checked_text(str(self._root), "--home")):
            raise SmaugError(
                f"--home {home}: expected no {sign[0]}, which has a meaning in Slurm's paths; choose another folder"
            )
        self._cluster = cluster
        self._folder: Path | None = None
        self._name = "smaug-" + hashlib.sha256(str(self._root).encode()).hexdigest()[:10]
        self._queue = SlurmQueue(self._name)
        self._lock = threading.Lock()  # cancellations come from another thread
        self._arrays = 0
        self._waiting: dict[str, Job] = {}
        self._submitted: dict[str, SubmittedJob] = {}
        self._followed: set[str] = set()
        """Ids of all jobs that were ever in `_submitted`."""
        self._states: dict[str, JobState] = {}
        self._seen = -1.0
        """Time of the last snapshot of the queue that was read."""
        self._not_before = 0.0
        self._warned: set[str] = set()
        self._earlier: dict[Path, dict[str, str]] = {}
        """Submissions by drivers of this home: ids by names, for each file that holds them."""

    def submit(self, job: Job) -> None:
        """Take a job; those taken together are submitted as one array for each shape at the next poll."""
        with self._lock:
            self._states[job.name] = JobState(False)
            self._waiting[job.name] = job

    def poll(self) -> Mapping[str, JobState]:
        """The state of every job ever submitted."""
        with self._lock:
            if self._waiting or self._submitted:
                snapshot = self._queue.snapshot()
                self._submit_waiting(snapshot)
                self._update_ended(snapshot)
                if snapshot.queried > self._seen:
                    self._seen = snapshot.queried
                    self._check_pending(snapshot)
            return dict(self._states)

    def cancel(self, name: str) -> None:
        """Ask a job to end, by a file that its supervisor polls; one that has not started leaves Slurm's queue."""
        with self._lock:
            if self._waiting.pop(name, None) is not None:
                self._states[name] = JobState(True, INTERRUPTED, "cancelled before it started")
            elif (submitted := self._submitted.get(name)) is not None:
                (submitted.folder / "cancel" / submitted.file).touch()
                submitted.cancelled = True
                self._seen = -1.0  # so that the next poll takes it out of the queue, with all others in one call
            elif name not in self._states:
                self._read_placed()
                for job_id, folder in self._submitted_before(name):  # it runs since an earlier driver submitted it
                    with suppress(FileNotFoundError):  # a folder that `gc` has deleted has no job any more
                        (folder / "cancel" / file_name(job_id, name)).touch()

    def adopt(self, job: Job, attempt: Attempt) -> bool:
        """Follow the job that a stage's attempt runs in, if an earlier driver submitted it."""
        running = attempt.slurm_job
        with self._lock:
            if running is None or running in self._followed:
                return False
            self._read_placed()
            folder = next((folder for job_id, folder in self._submitted_before(job.name) if job_id == running), None)
            if folder is None:
                return False
            submitted = SubmittedJob(job, running, folder, time.monotonic(), inherited=True)
            if is_final(submitted.exit_record()):
                return False
            self._follow(submitted)
            self._states[job.name] = JobState(False)
            return True

    def inherits(self, name: str) -> bool:
        """Return whether the job of a stage is an earlier driver's."""
        with self._lock:
            return name in self._submitted and self._submitted[name].inherited

    def inventory(self) -> Inventory:
        """A node as the profile describes it."""
        return self._cluster.inventory

    @property
    def queries(self) -> int:
        """Number of queries of the queue."""
        return self._queue.queries

    def close(self) -> None:
        """Do nothing: jobs that wait or run continue, and the next driver takes them over."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _submit_waiting(self, snapshot: QueueSnapshot) -> None:
        """Follow the jobs of earlier drivers that Slurm still has, and submit the rest."""
        if not self._waiting or time.monotonic() < self._not_before:
            return
        self._read_placed()
        candidates = [(name, *earlier) for name in self._waiting for earlier in self._submitted_before(name)]
        if candidates and snapshot.queried < 0:
            return  # Slurm's first answer shows which of them live
        for name, job_id, folder in candidates:
            status = status_of(snapshot.jobs, job_id)
            if name in self._waiting and status is not None and not status.ended:
                inherited = folder != self._folder
                submitted = SubmittedJob(self._waiting[name], job_id, folder, time.monotonic(), inherited=inherited)
                if is_final(submitted.exit_record()):
                    continue
                del self._waiting[name]
                self._follow(submitted)
                if inherited:
                    self._warn_once("Slurm still has jobs of an earlier driver; their requests stay as they were")
        shapes: dict[tuple[object, ...], list[Job]] = {}
        for job in self._waiting.values():
            shape = (job.cpus, job.gpus, job.memory_bytes, job.nodes, job.exclude, job.env.get("PYTHONPATH"))
            shapes.setdefault(shape, []).append(job)
        for jobs in shapes.values():
            self._submit_array(jobs)

    def _read_placed(self) -> None:
        for file in self._root.glob("*/placed-*.json"):
            if file not in self._earlier and SUBMISSION.fullmatch(file.parent.name):
                self._earlier[file] = read_document(file, PLACED) or {}

    def _submitted_before(self, name: str) -> Iterator[tuple[str, Path]]:
        """Id and folder of every job of this home for a stage, as far as was read, the last submitted first."""
        for file in sorted(self._earlier, reverse=True):
            if name in self._earlier[file]:
                yield self._earlier[file][name], file.parent

    def _submit_array(self, jobs: list[Job]) -> None:
        """Submit jobs of one shape; those that Slurm refuses for good end with its message."""
        if self._folder is None or not self._folder.is_dir():
            self._folder = new_folder(self._root, self._cluster.cluster, self._name)
        folder = self._folder
        for job in jobs:
            document = {"name": job.name, "command": list(job.command), "env": dict(job.env)}
            write_json(folder / "jobs" / f"{job.directory.name}.json", document)
        try:
            ids = submit_array(jobs, folder, self._name, self._cluster)
        except SubmissionError as error:
            if not error.passing and any(job.exclude for job in jobs):  # maybe all nodes that fit are left out
                for job in jobs:
                    self._warn_once(goes_back(job))
                    self._waiting[job.name] = replace(job, exclude=())
                return
            if error.passing:
                self._not_before = time.monotonic() + RETRY_S
                self._warn_once(
                    f"Slurm takes no jobs now ({error or 'sbatch printed nothing'}); they are submitted again"
                )
                return
            for job in jobs:
                del self._waiting[job.name]
                self._states[job.name] = JobState(True, BAD_INPUT, f"{error} ({self._request_of(job)})")
            return
        ids_by_name = {job.name: job_id for job, job_id in zip(jobs, ids, strict=True)}
        self._arrays += 1
        try:
            write_json(folder / f"placed-{self._arrays:06d}.json", ids_by_name)
        except StoreError:
            _scancel(ids)  # no process would know of them, and the next driver would submit their stages again
            raise
        for job in jobs:
            del self._waiting[job.name]
            self._follow(SubmittedJob(job, ids_by_name[job.name], folder, time.monotonic()))

    def _follow(self, submitted: SubmittedJob) -> None:
        self._submitted[submitted.job.name] = submitted
        self._followed.add(submitted.id)

    def _update_ended(self, snapshot: QueueSnapshot) -> None:
        listed = {folder: _names_in(folder / "ended") for folder in {s.folder for s in self._submitted.values()}}
        for name, submitted in list(self._submitted.items()):
            record = submitted.exit_record() if submitted.file in listed[submitted.folder] else None
            ended = end_of(submitted, record, snapshot)
            if ended is not None:
                del self._submitted[name]
                self._states[name] = explained(ended, submitted)

    def _check_pending(self, snapshot: QueueSnapshot) -> None:
        """Take cancelled jobs that have not started out of the queue; warn of reasons that keep others there."""
        unwanted = []
        for submitted in self._submitted.values():
            status = status_of(snapshot.jobs, submitted.id)
            if status is None or status.state != "PENDING":
                continue
            if submitted.cancelled:
                unwanted.append(submitted.id)
            elif NEEDS_ACTION.search(status.reason):
                request = "an earlier driver submitted it" if submitted.inherited else self._request_of(submitted.job)
                self._warn_once(f"Slurm holds job {submitted.id} back: {status.reason} ({request})")
        if unwanted:
            _scancel(unwanted)  # with --state=PENDING whole arrays would go; a job that has started meanwhile saves

    def _request_of(self, job: Job) -> str:
        words = request_in_words(self._cluster, *share_of(job), job.nodes)
        return f"requested: {words}; profile {self._cluster.cluster}"

    def _warn_once(self, message: str) -> None:
        if message not in self._warned:
            self._warned.add(message)
            _log.warning("%s", message)


def _names_in(folder: Path) -> set[str]:
    """Names of its files; none where `gc` has deleted the folder of a driver that slept for a day."""
    try:
        return set(os.listdir(folder))
    except FileNotFoundError:
        return set()


def _scancel(ids: list[str]) -> None:
    """Take jobs out of the queue; where Slurm does not answer, those that have cancel files end when they start."""
    with suppress(CommandError):
        run_command("scancel", *ids)
