"""Several processes that share the work of one stage, as its worker sees them: torchrun starts one per GPU.

Each leaves a note how it ended in `ranks/`, since torchrun ends with 1 whatever its processes end with. On a stage's
other machines a follower starts them (`experiments.worker.follower`); its reports are in `nodes/`.
"""

import math
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from experiments.stages.memory import PEAK_MEMORY
from experiments.store.attempt import NOTHING_SPENT, Lease
from experiments.store.attempt_files import CLASS, OWNER, PROGRESS
from experiments.store.documents import plain, read_document, write_json
from experiments.store.failures import FailureClass
from experiments.store.process import HEARTBEAT_S
from experiments.worker.device import DeviceClock, Start, oom_kills_since
from experiments.worker.import_path import import_environment
from experiments.worker.outcome import DONE, INTERRUPTED, EndedError, Ending
from experiments.worker.signals import StopFlag
from smaug_core.files import ANY_NUMBER, COUNT, POSITIVE, SECONDS, TIME, Form, Map, Maybe, Number, Words
from smaug_core.stage_protocol import Outcome

LOOK_S = 0.1
"""Time between two looks of the worker at torchrun, and of a rank at whether to stop."""
PEERS_LOST_S = 10.0
"""Grace period before ranks whose peers are gone are killed: NCCL and torchrun would wait minutes for them."""
OVER = "over"
"""In the attempt's folder `nodes`, once the processes of the first machine have ended."""
LAST_WORD_S = 10.0
"""Time that the worker waits for the last reports of other machines, after its own processes have ended."""

LOOPBACK = {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"} if sys.platform == "linux" else {}
"""Where all ranks are on this machine, no other machine is to reach them."""

_STOP_AND_REPEAT = "stop the attempt and give the same command again; it goes on from its checkpoint"
LAUNCH = plain(
    {
        "processes": POSITIVE,
        "gpus": COUNT,
        "nodes": POSITIVE,
        "threads": POSITIVE,
        "host": str,
        "port": Number(1, 65535, whole=True),
        "data_root": str,
        "device": str,
        "start": {"pid": POSITIVE, "wall_from": SECONDS, "cpu_from": SECONDS, "energy_from": Map(COUNT)},
        "recompute_layers": bool,
        "loader_workers": COUNT,
    },
    _STOP_AND_REPEAT,
)
"""crew.json of an attempt with several processes."""

_OUTCOME: Mapping[str, Form] = {
    "metrics": Map(ANY_NUMBER),
    "useful_s": SECONDS,
    "loader_wait_s": SECONDS,
    "checkpoint_s": SECONDS,
    "files": [str],
    "scratch": [str],
    "notes": dict,
}
_ENDING: Mapping[str, Form] = {
    "code": Number(0, 255, whole=True),
    "state": Words(("done", "failed", "diverged", "interrupted", "cancelled")),
    "message": str,
    "details": str,
    "failure": Maybe(CLASS),
}
RANK = plain(
    {
        "pid": POSITIVE,
        "node": COUNT,
        "end?": {"time": TIME, "ending": _ENDING, "bereft": bool},
        "outcome?": _OUTCOME,
    },
    _STOP_AND_REPEAT,
)
"""What a process that shares an attempt leaves in `ranks`."""

NODE = plain(
    {"cpu_s": SECONDS, "joules?": SECONDS, "peak_memory_bytes?": COUNT, "ended?": Number(-255, 255, whole=True)},
    _STOP_AND_REPEAT,
)
"""What another machine of an attempt leaves in `nodes`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LaunchConfig:
    """Launch parameters shared by all ranks of an attempt; crew.json in its folder."""

    processes: int
    """On all machines."""
    gpus: int
    """On all machines."""
    nodes: int = 1
    threads: int
    """Of numerical libraries, in each process."""
    host: str
    """Of their rendezvous: the first machine."""
    port: int
    data_root: str
    device: str
    start: Start
    """Of the attempt's clock."""
    recompute_layers: bool = False
    """Spend time to save memory in training."""
    loader_workers: int = 0
    """Processes that read media ahead, for each rank."""

    @classmethod
    def read(cls, folder: Path) -> Self | None:
        """Read the parameters of the attempt in `folder`; None as long as its worker has not written them."""
        report = read_document(folder / "crew.json", LAUNCH)
        return None if report is None else cls(**report | {"start": Start(**report["start"])})


@contextmanager
def rendezvous(nodes: int) -> Iterator[tuple[str, int]]:
    """Host name of this machine that the others can reach, and a port of it for torchrun.

    The port stays bound meanwhile, so that no other process of this machine is given it before torchrun listens there:
    Linux lets a second socket listen where the first one only reserves, if both allow that.
    """
    host, interface = ("127.0.0.1", "127.0.0.1") if nodes == 1 else (socket.gethostname(), "")
    with socket.socket() as reserved:
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reserved.bind((interface, 0))
        yield host, int(reserved.getsockname()[1])


class NodesClock(DeviceClock):
    """Clock of an attempt, with the time that its other machines report."""

    def __init__(self, launch: LaunchConfig, folder: Path) -> None:
        super().__init__(launch.gpus, launch.start)
        self._folder, self._others = folder, launch.nodes - 1

    def cpu_s(self) -> float:
        """User and system seconds of the processes on all machines."""
        return super().cpu_s() + sum(report["cpu_s"] for report in node_reports(self._folder))

    def account(self) -> dict[str, float]:
        """Return the account of one machine with the memory of all; `joules` only if all machines know theirs."""
        account = super().account()
        account[PEAK_MEMORY] += sum(report.get(PEAK_MEMORY, 0) for report in node_reports(self._folder))
        joules = [report["joules"] for report in node_reports(self._folder) if "joules" in report]
        if "joules" in account and len(joules) == self._others:
            return account | {"joules": account["joules"] + sum(joules)}
        return {name: value for name, value in account.items() if name != "joules"}


def node_reports(folder: Path) -> Iterator[dict[str, Any]]:
    """Read the last reports of an attempt's followers: `cpu_s`, peak memory, maybe `joules`, torchrun's exit code."""
    for path in (folder / "nodes").glob("[0-9]*.json"):
        if (report := read_document(path, NODE)) is not None:
            yield report


class RankProcesses:
    """The worker's side: starts torchrun, forwards a stop request, and reports its end."""

    def __init__(self, lease: Lease, launch: LaunchConfig, stop: StopFlag) -> None:
        self._lease, self._launch, self._stop = lease, launch, stop
        self._clock = NodesClock(launch, lease.directory)
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
        (folder / "ranks").mkdir()
        if self._launch.nodes > 1:
            (folder / "nodes").mkdir()
        write_json(folder / "crew.json", asdict(self._launch))  # the other machines wait for it
        code = self._run_torchrun(start_torchrun(folder, 0, LOOPBACK if self._launch.nodes == 1 else {}))
        self._wait_for_others()
        notes = [read_document(folder / "ranks" / f"{rank}.json", RANK) or {} for rank in range(self._launch.processes)]
        if (outcome := notes[0].get("outcome")) is not None:
            return Outcome(**outcome)
        owner = read_document(folder / "owner.json", OWNER)
        before = None if owner is None else owner.oom_kills
        raise EndedError(ended_as(notes, code, oom_kills_since(before or {})))

    def _run_torchrun(self, torchrun: "subprocess.Popen[bytes]") -> int:
        """Look after the processes of this machine until they have ended; gives torchrun's exit code."""
        self._torchrun, folder = torchrun, self._lease.directory
        signed_at, stop_sent, alone_since = time.monotonic(), False, math.inf
        while (code := torchrun.poll()) is None:
            if self._stop.is_set() and not stop_sent:
                stop_sent = True
                self._ask_to_stop()
            if self._has_nothing_to_wait_for():
                alone_since = min(alone_since, time.monotonic())
            if time.monotonic() - alone_since > PEERS_LOST_S:
                torchrun.kill()
            if time.monotonic() - signed_at > HEARTBEAT_S and not (folder / "metrics.jsonl").exists():
                self.write()  # until the first rank does
                signed_at = time.monotonic()
            time.sleep(LOOK_S)
        return code

    def _has_nothing_to_wait_for(self) -> bool:
        """Return whether another machine's failed, or all here have ended: torchrun then waits for the others."""
        folder, here = self._lease.directory, self._launch.processes // self._launch.nodes
        if self._launch.nodes == 1:
            return False
        notes = (read_document(folder / "ranks" / f"{rank}.json", RANK) or {} for rank in range(here))
        return any(report.get("ended") for report in node_reports(folder)) or all("end" in note for note in notes)

    def _wait_for_others(self) -> None:
        """Wait for the last reports of the other machines, for some time at most."""
        if self._launch.nodes == 1:
            return
        (self._lease.directory / "nodes" / OVER).touch()
        deadline = time.monotonic() + LAST_WORD_S
        while time.monotonic() < deadline:
            if sum("ended" in report for report in node_reports(self._lease.directory)) == self._launch.nodes - 1:
                return
            time.sleep(LOOK_S)

    def _ask_to_stop(self) -> None:
        try:
            (self._lease.directory / "stop").touch()
        except OSError:  # the disk is full; torchrun passes the signal on, but waits only so long for a checkpoint
            if self._torchrun is not None:
                self._torchrun.terminate()

    def write(self) -> None:
        """Write a heartbeat."""
        self._lease.heartbeat(self.account())

    def account(self) -> dict[str, Any]:
        """The first rank's last account, and the time until now."""
        progress = read_document(self._lease.directory / "progress.json", PROGRESS)
        report: dict[str, Any] = NOTHING_SPENT if progress is None else progress.raw
        account = self._clock.account()
        peak = max(account[PEAK_MEMORY], report.get(PEAK_MEMORY, 0))  # the ranks may have ended
        return {key: report[key] for key in NOTHING_SPENT} | account | {PEAK_MEMORY: int(peak)}


def start_torchrun(folder: Path, node: int, environment: dict[str, str], **output: Any) -> "subprocess.Popen[bytes]":
    """Start the ranks of one machine, which end with this process; `output` as `subprocess.Popen` takes it."""
    # A session of its own: Ctrl-C in a terminal reaches the worker alone, which passes it on in its own way.
    return subprocess.Popen(
        [
            sys.executable,
            "-m",
            "experiments.worker.rank",
            str(folder),
            "--worker",
            str(os.getpid()),
            "--node",
            str(node),
        ],
        stdin=subprocess.DEVNULL,
        cwd=folder,
        env=os.environ | import_environment() | environment,
        start_new_session=True,
        **output,
    )


def ended_as(notes: list[dict[str, Any]], code: int, oom_kills: int = 0) -> Ending:
    """Return the end of an attempt without a result, from the ranks' notes and torchrun's exit code.

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
    message = f"torchrun ended with {code}, and no process says why"
    return Ending(INTERRUPTED, "interrupted", message, failure="killed")
