"""`smaug --help` shows every command in its group, uncut, and wrong choices are refused by name."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from typer.core import TyperCommand, TyperGroup

from experiments.cli.app import app
from experiments.cli.command_groups import GROUPS

ROOT = Path(__file__).resolve().parents[2]
LONGEST_SENTENCE = 60
HEAVY = {"torch", "ray", "submitit", "mlflow", "timm", "transformers"}
ROOT_COMMAND = typer.main.get_command(app)


def commands(group: TyperGroup, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], TyperCommand]]:
    """Every command and group of commands below a group, by its words."""
    for name, command in group.commands.items():
        yield (*path, name), command
        if isinstance(command, TyperGroup):
            yield from commands(command, (*path, name))


COMMANDS = dict(commands(ROOT_COMMAND))
by_words = pytest.mark.parametrize("words", COMMANDS, ids=" ".join)


@pytest.fixture(autouse=True)
def eighty_columns(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")


def smaug(capsys, *arguments: str) -> str:
    """The standard output of a command that succeeds without doing anything."""
    assert app(args=list(arguments), standalone_mode=False) in (None, 0)
    return capsys.readouterr().out


@by_words
def test_the_first_sentence_fits_beside_the_names(words):
    sentence = COMMANDS[words].get_short_help_str(limit=1000)
    assert sentence.endswith(".") and len(sentence) <= LONGEST_SENTENCE, sentence


def test_every_command_has_a_group():
    groups = {words: command.rich_help_panel for words, command in COMMANDS.items() if len(words) == 1}
    assert set(groups.values()) == set(GROUPS), groups


@pytest.mark.parametrize("words", [(), ("report",)], ids=["smaug", "report"])
def test_no_line_of_a_list_of_commands_is_cut(capsys, words):
    lines = smaug(capsys, *words, "--help").splitlines()
    assert all(len(line) <= 80 and not line.endswith("...") for line in lines[1:]), "\n".join(lines)
    listed = COMMANDS[words] if words else ROOT_COMMAND
    for name, command in listed.commands.items():
        (line,) = [line for line in lines if line.startswith(f"  {name} ")]
        assert line.split(None, 1)[1] == command.get_short_help_str(limit=1000)


def test_groups_stand_in_their_order(capsys):
    titles = [line[:-1] for line in smaug(capsys, "--help").splitlines() if re.fullmatch(r"\w+:", line)]
    assert titles == ["Options", *GROUPS]


@by_words
def test_h_is_help(capsys, words):
    assert smaug(capsys, *words, "-h") == smaug(capsys, *words, "--help") != ""


@by_words
def test_options_and_arguments_are_described_in_sentences(words):
    for parameter in COMMANDS[words].params:
        text = parameter.help or ""
        assert text[:1].isupper() and text.endswith("."), f"{' '.join(words)} {parameter.name}: {text!r}"


def test_version_names_the_package_and_its_version(capsys):
    assert re.fullmatch(
        r"smaug \d+\.\d+\.\d+( \(commit [0-9a-f]{10}(, with changes)?\))?\n", smaug(capsys, "--version")
    )


def test_version_needs_no_git(capsys, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    assert re.fullmatch(r"smaug \d+\.\d+\.\d+\n", smaug(capsys, "--version"))


@pytest.mark.parametrize(
    ("line", "completions"),
    [
        ("run --engine ", ["inline", "ray", "slurm"]),
        ("plan --scale t", ["tiny"]),
        ("evaluate --device c", ["cpu", "cuda"]),
        ("re", ["reconstruct", "report"]),
    ],
)
def test_a_shell_completes_commands_and_choices_without_heavy_libraries(line, completions):
    code = (
        "import atexit, sys\n"
        "sys.argv[0] = 'smaug'\n"
        f"atexit.register(lambda: print(*({HEAVY!r} & set(sys.modules)), file=sys.stderr, end=''))\n"
        "from experiments.cli.app import main\n"
        "main([])\n"
    )
    words = f"smaug {line}"
    asked = {"_SMAUG_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    ran = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | asked, cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (sorted(ran.stdout.split()), ran.stderr, ran.returncode) == (completions, "", 0)
