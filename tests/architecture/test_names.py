"""One noun has one class, and one place where it is defined."""

import ast
from collections import defaultdict

from tests.architecture.source_tree import modules

ENTRIES = {"experiments.worker.__main__", "experiments.cli", "experiments.cli.__main__", "smaug_core"}
"""Entry points: `python -m experiments.worker`, `experiments.cli:main`, `smaug_core.load`."""


def test_a_public_class_is_defined_once():
    places = defaultdict(list)
    for name, module in modules().items():
        for node in module.tree.body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].append(name)
    twice = {name: found for name, found in places.items() if len(found) > 1}
    assert not twice, f"one word for two things sends a reader to the wrong file: {twice}"


def test_no_module_only_reexports():
    for name, module in modules().items():
        body = [n for n in module.tree.body if not (isinstance(n, ast.Expr) and isinstance(n.value, ast.Constant))]
        if body and name not in ENTRIES:
            own = [n for n in body if not isinstance(n, ast.Import | ast.ImportFrom)]
            assert own, f"{name} holds imports alone; import from where the name is defined"
