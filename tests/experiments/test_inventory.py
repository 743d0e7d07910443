"""What this machine has, found without a GPU library."""

from pathlib import Path

import pytest

from experiments.engines.base import _gpu_types, gpu_type, local_inventory

PRODUCTS = {
    "NVIDIA A100-SXM4-80GB": "A100",
    "NVIDIA RTX A6000": "RTX-A6000",
    "NVIDIA H100 80GB HBM3": "H100",
    "Tesla V100-SXM2-16GB": "V100",
    "NVIDIA GeForce RTX 4090": "GeForce-RTX-4090",
}


@pytest.mark.parametrize("product", PRODUCTS)
def test_a_gpus_type_is_what_ray_calls_it(product: str) -> None:
    from ray._private.accelerators.nvidia_gpu import NvidiaGPUAcceleratorManager

    assert gpu_type(product) == NvidiaGPUAcceleratorManager._gpu_name_to_accelerator_type(product)
    assert gpu_type(product) == PRODUCTS[product]


def test_the_drivers_files_tell_the_types(tmp_path: Path) -> None:
    for slot, model in (("0000:01", "NVIDIA RTX A6000"), ("0000:02", "NVIDIA RTX A6000"), ("0000:03", "NVIDIA L4")):
        (tmp_path / slot).mkdir()
        (tmp_path / slot / "information").write_text(f"Model: \t\t {model}\nIRQ:   \t\t 37\n")
    assert _gpu_types(tmp_path) == ("L4", "RTX-A6000")
    assert _gpu_types(tmp_path / "none") == ()


def test_gpus_are_those_that_this_process_may_see(monkeypatch: pytest.MonkeyPatch) -> None:
    for visible, count in (("", 0), ("-1", 0), ("0,3", 2)):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        (node,) = local_inventory().nodes
        assert node.gpus == count and node.cpus >= 1
