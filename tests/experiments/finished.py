"""Results as a worker would have published them, of any cost, without the work."""

import time
from pathlib import Path
from typing import Any

from experiments.stages.code_version import code_digest
from experiments.stages.stage import Stage
from experiments.store.attempt import NOTHING_SPENT, claim
from experiments.store.documents import write_json
from experiments.store.store import Store
from tests.quick_stage import NOTES

HOST = {"device": "cpu", "device_name": "a processor", "unit": "CPU h", "cpus": 1, "gpus": 0, "versions": {}}
"""What a worker says of the machine that it is on."""


def made_result(stage: Stage, **changes: Any) -> dict[str, Any]:
    """A result as a worker publishes it."""
    made = {"fingerprint": stage.fingerprint, "metrics": {}, "useful_s": 0.0, "files": {}, "code": {}}
    made["notes"] = NOTES if stage.kind == "evaluate" else {}
    return made | HOST | {"commit": None, "threads": 1, "attempt": 1, "time": time.time()} | changes


def finish(
    store: Store,
    stage: Stage,
    hours: float,
    *,
    lost: float = 0.0,
    unit: str = "CPU h",
    peak_memory_bytes: int | None = None,
) -> Path:
    """Publish a result that took so many hours, 0.25 of them overhead, after an attempt of `lost` hours."""
    directory = store.prepare(stage)
    useful_s = (hours - 0.25) * 3600
    if lost:
        account = NOTHING_SPENT | {"spent_s": lost * 3600, "train_s": lost * 3600}
        claim(directory, HOST | {"unit": unit}).end("interrupted", account, "")
    lease = claim(directory, HOST | {"unit": unit})
    result = made_result(stage, useful_s=useful_s, code=code_digest(stage.kind), unit=unit, attempt=lease.number)
    write_json(directory / "result.json", result)
    account = NOTHING_SPENT | {"spent_s": hours * 3600, "train_s": useful_s, "useful_s": useful_s}
    account |= {} if peak_memory_bytes is None else {"peak_memory_bytes": peak_memory_bytes}
    lease.end("done", account, "published")
    return directory
