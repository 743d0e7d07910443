"""Store documents are read as typed records: by attributes that mypy checks, not by literal keys."""

import ast
from collections.abc import Iterator

from tests.architecture.source_tree import modules

WITH_RAW = ("experiments.store", "experiments.tracking", "smaug_core.files")
"""They write documents, and record them in MLflow; there the object as it is on disk may be read by its keys."""

PLAIN = {
    "experiments.store.documents": "maps of any keys: ranks, digests, metrics, a rate",
    "experiments.worker.launcher": "notes of the ranks of an attempt, which nothing reads after it",
    "experiments.engines.slurm.submissions": "a map of any keys: job ids by fingerprint",
}
"""Modules with documents that are read as dicts, and why."""


def key_reads(tree: ast.Module) -> Iterator[int]:
    """Lines that read a literal key of a document's `raw`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
            owner = node.value
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "get":
            owner = node.func.value
        else:
            continue
        if isinstance(owner, ast.Attribute) and owner.attr == "raw":
            yield node.lineno


def test_no_document_is_read_by_a_literal_key():
    found = [
        f"{name}:{line}"
        for name, module in modules().items()
        if not name.startswith(WITH_RAW)
        for line in key_reads(module.tree)
    ]
    assert not found, f"read the attribute of the document's class, whose name and type mypy checks: {found}"


def test_few_modules_read_documents_as_dicts():
    users = {
        name
        for name, module in modules().items()
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "plain"
    }
    assert users == PLAIN.keys(), "give a document a class, see experiments/store/documents.py"
