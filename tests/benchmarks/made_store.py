"""Sweeps of many real stages, and finished ones as workers leave them, made without doing their work."""

import time
from functools import cache
from pathlib import Path
from typing import Any

from experiments.planning.plan import distinct_stages
from experiments.planning.request import Request
from experiments.stages.code_version import code_digest
from experiments.stages.stage import Stage
from experiments.store.attempt import NOTHING_SPENT, claim
from experiments.store.documents import write_json
from experiments.store.store import Store
from experiments.worker.device import describe_device, library_versions

SWEEP = Path(__file__).resolve().parents[2] / "sweeps" / "masking_ratio.yaml"
ROWS = 4
"""Of that sweep."""
STAGES_OF_A_SEED = 5 * ROWS
"""For each row a pre-training, two fine-tunings of it, and their evaluations."""
EVALUATED = {
    "dataset": "moving_shapes/sentence",
    "split": "test",
    "n_queries": 256,
    "n_clips": 256,
    "test_digest": "3" * 64,
    "ranking": "match",
}


def seeds(pretrain: int, finetune: int = 1) -> list[str]:
    """What to `--set` so that each row has so many pre-trainings, and each of these so many fine-tunings."""
    return [f"seeds.pretrain={list(range(pretrain))}", f"seeds.finetune={list(range(finetune))}"]


def seeds_of_stages(num_stages: int) -> list[str]:
    """What to `--set` for so many distinct stages, a multiple of `STAGES_OF_A_SEED`."""
    pretrain, rest = divmod(num_stages, STAGES_OF_A_SEED)
    if rest:
        raise ValueError(f"num_stages must be a multiple of {STAGES_OF_A_SEED}, got {num_stages}")
    return seeds(pretrain, 2)


def request(home: Path, num_stages: int) -> Request:
    """Asks for a sweep of so many stages, at the scale tiny."""
    return Request(files=[SWEEP], scale="tiny", set_=seeds_of_stages(num_stages), home=home)


def finish_all(home: Path, num_stages: int) -> None:
    """Let every stage of that sweep be finished."""
    asked, store = request(home, num_stages), Store(home)
    for stage in distinct_stages(asked.trials(*asked.read(), home / "data")):
        if store.result(stage) is None:
            publish(store, stage)


def publish(store: Store, stage: Stage) -> None:
    """Leave what one undisturbed attempt at a stage leaves, but for weights and curves, which no driver reads."""
    directory, now = store.prepare(stage), time.time()
    lease = claim(directory, _host())
    account = {"spent_s": 100.0, "wall_s": 101.0, "cpu_s": 100.0, "useful_s": 90.0, "train_s": 90.0, "step": 9}
    end = {"time": now, "class": "done", "message": "published", "traceback": ""}
    write_json(lease.directory / "end.json", end | NOTHING_SPENT | account)
    result = {
        "fingerprint": stage.fingerprint,
        "metrics": {"t2v.r1": 54.7, "t2v.r5": 97.7, "t2v.r10": 99.2, "train.loss": 1.234567},
        "useful_s": 90.0,
        "files": {"model/model.safetensors": "0" * 64, "model/config.json": "1" * 64},
        "notes": EVALUATED if stage.kind == "evaluate" else {},
        "code": _code(stage.kind),
        **_host(),
        "commit": {"id": "2" * 40, "changed": False},
        "threads": 1,
        "attempt": lease.number,
        "time": now,
    }
    write_json(directory / "result.json", result)


@cache
def _code(kind: str) -> dict[str, str]:
    return code_digest(kind)


@cache
def _host() -> dict[str, Any]:
    return describe_device("cpu") | {"cpus": 1, "gpus": 0, "versions": library_versions()}
