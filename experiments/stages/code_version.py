"""Code version of a result: digests of the smaug_core modules that a stage imports."""

import ast
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import smaug_core
from experiments.stages.kinds import STAGE_KINDS

ROOT = Path(smaug_core.__file__).resolve().parent.parent

DOORS = ("smaug_core", "smaug_core.stages")
"""Modules that import late what only some of their callers need."""


def code_digest(kind: str) -> dict[str, str]:
    """SHA-256 of every smaug_core module that a stage of this kind imports, by path from the repository's root.

    Comments, layout, docstrings and import statements do not count, and a module that holds nothing else is left out.
    The files are read at every call, since they may have been edited.
    """
    waiting, digests = set(STAGE_KINDS[kind].entry_modules), {}
    while waiting:
        module = waiting.pop()
        if module not in digests and _path(module).is_file():
            source = _read(module)
            digests[module] = source.digest
            waiting |= source.imports_first if module in DOORS else source.imports
    held = {module: digest for module, digest in sorted(digests.items()) if digest != EMPTY}
    return {_path(module).relative_to(ROOT).as_posix(): digest for module, digest in held.items()}


def differing(recorded: dict[str, str], now: dict[str, str]) -> list[str]:
    """Files whose content only one of two code versions has; a file that was moved or renamed is the same."""
    only = [(one, set(other.values())) for one, other in ((recorded, now), (now, recorded))]
    return sorted({path for one, others in only for path, digest in one.items() if digest not in others})


@dataclass(frozen=True, slots=True)
class _Source:
    """The part of a module's source that decides results."""

    digest: str
    imports_first: frozenset[str]
    """Modules of smaug_core, or names in them, that it imports when it is imported itself."""
    imports: frozenset[str]
    """The same, and those that its functions import."""


def _read(module: str) -> _Source:
    return _parse(_path(module).read_text(encoding="utf-8"))


def _path(module: str) -> Path:
    folder = ROOT.joinpath(*module.split("."))
    return folder / "__init__.py" if folder.is_dir() else folder.with_suffix(".py")


@cache
def _parse(source: str) -> _Source:
    tree = ast.parse(source)
    first, everywhere = _imports(tree.body), _imports(ast.walk(tree))
    for node in ast.walk(tree):
        for block in ("body", "orelse", "finalbody"):
            statements = getattr(node, block, None)
            if isinstance(statements, list):
                setattr(node, block, [statement for statement in statements if not _is_free(statement)])
    return _Source(_sha256(tree), first, everywhere)


def _sha256(tree: ast.AST) -> str:
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()


def _imports(nodes: Iterable[ast.AST]) -> frozenset[str]:
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return frozenset(name for name in found if name.split(".")[0] == "smaug_core")


def _is_free(statement: ast.stmt) -> bool:
    """Return whether a statement may change without another result: an import, or a docstring, of a field too."""
    if isinstance(statement, ast.If) and isinstance(statement.test, ast.Name):
        return statement.test.id == "TYPE_CHECKING" and not statement.orelse
    if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
        return isinstance(statement.value.value, str)
    return isinstance(statement, ast.Import | ast.ImportFrom)


EMPTY = _sha256(ast.parse(""))
"""Digest of a module that holds nothing but imports and docstrings."""
