"""What the verbs of the command line share: their options and their exit codes."""

from pathlib import Path
from typing import Annotated

import typer

DONE, FAILED, REFUSED, OVER_BUDGET = 0, 1, 2, 3
"""Exit codes."""
ROOT = Path(__file__).resolve().parent.parent

SweepFiles = Annotated[
    list[Path],
    typer.Argument(help="sweep files, e.g. sweeps/masking_ratio.yaml, run together", metavar="FILE..."),
]
ScaleName = Annotated[str, typer.Option(help="what to run with: a name in sweeps/scales, or a file")]
Settings = Annotated[
    list[str], typer.Option("--set", help="KEY=VALUE for every row, e.g. data.seed=7, or seeds=3 for three trials")
]
Only = Annotated[list[str], typer.Option(help="take this row only; may be given several times")]
Home = Annotated[
    Path | None,
    typer.Option(envvar="SMAUG_HOME", help="folder of data, results and records (default: .smaug beside the code)"),
]
Json = Annotated[bool, typer.Option("--json", help="answer in JSON")]
EngineName = Annotated[str, typer.Option(help="where stages run: ray, inline or slurm")]
Address = Annotated[
    str | None, typer.Option(help="HOST:PORT of a Ray cluster to run on, or auto: the one on this machine")
]
ClusterFile = Annotated[
    Path | None, typer.Option("--cluster", metavar="FILE", help="profile of the Slurm cluster, e.g. slurm/a6000.yaml")
]
MaxHours = Annotated[float | None, typer.Option(min=0, help="refuse (exit 3) what would take more device hours")]
Notify = Annotated[
    str | None,
    typer.Option(metavar="CMD", help="run this at the end, at a pause, at 80 % of the budget, with JSON on its input"),
]
Out = Annotated[Path, typer.Option(help="folder to write to; the same one again continues")]
From = Annotated[Path, typer.Option("--from", help="the --out folder of the training to start from")]
Trained = Annotated[Path, typer.Option("--from", help="the folder of a training: its --out, or a stage in the store")]
NewFolder = Annotated[Path, typer.Option("--out", help="folder to write to, new or empty")]
Task = Annotated[str, typer.Option(help="slot, e.g. msrvtt")]
Device = Annotated[str, typer.Option(help="cpu or cuda")]
Recompute = Annotated[
    bool, typer.Option("--recompute-layers", help="less memory: compute layers again in the backward pass")
]


def home_folder(home: Path | None) -> Path:
    """The folder of data, results and records: what was given, or `.smaug` beside the code."""
    return (home or ROOT / ".smaug").resolve()


def found_file(file: Path) -> Path:
    """The file, or the one of that name beside the code: the commands in the docs work from any folder."""
    return ROOT / file if not file.exists() and (ROOT / file).exists() else file
