"""What the verbs of the command line share: their options and their exit codes."""

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from smaug_core.errors import SmaugError

DONE, FAILED, REFUSED, OVER_BUDGET = 0, 1, 2, 3
"""Exit codes."""
ROOT = Path(__file__).resolve().parents[2]

LONGEST_NAME = 255
"""Bytes of a file's or folder's name, on every common file system."""


def _path(text: str) -> Path:
    """A path as it is given on the command line; an empty one would be the folder that one stands in."""
    if not text:
        raise typer.BadParameter("is empty; expected a path, e.g. . for this folder")
    longest = max((len(os.fsencode(part)) for part in Path(text).parts), default=0)
    if longest > LONGEST_NAME:
        raise typer.BadParameter(f"a name in it has {longest} bytes; expected at most {LONGEST_NAME}")
    return Path(text)


PATH: dict[str, Any] = {"parser": _path, "metavar": "PATH"}
"""Of every option and argument that is a path."""

SweepFiles = Annotated[
    list[Path],
    typer.Argument(help="sweep files, e.g. sweeps/masking_ratio.yaml, run together", **PATH | {"metavar": "FILE..."}),
]
ScaleName = Annotated[str, typer.Option(help="what to run with: a name in sweeps/scales, or a file")]
Settings = Annotated[
    list[str], typer.Option("--set", help="KEY=VALUE for every row, e.g. data.seed=7, or seeds=3 for three trials")
]
Only = Annotated[list[str], typer.Option(help="take this row only; may be given several times")]
Home = Annotated[
    Path | None,
    typer.Option(
        envvar="SMAUG_HOME", help="folder of data, results and records (default: .smaug beside the code)", **PATH
    ),
]
Json = Annotated[bool, typer.Option("--json", help="answer in JSON")]
EngineName = Annotated[str, typer.Option(help="where stages run: ray, inline or slurm")]
Address = Annotated[
    str | None, typer.Option(help="HOST:PORT of a Ray cluster to run on, or auto: the one on this machine")
]
ClusterFile = Annotated[
    Path | None,
    typer.Option("--cluster", help="profile of the Slurm cluster, e.g. slurm/a6000.yaml", **PATH | {"metavar": "FILE"}),
]
MaxHours = Annotated[float | None, typer.Option(min=0, help="refuse (exit 3) what would take more device hours")]
Notify = Annotated[
    str | None,
    typer.Option(metavar="CMD", help="run this at the end, at a pause, at 80 % of the budget, with JSON on its input"),
]
Out = Annotated[Path, typer.Option(help="folder to write to; the same one again continues", **PATH)]
From = Annotated[Path, typer.Option("--from", help="the --out folder of the training to start from", **PATH)]
Trained = Annotated[
    Path, typer.Option("--from", help="the folder of a training: its --out, or a stage in the store", **PATH)
]
NewFolder = Annotated[Path, typer.Option("--out", help="folder to write to, new or empty", **PATH)]
Task = Annotated[str, typer.Option(help="slot, e.g. msrvtt")]
Device = Annotated[str, typer.Option(help="cpu or cuda")]
Recompute = Annotated[
    bool, typer.Option("--recompute-layers", help="less memory: compute layers again in the backward pass")
]


def home_folder(home: Path | None) -> Path:
    """The folder of data, results and records: what was given, or `.smaug` beside the code.

    Raises:
        SmaugError: something else is there.
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
    """The file, or the one of that name beside the code: the commands in the docs work from any folder."""
    return ROOT / file if not file.exists() and (ROOT / file).exists() else file
