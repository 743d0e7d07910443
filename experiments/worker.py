"""The process that runs one stage: `python -m experiments.worker STAGE_DIR`, the same on every engine.

It claims the stage, runs it, accounts for its time, and publishes the result. Files are all it writes.
"""

import argparse
import errno
import faulthandler
import importlib
import os
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from hashlib import file_digest
from pathlib import Path
from typing import Any

from experiments.attempt import (
    NOTHING_SPENT,
    AttemptState,
    HeldError,
    Lease,
    StoreError,
    SupersededError,
    claim,
    read_json,
    write_json,
)
from experiments.code import code_digest
from experiments.host import DeviceClock, describe_device, library_versions, source_commit
from experiments.stop import StopFlag, end_with
from experiments.watch import StageWatch
from smaug_core.errors import DivergedError, SmaugError
from smaug_core.stages import Interrupted, Outcome

DONE, FAILED, BAD_INPUT, DIVERGED, HELD, INTERRUPTED = 0, 1, 2, 71, 73, 75
"""Exit codes; 75 asks for another try, which continues from the checkpoint."""


def run_stage(directory: Path, *, data_root: Path, device: str, stop: StopFlag, log: bool = False) -> int:
    """Run the stage prepared in `directory` to its end unless it is done already, and give the exit code.

    Args:
        directory: folder of the stage in the store; holds its stage.json.
        data_root: where the media are.
        device: as torch names it, `cpu` or `cuda`.
        stop: set from outside to ask for a checkpoint and an early end.
        log: send everything that is printed from now on to the attempt's log.txt.

    Raises:
        HeldError: somebody else is working on the stage.
        StoreError: there is no stage here, or the store cannot be written.
    """
    stage = read_json(directory / "stage.json")
    if stage is None:
        raise StoreError(f"{directory}: no stage was prepared here (stage.json is missing)")
    if (directory / "result.json").exists():
        return DONE
    cpus, gpus = stage["resources"]["cpus"], stage["resources"]["gpus"]
    host = describe_device(device) | {"cpus": cpus, "gpus": gpus, "versions": library_versions()}
    clock = DeviceClock(gpus)
    lease = claim(directory, host)
    if (directory / "result.json").exists():  # published by an attempt that ended between our look and our claim
        lease.end("cancelled", NOTHING_SPENT, "another worker finished the stage meanwhile")
        return DONE
    if log:
        _send_output_to(lease.directory / "log.txt")
    with StageWatch(lease, clock, stop) as watch:
        code, ended, message, details = _attempt(lambda: _run_and_publish(stage, lease, watch, data_root, device, host))
    if log:
        _say(f"{details}{ended}: {message}")
    lease.end(ended, watch.account(), message, details)
    return code


def _attempt(work: Callable[[], str]) -> tuple[int, AttemptState, str, str]:
    """Do the work; tell how it went as exit code, class, message and traceback."""
    try:
        return DONE, "done", work(), ""
    except Interrupted as stopped:
        return INTERRUPTED, "interrupted", str(stopped), ""
    except KeyboardInterrupt:  # only where a stage runs in the process of a person who does not want to wait
        return INTERRUPTED, "interrupted", "stopped at once, without a checkpoint", ""
    except SupersededError as lost:
        return HELD, "cancelled", str(lost), ""
    except StoreError as error:  # no fault of the stage: the same command tries again
        return BAD_INPUT, "cancelled", str(error), ""
    except DivergedError as error:
        return DIVERGED, "diverged", str(error), ""
    except SmaugError as error:
        return BAD_INPUT, "failed", str(error), ""
    except (Exception, SystemExit) as error:  # noqa: BLE001  whatever a stage raises is recorded as its end
        message, full = f"{type(error).__name__}: {error}", os.strerror(errno.ENOSPC)
        if full in message:  # libraries have their own classes for it
            return BAD_INPUT, "cancelled", f"{message}; free some space, then give the same command again", ""
        return FAILED, "failed", message, traceback.format_exc()


def _run_and_publish(
    stage: dict[str, Any],
    lease: Lease,
    watch: StageWatch,
    data_root: Path,
    device: str,
    host: dict[str, Any],
) -> str:
    set_threads(host["cpus"])
    code = code_digest(stage["kind"])  # before the work: the files may change while it runs
    commit = source_commit()
    outcome = _entry(stage["entry"])(
        stage["kind"],
        stage["settings"],
        seed=stage["seed"],
        parents=_finished_parents(lease.stage_directory, stage["parents"]),
        out=lease.stage_directory,
        data_root=data_root,
        device=device,
        watch=watch,
    )
    result = {
        "fingerprint": stage["fingerprint"],
        "metrics": outcome.metrics,
        "useful_s": outcome.useful_s,
        "files": _digests(lease.stage_directory, outcome.files),
        "notes": outcome.notes,
        "code": code,
        **host,
        "commit": commit,
        "threads": _threads(),
        "attempt": lease.number,
        "time": time.time(),
    }
    watch.write()  # also finds out whether a newer attempt has begun
    write_json(lease.stage_directory / "result.json", result, durable=True)
    for name in outcome.scratch:
        shutil.rmtree(lease.stage_directory / name, ignore_errors=True)
    return "published"


def _entry(name: str) -> Callable[..., Outcome]:
    module, _, function = name.partition(":")
    entry: Callable[..., Outcome] = getattr(importlib.import_module(module), function)
    return entry


def _finished_parents(directory: Path, fingerprints: list[str]) -> list[Path]:
    store = directory.parent.parent
    found = []
    for fingerprint in fingerprints:
        done = list(store.glob(f"*/{fingerprint[:12]}/result.json"))
        if len(done) != 1:
            raise StoreError(f"{directory}: the stage it builds on, {fingerprint[:12]}, is not done in {store}")
        found.append(done[0].parent)
    return found


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


def set_threads(cpus: int) -> None:
    """Let numerical libraries use `cpus` threads: before they load by environment, and torch also after."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(cpus)
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(cpus)


def _threads() -> int:
    if torch := sys.modules.get("torch"):
        return int(torch.get_num_threads())
    return int(os.environ["OMP_NUM_THREADS"])


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
    parser.add_argument("--parent", type=int, help="process id to stop with, should it die")
    given = parser.parse_args(arguments)
    if given.parent is not None:
        end_with(given.parent)
    directory = given.directory.resolve()
    data_root = given.data_root or directory.parents[2] / "data"
    try:
        if given.probe:
            from experiments.timing import time_steps

            time_steps(directory, data_root=data_root, device=given.device, stop=stop)
            return DONE, ""
        code = run_stage(directory, data_root=data_root, device=given.device, stop=stop, log=log)
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


if __name__ == "__main__":
    status = main()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):  # the log may lie on a full disk
            stream.flush()
    os._exit(status)  # else Python flushes again, and a disk that is full turns the exit code into 120
