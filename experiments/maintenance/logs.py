"""Logs of a stage, attempt by attempt, each with its end."""

import codecs
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.store.attempt import FAILURE, Attempt, read_attempts
from experiments.store.attempt_files import FAILED, FailureNote
from experiments.store.documents import read_document
from smaug_core.errors import SmaugError

POLL_S = 0.5
LOG, LAUNCH = "log.txt", "launch.txt"


@dataclass(frozen=True, kw_only=True, slots=True)
class Log:
    """Log of an attempt at a stage, or of a launch that came to no attempt."""

    directory: Path
    """Folder of the stage."""
    attempt: Attempt | None
    """None before the first."""
    early: FailureNote | None = None
    """Failure of a later job that ended before it made an attempt."""

    @property
    def text(self) -> str:
        """Output of the attempt; before the first one, output of a worker that could not begin."""
        return _read(self.directory / LAUNCH if self.attempt is None else self.attempt.directory / LOG)

    def ending(self) -> str:
        """Return the end of the attempt, unless its log has it already, and its failure; empty while it runs."""
        failures = [None if self.attempt is None else self.attempt.failure, self.early]
        return self._end() + "".join(f"{failure.words}\n" for failure in failures if failure)

    def _end(self) -> str:
        if self.attempt is None:
            return ""
        if self.attempt.end is None:
            dead = self.attempt.state == "dead"
            return f"died without a final record (process {self.attempt.owner.pid})\n" if dead else ""
        end = self.attempt.end
        last = f"{end.outcome}: {end.message}\n"
        return "" if self.text.endswith(last) else f"{end.traceback}{last}"

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON holds it."""
        attempt = self.attempt
        failure = self.early if attempt is None else self.early or attempt.failure
        return {
            "attempt": None if attempt is None else attempt.number,
            "state": None if attempt is None else attempt.state,
            "owner": None if attempt is None else attempt.owner.raw,
            "end": None if attempt is None or attempt.end is None else attempt.end.raw,
            "failure": None if failure is None else failure.raw,
            "log": self.text,
        }


def read_log(directory: Path, number: int | None = None) -> Log:
    """Read the log of an attempt at the stage in a folder, by default the newest.

    Raises:
        SmaugError: there is no such attempt.
        StoreError: the folder is damaged.
    """
    attempts = read_attempts(directory)
    if number is None:
        newest = attempts[-1] if attempts else None
        return Log(directory=directory, attempt=newest, early=read_document(directory / FAILURE, FAILED))
    for attempt in attempts:
        if attempt.number == number:
            return Log(directory=directory, attempt=attempt)
    numbers = ", ".join(str(attempt.number) for attempt in attempts) or "none yet"
    raise SmaugError(f"--attempt {number}: expected an attempt at {directory} ({numbers})")


def follow(
    directory: Path,
    say: Callable[[str], None],
    head: Callable[[str], None],
    *,
    number: int | None = None,
    may_start: Callable[[], bool] = lambda: False,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Print the output of the newest attempt, and of each later one, until no process or driver works on the stage.

    Args:
        directory: folder of the stage.
        say: prints output, as it comes.
        head: prints a line that names the attempt, before its output.
        number: follow this attempt only.
        may_start: whether a driver may start the stage, again or for the first time.
        sleep: waits for a number of seconds.

    Raises:
        SmaugError: there is no such attempt.
    """
    shown = 0
    while True:
        log = read_log(directory, number)
        if log.attempt is not None and log.attempt.number > shown:
            shown = log.attempt.number
            head(heading(log))
            _follow_attempt(log, say, sleep)
            say(read_log(directory, shown).ending())
        elif number is not None or not may_start():
            if log.attempt is None:
                say(log.text + log.ending())
            elif log.early is not None:
                say(f"{log.early.words}\n")
            return
        else:
            sleep(POLL_S)


def heading(log: Log) -> str:
    """Describe the attempt in a line, with the process that runs or ran it."""
    if log.attempt is None:
        return "no attempt yet"
    owner = log.attempt.owner
    began = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(owner.started))
    job = "" if log.attempt.slurm_job is None else f", Slurm job {log.attempt.slurm_job}"
    return f"attempt {log.attempt.number}, process {owner.pid} on {owner.host}{job}, since {began}"


def _follow_attempt(log: Log, say: Callable[[str], None], sleep: Callable[[float], None]) -> None:
    assert log.attempt is not None
    number, path = log.attempt.number, log.attempt.directory / LOG
    pieces = _growing(path)
    while True:
        running = read_log(log.directory, number).attempt
        assert running is not None
        state = running.state  # before the last piece: what is printed in between must not be lost
        say(next(pieces))
        if state != "running":
            return
        sleep(POLL_S)


def _growing(path: Path) -> Iterator[str]:
    """Yield the text added to a file since the last step, for ever; a character that is half written waits."""
    decoder, at = codecs.getincrementaldecoder("utf-8")("replace"), 0
    while True:
        try:
            with path.open("rb") as file:
                file.seek(at)
                added = file.read()
        except FileNotFoundError:
            added = b""
        at += len(added)
        yield decoder.decode(added)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return ""
