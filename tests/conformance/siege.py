"""A graph of quick stages whose drivers and workers are killed at random moments, while the command is given again."""

import json
import re
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import psutil

from experiments.store.store import Store
from tests.conformance.drivers import PATIENCE_S, Driver, Site, trail
from tests.conformance.test_engines import INLINE, PROCESS
from tests.quick_driver import make_stages

Chains = list[list[tuple[str, dict[str, Any]]]]

GIVEN_UP = re.compile(r"stopped \d+ times, no further than step \d+: ")
"""Of a stage that one run has tried often enough; the same command tries it again, without --retry-failed."""
DRIVERS_SHARE = 0.35
"""Of the kills."""
TWO_DRIVERS = 0.2
"""How often the command is given in two terminals at once."""
INLINE_SHARE = 0.15
"""How often a driver is itself the worker."""


ENDED = (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)


def random_graph(chance: Random) -> Chains:
    """Chains as the trials of sweeps make them: pre-trainings shared by fine-tunings, those by evaluations."""
    chains: Chains = []
    for seed in range(chance.randint(1, 3)):
        first = ("pretrain", {**_own(chance), "seed": seed})
        for tuning in range(chance.randint(1, 2)):
            second = ("finetune", {**_own(chance), "seed": tuning})
            for test in range(chance.randint(1, 2)):
                chains.append([first, second, ("evaluate", {**_own(chance), "seed": None, "task": f"task{test}"})])
    return chains


def _own(chance: Random) -> dict[str, Any]:
    checkpoints = {} if chance.random() < 0.2 else {"checkpoint_every": chance.randint(1, 4)}
    return {"steps": chance.randint(3, 9), "step_s": round(chance.uniform(0.0, 0.04), 3), **checkpoints}


@dataclass
class Siege:
    """Attacks one graph until its command has been given so often that all is done."""

    home: Path
    chains: Chains
    chance: Random
    """Decides whom to kill, and when; when is told in signs of progress, so that a slow machine is attacked alike."""
    kills: int
    """The most there may be."""
    site: Site = PROCESS
    """Where drivers run that are not the worker themselves."""
    drivers_killed: int = 0
    workers_killed: int = 0
    commands: int = 0
    given_up: int = 0
    """Stages that a run gave up, for having been killed too often; the next command went on with them."""
    used_s: dict[int, float] = field(default_factory=dict)
    """CPU time of each killed process, by process id."""
    billed: dict[str, float] = field(default_factory=dict)
    """Hours of each stage at the last look."""
    published: dict[str, list[int]] = field(default_factory=dict)
    """Steps that a stage had taken when its result was first seen."""

    def __post_init__(self) -> None:
        self.store, self.stages = Store(self.home), make_stages(self.chains)
        self._drivers: list[Driver] = []
        self._workers: dict[int, psutil.Process] = {}

    @property
    def hits(self) -> int:
        """Kills that met a living process."""
        return self.drivers_killed + self.workers_killed

    def run(self) -> None:
        """Give the command until it says that everything is done."""
        try:
            done = False
            while not done:
                self._give_command()
                self._attack()
                done = any([self._is_done(driver) for driver in self._drivers])  # a list: each is held to account
                self.look()
        finally:
            for driver in self._drivers:
                driver.process.kill()
                driver.process.communicate()

    def _give_command(self) -> None:
        count = 2 if self.chance.random() < TWO_DRIVERS else 1
        sites = [INLINE if self.chance.random() < INLINE_SHARE else self.site for _ in range(count)]
        self._drivers = [Driver(self.home, site, self.chains) for site in sites]
        self.commands += count

    def _attack(self) -> None:
        """Kill one process after the other until no driver is left, or all have ended by themselves."""
        pulse, (moment, at_driver) = self._pulse(), self._next_kill()
        deadline = time.monotonic() + PATIENCE_S
        while any(driver.process.poll() is None for driver in self._drivers):
            time.sleep(self.chance.uniform(0.0, 0.02))
            if (now := self._pulse()) != pulse:
                pulse, deadline = now, time.monotonic() + PATIENCE_S
            assert time.monotonic() < deadline, f"nothing happens: {self.survivors()}"
            if self.hits < self.kills and pulse >= moment and self._kill_one(at_driver):
                self.look()
                moment, at_driver = self._next_kill()

    def _next_kill(self) -> tuple[int, bool]:
        """The pulse to wait for, and whether a driver is to be killed or a worker."""
        return self._pulse() + self.chance.choice([0, 1, 1, 2, 3, 4, 6, 8]), self.chance.random() < DRIVERS_SHARE

    def _pulse(self) -> int:
        """Grows with every worker that starts, attempt that begins, and step that is taken."""
        self._find_workers()
        attempts = sum(1 for _ in self.store.root.glob("*/*/attempts/0*"))
        return len(self._workers) + attempts + sum(len(trail(self.store, stage)) for stage in self.stages)

    def _find_workers(self) -> None:
        for driver in self._drivers:
            try:
                for child in psutil.Process(driver.process.pid).children(recursive=self.site != PROCESS):
                    if "experiments.worker" in child.cmdline():
                        self._workers.setdefault(child.pid, child)
            except psutil.NoSuchProcess:
                continue  # it ended while we looked

    def _kill_one(self, at_driver: bool) -> bool:
        """Kill a driver or a worker; whether there was one, and it was alive."""
        if at_driver:
            victims = [psutil.Process(d.process.pid) for d in self._drivers if d.process.poll() is None]
        else:
            victims = [worker for worker in self._workers.values() if worker.is_running()]
        if not victims:
            return False
        victim = self.chance.choice(victims)
        used_s = kill_if_alive(victim)
        if used_s is None:
            return False
        self.used_s[victim.pid] = used_s
        self.drivers_killed += at_driver
        self.workers_killed += not at_driver
        return True

    def _is_done(self, driver: Driver) -> bool:
        """How a driver ended; nothing but a kill may keep it from doing all it can."""
        if driver.process.returncode == -signal.SIGKILL:
            return False
        summary = driver.finish()
        assert not summary["interrupted"]
        for _, why in summary["failed"]:
            assert GIVEN_UP.match(why), why
        self.given_up += len(summary["failed"])
        return len(summary["done"]) + len(summary["cached"]) == len(self.stages)

    def look(self) -> None:
        """Look at every stage as a reader would: hours never shrink, and what has a result is left alone."""
        for stage in self.stages:
            record = self.store.record(stage)
            assert record.hours.billed >= self.billed.get(stage.fingerprint, 0.0), f"{stage.name} became cheaper"
            self.billed[stage.fingerprint] = record.hours.billed
            if record.result is not None:
                self.published.setdefault(stage.fingerprint, trail(self.store, stage))

    def survivors(self) -> list[str]:
        """Command lines of living processes that work in this home."""
        found = []
        for process in psutil.process_iter(["cmdline"]):
            words = process.info["cmdline"] or []
            if any(word.startswith(str(self.store.home)) for word in words):
                found.append(json.dumps(words))
        return found


def kill_if_alive(process: psutil.Process) -> float | None:
    """Kill by SIGKILL; gives the CPU seconds of the process and its ended children, none if it had ended already.

    Stopped first: what stops was alive, and what is stopped cannot end before the kill.
    """
    used = None
    try:
        process.suspend()
        while (status := process.status()) not in (psutil.STATUS_STOPPED, *ENDED):
            time.sleep(0.001)
        if status == psutil.STATUS_STOPPED:
            used = process.cpu_times()
            process.kill()
        while process.is_running() and process.status() not in ENDED:
            time.sleep(0.001)
    except psutil.NoSuchProcess:
        pass  # its parent was quick to ask how it ended
    return None if used is None else used.user + used.system + used.children_user + used.children_system
