"""Drivers as processes of their own: they can be stopped and killed, and each has its own Ray."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.stages.stage import Stage
from experiments.store.attempt import read_attempts
from experiments.store.store import Store
from tests.quick_driver import chain_to

ROOT = Path(__file__).parents[2]
PATIENCE_S = 120.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Site:
    """Where an engine runs: what it is called on a driver's command line, and what a driver's environment needs."""

    name: str
    environment: dict[str, str]
    cpus: int
    """The most that one machine has."""
    outlives: bool = False
    """Whether its workers go on when their driver is killed."""
    under: tuple[str, ...] = ()
    """A command that its drivers are started by."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Told:
    """An event that a driver told."""

    kind: str
    stage: Stage
    message: str
    attempt: int
    """Its number; 0 for an event of no attempt."""
    worker: int
    """Its process."""
    step: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Ran:
    """How a driver's run ended."""

    done: list[Stage]
    cached: list[Stage]
    failed: list[tuple[Stage, str]]
    blocked: list[tuple[Stage, str]]
    interrupted: bool
    refused: str


class Driver:
    """A running `tests.quick_driver`, in a process group of its own like a command in a terminal."""

    def __init__(self, home: Path, site: Site, chains: list[Any] | None = None) -> None:
        command = [*site.under, sys.executable, "-m", "tests.quick_driver", str(home), site.name]
        self.home = home
        kept = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
        self.process = subprocess.Popen(
            command if chains is None else [*command, json.dumps(chains)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=kept | site.environment,
            start_new_session=True,
        )

    def ctrl_c(self) -> None:
        """As a terminal does: to the driver and all that it started in its group."""
        os.killpg(self.process.pid, signal.SIGINT)

    def wait_until(self, holds: Callable[[], Any]) -> None:
        """Wait while the driver lives."""
        wait_until(lambda: holds() or self.process.poll() is not None)
        if self.process.poll() is not None:
            raise AssertionError(f"the driver ended early: {self.process.communicate()}")

    def read_until(self, words: str, *, of_errors: bool = False) -> str:
        """The next line that it prints with these words."""
        stream = self.process.stderr if of_errors else self.process.stdout
        assert stream is not None
        while words not in (line := stream.readline()):
            assert line, "the driver ended"
        return line

    def finish(self, patience_s: float = PATIENCE_S) -> dict[str, Any]:
        """Wait for its end; gives how it ended."""
        told, complaints = self.process.communicate(timeout=patience_s)
        assert self.process.returncode == 0 and "Traceback" not in complaints, complaints
        return dict(json.loads([line for line in told.splitlines() if line.startswith("{")][-1]))

    def run(self, store: Store, *stages: Stage, on_event: Callable[[Told], Any] = repr) -> Ran:
        """Have a driver that was given no chains run some stages."""
        known = {stage.fingerprint: stage for stage in stages}
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps([str(store.home), [chain_to(stage) for stage in stages]]) + "\n")
        self.process.stdin.flush()
        while isinstance(told := self._read(), list):
            kind, stage, message, at = told
            attempt, worker, step = at or (0, 0, 0)
            on_event(Told(kind=kind, stage=known[stage], message=message, attempt=attempt, worker=worker, step=step))
        if "refused" in told:
            return Ran(done=[], cached=[], failed=[], blocked=[], interrupted=False, refused=told["refused"])
        return Ran(
            done=[known[name] for name in told["done"]],
            cached=[known[name] for name in told["cached"]],
            failed=[(known[name], why) for name, why in told["failed"]],
            blocked=[(known[name], why) for name, why in told["blocked"]],
            interrupted=told["interrupted"],
            refused="",
        )

    def _read(self) -> Any:
        assert self.process.stdout is not None and self.process.stderr is not None
        while not (line := self.process.stdout.readline()).startswith(("[", "{")):  # Ray says things in between
            assert line, f"the driver ended: {self.process.stderr.read()}"
        return json.loads(line)

    def close(self) -> None:
        """End it at once."""
        self.process.kill()
        self.process.communicate()


def wait_until(holds: Callable[[], Any]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.02)


def trail(store: Store, stage: Stage) -> list[int]:
    """Every step that any attempt took."""
    path = store.directory(stage) / "trail.txt"
    return [int(line) for line in path.read_text().split()] if path.exists() else []


def states(store: Store, stage: Stage) -> list[str]:
    """How every attempt ended."""
    return [attempt.state for attempt in read_attempts(store.directory(stage))]
