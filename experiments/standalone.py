"""One stage without a sweep: `smaug pretrain`, `finetune` and `evaluate`, from folder to folder."""

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from experiments.config.scale import Scale
from experiments.console import Bars, Console
from experiments.run import prepare_data
from experiments.stages.graph import cut_stages
from experiments.stages.stage import Stage, loader_workers
from experiments.stages.trial import config_of
from experiments.store.documents import ALONE, METRICS, read_document, write_json
from experiments.worker.device import DeviceClock, check_device
from experiments.worker.reporter import QuietWatch
from experiments.worker.signals import StopFlag, end_with, stop_on_signals
from smaug_core.config import Config
from smaug_core.errors import SmaugError
from smaug_core.stage_protocol import PRETRAIN_VIDEO, Outcome


def run_alone(
    kind: str,
    scale: Scale,
    *,
    overrides: Mapping[str, Any],
    task: str | None,
    parent: Path | None,
    out: Path,
    seed: int,
    data_root: Path,
    device: str,
    console: Console,
    recompute_layers: bool = False,
) -> dict[str, float]:
    """Run one stage in `out`, from its newest checkpoint if it was interrupted, and return its metrics.

    Under torchrun every process calls this; only the first claims `out`, renders, writes, and returns metrics.

    Args:
        scale: gives all settings that `overrides`, by dotted names, do not.
        task: slot to fine-tune or evaluate for; None for pre-training.
        parent: folder of the training it starts from.
        data_root: folder of the media; embedded data is rendered there.

    Raises:
        SmaugError: a setting, the data or the parent is not right, or `out` holds another stage's work.
        Interrupted: Ctrl-C or SIGTERM, to this process or to another of the run; the same command continues.
    """
    from smaug_core import stages
    from smaug_core.distributed import first_does

    check_device(device)
    if "WORLD_SIZE" in os.environ:
        end_with(os.getppid())  # torchrun's, or the processes of a torchrun that was killed would train on
    config = config_of(scale, overrides)
    stage = _stage(config, scale, kind, task, seed, data_root, parent)
    first, begin = is_first_process(), partial(_begin, stage, config, parent, out, data_root, console)
    if (finished := first_does("begin", begin)) is not None:
        return finished if first else {}
    options: dict[str, Any] = {"data_root": data_root, "device": device, "recompute_layers": recompute_layers}
    options |= {"loader_workers": _loader_workers(stage, device)}
    options |= {"seed": stage.seed, "parents": [] if parent is None else [parent], "out": out}
    with _watch(console, stage.name, int(device != "cpu")) as watch:
        try:
            outcome = stages.run(kind, stage.settings, watch=watch, **options)
        except SmaugError:
            if first:
                _give_back(out)
            raise
    return _publish(out, outcome, console) if first else {}


def _loader_workers(stage: Stage, device: str) -> int:
    """Loader processes of this process, which shares this machine's CPUs with torchrun's other ones."""
    here = {"cpus": len(os.sched_getaffinity(0)), "gpus": int(device == "cuda")}
    return loader_workers(stage.resources | here, int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def _publish(out: Path, outcome: Outcome, console: Console) -> dict[str, float]:
    for name, note in outcome.notes.items():
        if note and name != "unknown_words":  # logged when the data was read
            console.print(f"{name}: {note}")
    write_json(out / "metrics.json", outcome.metrics | {"useful_s": outcome.useful_s})
    for name in outcome.scratch:
        shutil.rmtree(out / name, ignore_errors=True)
    return outcome.metrics


def _begin(
    stage: Stage, config: Config, parent: Path | None, out: Path, data_root: Path, console: Console
) -> dict[str, float] | None:
    """Claim `out` and render the data; return the metrics of a stage that is done."""
    _claim(out, stage, parent)
    finished = read_document(out / "metrics.json", METRICS)
    if finished is None:
        prepare_data([config], data_root, console)
    else:
        console.print(f"{out}: was done before")
    return finished


def is_first_process() -> bool:
    """Return whether this is the process that writes and talks; torchrun numbers its processes in RANK."""
    return os.environ.get("RANK", "0") == "0"


def _stage(
    config: Config, scale: Scale, kind: str, task: str | None, seed: int, data_root: Path, parent: Path | None
) -> Stage:
    if task is not None and task not in scale.datasets:
        raise SmaugError(f"--task {task}: scale {scale.name} has {', '.join(scale.datasets)}")
    if kind == PRETRAIN_VIDEO and config.pretrain_video is None:
        raise SmaugError("--from: trains on several frames; say how many, e.g. --set pretrain_video.frames=4")
    chain = cut_stages(config, scale.resources, seed, seed, data_root)
    if parent is not None and not (parent / "model" / "config.json").exists():
        raise SmaugError(f"--from {parent}: holds no model; expected the --out folder of a finished training")
    return next(stage for stage in chain if (stage.kind, stage.task) == (kind, task))


def _claim(out: Path, stage: Stage, parent: Path | None) -> None:
    """Write what is done in `out`, unless it is there.

    Raises:
        SmaugError: other work is there.
    """
    if out.exists() and not out.is_dir():
        raise SmaugError(f"--out {out}: is a file; choose a folder")
    identity = {"stage": stage.document(), "from": None if parent is None else str(parent.resolve())}
    there = read_document(out / "stage.json", ALONE)
    if there is not None and there.raw != identity:
        differing = _first_difference(there.raw, identity)
        raise SmaugError(f"{out}: holds {there.stage.name} with another {differing}; choose another --out")
    if there is None:
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SmaugError(f"--out {out}: cannot be made ({error.strerror}); choose another folder") from error
        write_json(out / "stage.json", identity)


def _first_difference(there: Any, now: Any, where: str = "") -> str:
    """The first place in which two documents differ, with both values."""
    if isinstance(there, dict) and isinstance(now, dict):
        for key in sorted((there.keys() | now.keys()) - {"fingerprint"}):
            if there.get(key) != now.get(key):
                return _first_difference(there.get(key), now.get(key), f"{where}.{key}" if where else key)
    return f"{where}: {there!r}, now {now!r}"


def _give_back(out: Path) -> None:
    """Leave a folder free for corrected settings if nothing was made in it."""
    if [path.name for path in out.iterdir()] == ["stage.json"]:
        (out / "stage.json").unlink()


@contextmanager
def _watch(console: Console, name: str, gpus: int) -> Iterator["_TerminalWatch"]:
    stop = StopFlag()
    # torchrun sends SIGTERM to the others when one process ends, and passes Ctrl-C on, maybe more than once.
    with (
        console.bars(shown=is_first_process(), transient=False) as bars,
        stop_on_signals(stop.set, second_interrupts=False),
    ):
        yield _TerminalWatch(console, bars, name, gpus, stop)


class _TerminalWatch(QuietWatch):
    """Watch that shows a running stage as a bar, or as lines if the output is no terminal."""

    def __init__(self, console: Console, bars: Bars, name: str, gpus: int, stop: StopFlag) -> None:
        super().__init__(DeviceClock(gpus), stop)
        self._console, self._bars, self._name = console, bars, name
        bars.show(name, name, 0, None)

    def report(self, step: int, total: int, values: Mapping[str, float]) -> None:
        """Move the bar."""
        shown = " ".join(f"{name} {value:.3f}" for name, value in values.items() if name != "lr")
        self._bars.show(self._name, self._name, step, total, shown)
        if is_first_process() and not self._console.is_terminal and (step % max(1, total // 20) == 0 or step == total):
            self._console.print(f"{self._name} {step}/{total} {shown}")
