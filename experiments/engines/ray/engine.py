"""Runs stages as the trials of one Ray Tune run (`experiments.engines.ray.tune`), and restarts Tune where it fails."""

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
from experiments.engines.ray.tune import cancel_mark, tune_jobs
from experiments.engines.supervisor import GRACE_S
from experiments.stages.memory import bytes_to_ask
from experiments.worker.signals import HANGS
from smaug_core.errors import SmaugError

STILL_S = 180.0
"""With nothing running, jobs that fit wait so long at most; then Ray is started again, or a cluster is joined again.

Ray 2.60 may count what a supervisor had as taken for ever when that, or its node, was killed: seen once each. It
takes back what was a driver's when that leaves.
"""
SILENT_S = 10.0
"""A loop of Tune that has not come round for so long hangs, once jobs are asked to end; before that, after STILL_S."""
JOIN_S = 5.0
"""Time in which Tune ends once its jobs have ended."""
RESTARTS_S = (5.0, 20.0, 60.0)
"""Pauses before Tune is restarted: so many restarts in a row may leave no stage finished."""
_log = logging.getLogger(__name__)


class RayEngine(Engine):
    """Ray Tune, started with the first job: Ray on this machine, or the cluster at `address`.

    Args:
        home: its folder `ray` holds what Tune writes, and requests to end; a cluster's machines must all see it.
        address: `HOST:PORT` of the cluster, or `auto`: the one that runs on this machine; none starts Ray here.
    """

    def __init__(self, home: Path, address: str | None = None) -> None:
        if address is None:
            base_folder()
        self._folder = _new_folder(home.resolve() / "ray")
        self._session = RaySession(address, self._hear)
        self._board = Board(ours=address is None)
        self._tune: threading.Thread | None = None
        self._restarts = 0
        self._restart_at: float | None = None
        self._asked: dict[str, float] = {}
        """When jobs were asked to end."""
        self._fault = ""

    @property
    def fault(self) -> str:
        """Why it runs nothing any more; empty as long as it does."""
        return self._fault

    def submit(self, job: Job) -> None:
        """Take a job; the first one has Ray start, which takes some seconds."""
        cancel_mark(self._folder, job.name).unlink(missing_ok=True)
        self._asked.pop(job.name, None)
        self._board.put(replace(job, memory_bytes=memory_of(job, is_own=self._session.is_ours)))
        if self._tune is None and self._restart_at is None and not self._fault:
            self._start()

    def _start(self) -> None:
        self._session.begin()
        self._tune = threading.Thread(target=self._run_tune, args=[self._board], name="tune", daemon=True)
        self._tune.start()

    def _run_tune(self, board: Board) -> None:
        """Whatever Tune raises ends this thread, and nothing else."""
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
        self._look_after_tune()
        self._look_after_asked()
        with self._board.changed:
            return dict(self._board.states)

    def _look_after_tune(self) -> None:
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
            elif trouble := self._trouble():
                self._lose_tune(trouble)
            elif board.stands_still(STILL_S):
                self._join_again()

    def _trouble(self) -> BaseException | str:
        """What is wrong with Tune; empty if nothing is."""
        if self._board.death is not None:
            return self._board.death
        if self._board.is_silent(SILENT_S if self._board.unended() <= self._asked.keys() else STILL_S):
            return "its loop hangs"
        if self._session.is_ours and self._board.stands_still(STILL_S):
            return "it started nothing though nothing ran"
        return ""

    def _look_after_asked(self) -> None:
        """Give up jobs that were asked to end, and of whose end Ray does not tell."""
        for name, at in list(self._asked.items()):
            if self._board.states[name].ended:
                del self._asked[name]
            elif time.monotonic() - at > GRACE_S + SILENT_S:
                self._board.lose(JobState(True, None, "Ray does not tell of its end", "killed"), {name})

    def _lose_tune(self, trouble: BaseException | str) -> None:
        """Have what ran stand as lost, and what waits come to another Tune, in another Ray where that is ours."""
        state = state_of(trouble, "preempted")
        self._keep(trouble)
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
            if not lost:  # else it is told of those
                _log.warning("Ray Tune ended: %s", words)

    def _join_again(self) -> None:
        """Leave a cluster that starts nothing, and come with the same jobs; it may just have others at work."""
        _log.warning("the Ray cluster started nothing for %.0f s, of what fits on it; it is joined again", STILL_S)
        if self._replace_board():
            self._restart_at = time.monotonic()
        else:
            self._give_up("Ray does not let go of this process")

    def _replace_board(self) -> bool:
        """Leave Ray, and keep the jobs that have not started for another Tune; gives whether there can be one."""
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
        self._keep(why)
        self._fault = why
        self._board.lose(JobState(True, None, why, "preempted"))

    def _keep(self, trouble: BaseException | str) -> None:
        """Leave all that was raised in the folder of this Tune: the terminal gets a line of it."""
        lines = traceback.format_exception(trouble) if isinstance(trouble, BaseException) else [f"{trouble}\n"]
        self._write_down("".join(lines))

    def _hear(self, message: str) -> None:
        """Leave a message of Ray's there too; of a cluster, which may warn of anything, its first line is logged."""
        if not self._session.is_ours:
            _log.warning("Ray: %s", message.strip().partition("\n")[0])
        self._write_down(f"{message.rstrip()}\n")

    def _write_down(self, text: str) -> None:
        with suppress(OSError):
            self._folder.mkdir(parents=True, exist_ok=True)
            with (self._folder / "ended.txt").open("a", encoding="utf-8", errors="backslashreplace") as file:
                file.write(text)

    def cancel(self, name: str) -> None:
        """Ask a job to end, by a mark that its supervisor looks for, wherever in the cluster it is."""
        mark = cancel_mark(self._folder, name)
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.touch()
        self._board.drop(name)
        if name in self._board.states:
            self._asked.setdefault(name, time.monotonic())

    def inventory(self) -> Inventory:
        """What this machine has, or each machine of the cluster.

        Raises:
            SmaugError: there is no cluster at the address.
        """
        if self._session.is_ours:
            return local_inventory()
        self._session.open()
        return self._session.inventory()

    def close(self) -> None:
        """End the Tune run and what still runs in it, and leave Ray; takes some 15 s at most."""
        self._leave()

    def _leave(self) -> bool:
        """End Tune, and leave Ray; gives whether this process can use Ray again."""
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
    """Bytes of memory that a job asks Ray for: what the scale says, else what those like it held on our own Ray.

    None where neither is known. A cluster's owner may not expect jobs to ask, or may count memory in another way.
    """
    (here,) = local_inventory().nodes
    if job.memory_bytes is not None or job.peak_bytes is None or not is_own:
        return job.memory_bytes
    asked = bytes_to_ask(job.peak_bytes)
    return asked if here.memory_bytes is None else min(asked, here.memory_bytes)


def _new_folder(parent: Path) -> Path:
    return parent / f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
