"""Run Slurm's commands: with a timeout, and one error for whatever goes wrong."""

import subprocess
from collections.abc import Mapping

from smaug_core.errors import SmaugError

LIMIT_S = 60.0
"""Time in which a command of Slurm has to answer, unless its caller sets another."""


class CommandError(SmaugError):
    """A command of Slurm that was not found, gave no answer in time, or failed; says what it printed."""


class MissingCommandError(CommandError):
    """A command of Slurm that is not installed here."""


def run_command(
    *command: str, limit_s: float | None = None, environment: Mapping[str, str] | None = None
) -> "subprocess.CompletedProcess[str]":
    """Run a command to its end, whatever its exit code; Ctrl-C does not reach it.

    Raises:
        CommandError: it cannot be run, or does not end in time.
    """
    limit_s = LIMIT_S if limit_s is None else limit_s
    try:
        return subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=limit_s,
            env=environment,
            check=False,
            start_new_session=True,
        )
    except FileNotFoundError as error:
        raise MissingCommandError(f"there is no {command[0]} here") from error
    except subprocess.TimeoutExpired as error:
        raise CommandError(f"{command[0]} gives no answer within {limit_s:.0f} s") from error
    except OSError as error:
        raise CommandError(f"{command[0]} cannot be run ({error.strerror})") from error


def output_of(*command: str, limit_s: float | None = None, environment: Mapping[str, str] | None = None) -> str:
    """Standard output of a command.

    Raises:
        CommandError: it gives no answer, or ends with another exit code than 0.
    """
    ran = run_command(*command, limit_s=limit_s, environment=environment)
    if ran.returncode:
        raise CommandError(message_of(ran))
    return ran.stdout


def message_of(ran: "subprocess.CompletedProcess[str]") -> str:
    """Error that a command printed, in one line."""
    lines = [line.strip() for line in (ran.stderr or ran.stdout).splitlines() if line.strip()]
    return "; ".join(lines) or f"{ran.args[0]} ended with exit code {ran.returncode}"
