"""Options and exit codes that the commands share."""

import difflib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from experiments.engines.factory import ENGINES
from smaug_core.errors import SmaugError

DONE, FAILED, REFUSED, OVER_BUDGET = 0, 1, 2, 3
"""Exit codes."""
ROOT = Path(__file__).resolve().parents[2]

LONGEST_NAME = 255
"""Bytes of a file's or folder's name, on every common file system."""


def _path(text: str) -> Path:
    """A path from the command line; an empty one would mean the current folder."""
    if not text:
        raise typer.BadParameter("is empty; expected a path, e.g. . for this folder")
    longest = max((len(os.fsencode(part)) for part in Path(text).parts), default=0)
    if longest > LONGEST_NAME:
        raise typer.BadParameter(f"a name in it has {longest} bytes; expected at most {LONGEST_NAME}")
    return Path(text)


PATH: dict[str, Any] = {"parser": _path, "metavar": "PATH"}
"""Settings of every option and argument that is a path."""

SCALES = sorted(path.stem for path in (ROOT / "sweeps" / "scales").glob("*.yaml"))


def _one_of(option: str, known: Sequence[str], *, or_file: bool = False) -> dict[str, Any]:
    """Settings of an option that takes one of a few values: check, help and shell completion."""

    def parse(value: str) -> str:
        if value in known or (or_file and value.endswith((".yaml", ".yml"))):
            return value
        near = difflib.get_close_matches(value, known, n=1)
        expected = f"one of {', '.join(known)}{' or a .yaml file' if or_file else ''}"
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise SmaugError(f"{option} {value}: expected {expected}, got {value!r}{hint}")

    def complete(incomplete: str) -> list[str]:
        return [value for value in known if value.startswith(incomplete)]

    return {"parser": parse, "metavar": "|".join([*known, *(["FILE"] if or_file else [])]), "autocompletion": complete}


SweepFiles = Annotated[
    list[Path],
    typer.Argument(
        help="Sweep files that run together, e.g. sweeps/masking_ratio.yaml.", **PATH | {"metavar": "FILE..."}
    ),
]
ScaleName = Annotated[
    str, typer.Option(help="Scale: a name in sweeps/scales, or a file.", **_one_of("--scale", SCALES, or_file=True))
]
Settings = Annotated[
    list[str],
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Override a setting in every row, e.g. data.seed=7, or seeds=3 for three trials. Repeatable.",
    ),
]
Only = Annotated[list[str], typer.Option(metavar="ROW", help="Select this row only. Repeatable.")]
Home = Annotated[
    Path | None,
    typer.Option(
        envvar="SMAUG_HOME", help="Folder of data, results and records (default: .smaug beside the code).", **PATH
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
EngineName = Annotated[str, typer.Option(help="Engine that runs the stages.", **_one_of("--engine", tuple(ENGINES)))]
Address = Annotated[
    str | None,
    typer.Option(metavar="HOST:PORT", help="Ray cluster to connect to, or auto for the one on this machine."),
]
ClusterFile = Annotated[
    Path | None,
    typer.Option("--cluster", help="Profile of a Slurm cluster, e.g. slurm/a6000.yaml.", **PATH | {"metavar": "FILE"}),
]
MaxHours = Annotated[
    float | None, typer.Option(min=0, help="Budget in device hours; exit with 3 if more would be spent.")
]
Notify = Annotated[
    str | None,
    typer.Option(
        metavar="CMD",
        help="Command to run when the run ends, pauses or reaches 80 % of its budget; it receives JSON on stdin.",
    ),
]
Out = Annotated[Path, typer.Option(help="Output folder; an unfinished one is continued.", **PATH)]
From = Annotated[Path, typer.Option("--from", help="The --out folder of the training to start from.", **PATH)]
Trained = Annotated[
    Path, typer.Option("--from", help="Folder of a training: its --out folder, or a stage in the store.", **PATH)
]
NewFolder = Annotated[Path, typer.Option("--out", help="Output folder, new or empty.", **PATH)]
Task = Annotated[str, typer.Option(help="Task slot of the scale, e.g. msrvtt.")]
Seed = Annotated[int, typer.Option(help="Random seed.")]
Device = Annotated[str, typer.Option(help="Device to compute on.", **_one_of("--device", ("cpu", "cuda")))]
Recompute = Annotated[
    bool, typer.Option("--recompute-layers", help="Recompute layers in the backward pass, to save memory.")
]


def home_folder(home: Path | None) -> Path:
    """Return the folder of data, results and records: the given one, or `.smaug` beside the code.

    Raises:
        SmaugError: the path is not a folder.
    """
    given = ROOT / ".smaug" if home is None else home
    try:
        folder = given.resolve()
        there = next(place for place in (folder, *folder.parents) if os.path.lexists(place))
        if not there.is_dir():
            raise SmaugError(f"--home {given}: {there} is not a folder; expected a folder, or a path to make one at")
    except (OSError, RuntimeError) as error:  # e.g. links in a circle
        raise SmaugError(f"--home {given}: cannot be used ({error}); expected a folder") from error
    return folder


def found_file(file: Path) -> Path:
    """Return the file, or the one of that name beside the code, so that commands of the docs work from any folder."""
    return ROOT / file if not file.exists() and (ROOT / file).exists() else file
