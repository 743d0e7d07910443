"""The energy that GPUs have used, as their driver counts it (NVML); nothing where there is no count, never zero.

The count is the whole device's, from Volta on. NVML numbers devices by their place on the bus, which is CUDA's order
too where all GPUs of a machine are of one type.
"""

import os
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any


def visible_gpus(count: int) -> list[str]:
    """The first `count` GPUs that this process may use: numbers or UUIDs."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return (list(map(str, range(count))) if visible is None else visible.split(","))[:count]


def energy_mj(gpus: Iterable[str]) -> dict[str, int]:
    """Return the millijoules of each GPU since its driver was loaded; empty if one of them does not count them."""
    nvml = _nvml()
    if nvml is None:
        return {}
    try:
        return {gpu: int(nvml.nvmlDeviceGetTotalEnergyConsumption(_handle(nvml, gpu))) for gpu in gpus}
    except nvml.NVMLError:  # older than Volta, a part of a GPU, or gone
        return {}


def joules_since(before: Mapping[str, int]) -> float | None:
    """Return what the GPUs in `before` have used since it was read; None if that is not known."""
    now = energy_mj(before)
    if not now or any(now[gpu] < before[gpu] for gpu in before):  # the driver was loaded again
        return None
    return sum(now[gpu] - before[gpu] for gpu in before) / 1000


def _handle(nvml: Any, gpu: str) -> Any:
    return nvml.nvmlDeviceGetHandleByIndex(int(gpu)) if gpu.isdecimal() else nvml.nvmlDeviceGetHandleByUUID(gpu)


@cache
def _nvml() -> Any:
    """NVIDIA's library, begun; none without it or its driver."""
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    return pynvml
