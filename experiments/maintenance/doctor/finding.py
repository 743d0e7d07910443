"""What `smaug doctor` finds out about one thing, and how it asks what may crash or hang."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from typing import Any, Literal

from experiments.worker.import_path import SOURCES, import_environment

Level = Literal["ok", "warning", "fault"]

PROBE_S = 300.0
"""The longest that loading a library may take, from a cold network disk."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One thing that was looked at."""

    check: str
    """What was looked at, e.g. `video decoder`."""
    level: Level
    """`warning`: something will not work as one may expect; `fault`: something does not work."""
    found: str
    mend: str = ""
    """What to do about it; empty where all is well."""


def fine(check: str, found: str) -> Finding:
    """All is well."""
    return Finding(check=check, level="ok", found=found)


def warning(check: str, found: str, mend: str) -> Finding:
    """Something that may disappoint."""
    return Finding(check=check, level="warning", found=found, mend=mend)


def fault(check: str, found: str, mend: str) -> Finding:
    """Something that does not work."""
    return Finding(check=check, level="fault", found=found, mend=mend)


def probe(code: str, *arguments: str, timeout_s: float = PROBE_S, **env: str) -> dict[str, Any] | str:
    """What Python code prints as a JSON object, run in a process of its own; else, in words, why it did not.

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
    told: dict[str, Any] = json.loads(lines[-1])
    return told
