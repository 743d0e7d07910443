"""A driver: runs quick stages given on its command line as a sweep would, and tells what happens, line by line.

`python -m tests.quick_driver HOME ENGINE CHAINS`, where CHAINS is JSON: a list of chains, each a list of stages that
build on one another, each a list of a kind and the arguments of `tests.quick_stage`. Without CHAINS it reads a line
`[HOME, CHAINS]` after the other, and runs them all on one engine. ENGINE is `inline`, `process`, `ray`,
`ray@HOST:PORT` or `slurm@PROFILE`.
"""

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from experiments.engines.base import Engine
from experiments.engines.inline import InlineEngine
from experiments.engines.ray.engine import RayEngine
from experiments.engines.slurm.engine import SlurmEngine
from experiments.engines.slurm.profile import load_cluster
from experiments.scheduler.events import Event
from experiments.scheduler.scheduler import Scheduler
from experiments.stages.stage import Stage
from experiments.store.drivers import abandoned, cancel_requests, driver_at_work
from experiments.store.store import Store
from experiments.worker.signals import leave
from smaug_core.errors import SmaugError
from tests.process_engine import ProcessEngine
from tests.quick_stage import quick_stage


def make_stages(chains: list[list[tuple[str, dict[str, Any]]]]) -> list[Stage]:
    """The distinct stages of all chains, parents before children."""
    found: dict[str, Stage] = {}
    for chain in chains:
        parents: tuple[Stage, ...] = ()
        for kind, own in chain:
            stage = quick_stage(kind, parents=parents, **own)
            found.setdefault(stage.fingerprint, stage)
            parents = (stage,)
    return list(found.values())


def chain_to(stage: Stage) -> list[tuple[str, dict[str, Any]]]:
    """The chain that ends with a quick stage, as `make_stages` takes it."""
    before = chain_to(stage.parents[0]) if stage.parents else []
    own = stage.settings[stage.kind] | stage.resources | {"seed": stage.seed, "task": stage.task}
    return [*before, (stage.kind, own)]


def make_engine(name: str, home: Path) -> Engine:
    kind, _, address = name.partition("@")
    if kind == "ray":
        return RayEngine(home, address or None)
    if kind == "slurm":
        return SlurmEngine(home, load_cluster(Path(address)))
    return InlineEngine() if kind == "inline" else ProcessEngine()


def say(document: Any) -> None:
    sys.stdout.write(json.dumps(document) + "\n")
    sys.stdout.flush()


def tell(event: Event) -> None:
    attempt = event.attempt
    at = None if attempt is None else [attempt.number, attempt.owner.pid, attempt.progress.step]
    say([event.kind, event.stage.fingerprint, event.message, at])


def run(home: Path, chains: list[Any], engine: Engine) -> dict[str, Any]:
    """Run the stages; gives how that ended, stages by their fingerprints."""
    stages = make_stages(chains)
    scheduler = Scheduler(
        stages,
        Store(home),
        engine,
        data_root=home / "data",
        on_event=tell,
        cancellations=lambda: cancel_requests(home),
        abandoned=lambda names: abandoned(home, names),
    )
    try:
        with driver_at_work(home, [stage.fingerprint for stage in stages]):
            summary = scheduler.run()
    except SmaugError as error:
        return {"refused": str(error)}
    return {
        "done": [stage.fingerprint for stage in summary.done],
        "cached": [stage.fingerprint for stage in summary.cached],
        "failed": [(stage.fingerprint, why) for stage, why in summary.failed],
        "cancelled": [(stage.fingerprint, why) for stage, why in summary.cancelled],
        "blocked": [(stage.fingerprint, why) for stage, why in summary.blocked],
        "interrupted": summary.interrupted,
        "paused": summary.paused,
    }


def main() -> int:
    home, name = Path(sys.argv[1]), sys.argv[2]
    asked: Iterable[Any] = [(home, json.loads(sys.argv[3]))] if len(sys.argv) > 3 else map(json.loads, sys.stdin)
    engine = make_engine(name, home)
    try:
        for folder, chains in asked:
            say(run(Path(folder), chains, engine))
    finally:
        engine.close()
    return 0


if __name__ == "__main__":
    leave(main())
