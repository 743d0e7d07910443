"""Lets PyPI's torchvision import beside a CPU-only torch, so that timm and transformers import too.

torchvision's compiled operators link CUDA libraries that a CPU-only torch lacks; they are then never
registered, and `import torchvision` fails with "operator torchvision::nms does not exist". Declaring the two
schemas that it looks up is enough for everything used here; the operators themselves stay unavailable.
Where the compiled operators load, nothing is done.
"""

import importlib.util
from pathlib import Path

import torch

_declared: list[torch.library.Library] = []  # a Library undoes its definitions when it is collected


def make_importable() -> None:
    """Call before the first import of timm or of a transformers model; a second call does nothing."""
    spec = importlib.util.find_spec("torchvision")  # finds, does not import
    if _declared or spec is None or not spec.submodule_search_locations:
        return
    compiled = Path(spec.submodule_search_locations[0]) / "_C.so"
    try:
        torch.ops.load_library(str(compiled))  # type: ignore[no-untyped-call]
    except OSError:
        library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
        for operator in ("nms", "qnms"):
            schema = operator + "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
            library.define(schema)  # type: ignore[no-untyped-call]
        _declared.append(library)
