"""Results as a worker would have published them, of any cost, without the work."""

from pathlib import Path

from experiments.attempt import NOTHING_SPENT, claim, write_json
from experiments.code import code_digest
from experiments.stage import Stage
from experiments.store import Store


def finish(store: Store, stage: Stage, hours: float, *, lost: float = 0.0, unit: str = "CPU h") -> Path:
    """Publish a result that took so many hours, 0.25 of them overhead, after an attempt of `lost` hours."""
    directory = store.prepare(stage)
    useful_s = (hours - 0.25) * 3600
    if lost:
        account = NOTHING_SPENT | {"spent_s": lost * 3600, "train_s": lost * 3600}
        claim(directory, {"unit": unit}).end("interrupted", account, "")
    lease = claim(directory, {"unit": unit})
    result = {"fingerprint": stage.fingerprint, "useful_s": useful_s, "code": code_digest(stage.kind)}
    write_json(directory / "result.json", result)
    account = NOTHING_SPENT | {"spent_s": hours * 3600, "train_s": useful_s, "useful_s": useful_s}
    lease.end("done", account, "published")
    return directory
