"""Folders, files and functions stay small enough to be found by name and read at once."""

import ast
from collections import Counter

from tests.architecture.source_tree import modules

MODULES_IN_A_FOLDER = 13
MODULES_IN = {"smaug_core/model": 16}
"""One for each part of the paper's Figure 2."""
LINES_IN_A_FILE = 350
LINES_IN_A_FUNCTION = 50
WRITTEN_OUT = {"smaug_core.training.train.train"}
"""The training loop: a reader sees every side effect of a step in one place."""


def test_folders_are_small():
    counts = Counter()
    for name, module in modules().items():
        if not module.is_package:
            counts["/".join(name.split(".")[:-1])] += 1
    crowded = {folder: n for folder, n in counts.items() if n > MODULES_IN.get(folder, MODULES_IN_A_FOLDER)}
    assert not crowded, f"a reader finds no file by name in so many; cut a folder by its nouns: {crowded}"


def test_files_are_small():
    long = {name: module.lines for name, module in modules().items() if module.lines > LINES_IN_A_FILE}
    assert not long, f"a file is one noun; these hold more than {LINES_IN_A_FILE} lines: {long}"


def test_functions_are_small():
    long = {}
    for name, module in modules().items():
        for node in ast.walk(module.tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > LINES_IN_A_FUNCTION and f"{name}.{node.name}" not in WRITTEN_OUT:
                    long[f"{name}.{node.name}"] = lines
    assert not long, f"a function does one thing; these hold more than {LINES_IN_A_FUNCTION} lines: {long}"
