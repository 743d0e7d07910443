"""The process that runs one stage: `python -m experiments.worker STAGE_DIR`, the same on every engine.

It claims the stage, runs it, accounts for its time, and publishes the result. Files are all it writes.
"""

import argparse
import faulthandler
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from hashlib import file_digest
from pathlib import Path
from typing import Any, Protocol

from experiments.stages.code_version import code_digest
from experiments.stages.memory import forget_peak
from experiments.store.attempt import NOTHING_SPENT, HeldError, Lease, claim
from experiments.store.documents import StageDocument, StoreError, write_json
from experiments.store.store import read_stage
from experiments.worker.device import (
    DeviceClock,
    describe_device,
    library_versions,
    oom_kills,
    slurm_job,
    source_commit,
)
from experiments.worker.examples import leave_pictures
from experiments.worker.launcher import Crew, RankProcesses, rendezvous
from experiments.worker.outcome import (
    BAD_INPUT,
    DIVERGED,
    DONE,
    FAILED,
    HELD,
    INTERRUPTED,
    Ending,
    call_entry,
    ending_of,
    set_threads,
    threads,
)
from experiments.worker.reporter import StageWatch
from experiments.worker.signals import StopFlag, end_with, kill_orphan
from smaug_core.errors import SmaugError
from smaug_core.stage_protocol import Outcome

__all__ = ["BAD_INPUT", "DIVERGED", "DONE", "FAILED", "HELD", "INTERRUPTED", "run_command", "run_stage"]


def run_stage(
    directory: Path,
    *,
    data_root: Path,
    device: str,
    stop: StopFlag,
    processes: int = 1,
    nodes: int = 1,
    recompute_layers: bool = False,
    log: bool = False,
) -> int:
    """Run the stage prepared in `directory` to its end unless it is done already, and return the exit code.

    Args:
        data_root: folder of the media.
        stop: set from outside to request a checkpoint and an early end.
        processes: share the work; more than one are started by torchrun, with a GPU each if there are any.
        nodes: number of machines of the processes; the others follow this one (`experiments.worker.follower`).
        recompute_layers: activation checkpointing in training; the same numbers.
        log: send everything that is printed from now on to the attempt's log.txt.

    Raises:
        HeldError: another process is working on the stage.
        StoreError: there is no stage here, or the store cannot be written.
    """
    stage = read_stage(directory)
    if stage is None:
        raise StoreError(f"{directory}: no stage was prepared here (stage.json is missing)")
    if (directory / "result.json").exists():
        return DONE
    gpus = stage.resources["gpus"]
    options: dict[str, Any] = {"device": device, "recompute_layers": recompute_layers}
    host = _describe_host(stage, device, nodes, recompute_layers=recompute_layers)
    forget_peak()  # of the driver that this process may be, and of the stages before
    clock = DeviceClock(gpus, nodes=nodes)
    lease = claim(directory, host | slurm_job() | {"oom_kills": oom_kills()})
    if (directory / "result.json").exists():  # published by an attempt that ended between our check and our claim
        lease.end("cancelled", NOTHING_SPENT, "another worker finished the stage meanwhile")
        return DONE
    if log:
        _send_output_to(lease.directory / "log.txt")
    set_threads(max(1, stage.resources["cpus"] // processes))
    pictures = partial(leave_pictures, stage, directory, data_root=data_root, device=device)
    publication = _Publication(stage, lease, host | {"processes": processes}, pictures)
    shared = _Shared(processes, nodes, data_root, options)
    ending, account = _run(publication, clock, stop, shared)
    if log:
        _say(f"{ending.details}{ending.state}: {ending.message}")
    lease.end(ending.state, account(), ending.message, ending.details, ending.failure)
    return ending.code


@dataclass(frozen=True, slots=True)
class _Shared:
    """Processes of an attempt, and what all of them must know."""

    processes: int
    nodes: int
    data_root: Path
    options: dict[str, Any]


def _run(
    publication: "_Publication", clock: DeviceClock, stop: StopFlag, shared: _Shared
) -> tuple[Ending, Callable[[], dict[str, Any]]]:
    """Do the work in this process or in several; return its ending and its time."""
    lease, stage = publication.lease, publication.stage
    if shared.processes == 1:
        with StageWatch(lease, clock, stop) as watch:
            work = partial(call_entry, stage, lease.stage_directory, data_root=shared.data_root, watch=watch)
            return ending_of(lambda: publication.make(partial(work, **shared.options), watch)), watch.account
    with rendezvous(shared.nodes) as (address, port):
        crew = Crew(
            processes=shared.processes,
            gpus=stage.resources["gpus"],
            nodes=shared.nodes,
            threads=threads(),
            host=address,
            port=port,
            data_root=str(shared.data_root),
            start=clock.start,
            **shared.options,
        )
        with RankProcesses(lease, crew, stop) as ranks:
            return ending_of(lambda: publication.make(ranks.run, ranks)), ranks.account


def _describe_host(stage: StageDocument, device: str, nodes: int, *, recompute_layers: bool) -> dict[str, Any]:
    cpus, gpus = stage.resources["cpus"], stage.resources["gpus"]
    host = describe_device(device) | {"cpus": cpus, "gpus": gpus, "versions": library_versions()}
    host |= {"recompute_layers": True} if recompute_layers else {}
    return host | ({"nodes": nodes} if nodes > 1 else {})


ORPHAN_S = 600.0
"""Time in which a worker that its supervisor has left saves its state; a driver waits for its end."""


class _Signs(Protocol):
    def write(self) -> None:
        """Write a heartbeat; raises if a newer attempt has begun."""


@dataclass(frozen=True, slots=True)
class _Publication:
    """What becomes of a stage's work."""

    stage: StageDocument
    lease: Lease
    host: dict[str, Any]
    leave_pictures: Callable[[], None]
    """Puts some beside what the work made; never raises for want of them."""

    def make(self, work: Callable[[], Outcome], signs: _Signs) -> None:
        """Do the work and publish its result."""
        directory = self.lease.stage_directory
        code = code_digest(self.stage.kind)  # before the work: the files may change while it runs
        commit = source_commit()
        outcome = work()
        signs.write()
        self.leave_pictures()
        result = {
            "fingerprint": self.stage.fingerprint,
            "metrics": outcome.metrics,
            "useful_s": outcome.useful_s,
            "files": _digests(directory, outcome.files),
            "sizes": {name: (directory / name).stat().st_size for name in outcome.files},
            "notes": outcome.notes,
            "code": code,
            **self.host,
            "commit": commit,
            "threads": threads(),
            "attempt": self.lease.number,
            "time": time.time(),
        }
        signs.write()  # also finds out whether a newer attempt has begun
        write_json(directory / "result.json", result, durable=True)
        for name in outcome.scratch:
            shutil.rmtree(directory / name, ignore_errors=True)


def _digests(directory: Path, files: list[str]) -> dict[str, str]:
    digests = {}
    for name in files:
        try:
            with (directory / name).open("rb") as file:
                digests[name] = file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise StoreError(
                f"{directory / name}: the stage says it wrote this file, but it cannot be read ({error.strerror})"
            ) from error
    return digests


def _say(text: str) -> None:
    with suppress(OSError):  # the disk that the log is on may be full
        sys.stderr.write(f"{text}\n")


def _send_output_to(path: Path) -> None:
    """Everything printed goes to the log, by native libraries and child processes too."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
        stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    os.dup2(handle, sys.stdout.fileno())
    os.dup2(handle, sys.stderr.fileno())
    os.close(handle)
    faulthandler.enable()


def run_command(arguments: Sequence[str], stop: StopFlag, *, log: bool) -> tuple[int, str]:
    """Run the stage that a worker's command line names; give the exit code and what is wrong, if anything."""
    parser = argparse.ArgumentParser(prog="python -m experiments.worker", description=__doc__)
    parser.add_argument("directory", type=Path, help="folder of the stage in the store")
    parser.add_argument("--data-root", type=Path, help="where the media are (default: data beside the store)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--probe", action="store_true", help="only time some steps, and leave rate.json in the folder")
    parser.add_argument("--processes", type=int, default=1, help="that share the work, each with one of its GPUs")
    parser.add_argument("--nodes", type=int, default=1, help="machines that the processes are on, this one first")
    parser.add_argument("--recompute-layers", action="store_true", help="spend time to save memory in training")
    parser.add_argument("--parent", type=int, help="process id to stop with, should it die")
    given = parser.parse_args(arguments)
    if given.parent is not None:
        end_with(given.parent)
        kill_orphan(given.parent, ORPHAN_S)
    directory = given.directory.resolve()
    data_root = given.data_root or directory.parents[2] / "data"
    try:
        if given.probe:
            from experiments.worker.calibrate import time_steps

            time_steps(directory, data_root=data_root, device=given.device, stop=stop)
            return DONE, ""
        code = run_stage(
            directory,
            data_root=data_root,
            device=given.device,
            stop=stop,
            processes=given.processes,
            nodes=given.nodes,
            recompute_layers=given.recompute_layers,
            log=log,
        )
    except HeldError as error:
        return HELD, str(error)
    except SmaugError as error:
        return BAD_INPUT, str(error)
    return code, ""


def main() -> int:
    """Run one stage as a process of its own."""
    stop = StopFlag()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2):
        signal.signal(number, lambda *_: stop.set())
    code, message = run_command(sys.argv[1:], stop, log=True)
    if message:
        _say(message)
    return code
