"""Runs stages as jobs of a Slurm cluster, submitted through submitit.

Jobs outlive the driver. A driver that finds a job of an earlier one still waiting or running takes it over, and
submits nothing twice. How a job ended is a small JSON file beside it, and no pickle is ever read here.
"""

import hashlib
import logging
import os
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Self

from experiments.engines.base import Engine, Inventory, Job, JobState, goes_back
from experiments.engines.slurm.ends import Placed, end_of, explained
from experiments.engines.slurm.folder import PLACED, SUBMISSION, is_final, new_folder
from experiments.engines.slurm.job import in_folder
from experiments.engines.slurm.profile import Cluster
from experiments.engines.slurm.queue import QueueSnapshot, SlurmQueue, standing_of
from experiments.engines.slurm.submit import COMMAND_S, SubmissionError, asked_in_words, checked, share_of, submit_array
from experiments.store.attempt import Attempt, StoreError, write_json
from experiments.store.documents import read_document
from experiments.worker.outcome import BAD_INPUT, INTERRUPTED
from smaug_core.errors import SmaugError

TRY_AGAIN_S = 5.0
"""Time before jobs are submitted again that Slurm could not take just now."""

WORTH_TELLING = re.compile(
    r"partition|ReqNodeNotAvail|nodes? ?down|are down|held|assoc|QOS|bad|account|reservation|licenses", re.IGNORECASE
)
"""Reasons for which a job waits that somebody may have to do something about."""

_log = logging.getLogger(__name__)


class SlurmEngine(Engine):
    """A Slurm cluster.

    Args:
        home: its folder `slurm` holds what jobs and drivers tell each other; the nodes must see it at the same path.
        cluster: the profile.

    Raises:
        SmaugError: Slurm's commands are not here, or the home's path cannot stand in a job's script.
    """

    def __init__(self, home: Path, cluster: Cluster) -> None:
        if shutil.which("sbatch") is None:
            raise SmaugError("--engine slurm: there is no sbatch here; right would be a machine that submits jobs")
        self._root = home.resolve() / "slurm"
        if sign := re.search(r"[%\\]", checked(str(self._root), "--home")):
            raise SmaugError(
                f"--home {home}: has a {sign[0]}, which is more than a letter to Slurm; choose another folder"
            )
        self._cluster = cluster
        self._folder: Path | None = None
        self._name = "smaug-" + hashlib.sha256(str(self._root).encode()).hexdigest()[:10]
        self._queue = SlurmQueue(self._name)
        self._lock = threading.Lock()  # cancellations come from another thread
        self._arrays = 0
        self._waiting: dict[str, Job] = {}
        self._placed: dict[str, Placed] = {}
        self._followed: set[str] = set()
        """Ids of all jobs that ever were in `_placed`."""
        self._states: dict[str, JobState] = {}
        self._seen = -1.0
        """Time of the last answer of Slurm that was looked at."""
        self._not_before = 0.0
        self._told: set[str] = set()
        self._earlier: dict[Path, dict[str, str]] = {}
        """What drivers of this home have submitted: ids by names, for each file that tells them."""

    def submit(self, job: Job) -> None:
        """Take a job; those taken together are submitted as one array for each shape at the next poll."""
        with self._lock:
            self._states[job.name] = JobState(False)
            self._waiting[job.name] = job

    def poll(self) -> Mapping[str, JobState]:
        """The state of every job ever submitted."""
        with self._lock:
            if self._waiting or self._placed:
                look = self._queue.look()
                self._place(look)
                self._look_for_ends(look)
                if look.asked > self._seen:
                    self._seen = look.asked
                    self._look_at_waiting(look)
            return dict(self._states)

    def cancel(self, name: str) -> None:
        """Ask a job to end, by a mark that its supervisor looks for; what has not started leaves Slurm's queue."""
        with self._lock:
            if self._waiting.pop(name, None) is not None:
                self._states[name] = JobState(True, INTERRUPTED, "cancelled before it started")
            elif (placed := self._placed.get(name)) is not None:
                (placed.folder / "cancel" / placed.file).touch()
                placed.cancelled = True
                self._seen = -1.0  # so that the next poll takes it out of the queue, with all others in one call
            elif name not in self._states:
                self._read_placed()
                for job_id, folder in self._submitted_before(name):  # it runs since an earlier driver submitted it
                    with suppress(FileNotFoundError):  # what `gc` has deleted has no job any more
                        (folder / "cancel" / in_folder(job_id, name)).touch()

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
            placed = Placed(job, running, folder, time.monotonic(), inherited=True)
            if is_final(placed.told()):
                return False
            self._follow(placed)
            self._states[job.name] = JobState(False)
            return True

    def inherits(self, name: str) -> bool:
        """Whether the job of a stage is an earlier driver's."""
        with self._lock:
            return name in self._placed and self._placed[name].inherited

    def inventory(self) -> Inventory:
        """A node as the profile tells it."""
        return self._cluster.inventory

    @property
    def queries(self) -> int:
        """How often Slurm was asked about jobs."""
        return self._queue.queries

    def close(self) -> None:
        """Leave: what still waits or runs goes on, and the next driver takes it over."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _place(self, look: QueueSnapshot) -> None:
        """Follow the jobs of earlier drivers that are still there, and submit the rest."""
        if not self._waiting or time.monotonic() < self._not_before:
            return
        self._read_placed()
        candidates = [(name, *found) for name in self._waiting for found in self._submitted_before(name)]
        if candidates and look.asked < 0:
            return  # Slurm's first answer tells which of them live
        for name, job_id, folder in candidates:
            standing = standing_of(look.jobs, job_id)
            if name in self._waiting and standing is not None and not standing.ended:
                inherited = folder != self._folder
                placed = Placed(self._waiting[name], job_id, folder, time.monotonic(), inherited=inherited)
                if is_final(placed.told()):
                    continue
                del self._waiting[name]
                self._follow(placed)
                if inherited:
                    self._tell_once("Slurm still has jobs of an earlier driver; what was asked for them then stays")
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
        """Submit jobs of one shape; what Slurm refuses for good ends with what it said."""
        if self._folder is None or not self._folder.is_dir():
            self._folder = new_folder(self._root, self._cluster.name, self._name)
        folder = self._folder
        for job in jobs:
            told = {"name": job.name, "command": list(job.command), "env": dict(job.env)}
            write_json(folder / "jobs" / f"{job.directory.name}.json", told)
        try:
            ids = submit_array(jobs, folder, self._name, self._cluster)
        except SubmissionError as error:
            if not error.passing and any(job.exclude for job in jobs):  # maybe all nodes that fit are left out
                for job in jobs:
                    self._tell_once(goes_back(job))
                    self._waiting[job.name] = replace(job, exclude=())
                return
            if error.passing:
                self._not_before = time.monotonic() + TRY_AGAIN_S
                self._tell_once(f"Slurm takes no jobs now ({error or 'sbatch said nothing'}); it is asked again")
                return
            for job in jobs:
                del self._waiting[job.name]
                self._states[job.name] = JobState(True, BAD_INPUT, f"{error} ({self._asked_for(job)})")
            return
        placed = {job.name: job_id for job, job_id in zip(jobs, ids, strict=True)}
        self._arrays += 1
        try:
            write_json(folder / f"placed-{self._arrays:06d}.json", placed)
        except StoreError:
            _scancel(ids)  # nobody would know of them, and the next driver submit their stages again
            raise
        for job in jobs:
            del self._waiting[job.name]
            self._follow(Placed(job, placed[job.name], folder, time.monotonic()))

    def _follow(self, placed: Placed) -> None:
        self._placed[placed.job.name] = placed
        self._followed.add(placed.id)

    def _look_for_ends(self, look: QueueSnapshot) -> None:
        listed = {folder: _names_in(folder / "ended") for folder in {p.folder for p in self._placed.values()}}
        for name, placed in list(self._placed.items()):
            told = placed.told() if placed.file in listed[placed.folder] else None
            ended = end_of(placed, told, look)
            if ended is not None:
                del self._placed[name]
                self._states[name] = explained(ended, placed)

    def _look_at_waiting(self, look: QueueSnapshot) -> None:
        """Take cancelled jobs that have not started out of the queue; tell what keeps others there."""
        unwanted = []
        for placed in self._placed.values():
            standing = standing_of(look.jobs, placed.id)
            if standing is None or standing.state != "PENDING":
                continue
            if placed.cancelled:
                unwanted.append(placed.id)
            elif WORTH_TELLING.search(standing.reason):
                asked_for = "an earlier driver submitted it" if placed.inherited else self._asked_for(placed.job)
                self._tell_once(f"Slurm holds job {placed.id} back: {standing.reason} ({asked_for})")
        if unwanted:
            _scancel(unwanted)  # with --state=PENDING whole arrays would go; what has started meanwhile saves

    def _asked_for(self, job: Job) -> str:
        words = asked_in_words(self._cluster, *share_of(job), job.nodes)
        return f"asked for: {words}; profile {self._cluster.name}"

    def _tell_once(self, message: str) -> None:
        if message not in self._told:
            self._told.add(message)
            _log.warning("%s", message)


def _names_in(folder: Path) -> set[str]:
    """Of its files; of a driver that slept for a day `gc` may have deleted the folder: then only Slurm can tell."""
    try:
        return set(os.listdir(folder))
    except FileNotFoundError:
        return set()


def _scancel(ids: list[str]) -> None:
    """Take jobs out of the queue; where Slurm does not answer, those that have marks end when they start."""
    with suppress(OSError, subprocess.TimeoutExpired):
        subprocess.run(["scancel", *ids], capture_output=True, timeout=COMMAND_S, check=False, start_new_session=True)
