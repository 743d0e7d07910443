"""The work of a stage: the call of its function, its publication in result.json, and its ending with an exit code."""

import errno
import importlib
import os
import shutil
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import file_digest
from pathlib import Path
from typing import Any

from experiments.stages.code_version import code_digest
from experiments.store.attempt import AttemptState, Lease, SupersededError
from experiments.store.documents import StageDocument, StoreError, write_json
from experiments.store.failures import DIVERGED_CODE, STOPPED_CODE, FailureClass, Seen, classify
from experiments.worker.device import source_commit
from smaug_core.errors import DivergedError, SmaugError
from smaug_core.stage_protocol import Interrupted, Outcome, Watch

DONE, FAILED, BAD_INPUT, DIVERGED, HELD, INTERRUPTED = 0, 1, 2, DIVERGED_CODE, 73, STOPPED_CODE
"""Exit codes of a worker; 75 asks for another try, which continues from the checkpoint."""


@dataclass(frozen=True, slots=True)
class Ending:
    """End of an attempt."""

    code: int
    state: AttemptState
    message: str = ""
    details: str = ""
    """The traceback, where the message alone would not do."""
    failure: FailureClass | None = None
    """Why there is no result; none if there is one."""


class EndedError(Exception):
    """The work ended in other processes, as `ending` says."""

    def __init__(self, ending: Ending) -> None:
        super().__init__(ending.message)
        self.ending = ending


def ending_of(work: Callable[[], object]) -> Ending:
    """Do the work; return its ending."""
    try:
        work()
    except EndedError as ended:
        return ended.ending
    except Interrupted as stopped:
        return Ending(INTERRUPTED, "interrupted", str(stopped), failure="preempted")
    except KeyboardInterrupt:  # only where a stage runs in the process of a person who does not want to wait
        return Ending(INTERRUPTED, "interrupted", "stopped at once, without a checkpoint", failure="preempted")
    except SupersededError as lost:
        return Ending(HELD, "cancelled", str(lost), failure="cancelled")
    except StoreError as error:  # no fault of the stage: the same command tries again
        return Ending(BAD_INPUT, "cancelled", str(error), failure="storage")
    except DivergedError as error:
        return Ending(DIVERGED, "diverged", str(error), failure="diverged")
    except SmaugError as error:
        return Ending(BAD_INPUT, "failed", str(error), failure="user_error")
    except (Exception, SystemExit) as error:  # noqa: BLE001  whatever a stage raises is recorded as its end
        message, full = f"{type(error).__name__}: {error}", os.strerror(errno.ENOSPC)
        if full in message:  # libraries have their own classes for it
            advice = f"{message}; free some space, then give the same command again"
            return Ending(BAD_INPUT, "cancelled", advice, failure="storage")
        names = tuple(each.__name__ for each in type(error).__mro__)
        failure = classify(Seen(exceptions=names, message=message))
        return Ending(FAILED, "failed", message, traceback.format_exc(), failure)
    return Ending(DONE, "done", "published")


def call_entry(
    stage: StageDocument,
    directory: Path,
    *,
    data_root: Path,
    device: str,
    watch: Watch,
    recompute_layers: bool = False,
    loader_workers: int = 0,
) -> Outcome:
    """Call the function of a prepared stage, in its folder.

    Raises:
        StoreError: a stage that it builds on is not done.
        Exception: whatever the stage's function raises.
    """
    module, _, function = stage.entry.partition(":")
    entry: Callable[..., Outcome] = getattr(importlib.import_module(module), function)
    return entry(
        stage.kind,
        stage.settings,
        seed=stage.seed,
        parents=_finished_parents(directory, stage.parents),
        out=directory,
        data_root=data_root,
        device=device,
        watch=watch,
        **({"recompute_layers": True} if recompute_layers else {}),
        **({"loader_workers": loader_workers} if loader_workers else {}),
    )


def _finished_parents(directory: Path, fingerprints: list[str]) -> list[Path]:
    store = directory.parent.parent
    found = []
    for fingerprint in fingerprints:
        done = list(store.glob(f"*/{fingerprint[:12]}/result.json"))
        if len(done) != 1:
            raise StoreError(f"{directory}: the stage it builds on, {fingerprint[:12]}, is not done in {store}")
        found.append(done[0].parent)
    return found


@dataclass(frozen=True, slots=True)
class Publication:
    """Writer of a stage's result.json: a stage that has one is done."""

    stage: StageDocument
    lease: Lease
    host: dict[str, Any]
    """Device, processors and libraries, as the result records them."""
    leave_pictures: Callable[[], None]
    """Writes example pictures beside the results; raises no error if that fails."""

    def make(self, work: Callable[[], Outcome], heartbeat: Callable[[], None]) -> None:
        """Do the work and publish its result; `heartbeat` raises if a newer attempt has begun."""
        directory = self.lease.stage_directory
        code = code_digest(self.stage.kind)  # before the work: the files may change while it runs
        commit = source_commit()
        outcome = work()
        heartbeat()
        self.leave_pictures()
        result = {
            "fingerprint": self.stage.fingerprint,
            "metrics": outcome.metrics,
            "useful_s": outcome.useful_s,
            "loader_wait_s": outcome.loader_wait_s,
            "checkpoint_s": outcome.checkpoint_s,
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
        heartbeat()
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


def set_threads(cpus: int) -> None:
    """Let numerical libraries use `cpus` threads: before they load by environment, and torch also after."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(cpus)
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(cpus)


def threads() -> int:
    """Return how many threads numerical libraries use in each process."""
    if torch := sys.modules.get("torch"):
        return int(torch.get_num_threads())
    return int(os.environ["OMP_NUM_THREADS"])
