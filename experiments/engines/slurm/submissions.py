"""Which submissions to Slurm nobody needs any more: their jobs are over for certain, and no driver is at them."""

import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from experiments.engines.slurm.folder import (
    SUBMISSION,
    Submission,
    is_final,
    last_word,
    read_submission,
    slurms_name,
)
from experiments.engines.slurm.job import WORD
from experiments.engines.slurm.queue import QUERY_LIMIT_S, QueryError, QueueStatus, query, standing_of
from experiments.store.attempt import StoreError
from experiments.store.documents import read_document
from experiments.store.drivers import Driver

SETTLED_S = 3600.0
"""A job that said its last word so long ago has left its folder, whether Slurm can be asked or not."""
LISTED_AFTER_S = 60.0
"""A job that was submitted so long ago is one that Slurm lists, or lists no more."""


class Submissions:
    """Judges the folders of a home; asks Slurm once for all of them, and only if their files do not tell.

    Args:
        root: the folder that they are in.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._slurm: str | None = None
        self._answers: dict[str, dict[str, QueueStatus] | str] = {}

    def why_kept(self, folder: Path, drivers: Sequence[Driver], now: float | None = None) -> str | None:
        """Why a folder must stay; none if no job of it can still wait or run, and no driver uses it.

        A folder that went too early would fail a job that starts later, and have the next driver submit it again.

        Raises:
            StoreError: a file in it is damaged.
        """
        now = time.time() if now is None else now
        if (owner := folder.stat().st_uid) != os.getuid():
            return f"belongs to user {owner}; Slurm tells only them of its jobs"
        submission = read_submission(folder)
        for driver in drivers:
            if not submission.names or submission.names & driver.fingerprints:
                return f"process {driver.owner['pid']} on {driver.owner['host']} may be at its jobs"
        if not submission.names:
            return None if now - folder.stat().st_mtime > SETTLED_S else "was made just now"
        unknown = list(_unsettled(folder, submission, now))
        return self._why_slurm_keeps(submission, unknown, now) if unknown else None

    def _why_slurm_keeps(self, submission: Submission, unknown: Sequence[str], now: float) -> str | None:
        words = f"no last word of {len(unknown)} of its jobs that is an hour old"
        if not submission.slurm:
            return f"{words}, and it does not say which Slurm has them"
        answer = self._ask(submission)
        if isinstance(answer, str):
            return f"{words}, and {answer}"
        for name, job, file in submission.placed:
            standing = standing_of(answer, job)
            if standing is not None and not standing.ended:
                return f"Slurm says of its job {job}, for {name[:12]}: {standing.state}"
            if standing is None and now - file.stat().st_mtime < LISTED_AFTER_S:
                return f"its job {job} was submitted just now"
        known = self._placed_in_all()
        for job, standing in answer.items():
            if job not in known and not standing.ended:  # its driver was killed before it could note it
                return f"Slurm has job {job} ({standing.state}) that no driver has noted; it may be of this folder"
        return None

    def _ask(self, submission: Submission) -> dict[str, QueueStatus] | str:
        """Slurm's answer, or why there is none."""
        if self._slurm is None:
            self._slurm = slurms_name()
        if self._slurm != submission.slurm:
            here = f"here is {self._slurm}" if self._slurm else "no Slurm answers here"
            return f"the Slurm that has them is {submission.slurm}; {here}"
        if submission.jobs not in self._answers:
            try:
                self._answers[submission.jobs] = query(submission.jobs, limit_s=QUERY_LIMIT_S)
            except QueryError as error:
                self._answers[submission.jobs] = f"Slurm does not answer ({error})"
        return self._answers[submission.jobs]

    def _placed_in_all(self) -> set[str]:
        found: set[str] = set()
        for folder in self._root.iterdir():
            if SUBMISSION.fullmatch(folder.name.removeprefix(".")) and folder.is_dir():
                try:
                    found |= {job for _, job, _ in read_submission(folder).placed}
                except StoreError:
                    continue  # its jobs are then taken for unnoted, and everything stays
        return found


def _unsettled(folder: Path, submission: Submission, now: float) -> Iterator[str]:
    """Stages whose jobs may wait or run, as far as files tell."""
    yield from submission.names - {name for name, _, _ in submission.placed}  # nobody wrote down that Slurm took them
    for name, job, _ in submission.placed:
        word = last_word(folder, job, name)
        if not is_final(read_document(word, WORD)) or now - word.stat().st_mtime < SETTLED_S:
            yield name
