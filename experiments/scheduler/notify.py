"""Notifications of a run: one command of the user's own, with JSON on its standard input.

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

from experiments.config.yaml_source import Form, SweepError, form_faults, read_document
from experiments.scheduler.events import Event
from experiments.worker.import_path import without_safe_path
from smaug_core.errors import SmaugError

TIMEOUT_S = 30.0
"""A command that takes longer is killed; one that waited for the notification before it has less, but `LEAST_S`."""
LEAST_S = 5.0
UNTOLD_S = 2.0
"""The end of a run waits so long without saying what for."""
BUDGET_SHARE = 0.8
"""Share of a budget; its user is notified once when it is spent."""


class _SettingsForm(Form):
    notify: str | list[str] | None = None


def user_settings() -> Path:
    """Return the file of a user's own settings: config.yaml in $XDG_CONFIG_HOME/smaug, by default ~/.config/smaug."""
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
    command: str | list[str] | None = document.value.get("notify")
    if command is None:
        return ()
    return _split(command, f"{settings}: notify") if isinstance(command, str) else tuple(command)


def _split(command: str, where: str) -> tuple[str, ...]:
    try:
        return tuple(shlex.split(command))
    except ValueError as error:
        raise SmaugError(f"{where}: {command!r} cannot be taken apart ({error}); expected CMD ARG...") from error


class Notifier:
    """Run the command for each notification beside the run; its errors are reported and harm nothing else.

    Args:
        command: program and arguments, given to no shell; empty runs nothing.
        about: goes into each message, e.g. the sweeps' names.
        complain: receives errors of the command.
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
        self._timeout_s, self._name = timeout_s, f"notify: {shlex.join(self._command)}"
        self._ran: subprocess.Popen[str] | None = None
        self._given_up = False
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
            self.send("end", "the run was stopped, and did not wait for what runs", complete=False)
        elif error is not None:
            self.send("end", f"the run ended with an error: {str(error) or type(error).__name__}", complete=False)
        if self._last is not None:
            self._wait_for(self._last)

    def __call__(self, event: Event) -> None:
        """Notify of an event of the run that is worth it."""
        if event.kind == "paused":
            self.send("paused", event.message)

    def send(self, event: str, message: str, **more: Any) -> None:
        """Run the command with `event` (`end`, `paused` or `budget`), a line for people, and details for programs."""
        if not self._command:
            return
        host = socket.gethostname()
        payload = {"event": event, "message": message, "time": time.time(), "host": host} | self._about | more
        arguments = [json.dumps(payload) + "\n", self._last, time.monotonic()]
        self._last = threading.Thread(target=self._run, args=arguments, name="notify", daemon=True)
        self._last.start()

    def budget(self, spent: float, limit: float | None) -> None:
        """Notify once that most of a budget is spent."""
        if limit is not None and not self._budget_told and spent >= BUDGET_SHARE * limit:
            self._budget_told = True
            message = f"{spent:.3g} of {limit:g} device hours are spent"
            self.send("budget", message, spent_hours=spent, limit_hours=limit)

    def _wait_for(self, last: threading.Thread) -> None:
        """Wait for all notifications, each with its limit; Ctrl-C drops them instead, and the run ends."""
        try:
            last.join(UNTOLD_S)
            if last.is_alive():
                self._complain(f"{self._name}: is waited for; Ctrl-C ends it")
            last.join()
        except KeyboardInterrupt:
            self._given_up = True
            if self._ran is not None and self._ran.poll() is None:
                _end(self._ran)
            self._complain(f"{self._name}: was ended, as asked")

    def _run(self, payload: str, previous: threading.Thread | None, sent_at: float) -> None:
        """Run the command once the one before it has ended, so that notifications keep their order."""
        if previous is not None:
            previous.join()
        if self._given_up:
            return
        limit_s = max(sent_at + self._timeout_s - time.monotonic(), min(LEAST_S, self._timeout_s))
        try:
            with TemporaryFile() as output:
                fault = self._fault_of(payload, output, limit_s)
        except OSError as error:
            fault = f"cannot be run ({error.strerror})"
        except ValueError as error:  # a NUL in an argument
            fault = f"cannot be run ({error})"
        if fault is not None and not self._given_up:
            self._complain(f"{self._name}: {fault}")

    def _fault_of(self, payload: str, output: IO[bytes], limit_s: float) -> str | None:
        """Run the command once; what is wrong with how it ended.

        It may leave processes behind that have its standard error, so that is a file.
        """
        # A session of its own: Ctrl-C, which ends the run, is no reason not to hear of its end.
        self._ran = ran = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=output,
            text=True,
            env=without_safe_path(os.environ),
            start_new_session=True,
        )
        try:
            ran.communicate(payload, timeout=limit_s)
        except subprocess.TimeoutExpired:
            if _end(ran):
                return f"was ended after {limit_s:.2g} s"
            return f"still runs after {limit_s:.2g} s, and may not be ended by this user"
        if not ran.returncode:
            return None
        output.seek(0)
        lines = output.read().decode(errors="replace").strip()[-500:].splitlines()
        how = f"ended with {ran.returncode}" if ran.returncode > 0 else f"was killed by signal {-ran.returncode}"
        return how + (f" ({'; '.join(lines)})" if lines else "")


def _end(ran: subprocess.Popen[str]) -> bool:
    """End a command with what it started in its session; false where that is another user's, as with sudo."""
    try:
        os.killpg(ran.pid, signal.SIGKILL)
    except PermissionError:
        return False
    except ProcessLookupError:  # it ended by itself
        pass
    ran.wait()
    return True
