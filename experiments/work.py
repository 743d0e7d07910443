"""The work of a stage: the call of its function, and how that ended, in words and as an exit code."""

import errno
import importlib
import os
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.attempt import AttemptState, StoreError, SupersededError
from smaug_core.errors import DivergedError, SmaugError
from smaug_core.stages import Interrupted, Outcome, Watch

DONE, FAILED, BAD_INPUT, DIVERGED, HELD, INTERRUPTED = 0, 1, 2, 71, 73, 75
"""Exit codes of a worker; 75 asks for another try, which continues from the checkpoint."""


@dataclass(frozen=True, slots=True)
class Ending:
    """How an attempt ended."""

    code: int
    state: AttemptState
    message: str = ""
    details: str = ""
    """The traceback, where the message alone would not do."""


class EndedError(Exception):
    """The work ended in other processes, as `ending` says."""

    def __init__(self, ending: Ending) -> None:
        super().__init__(ending.message)
        self.ending = ending


def ending_of(work: Callable[[], object]) -> Ending:
    """Do the work; tell how it went."""
    try:
        work()
    except EndedError as told:
        return told.ending
    except Interrupted as stopped:
        return Ending(INTERRUPTED, "interrupted", str(stopped))
    except KeyboardInterrupt:  # only where a stage runs in the process of a person who does not want to wait
        return Ending(INTERRUPTED, "interrupted", "stopped at once, without a checkpoint")
    except SupersededError as lost:
        return Ending(HELD, "cancelled", str(lost))
    except StoreError as error:  # no fault of the stage: the same command tries again
        return Ending(BAD_INPUT, "cancelled", str(error))
    except DivergedError as error:
        return Ending(DIVERGED, "diverged", str(error))
    except SmaugError as error:
        return Ending(BAD_INPUT, "failed", str(error))
    except (Exception, SystemExit) as error:  # noqa: BLE001  whatever a stage raises is recorded as its end
        message, full = f"{type(error).__name__}: {error}", os.strerror(errno.ENOSPC)
        if full in message:  # libraries have their own classes for it
            return Ending(BAD_INPUT, "cancelled", f"{message}; free some space, then give the same command again")
        return Ending(FAILED, "failed", message, traceback.format_exc())
    return Ending(DONE, "done", "published")


def call_entry(stage: Mapping[str, Any], directory: Path, *, data_root: Path, device: str, watch: Watch) -> Outcome:
    """Do the work that a prepared stage's document tells, in its folder.

    Raises:
        StoreError: a stage that it builds on is not done.
        Exception: whatever the stage's function raises.
    """
    module, _, function = stage["entry"].partition(":")
    entry: Callable[..., Outcome] = getattr(importlib.import_module(module), function)
    return entry(
        stage["kind"],
        stage["settings"],
        seed=stage["seed"],
        parents=_finished_parents(directory, stage["parents"]),
        out=directory,
        data_root=data_root,
        device=device,
        watch=watch,
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


def set_threads(cpus: int) -> None:
    """Let numerical libraries use `cpus` threads: before they load by environment, and torch also after."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(cpus)
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(cpus)


def threads() -> int:
    """How many threads numerical libraries use in each process."""
    if torch := sys.modules.get("torch"):
        return int(torch.get_num_threads())
    return int(os.environ["OMP_NUM_THREADS"])
