"""A driver: runs quick stages given on its command line as a sweep would, and tells what happens, line by line.

`python -m tests.quick_driver HOME ENGINE CHAINS`, where CHAINS is JSON: a list of chains, each a list of stages that
build on one another, each a list of a kind and the settings of `tests.quick_stage`.
"""

import json
import sys
from pathlib import Path
from typing import Any

from experiments.engines import Engine
from experiments.engines.inline import InlineEngine
from experiments.engines.ray_tune import RayEngine
from experiments.events import Event
from experiments.scheduler import Scheduler
from experiments.stage import Stage
from experiments.store import Store
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


def make_engine(name: str, home: Path) -> Engine:
    if name == "ray":
        return RayEngine(home)
    return InlineEngine() if name == "inline" else ProcessEngine()


def tell(event: Event) -> None:
    if event.kind != "progress":
        sys.stdout.write(json.dumps([event.kind, event.stage.fingerprint[:12], event.message]) + "\n")
        sys.stdout.flush()


def main() -> int:
    home, name, chains = Path(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])
    engine = make_engine(name, home)
    scheduler = Scheduler(make_stages(chains), Store(home), engine, data_root=home / "data", on_event=tell)
    try:
        summary = scheduler.run()
    finally:
        engine.close()
    told = {"done": len(summary.done), "cached": len(summary.cached), "failed": [why for _, why in summary.failed]}
    sys.stdout.write(json.dumps(told | {"interrupted": summary.interrupted}) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
