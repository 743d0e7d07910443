"""Times what the platform adds to the work itself: plans, attempts, slots kept busy, the driver's own memory.

    python -m tests.benchmarks.orchestration --json orchestration.json

Prints a table of what was measured beside the aim. Plain Ray Tune and Optuna start the same worker commands in the
same run, in blocks by turns, so that what drifts on the machine drifts for all. About a quarter of an hour on two
cores; nothing else should run.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from experiments.engines.inline import InlineEngine
from experiments.scheduler.scheduler import Scheduler
from experiments.store.store import Store
from tests.benchmarks import made_store, one_second
from tests.quick_stage import quick_stage

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("torch", "ray", "mlflow")
PLAN = f"""
import json, sys
from experiments.cli.app import main
try:
    main(sys.argv[1:])
finally:
    sys.stderr.write(json.dumps([name for name in {HEAVY!r} if name in sys.modules]))
"""
"""The command line, which then tells what heavy libraries it has loaded."""
MB, KB = 1e6, 1e3


@dataclass(frozen=True, kw_only=True, slots=True)
class Size:
    """How much is measured."""

    trials: int
    """Of the sweep that is planned, a multiple of `made_store.ROWS`."""
    cached: int
    """Finished stages that are planned; a multiple of `made_store.STAGES_OF_A_SEED`, like `drivers`."""
    repeats: int
    """Of each plan."""
    attempts: int
    """Run by `inline`."""
    blocks: int
    """In which the one-second stages of each way are run."""
    stages_of_a_block: int
    drivers: tuple[int, ...]
    """Stages of the drivers whose memory is looked at."""


FULL = Size(
    trials=200, cached=1000, repeats=9, attempts=50, blocks=4, stages_of_a_block=50, drivers=(1000, 5000, 10000)
)
QUICK = Size(trials=8, cached=20, repeats=1, attempts=2, blocks=1, stages_of_a_block=2, drivers=(20, 40))


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One line of the table."""

    what: str
    measured: float
    unit: str = ""
    below: float | None = None
    """The aim, where there is one."""
    samples: list[float] = field(default_factory=list)
    """What `measured` is taken from, in the order of measuring."""

    @property
    def met(self) -> bool | None:
        """Whether the aim is met."""
        return None if self.below is None else self.measured <= self.below

    def line(self) -> tuple[str, str, str]:
        """For people."""
        aim = "" if self.below is None else f"{self.below:g} {self.unit}".rstrip()
        return self.what, f"{self.measured:.3g} {self.unit}".rstrip(), aim + (" MISSED" if self.met is False else "")


def measure_plan(size: Size, folder: Path) -> Iterator[Finding]:
    """A plan of many trials of which nothing is done."""
    options = made_store.seeds(size.trials // made_store.ROWS)
    seconds, loaded, told = time_plans(folder / "empty", options, size.repeats)
    assert told["trials"] == told["stages"]["new"] // 3 == size.trials, told["stages"]
    yield Finding(
        what=f"plan of {size.trials} trials", measured=statistics.median(seconds), unit="s", below=1.0, samples=seconds
    )
    yield Finding(what=f"  libraries it loads, of {', '.join(HEAVY)}", measured=len(loaded), below=0)


def measure_replan(size: Size, folder: Path) -> Iterator[Finding]:
    """A plan of stages that are all done."""
    made_store.finish_all(folder / "full", size.cached)
    seconds, _, told = time_plans(folder / "full", made_store.seeds_of_stages(size.cached), size.repeats)
    assert told["stages"]["cached"] == told["stages"]["total"] == size.cached, told["stages"]
    yield Finding(
        what=f"plan of {size.cached:,} stages, all cached",
        measured=statistics.median(seconds),
        unit="s",
        below=1.0,
        samples=seconds,
    )


def time_plans(home: Path, options: Sequence[str], repeats: int) -> tuple[list[float], list[str], dict[str, Any]]:
    """Wall seconds of `smaug plan`, each from a new process's start to its end; what it loads, and what it answers."""
    seconds = []
    for _ in range(repeats):
        began = time.monotonic()
        told, complaints = child(
            ["-c", PLAN, "plan", str(made_store.SWEEP), *(f"--set={option}" for option in options), "--json"],
            SMAUG_HOME=str(home),
        )
        seconds.append(time.monotonic() - began)
    return seconds, json.loads(complaints), json.loads(told)


def measure_inline(size: Size, folder: Path) -> Iterator[Finding]:
    """Attempts in this process, so that no worker has to start: all that is not the stage is overhead."""
    own = {"steps": 2, "step_s": 0.05}
    store, stages = Store(folder / "inline"), [quick_stage(seed=seed, **own) for seed in range(size.attempts)]
    began = time.monotonic()
    summary = Scheduler(stages, store, InlineEngine(), data_root=store.home / "data", on_event=repr).run()
    wall_s = time.monotonic() - began
    assert summary.done == stages
    yield Finding(
        what=f"overhead of an attempt on inline, of {size.attempts}",
        measured=wall_s / size.attempts - own["steps"] * own["step_s"],
        unit="s",
        below=0.5,
    )


def measure_blocks(size: Size, folder: Path) -> Iterator[Finding]:
    """One-second stages on two slots in three ways, by turns."""
    blocks: dict[str, list[one_second.Block]] = {way: [] for way in one_second.WAYS}
    for number in range(size.blocks):
        first = number % len(one_second.WAYS)
        for way in (*one_second.WAYS[first:], *one_second.WAYS[:first]):
            blocks[way].append(one_second.run_block(way, folder / f"{way}{number}", size.stages_of_a_block))
    names = {"ours": "our driver on Ray", "tune": "plain Ray Tune", "optuna": "Optuna, 2 threads"}
    count = f"{size.blocks * size.stages_of_a_block} one-second stages on {one_second.SLOTS} slots"
    told: dict[str, Callable[[one_second.Block], float]] = {
        f"{count}, {size.blocks} whole commands": lambda block: block.wall_s,
        f"{count}, first worker to last result": lambda block: block.working_s,
    }
    for what, of in told.items():
        seconds = {way: [of(block) for block in blocks[way]] for way in blocks}
        for way, name in names.items():
            yield Finding(what=f"{what}: {name}", measured=sum(seconds[way]), unit="s", samples=seconds[way])
        for way, below in (("tune", 1.3), ("optuna", None)):
            ratio = sum(seconds["ours"]) / sum(seconds[way])
            yield Finding(what=f"{what}: ours / {names[way]}", measured=ratio, below=below)


def measure_drivers(size: Size, folder: Path) -> Iterator[Finding]:
    """Memory of drivers with everything cached and with nothing, and the time of a look at running jobs."""
    most = max(size.drivers)
    for state in ("cached", "pending"):
        held = {}
        for num_stages in size.drivers:
            home = folder / ("full" if state == "cached" else f"pending{num_stages}")
            if state == "cached":
                made_store.finish_all(home, num_stages)
            told = big_driver(home, num_stages, "instant")
            assert told["cached" if state == "cached" else "done"] == told["stages"] == num_stages, told
            held[num_stages] = max(told["bytes"], told["peak_bytes"])
            what = f"driver of {num_stages:,} {state} stages"
            below = 500.0 if num_stages == most else None
            yield Finding(what=f"{what}: memory at most", measured=held[num_stages] / MB, unit="MB", below=below)
            yield Finding(what=f"{what}: CPU time", measured=told["plan_cpu_s"] + told["run_cpu_s"], unit="s")
        fewest = min(size.drivers)
        grown = (held[most] - held[fewest]) / (most - fewest)
        yield Finding(what=f"driver, each further {state} stage: memory", measured=grown / KB, unit="kB", below=20.0)
    told = big_driver(folder / "holding", most, "holding")
    what = f"driver of {most:,} pending stages: CPU time of each look, ten a second"
    yield Finding(what=what, measured=1000 * told["tick_cpu_s"], unit="ms")


def big_driver(home: Path, num_stages: int, engine: str) -> dict[str, Any]:
    """What `tests.benchmarks.big_driver` tells."""
    told: dict[str, Any] = json.loads(
        child(["-m", "tests.benchmarks.big_driver", str(home), str(num_stages), engine])[0]
    )
    return told


def child(arguments: list[str], **environment: str) -> tuple[str, str]:
    """Run Python with these arguments; gives its output, and its complaints.

    Raises:
        RuntimeError: it failed.
    """
    command = [sys.executable, *arguments]
    ran = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=os.environ | environment)
    if ran.returncode:
        raise RuntimeError(f"{' '.join(arguments)[:200]}: exit code {ran.returncode}; {ran.stderr[-2000:]}")
    return ran.stdout, ran.stderr


PARTS: dict[str, Callable[[Size, Path], Iterator[Finding]]] = {
    "plan": measure_plan,
    "replan": measure_replan,
    "inline": measure_inline,
    "blocks": measure_blocks,
    "drivers": measure_drivers,
}


def main(arguments: list[str] | None = None) -> None:
    """Measure, print the table, and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--quick", action="store_true", help="so little that the figures mean nothing; shows it works")
    parser.add_argument("--json", type=Path, help="write the findings to this file")
    options = parser.parse_args(arguments)
    size, findings = QUICK if options.quick else FULL, []
    say("what", "measured", "aim")
    with tempfile.TemporaryDirectory(prefix="orchestration-") as folder:
        for part in options.parts:
            for finding in PARTS[part](size, Path(folder)):
                findings.append(finding)
                say(*finding.line())
    if options.json:
        document = described(size) | {"findings": [asdict(found) | {"met": found.met} for found in findings]}
        options.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def say(what: str, measured: str, aim: str) -> None:
    """One line of the table, as soon as it is known."""
    sys.stdout.write(f"{what:88} | {measured:>10} | {aim}\n")
    sys.stdout.flush()


def described(size: Size) -> dict[str, Any]:
    """The machine, the versions, and how much was measured."""
    return described_machine() | {"size": asdict(size)}


def described_machine() -> dict[str, Any]:
    """The machine, the day and the versions."""
    return {
        "date": time.strftime("%Y-%m-%d"),
        "device": f"{platform.processor() or platform.machine()}, {len(os.sched_getaffinity(0))} CPUs",
        "python": platform.python_version(),
        **{name: version(name) for name in ("ray", "optuna", "mlflow")},
    }


if __name__ == "__main__":
    main()
