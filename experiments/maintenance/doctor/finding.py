"""Findings of `smaug doctor`, and probes of libraries that may crash or hang."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from typing import Any, Literal

from experiments.worker.import_path import SOURCES, import_environment

Level = Literal["ok", "warning", "fault"]

PROBE_S = 300.0
"""Time limit to load a library, from a cold network disk."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """Result of one check."""

    check: str
    """Name of the check, e.g. `video decoder`."""
    level: Level
    """`warning`: something will not work as expected; `fault`: something does not work."""
    message: str
    fix: str = ""
    """Advice; empty if nothing is wrong."""

    def to_json(self) -> dict[str, str]:
        """Return it as JSON holds it; two keys are older than the names here."""
        return {"check": self.check, "level": self.level, "found": self.message, "mend": self.fix}


def fine(check: str, message: str) -> Finding:
    """Return a finding without a problem."""
    return Finding(check=check, level="ok", message=message)


def warning(check: str, message: str, fix: str) -> Finding:
    """Return a finding: something may not work as expected."""
    return Finding(check=check, level="warning", message=message, fix=fix)


def fault(check: str, message: str, fix: str) -> Finding:
    """Return a finding: something does not work."""
    return Finding(check=check, level="fault", message=message, fix=fix)


def probe(code: str, *arguments: str, timeout_s: float = PROBE_S, **env: str) -> dict[str, Any] | str:
    """Run Python code in a process of its own and return the JSON object that it prints; else the reason.

    A library that crashes, hangs or prints at its import does so there.
    """
    command = [sys.executable, "-c", code, *arguments]
    try:
        ran = subprocess.run(
            command,
            capture_output=True,
            text=True,
            cwd=SOURCES,
            env=os.environ | import_environment() | env,
            timeout=timeout_s,
        )
    except subprocess.TimeoutExpired:
        return f"no answer within {timeout_s:.0f} s"
    if ran.returncode < 0:
        return f"killed by signal {-ran.returncode}"
    lines = ran.stdout.strip().splitlines()
    if ran.returncode or not lines:
        return (ran.stderr.strip().splitlines() or [f"exit code {ran.returncode}"])[-1]
    answer: dict[str, Any] = json.loads(lines[-1])
    return answer
