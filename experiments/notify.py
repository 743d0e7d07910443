"""Tells somebody of the moments of a run: one command of the user's own, with JSON on its standard input.

The command comes from the user's settings or the command line, never from a sweep file, which may be another's.
"""

import json
import os
import shlex
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryFile
from types import TracebackType
from typing import IO, Any, Self

from experiments.events import Event
from experiments.load import Form, SweepError, form_faults, read_document
from smaug_core.errors import SmaugError

TIMEOUT_S = 30.0
"""A command that takes longer is ended."""
BUDGET_SHARE = 0.8
"""Of a budget; told once when it is spent."""


class _SettingsForm(Form):
    notify: str | list[str] | None = None


def user_settings() -> Path:
    """Where a user's own settings are: config.yaml in $XDG_CONFIG_HOME/smaug, by default ~/.config/smaug."""
    base = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(base) / "smaug" / "config.yaml"


def command_of(option: str | None, settings: Path) -> tuple[str, ...]:
    """The command to run as an argument list, of the option or else of the user's settings; empty if there is none.

    Raises:
        SweepError: the settings hold something unknown.
        SmaugError: it cannot be taken apart.
    """
    if option is not None:
        return _split(option, "--notify")
    if not settings.exists():
        return ()
    document = read_document(settings)
    if document.value is None and not document.faults:  # empty, or only comments
        return ()
    if faults := form_faults(document, _SettingsForm):
        raise SweepError(faults)
    told: str | list[str] | None = document.value.get("notify")
    if told is None:
        return ()
    return _split(told, f"{settings}: notify") if isinstance(told, str) else tuple(told)


def _split(command: str, where: str) -> tuple[str, ...]:
    try:
        return tuple(shlex.split(command))
    except ValueError as error:
        raise SmaugError(f"{where}: {command!r} cannot be taken apart ({error}); right would be CMD ARG...") from error


class Notifier:
    """Runs the command for each moment, beside the run; what is wrong with it is told and harms nothing else.

    Args:
        command: program and arguments, given to no shell; empty runs nothing.
        about: goes into each message, e.g. the sweeps' names.
        complain: told what is wrong with the command.
        timeout_s: a command that takes longer is ended.
    """

    def __init__(
        self,
        command: Sequence[str],
        about: Mapping[str, Any],
        complain: Callable[[str], None],
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        self._command, self._about, self._complain = list(command), dict(about), complain
        self._timeout_s = timeout_s
        self._last: threading.Thread | None = None
        self._budget_told = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if isinstance(error, KeyboardInterrupt):
            self.tell("end", "the run was stopped, and did not wait for what runs", complete=False)
        elif error is not None:
            self.tell("end", f"the run ended with an error: {str(error) or type(error).__name__}", complete=False)
        if self._last is not None:
            self._last.join()

    def __call__(self, event: Event) -> None:
        """Tell of an event of the run that is worth it."""
        if event.kind == "paused":
            self.tell("paused", event.message)

    def tell(self, event: str, message: str, **more: Any) -> None:
        """Run the command with `event` (`end`, `paused` or `budget`), a line for people, and details for programs."""
        if not self._command:
            return
        host = socket.gethostname()
        told = {"event": event, "message": message, "time": time.time(), "host": host} | self._about | more
        told_before, text = self._last, json.dumps(told) + "\n"
        self._last = threading.Thread(target=self._run, args=[text, told_before], name="notify", daemon=True)
        self._last.start()

    def budget(self, spent: float, limit: float | None) -> None:
        """Tell once that most of a budget is spent."""
        if limit is not None and not self._budget_told and spent >= BUDGET_SHARE * limit:
            self._budget_told = True
            message = f"{spent:.3g} of {limit:g} device hours are spent"
            self.tell("budget", message, spent_hours=spent, limit_hours=limit)

    def _run(self, told: str, told_before: threading.Thread | None) -> None:
        """Run the command, once the one of the moment before has ended: moments are told in their order."""
        if told_before is not None:
            told_before.join()
        name = f"notify: {shlex.join(self._command)}"
        try:
            with TemporaryFile() as said:
                code = self._code_of(told, said)
                said.seek(0)
                why = said.read().decode(errors="replace").strip()[-500:]
        except subprocess.TimeoutExpired:
            self._complain(f"{name}: was ended after {self._timeout_s:g} s")
        except OSError as error:
            self._complain(f"{name}: cannot be run ({error.strerror})")
        except ValueError as error:  # a NUL in an argument
            self._complain(f"{name}: cannot be run ({error})")
        else:
            if code:
                self._complain(f"{name}: ended with {code}{f' ({why})' if why else ''}")

    def _code_of(self, told: str, said: IO[bytes]) -> int:
        """The command's exit code; it may leave processes behind that have its standard error, here a file."""
        # A session of its own: Ctrl-C, which ends the run, is no reason not to hear of its end.
        with subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=said,
            text=True,
            start_new_session=True,
        ) as ran:
            try:
                ran.communicate(told, timeout=self._timeout_s)
            except subprocess.TimeoutExpired:
                os.killpg(ran.pid, signal.SIGKILL)
                raise
            return ran.returncode
