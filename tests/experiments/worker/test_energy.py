"""Energy of an attempt, with an NVML of our own making: there is no GPU here whose count could be read."""

import sys
from collections.abc import Iterator
from types import ModuleType

import pytest

from experiments.worker import energy
from experiments.worker.device import DeviceClock


class Nvml(ModuleType):
    """Counts as told: millijoules by device."""

    class NVMLError(Exception):
        pass

    def __init__(self) -> None:
        super().__init__("pynvml")
        self.counts: dict[int | str, int] = {0: 5000, 1: 100, "GPU-aa": 7}

    def nvmlInit(self) -> None:  # noqa: N802
        pass

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int | str:  # noqa: N802
        return index

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> int | str:  # noqa: N802
        return uuid

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: int | str) -> int:  # noqa: N802
        if handle not in self.counts:
            raise self.NVMLError("not supported")
        return self.counts[handle]


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> Iterator[Nvml]:
    fake = Nvml()
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    energy._nvml.cache_clear()
    yield fake
    energy._nvml.cache_clear()


def test_an_attempts_account_holds_the_joules_of_its_gpus(nvml: Nvml) -> None:
    clock = DeviceClock(2)
    nvml.counts |= {0: 7500, 1: 600}
    assert clock.account()["joules"] == 3.0
    assert DeviceClock(2, clock.start).account()["joules"] == 3.0, "another process reads on"


def test_gpus_may_be_named_by_uuid(nvml: Nvml, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-aa,1")
    clock = DeviceClock(1)
    nvml.counts["GPU-aa"] = 1007
    assert clock.account()["joules"] == 1.0


@pytest.mark.parametrize("gone", [{}, {0: 100, 1: 100}])
def test_a_count_that_is_gone_or_began_anew_tells_nothing(nvml: Nvml, gone: dict[int | str, int]) -> None:
    clock = DeviceClock(2)
    nvml.counts = gone
    assert "joules" not in clock.account()


def test_a_gpu_that_does_not_count_tells_nothing(nvml: Nvml) -> None:
    nvml.counts.clear()
    assert "joules" not in DeviceClock(1).account()


def test_without_gpu_or_library_there_is_no_energy(nvml: Nvml, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "joules" not in DeviceClock(0).account()
    monkeypatch.setitem(sys.modules, "pynvml", None)
    energy._nvml.cache_clear()
    assert DeviceClock(1).account().keys() == {"spent_s", "wall_s", "cpu_s", "peak_memory_bytes"}
