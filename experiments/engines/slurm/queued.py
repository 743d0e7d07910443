"""Which stages wait as jobs in Slurm: from what drivers noted, and what Slurm says now."""

import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from experiments.engines.slurm.folder import SUBMISSION, Submission, is_final, last_word, read_submission, slurms_name
from experiments.engines.slurm.job import WORD
from experiments.engines.slurm.queue import QueryError, QueueStatus, query, standing_of
from experiments.store.attempt import StoreError
from experiments.store.documents import read_document

ASK_EVERY_S = 30.0
"""Nobody acts on the answer: it is only shown."""
ANSWER_S = 5.0


@dataclass(frozen=True, slots=True)
class Queued:
    """A job for a stage."""

    words: str
    is_known: bool
    """Slurm says that it waits or runs; otherwise there is only the note that Slurm took it."""


class Jobs:
    """The jobs of a home folder; asked for again and again, it asks Slurm now and then.

    Args:
        home: the folder.
    """

    def __init__(self, home: Path) -> None:
        self._root = home / "slurm"
        self._latest: dict[str, Queued] = {}
        self._names: frozenset[str] = frozenset()
        self._asked = 0.0

    def of(self, names: Collection[str]) -> dict[str, Queued]:
        """The jobs of some stages, by fingerprint; stages without one that may yet run are left out."""
        if not names or not self._root.is_dir():
            return {}
        wanted = frozenset(names)
        if not self._asked or not wanted <= self._names or time.monotonic() - self._asked > ASK_EVERY_S:
            self._latest, self._names = self._look(wanted), wanted
            self._asked = time.monotonic()
        return {name: job for name, job in self._latest.items() if name in wanted}

    def _look(self, names: frozenset[str]) -> dict[str, Queued]:
        found: dict[str, Queued] = {}
        here: str | None = None
        for folder in sorted(self._root.iterdir()):
            if not SUBMISSION.fullmatch(folder.name) or not folder.is_dir():
                continue
            try:
                submission = read_submission(folder)
                open_ = _open_jobs(folder, submission, names)
            except (StoreError, OSError):
                continue  # `smaug gc` names it
            if open_:
                here = slurms_name() if here is None else here
                answer = _answer(submission, here)
                found |= {name: told for name, job in open_.items() if (told := _told(job, answer)) is not None}
        return found


def _open_jobs(folder: Path, submission: Submission, names: frozenset[str]) -> dict[str, str]:
    """Ids of jobs whose last word is not there, by stage."""
    return {
        name: job
        for name, job, _ in submission.placed
        if name in names and not is_final(read_document(last_word(folder, job, name), WORD))
    }


def _answer(submission: Submission, here: str) -> dict[str, QueueStatus] | str:
    """What Slurm says of a submission's jobs, or why nothing."""
    if not here:
        return "no Slurm here to ask"
    if submission.slurm != here:
        return f"the Slurm here is {here}"
    try:
        return query(submission.jobs, limit_s=ANSWER_S)
    except QueryError:
        return "Slurm does not answer"


def _told(job: str, answer: dict[str, QueueStatus] | str) -> Queued | None:
    if isinstance(answer, str):
        return Queued(f"submitted to Slurm as job {job}; {answer}", is_known=False)
    standing = standing_of(answer, job)
    if standing is None or standing.ended:
        return None
    if standing.state == "PENDING":
        why = f": {standing.reason}" if standing.reason != "None" else ""
        return Queued(f"queued in Slurm (job {job}{why})", is_known=True)
    return Queued(f"{standing.state.lower()} in Slurm (job {job})", is_known=True)
