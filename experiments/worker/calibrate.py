"""Timing of a few steps of a training: the worker's side of a probe."""

import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments.stages.stage import loader_workers
from experiments.stages.workload import step_macs, training_of
from experiments.store.documents import STAGE, read_document, write_json
from experiments.worker.device import DeviceClock, describe_device
from experiments.worker.outcome import set_threads
from experiments.worker.reporter import QuietWatch
from experiments.worker.signals import StopFlag
from smaug_core.errors import SmaugError
from smaug_core.stage_protocol import Interrupted
from smaug_core.stages import run

WARM_UP_STEPS = 3
"""Steps before the clock starts: the first ones load and allocate."""
STEPS = 20
"""Steps that are timed, unless they take longer than `SECONDS`."""
SECONDS = 20.0


class _TimingWatch(QuietWatch):
    """Watch that times the steps of a training and stops it after some of them."""

    def __init__(self, clock: DeviceClock, stop: StopFlag) -> None:
        super().__init__(clock, stop)
        self.steps = 0
        """Number of timed steps."""
        self.seconds = 0.0
        """Device seconds of those steps."""
        self._reported, self._start_s = 0, 0.0

    def report(self, step: int, total: int, values: Mapping[str, float]) -> None:
        """Time a step, unless it is one of the first."""
        self._reported += 1
        if self._reported == WARM_UP_STEPS:
            self._start_s = self.spent()
        elif self._reported > WARM_UP_STEPS:
            self.steps, self.seconds = self._reported - WARM_UP_STEPS, self.spent() - self._start_s

    def stop_requested(self) -> bool:
        """Return whether enough steps were timed."""
        enough = self.steps >= STEPS or (self.steps > 0 and self.seconds >= SECONDS)
        return enough or super().stop_requested()


def time_steps(directory: Path, *, data_root: Path, device: str, stop: StopFlag) -> None:
    """Run the training described in `directory` for some steps, and write `rate.json` there.

    Args:
        directory: holds stage.json; what the training writes goes to a folder in it and is removed.
        data_root: folder of the media.
        device: `cpu` or `cuda`.
        stop: requests an early end.

    Raises:
        SmaugError: the training cannot start, or ended before a step was timed.
    """
    stage = read_document(directory / "stage.json", STAGE)
    if stage is None:
        raise SmaugError(f"{directory}: no stage to time was prepared here (stage.json is missing)")
    watch, out = _TimingWatch(DeviceClock(stage.resources["gpus"]), stop), directory / "out"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    kind, settings = stage.kind, stage.settings
    workers = loader_workers(stage.resources)
    set_threads(max(1, stage.resources["cpus"] - workers))
    options: dict[str, Any] = {"data_root": data_root, "device": device, "watch": watch, "loader_workers": workers}
    try:
        run(kind, settings, seed=0, parents=[], out=out, **options)
    except Interrupted:
        pass  # by the watch
    finally:
        shutil.rmtree(out, ignore_errors=True)
    if not watch.steps:
        raise SmaugError(f"{stage.name}: ended before a step could be timed")
    macs = watch.steps * training_of(kind, settings).batch_size * step_macs(kind, settings)
    rate = {
        "macs_per_hour": macs / (watch.seconds / 3600),
        "steps": watch.steps,
        "seconds": watch.seconds,
        "time": time.time(),
    }
    write_json(directory / "rate.json", rate | describe_device(device))
