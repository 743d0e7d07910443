"""A stage that takes no time and misbehaves as told; runs where `smaug_core.stages.run` would."""

import json
import math
import os
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.stages.stage import Stage
from smaug_core.errors import DivergedError, SmaugError
from smaug_core.stage_protocol import Interrupted, Outcome, Watch

ENTRY = "tests.quick_stage:run"
NOTES = {"dataset": "d", "split": "test", "n_queries": 1, "n_clips": 1, "test_digest": "aaaa", "ranking": "match"}
"""Of an evaluation."""


class QuickStage(Stage):
    """A stage of the store whose work is `run` below.

    Its own settings: `steps`, each of `step_s` seconds; `checkpoint_every` so many steps; `hold_at` a step until the
    file `go` appears in its folder; `stuck_at` a step that it never takes, nor ends but when asked to, with a file
    `stuck-N` in its Nth attempt; `kill_at` a step, in as many attempts as `kills` says, or a list with a step for
    each attempt; `hold_mib`, so much memory in each process to its end; `fail_at`, `refuse_at`, `diverge_at` a step;
    `eat_at` a step, 4 GiB of memory; `no_gpu_memory_at`,
    `no_host_memory_at` a step, in as many attempts as `times` says, and on the GPU only as long as layers are not
    recomputed if it is `until_recomputed`; `rank`, which of several processes misbehaves. The first process writes;
    each of the others notes that it was there in `ranks.txt`.
    """

    def document(self) -> dict[str, Any]:
        return super().document() | {"entry": ENTRY}


def quick_stage(
    kind: str = "pretrain",
    *,
    parents: tuple[Stage, ...] = (),
    seed: int | None = 0,
    cpus: int = 1,
    gpus: int = 0,
    accelerator: str | None = None,
    nodes: int | None = None,
    memory_gb: float | None = None,
    task: str | None = None,
    **own: Any,
) -> QuickStage:
    where = {"accelerator": accelerator, "nodes": nodes, "memory_gb": memory_gb}
    return QuickStage(
        kind=kind,
        task=task,
        settings={kind: {"steps": 3, **own}},
        inputs={},
        parents=parents,
        seed=seed,
        resources={"cpus": cpus, "gpus": gpus} | {name: value for name, value in where.items() if value is not None},
    )


def run(
    kind: str,
    settings: Mapping[str, Any],
    *,
    seed: int | None,
    parents: Sequence[Path],
    out: Path,
    data_root: Path,
    device: str,
    watch: Watch,
    recompute_layers: bool = False,
) -> Outcome:
    own, rank = settings[kind], int(os.environ.get("RANK", "0"))
    _held = b"a" * (own.get("hold_mib", 0) * 2**20)
    steps, (first, useful_before, loss) = own["steps"], _resume(out)
    spent_before = watch.spent() - useful_before
    if rank > 0:
        return _follow(own, rank, range(first + 1, steps + 1), out, watch, recompute_layers)
    for step in range(first + 1, steps + 1):
        if own.get("rank", 0) == 0:
            _misbehave(own, step, out, recompute_layers)
        _hold_before(own, step, steps, out, watch)
        time.sleep(own.get("step_s", 0.0))
        loss = 1.0 / (1.0 / loss + 1.0)  # 1 / step, but only where every step before was taken, and once
        with (out / "trail.txt").open("a") as trail:
            trail.write(f"{step}\n")
        watch.report(step, steps, {"loss": loss})
        while own.get("hold_at") == step and not (out / "go").exists() and not watch.stop_requested():
            time.sleep(0.01)
        stop = watch.stop_requested()
        if stop or step % own.get("checkpoint_every", steps + 1) == 0:
            _save(out, step, watch.spent() - spent_before, loss)
            watch.useful(watch.spent() - spent_before)
        if stop:
            raise Interrupted(f"stopped after step {step} of {steps}")
    (out / "weights.json").write_text(json.dumps([seed, [str(parent) for parent in parents]]))
    return Outcome(
        metrics={"train.loss": loss},
        useful_s=watch.spent() - spent_before,
        files=["weights.json"],
        scratch=["checkpoints"],
        notes=NOTES if kind == "evaluate" else {},
    )


def _follow(
    own: Mapping[str, Any], rank: int, steps: Sequence[int], out: Path, watch: Watch, recomputed: bool
) -> Outcome:
    """What another process than the first does: it comes to each step after the first has."""
    with (out / "ranks.txt").open("a") as ranks:
        ranks.write(f"{rank} of {os.environ['WORLD_SIZE']}\n")
    for step in steps:
        while not watch.stop_requested() and str(step) not in _trail(out):
            time.sleep(0.01)
        if own.get("rank", 0) == rank:
            _misbehave(own, step, out, recomputed)
        while own.get("hold_at") == step and not (out / "go").exists() and not watch.stop_requested():
            time.sleep(0.01)
        if watch.stop_requested():
            raise Interrupted("stopped with the first")
    return Outcome(metrics={}, useful_s=0.0)


def _hold_before(own: Mapping[str, Any], step: int, steps: int, out: Path, watch: Watch) -> None:
    if own.get("stuck_at") == step:
        (out / f"stuck-{len(list((out / 'attempts').glob('0*')))}").touch()
        while not watch.stop_requested():
            time.sleep(0.01)
        raise Interrupted(f"stopped after step {step - 1} of {steps}")


def _trail(out: Path) -> list[str]:
    path = out / "trail.txt"
    return path.read_text().split() if path.exists() else []


def _save(out: Path, step: int, useful_s: float, loss: float) -> None:
    partial = out / "checkpoints" / f".partial-{os.getpid()}"
    partial.mkdir(parents=True, exist_ok=True)
    (partial / "state.json").write_text(json.dumps({"useful_s": useful_s, "loss": loss, "sha256": {}}))
    partial.rename(out / "checkpoints" / f"step-{step:08d}")


def _resume(out: Path) -> tuple[int, float, float]:
    """Steps done, the seconds they took, and the loss after the last of them."""
    found = sorted((out / "checkpoints").glob("step-*"))
    if not found:
        return 0, 0.0, math.inf
    state = json.loads((found[-1] / "state.json").read_text())
    return int(found[-1].name.removeprefix("step-")), state["useful_s"], state["loss"]


def _misbehave(own: Mapping[str, Any], step: int, out: Path, recomputed: bool) -> None:
    if own.get("fail_at") == step:
        raise RuntimeError(f"told to fail at step {step}")
    if own.get("refuse_at") == step:
        raise SmaugError(f"clip 000007.mp4: told to refuse at step {step}")
    if own.get("diverge_at") == step:
        raise DivergedError(f"step {step}: the loss is not finite")
    attempt = len(list((out / "attempts").glob("0*")))
    if own.get("no_gpu_memory_at") == step and attempt <= own.get("times", 9):
        if not (recomputed and own.get("until_recomputed")):
            import torch  # takes a second

            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.00 GiB")
    if own.get("eat_at") == step:
        eaten = [b"a" * 2**24 for _ in range(2**8)]
        raise RuntimeError(f"{len(eaten)} x 16 MiB were there")
    if own.get("no_host_memory_at") == step and attempt <= own.get("times", 9):
        raise MemoryError("told to want too much")
    kill_at = own.get("kill_at", [])
    steps = kill_at if isinstance(kill_at, list) else [kill_at] * own.get("kills", 1)
    if steps[attempt - 1 : attempt] == [step]:
        os.kill(os.getpid(), signal.SIGKILL)
