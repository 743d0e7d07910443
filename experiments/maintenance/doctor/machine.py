"""Checks of this machine: Python, packages, torch and its devices, the video decoder, Ray."""

import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from operator import itemgetter
from pathlib import Path

from experiments.config.scale import Scale
from experiments.engines.base import Inventory, local_inventory
from experiments.engines.ray.start import base_folder
from experiments.maintenance.doctor.finding import Finding, fault, fine, probe, warning
from experiments.planning.disk_space import in_words
from experiments.planning.inputs import scale_stages
from experiments.planning.plan import resource_problems
from experiments.stages.stage import Stage, loader_workers
from experiments.stages.workload import step_shape
from smaug_core.errors import SmaugError
from smaug_core.stage_protocol import EVALUATE, PREFETCH

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108  where torch puts what processes share
FIX_PACKAGES = "make setup (or pip install --constraint constraints.txt --editable '.[dev]')"
OLDEST_PYTHON = (3, 11)

TORCH = """
import json, torch
answer = {"version": torch.__version__, "cuda": torch.version.cuda, "gpus": torch.cuda.device_count()}
try:
    from smaug_core.torchvision_on_cpu import make_importable
    make_importable()
    import timm, torchvision
    answer["torchvision"] = torchvision.__version__
except Exception as error:
    answer["fault"] = f"{type(error).__name__}: {error}"
print(json.dumps(answer))
"""
RAY = "import json, ray; from ray import tune; print(json.dumps({'version': ray.__version__}))"
DECODER = """
import json, tempfile
from pathlib import Path
import av, numpy as np
from smaug_core.data.media.video import read_frames, write_clip
frames = np.zeros((6, 32, 32, 3), np.uint8)
frames[:, 8:24, 8:24, 0] = np.linspace(60, 240, 6, dtype=np.uint8)[:, None, None]
with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "clip.mp4"
    write_clip(path, frames, 8, keyframe_every=3)
    back = read_frames(path, lambda available: range(available))
difference = np.abs(back.astype(int) - frames).mean() if back.shape == frames.shape else 255.0
print(json.dumps({"av": av.__version__, "frames": len(back), "difference": float(difference)}))
"""
PIXEL_BYTES = 4
"""Of each colour of a pixel, in a batch."""
MAX_DIFFERENCE = 8.0
"""Largest mean difference, of 256 levels, between the clip of the check and its compressed copy."""


def check_python() -> Iterator[Finding]:
    """Check the version of the interpreter."""
    version = f"{platform.python_version()} at {sys.executable}"
    if sys.version_info < OLDEST_PYTHON:
        yield fault("python", version, "Python 3.11 or newer, e.g. make PYTHON=python3.11 setup")
    else:
        yield fine("python", version)


def check_packages() -> Iterator[Finding]:
    """Check that every required package is installed in a declared version."""
    try:
        from packaging.requirements import Requirement

        requirements = [Requirement(text) for text in metadata.requires("smaug") or []]
    except ImportError as error:  # PackageNotFoundError is one: this project itself is not installed
        yield fault("packages", f"cannot be looked up ({error})", FIX_PACKAGES)
        return
    wrong = []
    for requirement in requirements:
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            wrong.append(f"{requirement.name} is missing")
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            wrong.append(f"{requirement.name} is {version}, not {requirement.specifier}")
    if wrong:
        yield fault("packages", "; ".join(wrong), FIX_PACKAGES)
    else:
        yield fine("packages", f"all {len(requirements)} as required")


def check_torch(scale: Scale | None) -> Iterator[Finding]:
    """Check torch, torchvision, the devices that the driver and torch list, and that a scale fits them."""
    answer = probe(TORCH)
    if isinstance(answer, str):
        yield fault("torch", f"cannot be loaded ({answer})", FIX_PACKAGES)
        return
    build = f"CUDA {answer['cuda']}" if answer["cuda"] else "for CPUs only"
    yield fine("torch", f"{answer['version']}, built {build}")
    if "fault" in answer:
        fix = "install the torchvision that was made for this torch: " + FIX_PACKAGES
        yield fault("torchvision", f"cannot be loaded beside torch ({answer['fault'].splitlines()[0]})", fix)
    else:
        yield fine("torchvision", f"{answer['torchvision']}; timm loads")
    yield from _check_devices(answer["gpus"], answer["cuda"])
    if scale is not None:
        yield from _check_fit(scale)


def _check_devices(visible: int, cuda: str | None) -> Iterator[Finding]:
    inventory, present = local_inventory(), gpu_names()
    (here,) = inventory.nodes
    devices = f"{here.cpus} CPUs, {len(present)} GPUs ({', '.join(present) or 'none'}), {visible} of them seen by torch"
    if present and here.gpus and visible < here.gpus:
        fix = "install torch built for CUDA" if cuda is None else "update the GPU's driver, or see its `nvidia-smi`"
        yield fault("devices", devices, fix)
    else:
        yield fine("devices", devices)


def _check_fit(scale: Scale) -> Iterator[Finding]:
    for problem in misfits(scale, local_inventory()):
        fix = "run it on a larger machine, on a Ray cluster (run --address), or on Slurm (--cluster FILE)"
        yield fault("devices", f"scale {scale.name}: {problem}", fix)


def misfits(scale: Scale, inventory: Inventory) -> list[str]:
    """Return the requests of a scale's stages that some machines cannot meet."""
    try:
        return resource_problems(scale_stages(scale), inventory)
    except SmaugError as error:  # e.g. a vocabulary that is missing
        return [f"its requests are not known ({error})"]


def check_shared_memory(scale: Scale, folder: Path = SHARED_MEMORY) -> Iterator[Finding]:
    """Check that the batches that loader processes have ready fit the memory that processes share."""
    try:
        stage, needed = max(((stage, _loaded_bytes(stage)) for stage in scale_stages(scale)), key=itemgetter(1))
    except SmaugError as error:  # e.g. a vocabulary that is missing
        yield warning("shared memory", f"what scale {scale.name} needs is not known ({error})", "see that message")
        return
    if not needed:
        yield fine("shared memory", f"scale {scale.name} has no loader processes")
        return
    free = shutil.disk_usage(folder).free if folder.exists() else 0
    message = f"{in_words(free)} free at {folder}; loader processes of {stage.name} may have {in_words(needed)} ready"
    if free < needed:
        fix = f"fewer resources.{stage.kind}.workers, or a container with more shared memory (docker --shm-size)"
        yield fault("shared memory", message, fix)
    else:
        yield fine("shared memory", message)


def _loaded_bytes(stage: Stage) -> int:
    """Most that the loader processes of a training have ready on one machine; 0 of an evaluation, which has less."""
    if stage.kind == EVALUATE:
        return 0
    processes, nodes = max(1, stage.resources["gpus"]), stage.resources.get("nodes", 1)
    model, shape = step_shape(stage.kind, stage.settings)
    samples = stage.settings[stage.kind]["batch_size"] // processes
    batch = samples * shape.clip.frames * 3 * model.image_size**2 * PIXEL_BYTES
    return int(batch * PREFETCH * loader_workers(stage.resources, processes) * processes // nodes)


def gpu_names() -> list[str]:
    """Return the names of the GPUs that nvidia-smi lists; none without nvidia-smi."""
    query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return answer.stdout.split("\n")[:-1]


def check_decoder() -> Iterator[Finding]:
    """Write and read a few frames of H.264 in a temporary folder."""
    answer = probe(DECODER)
    fix = "reinstall PyAV with its own FFmpeg: pip install --force-reinstall av"
    if isinstance(answer, str):
        yield fault("video decoder", answer, fix)
    elif answer["frames"] != 6 or answer["difference"] > MAX_DIFFERENCE:
        message = f"6 frames come back as {answer['frames']}, {answer['difference']:.0f} of 255 off"
        yield fault("video decoder", message, fix)
    else:
        yield fine("video decoder", f"PyAV {answer['av']} writes and reads H.264")


def check_ray() -> Iterator[Finding]:
    """Check Ray Tune, the default engine."""
    answer = probe(RAY)
    if isinstance(answer, str):
        yield fault("ray", f"cannot be loaded ({answer})", f"{FIX_PACKAGES}; until then --engine inline")
        return
    try:
        folder = base_folder()
    except SmaugError as error:
        yield fault("ray", f"{answer['version']}, and cannot start: {error}", "set TMPDIR to a shorter path")
    else:
        yield fine("ray", f"{answer['version']}; its sockets go to {folder}")
