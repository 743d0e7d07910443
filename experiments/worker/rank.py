"""The processes that share the work of one stage, under torchrun.

`python -m experiments.worker.rank ATTEMPT_DIR` is torchrun if the worker starts it, and one of the processes (a rank)
if torchrun does. The first rank reports and writes heartbeats; each leaves a note how it ended in `ranks/`, since
torchrun ends with 1 whatever its processes end with. The kernel kills torchrun with the worker, and the ranks with
torchrun: no GPU is held by a process that no other waits for.
"""

import argparse
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil

from experiments.store.attempt import Lease
from experiments.store.documents import StoreError, read_document, write_json
from experiments.store.store import read_stage
from experiments.worker.device import DeviceClock
from experiments.worker.launcher import LOOK_S, RANK, LaunchConfig, NodesClock, node_reports
from experiments.worker.outcome import DONE, FAILED, INTERRUPTED, call_entry, ending_of, set_threads
from experiments.worker.reporter import QuietWatch, StageWatch, print_error
from experiments.worker.signals import StopFlag, end_with, set_by_signals
from smaug_core.stage_protocol import Watch

PEER_DEATH_S = 2.0
"""Time that a rank whose exchange broke waits for another one's death: a process closes its connections first."""


class Rank:
    """One of the processes."""

    def __init__(self, folder: Path, number: int) -> None:
        self._folder, self._number = folder, number
        self._node = int(os.environ["GROUP_RANK"])
        self._note: dict[str, Any] = {"pid": os.getpid(), "node": self._node}
        self._stop = StopFlag()

    def run(self) -> int:
        """Do this process's share of the work; gives the exit code.

        It is 0 where all ranks end together; else torchrun must end the others, which may wait for this one.
        """
        set_by_signals(self._stop)
        self._leave_note()
        threading.Thread(target=self._listen, name="stop", daemon=True).start()
        ending = ending_of(self._work)
        bereft = ending.code == FAILED and self._another_ended_first()
        self._note["end"] = {"time": time.time(), "ending": asdict(ending), "bereft": bereft}
        if ending.details:
            print_error(f"process {self._number}: {ending.details}")
        with suppress(StoreError):  # a disk that is full; without the note there is another try, which meets it
            self._leave_note()
        return 0 if ending.code in (DONE, INTERRUPTED) else 1

    def _work(self) -> None:
        directory = self._folder.parent.parent
        stage, launch = read_stage(directory), LaunchConfig.read(self._folder)
        if stage is None or launch is None:
            raise StoreError(f"{self._folder}: stage.json or crew.json is missing")
        with self._watch(directory, launch) as watch:
            data_root = Path(launch.data_root)
            outcome = call_entry(
                stage,
                directory,
                data_root=data_root,
                device=launch.device,
                watch=watch,
                recompute_layers=launch.recompute_layers,
                loader_workers=launch.loader_workers,
            )
        if self._number == 0:
            self._note["outcome"] = asdict(outcome)

    @contextmanager
    def _watch(self, directory: Path, launch: LaunchConfig) -> Iterator[Watch]:
        share = DeviceClock(launch.gpus / launch.processes)
        if self._number > 0:
            yield QuietWatch(share, self._stop)
            return
        lease, clock = Lease(directory, int(self._folder.name)), NodesClock(launch, self._folder)
        with StageWatch(lease, clock, self._stop, share) as watch:
            try:
                yield watch
            finally:
                with suppress(StoreError):  # the last account; the worker meets what is wrong when it publishes
                    watch.write()

    def _listen(self) -> None:
        while not (self._folder / "stop").exists():
            time.sleep(LOOK_S)
        self._stop.set()

    def _another_ended_first(self) -> bool:
        """Return whether this one may have failed because another failed before, or was killed."""
        deadline = time.monotonic() + PEER_DEATH_S
        while time.monotonic() < deadline:
            notes = [read_document(path, RANK) for path in (self._folder / "ranks").glob("[0-9]*.json")]
            for note in filter(None, notes):
                other = (note["pid"], note["node"]) != (os.getpid(), self._node)
                if other and ("end" in note or (note["node"] == self._node and not _lives(note["pid"]))):
                    return True
            if self._node == 0 and any("ended" in report for report in node_reports(self._folder)):
                return True
            time.sleep(LOOK_S)
        return False

    def _leave_note(self) -> None:
        write_json(self._folder / "ranks" / f"{self._number}.json", self._note)


def _lives(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def main() -> int:
    """Be torchrun, or one of its processes."""
    parser = argparse.ArgumentParser(prog="python -m experiments.worker.rank", description=__doc__)
    parser.add_argument("folder", type=Path, help="folder of the attempt")
    parser.add_argument("--worker", type=int, help="process id of the worker, for torchrun")
    parser.add_argument("--node", type=int, default=0, help="which of the stage's machines this is, for torchrun")
    parser.add_argument("--torchrun", type=int, help="process id of torchrun, for a rank")
    given = parser.parse_args()
    if given.worker is None:
        end_with(given.torchrun, signal.SIGKILL)
        return Rank(given.folder, int(os.environ["RANK"])).run()
    end_with(given.worker, signal.SIGKILL)
    # Slurm may send it to every process of a job, and torchrun would die of it; the worker passes a stop on.
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    launch = LaunchConfig.read(given.folder)
    if launch is None:
        raise StoreError(f"{given.folder}: crew.json is missing")
    set_threads(launch.threads)  # before torch is loaded
    from torch.distributed.run import main as torchrun

    rank = ("-m", "experiments.worker.rank", str(given.folder), "--torchrun", str(os.getpid()))
    # Not --standalone: its rendezvous unpickles what it reads from a port that the whole network can reach.
    where = ("--nnodes", str(launch.nodes), "--node-rank", str(given.node))
    meet = ("--master-addr", launch.host, "--master-port", str(launch.port))
    torchrun([*where, *meet, "--nproc-per-node", str(launch.processes // launch.nodes), *rank])
    return DONE


if __name__ == "__main__":
    status = main()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):
            stream.flush()
    os._exit(status)  # NCCL's threads may wait for ranks that are gone
