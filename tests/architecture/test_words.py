"""Plain technical English: no docstring, comment or text of the source holds a word of the old voice."""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.architecture.source_tree import ROOT, Module, modules

PACKAGES = ("smaug_core", "experiments", "reports")
WORDS = re.compile(
    r"\b(told|tell|tells|mend|mended|anew|nobody|somebody|right would be|signs? of life|what stands)\b", re.IGNORECASE
)
OPENINGS = re.compile(r"(What|Which|How|Why|Where|When|Who|Whether|If|By|Of|For|From|As|With|In|On|At|To)\b")
EXCEPTIONS = {
    "mend": "a key of `smaug doctor --json`",
    "attempts at a stage told no count of their GPUs": "recorded in MLflow as the tag smaug.no_energy",
    "smaug.told": "a tag of MLflow's runs",
    "cannot tell from these data": "a verdict: `smaug report claims --json` prints it",
}


def texts(source: str) -> Iterator[tuple[int, str]]:
    """Every string literal and comment of a source text, with its line; strings that adjoin are one text."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.JoinedStr):
            parts = (part.value for part in node.values if isinstance(part, ast.Constant))
            yield node.lineno, " ".join(str(part) for part in parts)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string


def old_words(module: Module) -> list[str]:
    found = []
    for line, text in texts(module.path.read_text(encoding="utf-8")):
        plain = " ".join(text.split())
        if plain not in EXCEPTIONS:
            found += [f"{module.path.relative_to(ROOT)}:{line}: {word[0]!r}" for word in WORDS.finditer(plain)]
    return sorted(set(found))


def chosen() -> list[Module]:
    return [m for name, m in modules().items() if any(name == p or name.startswith(f"{p}.") for p in PACKAGES)]


def test_no_text_holds_a_word_of_the_old_voice():
    found = [fault for module in chosen() for fault in old_words(module)]
    assert not found, "use record, report, fix, again or status:\n" + "\n".join(found)


def test_no_page_holds_a_word_of_the_old_voice():
    found = []
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))):
        for number, line in enumerate(page.read_text("utf-8").splitlines(), 1):
            for exception in EXCEPTIONS:
                line = line.replace(exception, "")
            found += [f"{page.relative_to(ROOT)}:{number}: {word[0]!r}" for word in WORDS.finditer(line)]
    assert not found, "use record, report, fix, again or status:\n" + "\n".join(found)


def test_docstrings_begin_with_a_noun_or_a_verb():
    found = []
    for module in chosen():
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                first = (ast.get_docstring(node) or "").partition("\n")[0]
                found += [f"{module.name}.{getattr(node, 'name', '')}: {first}"] if OPENINGS.match(first) else []
    assert not found, "begin with what it is or does (Return whether, True if):\n" + "\n".join(found)


def test_every_exception_is_still_needed():
    held = {" ".join(text.split()) for m in chosen() for _, text in texts(m.path.read_text("utf-8"))}
    assert EXCEPTIONS.keys() <= held


@pytest.mark.parametrize(
    "source",
    [
        '"""Tells the time."""',
        "x = 1  # nobody looks",
        'raise ValueError(f"{x}: is wrong; right would "\n    f"be {y}")',
        'y = "said\\n    anew"',
    ],
)
def test_the_old_words_are_found_in_docstrings_comments_and_messages(source: str, tmp_path: Path, monkeypatch):
    monkeypatch.setattr("tests.architecture.test_words.ROOT", tmp_path)
    path = tmp_path / "module.py"
    path.write_text(source)
    assert len(old_words(Module("module", path))) == 1
