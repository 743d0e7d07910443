"""Run stages as the trials of one Ray Tune run (`experiments.engines.ray.tune`), and restart Tune when it fails."""

import logging
import os
import threading
import time
import traceback
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Self

from experiments.engines.base import Engine, Inventory, Job, JobState, local_inventory
from experiments.engines.ray.board import Board, state_of
from experiments.engines.ray.session import RaySession
from experiments.engines.ray.start import base_folder
from experiments.engines.ray.tune import cancel_file, tune_jobs
from experiments.engines.supervisor import GRACE_S
from experiments.stages.memory import bytes_to_ask
from experiments.worker.signals import HANGS
from smaug_core.errors import SmaugError

STALLED_S = 180.0
"""Longest time that jobs that fit wait with nothing running; then Ray is restarted, or a cluster is joined again.

Ray 2.60 may keep a supervisor's resources reserved forever when that, or its node, was killed: seen once each. It
releases those of a driver when that leaves.
"""
SILENT_S = 10.0
"""Time without a round of Tune's loop after which it hangs, once jobs are requested to end; STALLED_S before that."""
JOIN_S = 5.0
"""Time in which Tune ends once its jobs have ended."""
RESTARTS_S = (5.0, 20.0, 60.0)
"""Pauses before Tune is restarted; one for each restart in a row that may leave no stage finished."""
_log = logging.getLogger(__name__)


class RayEngine(Engine):
    """Ray Tune, started with the first job: Ray on this machine, or the cluster at `address`.

    The folder `ray` of the home holds Tune's files, and requests to end; all machines of a cluster must see it. An
    address is `HOST:PORT`, or `auto` for the cluster that runs on this machine.
    """

    def __init__(self, home: Path, address: str | None = None) -> None:
        if address is None:
            base_folder()
        self._folder = _new_folder(home.resolve() / "ray")
        self._session = RaySession(address, self._log_message)
        self._board = Board(ours=address is None)
        self._tune: threading.Thread | None = None
        self._restarts = 0
        self._restart_at: float | None = None
        self._cancelled: dict[str, float] = {}
        """Monotonic times at which jobs were requested to end."""
        self._fault = ""

    @property
    def fault(self) -> str:
        """Error for which it runs nothing any more; empty as long as it does."""
        return self._fault

    def submit(self, job: Job) -> None:
        """Accept a job; the first one starts Ray, which takes some seconds."""
        cancel_file(self._folder, job.name).unlink(missing_ok=True)
        self._cancelled.pop(job.name, None)
        self._board.put(replace(job, memory_bytes=memory_of(job, is_own=self._session.is_ours)))
        if self._tune is None and self._restart_at is None and not self._fault:
            self._start()

    def _start(self) -> None:
        self._session.begin()
        self._tune = threading.Thread(target=self._run_tune, args=[self._board], name="tune", daemon=True)
        self._tune.start()

    def _run_tune(self, board: Board) -> None:
        """Run Tune in a thread; an error ends that thread only."""
        try:
            self._session.open()
            tune_jobs(board, self._folder)
        except BaseException as error:  # noqa: BLE001
            board.death = error
        else:
            board.death = "it was interrupted"

    def poll(self) -> Mapping[str, JobState]:
        """The state of every job ever submitted.

        Raises:
            SmaugError: Ray did not start the first time.
        """
        self._check_tune()
        self._check_cancelled()
        with self._board.changed:
            return dict(self._board.states)

    def _check_tune(self) -> None:
        board = self._board
        if self._fault:
            board.lose(JobState(True, None, self._fault, "preempted"))
        elif self._restart_at is not None:
            if time.monotonic() >= self._restart_at and board.waiting:
                self._restart_at = None
                self._restart()
        elif self._tune is not None:
            if isinstance(board.death, SmaugError) and not self._restarts:
                raise board.death
            if lost := self._session.lost():
                self._give_up(lost)
            elif error := self._error():
                self._lose_tune(error)
            elif board.is_stalled(STALLED_S):
                self._join_again()

    def _error(self) -> BaseException | str:
        """Error of Tune; empty if there is none."""
        if self._board.death is not None:
            return self._board.death
        if self._board.is_silent(SILENT_S if self._board.unended() <= self._cancelled.keys() else STALLED_S):
            return "its loop hangs"
        if self._session.is_ours and self._board.is_stalled(STALLED_S):
            return "it started nothing though nothing ran"
        return ""

    def _check_cancelled(self) -> None:
        """Give up jobs that were requested to end, and whose end Ray does not report."""
        for name, at in list(self._cancelled.items()):
            if self._board.states[name].ended:
                del self._cancelled[name]
            elif time.monotonic() - at > GRACE_S + SILENT_S:
                self._board.lose(JobState(True, None, "Ray does not report its end", "killed"), {name})

    def _lose_tune(self, error: BaseException | str) -> None:
        """Report running jobs as lost, and keep waiting ones for another Tune, in another Ray where that is ours."""
        state = state_of(error, "preempted")
        self._write_error(error)
        if self._board.finished:
            self._restarts = 0
        ends, words = self._restarts == len(RESTARTS_S), state.message
        if not ends:
            pause = RESTARTS_S[self._restarts]
            self._restarts += 1
            words += f"; Ray Tune is restarted in {pause:.0f} s ({self._restarts} of {len(RESTARTS_S)})"
        lost = self._board.lose_started(replace(state, message=words, blameless=True))
        if not self._replace_board():
            self._give_up(f"Ray Tune ended ({state.message}), and Ray does not let go of this process")
        elif ends:
            times = self._restarts + 1
            self._give_up(f"Ray Tune ended {times} times with no stage finished in between; lastly: {state.message}")
        else:
            self._restart_at = time.monotonic() + pause
            if not lost:  # else the events of those show it
                _log.warning("Ray Tune ended: %s", words)

    def _join_again(self) -> None:
        """Leave a cluster that starts nothing, and join it with the same jobs; it may only be busy with others."""
        _log.warning(
            "the Ray cluster started none of the jobs that fit on it for %.0f s; it is joined again", STALLED_S
        )
        if self._replace_board():
            self._restart_at = time.monotonic()
        else:
            self._give_up("Ray does not let go of this process")

    def _replace_board(self) -> bool:
        """Leave Ray, and keep the jobs that have not started for another Tune; return whether there can be one."""
        board, waiting = self._board, self._board.unstarted()
        can_go_on = self._leave()
        self._folder = _new_folder(self._folder.parent)
        self._board = Board(ours=board.ours, states=board.states, waiting=deque(waiting))
        return can_go_on

    def _restart(self) -> None:
        try:
            self._start()
        except SmaugError as error:
            self._board.death = error
            self._lose_tune(error)

    def _give_up(self, why: str) -> None:
        self._write_error(why)
        self._fault = why
        self._board.lose(JobState(True, None, why, "preempted"))

    def _write_error(self, error: BaseException | str) -> None:
        """Write a whole error to the folder of this Tune: the terminal shows one line of it."""
        lines = traceback.format_exception(error) if isinstance(error, BaseException) else [f"{error}\n"]
        self._append("".join(lines))

    def _log_message(self, message: str) -> None:
        """Write a message of Ray there too; of a cluster's, which may be any warning, log the first line."""
        if not self._session.is_ours:
            _log.warning("Ray: %s", message.strip().partition("\n")[0])
        self._append(f"{message.rstrip()}\n")

    def _append(self, text: str) -> None:
        with suppress(OSError):
            self._folder.mkdir(parents=True, exist_ok=True)
            with (self._folder / "ended.txt").open("a", encoding="utf-8", errors="backslashreplace") as file:
                file.write(text)

    def cancel(self, name: str) -> None:
        """Ask a job to end, by a file that its supervisor polls, wherever in the cluster it is."""
        file = cancel_file(self._folder, name)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
        self._board.drop(name)
        if name in self._board.states:
            self._cancelled.setdefault(name, time.monotonic())

    def inventory(self) -> Inventory:
        """Return this machine, or each machine of the cluster.

        Raises:
            SmaugError: there is no cluster at the address.
        """
        if self._session.is_ours:
            return local_inventory()
        self._session.open()
        return self._session.inventory()

    def close(self) -> None:
        """End the Tune run and its jobs, and leave Ray; takes some 15 s at most."""
        self._leave()

    def _leave(self) -> bool:
        """End Tune, and leave Ray; return whether this process can use Ray again."""
        with self._board.changed:
            self._board.closed = self._board.stopping = True
            self._board.changed.notify_all()
        self._session.end_unopened()
        tune, self._tune = self._tune, None
        if tune is not None and not self._session.lost():
            tune.join(JOIN_S)
        can_go_on = self._session.close()
        if tune is not None:
            tune.join(0.5)
            if tune.is_alive():
                HANGS.set()
                return False
        return can_go_on

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def memory_of(job: Job, *, is_own: bool) -> int | None:
    """Bytes of memory that a job requests of Ray: the scale's request, else, on our own Ray, the peak of jobs like it.

    None where neither is known. A cluster's owner may not expect such requests, or may count memory in another way.
    """
    (here,) = local_inventory().nodes
    if job.memory_bytes is not None or job.peak_bytes is None or not is_own:
        return job.memory_bytes
    requested = bytes_to_ask(job.peak_bytes)
    return requested if here.memory_bytes is None else min(requested, here.memory_bytes)


def _new_folder(parent: Path) -> Path:
    return parent / f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
