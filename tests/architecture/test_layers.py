"""Imports point down: a reader may stop at any folder and know that nothing above it matters there."""

import pytest

from tests.architecture.source_tree import PACKAGES, imports_of, modules

LAYERS = {
    "smaug_core": [
        ["errors", "torchvision_on_cpu", "patches", "files", "hub", "stage_protocol", "settings"],
        ["config"],
        ["clip_shape", "distributed", "run_context", "cost"],
        ["data"],
        ["model"],
        ["pretrained"],
        ["training", "visualization"],
        ["evaluation"],
        ["stages", "retriever"],
    ],
    "experiments": [
        ["background", "config", "console"],
        ["stages"],
        ["store"],
        ["worker"],
        ["engines"],
        ["planning"],
        ["scheduler"],
        ["search"],
        ["tracking"],
        ["maintenance"],
        ["run", "standalone"],
        ["cli"],
    ],
    "reports": [["paper"], ["analysis"], ["render"], ["report"], ["figures"], ["html"]],
}
"""Folders and modules of each package, from the lowest; each imports only what is in its own layer or below."""

RESERVED = {"experiments": {"search"}}
"""Places of what is still to be written."""

BELOW = {"smaug_core": set(), "experiments": {"smaug_core"}, "reports": {"smaug_core", "experiments"}}
"""Packages that a package may import besides itself; `experiments.cli` alone imports reports too."""


def layer_of(name: str) -> int:
    package, part = name.split(".")[:2]
    (number,) = [number for number, parts in enumerate(LAYERS[package]) if part in parts]
    return number


def inside(name: str) -> bool:
    return "." in name and name.split(".")[0] in PACKAGES


@pytest.mark.parametrize("package", PACKAGES)
def test_every_folder_and_module_has_a_layer(package):
    parts = {name.split(".")[1] for name in modules() if name.startswith(f"{package}.")}
    layered = {part for parts_ in LAYERS[package] for part in parts_}
    unlayered, gone = parts - layered, layered - parts - RESERVED.get(package, set())
    assert not unlayered | gone, (
        f"{package}: correct LAYERS, or move it to the folder where it belongs: {unlayered | gone}"
    )


@pytest.mark.parametrize("package", PACKAGES)
def test_no_module_imports_upward(package):
    upward = [
        f"{name} imports {imported}"
        for name in modules()
        if inside(name) and name.startswith(f"{package}.")
        for imported in imports_of(name)
        if inside(imported) and imported.startswith(f"{package}.") and layer_of(imported) > layer_of(name)
    ]
    assert not upward, "move what is shared down, or hand it in: " + "; ".join(upward)


def test_packages_import_only_those_below_them():
    for name in modules():
        package = name.split(".")[0]
        allowed = BELOW[package] | {package} | ({"reports"} if name.startswith("experiments.cli") else set())
        used = {imported.split(".")[0] for imported in imports_of(name)} & set(PACKAGES)
        assert used <= allowed, f"{name} imports {used - allowed}"


def test_no_import_cycles():
    """Tarjan's strongly connected components: each must be one module."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    cycles: list[list[str]] = []

    def visit(name: str) -> None:
        index[name] = low[name] = len(index)
        stack.append(name)
        for imported in imports_of(name):
            if imported not in modules() or imported == name or modules()[imported].is_package:
                continue
            if imported not in index:
                visit(imported)
            if imported in stack:
                low[name] = min(low[name], low[imported])
        if low[name] == index[name]:
            component = stack[stack.index(name) :]
            del stack[stack.index(name) :]
            if len(component) > 1:
                cycles.append(component)

    for name in modules():
        if name not in index:
            visit(name)
    assert not cycles, "modules that import each other in a circle cannot be read one by one: " + "; ".join(
        " > ".join(cycle) for cycle in cycles
    )
