"""The process that runs one stage: `python -m experiments.worker STAGE_DIR`, the same on every engine.

It claims the stage, runs it, accounts for its time, and publishes the result. Files are all it writes.
"""

import argparse
import faulthandler
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from experiments.stages.memory import forget_peak
from experiments.stages.stage import loader_workers
from experiments.store.attempt import NOTHING_SPENT, HeldError, claim
from experiments.store.documents import StageDocument, StoreError
from experiments.store.store import read_stage
from experiments.worker.device import DeviceClock, describe_device, library_versions, oom_kills, slurm_job
from experiments.worker.examples import leave_pictures
from experiments.worker.launcher import LaunchConfig, RankProcesses, rendezvous
from experiments.worker.outcome import (
    BAD_INPUT,
    DONE,
    HELD,
    Ending,
    Publication,
    call_entry,
    ending_of,
    set_threads,
    threads,
)
from experiments.worker.reporter import StageWatch, print_error
from experiments.worker.signals import StopFlag, end_with, kill_orphan, set_by_signals
from smaug_core.errors import SmaugError

ORPHAN_S = 600.0
"""Time in which a worker that its supervisor has left saves its state; a driver waits for its end."""


def main() -> int:
    """Run one stage as a process of its own."""
    stop = StopFlag()
    set_by_signals(stop)
    code, message = run_command(sys.argv[1:], stop, log=True)
    if message:
        print_error(message)
    return code


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

    The options are those of the command line; `stop` requests a checkpoint and an early end, and `log` sends all output
    to the attempt's log.txt.

    Raises:
        HeldError: another process is working on the stage.
        StoreError: there is no stage here, or the store cannot be written.
    """
    stage = read_stage(directory)
    if stage is None:
        raise StoreError(f"{directory}: no stage was prepared here (stage.json is missing)")
    if (directory / "result.json").exists():
        return DONE
    host = _describe_host(stage, device, nodes, recompute_layers=recompute_layers)
    forget_peak()  # of the driver that this process may be, and of the stages before
    clock = DeviceClock(stage.resources["gpus"], nodes=nodes)
    lease = claim(directory, host | slurm_job() | {"oom_kills": oom_kills()})
    if (directory / "result.json").exists():  # published by an attempt that ended between our check and our claim
        lease.end("cancelled", NOTHING_SPENT, "another worker finished the stage meanwhile")
        return DONE
    if log:
        _send_output_to(lease.directory / "log.txt")
    workers = loader_workers(stage.resources, processes)
    set_threads(max(1, stage.resources["cpus"] // processes - workers))
    pictures = partial(leave_pictures, stage, directory, data_root=data_root, device=device)
    publication = Publication(stage, lease, host | {"processes": processes}, pictures)
    options: dict[str, Any] = {"device": device, "recompute_layers": recompute_layers, "loader_workers": workers}
    if processes == 1:
        ending, account = _run_here(publication, clock, stop, data_root=data_root, **options)
    else:
        sizes = {"processes": processes, "nodes": nodes, "gpus": stage.resources["gpus"], "threads": threads()}
        launch = partial(LaunchConfig, start=clock.start, data_root=str(data_root), **sizes, **options)
        ending, account = _run_ranks(publication, launch, stop, nodes)
    if log:
        print_error(f"{ending.details}{ending.state}: {ending.message}")
    lease.end(ending.state, account(), ending.message, ending.details, ending.failure)
    return ending.code


Account = Callable[[], dict[str, Any]]
"""Time that an attempt has used until now."""


def _run_here(publication: Publication, clock: DeviceClock, stop: StopFlag, **options: Any) -> tuple[Ending, Account]:
    """Do the work in this process."""
    stage, lease = publication.stage, publication.lease
    with StageWatch(lease, clock, stop) as watch:
        work = partial(call_entry, stage, lease.stage_directory, watch=watch, **options)
        return ending_of(lambda: publication.make(work, watch.write)), watch.account


def _run_ranks(
    publication: Publication, launch: Callable[..., LaunchConfig], stop: StopFlag, nodes: int
) -> tuple[Ending, Account]:
    """Have several processes do the work."""
    with (
        rendezvous(nodes) as (host, port),
        RankProcesses(publication.lease, launch(host=host, port=port), stop) as ranks,
    ):
        return ending_of(lambda: publication.make(ranks.run, ranks.write)), ranks.account


def _describe_host(stage: StageDocument, device: str, nodes: int, *, recompute_layers: bool) -> dict[str, Any]:
    cpus, gpus = stage.resources["cpus"], stage.resources["gpus"]
    host = describe_device(device) | {"cpus": cpus, "gpus": gpus, "versions": library_versions()}
    host |= {"recompute_layers": True} if recompute_layers else {}
    return host | ({"nodes": nodes} if nodes > 1 else {})


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
