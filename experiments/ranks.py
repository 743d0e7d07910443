"""Several processes that share the work of one stage: torchrun starts one per GPU, the worker watches over them.

`python -m experiments.ranks ATTEMPT_DIR` is torchrun if the worker starts it, and one of the processes (a rank) if
torchrun does. The first rank reports and gives signs of life; each leaves a note how it ended in `ranks/`, since
torchrun ends with 1 whatever its processes end with. The kernel kills torchrun with the worker, and the ranks with
torchrun: no GPU is held by a process that nobody waits for.
"""

import argparse
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil

from experiments.attempt import HEARTBEAT_S, NOTHING_SPENT, Lease, StoreError, read_json, write_json
from experiments.failures import FailureClass
from experiments.host import DeviceClock, Start, oom_kills_since
from experiments.stop import StopFlag, end_with
from experiments.watch import StageWatch
from experiments.work import DONE, FAILED, INTERRUPTED, EndedError, Ending, call_entry, ending_of
from smaug_core.stages import Outcome, Watch

LOOK_S = 0.1
"""Time between two looks of the worker at torchrun, and of a rank at whether to stop."""
DEATH_SHOWS_S = 2.0
"""A rank whose exchange broke waits so long to see another one dead: a process closes its connections first."""

LOOPBACK = {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"} if sys.platform == "linux" else {}
"""All ranks are on this machine: nobody else is to reach them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Crew:
    """What the ranks of an attempt must know; crew.json in its folder."""

    processes: int
    gpus: int
    data_root: str
    device: str
    start: Start
    """Of the attempt's clock."""
    recompute_layers: bool = False
    """Spend time to save memory in training."""


class Ranks:
    """The worker's side: starts torchrun, passes a stop on, and tells how it ended."""

    def __init__(self, lease: Lease, crew: Crew, clock: DeviceClock, stop: StopFlag) -> None:
        self._lease, self._crew, self._clock, self._stop = lease, crew, clock, stop
        self._torchrun: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._torchrun is not None and self._torchrun.poll() is None:
            self._torchrun.kill()
            self._torchrun.wait()

    def run(self) -> Outcome:
        """Have the ranks do the work.

        Raises:
            EndedError: they did not finish, as it says.
            StoreError: the attempt's folder cannot be written.
        """
        folder = self._lease.directory
        write_json(folder / "crew.json", asdict(self._crew))
        (folder / "ranks").mkdir()
        # A session of its own: Ctrl-C in a terminal reaches the worker alone, which passes it on in its own way.
        self._torchrun = subprocess.Popen(
            [sys.executable, "-m", "experiments.ranks", str(folder), "--worker", str(os.getpid())],
            stdin=subprocess.DEVNULL,
            env=os.environ | LOOPBACK,
            start_new_session=True,
        )
        signed_at, asked = time.monotonic(), False
        while (code := self._torchrun.poll()) is None:
            if self._stop.is_set() and not asked:
                asked = True
                self._ask_to_stop()
            if time.monotonic() - signed_at > HEARTBEAT_S and not (folder / "metrics.jsonl").exists():
                self.write()  # until the first rank does
                signed_at = time.monotonic()
            time.sleep(LOOK_S)
        notes = [read_json(folder / "ranks" / f"{rank}.json") or {} for rank in range(self._crew.processes)]
        if (outcome := notes[0].get("outcome")) is not None:
            return Outcome(**outcome)
        owner = read_json(folder / "owner.json") or {}
        raise EndedError(ended_as(notes, code, oom_kills_since(owner.get("oom_kills", {}))))

    def _ask_to_stop(self) -> None:
        try:
            (self._lease.directory / "stop").touch()
        except OSError:  # the disk is full; torchrun passes the signal on, but waits only so long for a checkpoint
            if self._torchrun is not None:
                self._torchrun.terminate()

    def write(self) -> None:
        """Give a sign of life."""
        self._lease.heartbeat(self.account())

    def account(self) -> dict[str, Any]:
        """The first rank's last account, and the time until now."""
        told = read_json(self._lease.directory / "progress.json") or NOTHING_SPENT
        return {key: told[key] for key in NOTHING_SPENT} | self._clock.account()


def ended_as(notes: list[dict[str, Any]], code: int, oom_kills: int = 0) -> Ending:
    """What became of an attempt without a result, from the ranks' notes and torchrun's exit code.

    What one of them met comes first; else some were killed, and another try goes on from the checkpoint. `oom_kills`:
    how many processes the kernel killed meanwhile for want of memory.
    """
    ends = sorted((note["end"] for note in notes if "end" in note), key=lambda end: end["time"])
    for end in ends:
        if not end["bereft"] and end["ending"]["code"] not in (DONE, INTERRUPTED):
            return Ending(**end["ending"])
    silent = [rank for rank, note in enumerate(notes) if "end" not in note]
    if silent:
        who = f"processes {', '.join(map(str, silent))} of {len(notes)}" if len(silent) > 1 else f"process {silent[0]}"
        by = f", torchrun by {signal.Signals(-code).name}" if code < 0 else ""
        why: FailureClass = "host_memory" if oom_kills else "killed"
        return Ending(INTERRUPTED, "interrupted", f"killed without a word: {who}{by}", failure=why)
    for end in ends:
        if end["ending"]["code"] == INTERRUPTED:
            return Ending(**end["ending"])
    said = f"torchrun ended with {code}, and no process says why"
    return Ending(INTERRUPTED, "interrupted", said, failure="killed")


class RankWatch:
    """What a rank but the first reports to: nobody; implements `smaug_core.stages.Watch`."""

    def __init__(self, share: DeviceClock, stop: StopFlag) -> None:
        self._share, self._stop = share, stop

    def report(self, step: int, total: int, values: Mapping[str, float]) -> None:
        """The first rank tells."""

    def useful(self, seconds: float) -> None:
        """The first rank notes it."""

    def spent(self) -> float:
        """Device seconds of this process."""
        return self._share.spent_s()

    def stop_requested(self) -> bool:
        """Whether to save a checkpoint and end."""
        return self._stop.is_set()


class Rank:
    """One of the processes."""

    def __init__(self, folder: Path, number: int) -> None:
        self._folder, self._number = folder, number
        self._note: dict[str, Any] = {"pid": os.getpid()}
        self._stop = StopFlag()

    def run(self) -> int:
        """Do this process's share of the work; gives the exit code.

        It is 0 where all ranks end together; else torchrun must end the others, which may wait for this one.
        """
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2):
            signal.signal(number, lambda *_: self._stop.set())
        self._leave_note()
        threading.Thread(target=self._listen, name="stop", daemon=True).start()
        ending = ending_of(self._work)
        bereft = ending.code == FAILED and self._another_ended_first()
        self._note["end"] = {"time": time.time(), "ending": asdict(ending), "bereft": bereft}
        if ending.details:
            sys.stderr.write(f"process {self._number}: {ending.details}\n")
        with suppress(StoreError):  # a disk that is full; without the note there is another try, which meets it
            self._leave_note()
        return 0 if ending.code in (DONE, INTERRUPTED) else 1

    def _work(self) -> None:
        directory = self._folder.parent.parent
        stage, told = read_json(directory / "stage.json"), read_json(self._folder / "crew.json")
        if stage is None or told is None:
            raise StoreError(f"{self._folder}: stage.json or crew.json is missing")
        crew = Crew(**told | {"start": Start(**told["start"])})
        with self._watch(directory, crew) as watch:
            data_root = Path(crew.data_root)
            outcome = call_entry(
                stage,
                directory,
                data_root=data_root,
                device=crew.device,
                watch=watch,
                recompute_layers=crew.recompute_layers,
            )
        if self._number == 0:
            self._note["outcome"] = asdict(outcome)

    @contextmanager
    def _watch(self, directory: Path, crew: Crew) -> Iterator[Watch]:
        share = DeviceClock(crew.gpus / crew.processes)
        if self._number > 0:
            yield RankWatch(share, self._stop)
            return
        lease, clock = Lease(directory, int(self._folder.name)), DeviceClock(crew.gpus, crew.start)
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
        """Whether this one may have failed because another failed before, or was killed."""
        deadline = time.monotonic() + DEATH_SHOWS_S
        while time.monotonic() < deadline:
            notes = [read_json(path) or {} for path in (self._folder / "ranks").glob("*.json")]
            for note in notes:
                if note["pid"] != os.getpid() and ("end" in note or not _lives(note["pid"])):
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
    parser = argparse.ArgumentParser(prog="python -m experiments.ranks", description=__doc__)
    parser.add_argument("folder", type=Path, help="folder of the attempt")
    parser.add_argument("--worker", type=int, help="process id of the worker, for torchrun")
    parser.add_argument("--torchrun", type=int, help="process id of torchrun, for a rank")
    given = parser.parse_args()
    if given.worker is None:
        end_with(given.torchrun, signal.SIGKILL)
        return Rank(given.folder, int(os.environ["RANK"])).run()
    end_with(given.worker, signal.SIGKILL)
    from torch.distributed.run import main as torchrun

    crew = read_json(given.folder / "crew.json")
    if crew is None:
        raise StoreError(f"{given.folder}: crew.json is missing")
    rank = ("-m", "experiments.ranks", str(given.folder), "--torchrun", str(os.getpid()))
    # Not --standalone: its rendezvous unpickles what it reads from a port that the whole network can reach.
    where = ("--nnodes", "1", "--master-addr", "127.0.0.1", "--master-port", str(_free_port()))
    torchrun([*where, "--nproc-per-node", str(crew["processes"]), *rank])
    return DONE


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


if __name__ == "__main__":
    status = main()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):
            stream.flush()
    os._exit(status)  # NCCL's threads may wait for ranks that are gone
