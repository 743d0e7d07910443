"""The command line. Each command imports what it needs when it runs, so that --help and plan start quickly."""

import io
import os
import pwd
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from typer import TyperException

from experiments.cli.command_groups import GroupedCommands
from experiments.cli.data_commands import data
from experiments.cli.home_commands import care
from experiments.cli.options import (
    DONE,
    FAILED,
    PATH,
    REFUSED,
    Device,
    From,
    Home,
    Json,
    NewFolder,
    Out,
    Recompute,
    ScaleName,
    Seed,
    Settings,
    Task,
    Trained,
    home_folder,
)
from experiments.cli.report_commands import report
from experiments.cli.sweep_commands import published_hours, sweeping
from experiments.console import Console, complain, lost_output, prepare_output, print_json, say
from experiments.store.examples import Kind
from experiments.worker.import_path import SAFE_PATH
from experiments.worker.signals import leave
from smaug_core.errors import DivergedError, SmaugError
from smaug_core.stage_protocol import EVALUATE, FINETUNE, PRETRAIN, PRETRAIN_VIDEO

NO_TELEMETRY = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}

app = typer.Typer(
    name="smaug",
    cls=GroupedCommands,
    help="SMAUG (ICCV 2023), and the platform that rebuilds its ablation tables.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["--help", "-h"]},
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(sweeping)
app.add_typer(care)
app.add_typer(report, name="report", rich_help_panel="Report")
app.add_typer(data, name="data", rich_help_panel="Maintain")


def _show_version(asked: bool) -> None:
    if not asked:
        return
    from importlib.metadata import PackageNotFoundError, version

    from experiments.worker.device import source_commit

    try:
        found = version("smaug")
    except PackageNotFoundError:  # sweeps/run.py runs from the source tree alone
        found = "(not installed)"
    commit = source_commit()
    changed = ", with changes" if commit and commit["changed"] else ""
    say(f"smaug {found}" + (f" (commit {commit['id'][:10]}{changed})" if commit else ""))
    raise typer.Exit


@app.callback()
def options_of_all(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """Take the options that stand before the command."""


@app.command(rich_help_panel="Model")
def describe(scale: ScaleName = "tiny", set_: Settings = [], json_: Json = False) -> None:  # noqa: B006
    """Show the parts, size and cost of a scale's model.

    At scale paper, also compare the predicted hours with those that the paper reports for its rows.
    """
    from experiments.config.scale import load_scale
    from experiments.planning import model_summary as description
    from experiments.stages.trial import parse_overrides

    chosen, overrides = load_scale(scale), parse_overrides(set_)
    summary = description.describe(chosen, overrides)
    if chosen.name == description.PAPER_SCALE and not overrides:
        summary = description.with_rows(summary, chosen, published_hours())
    if json_:
        print_json(summary)
    else:
        description.show(summary, Console())


@app.command(rich_help_panel="Model")
def pretrain(
    out: Out,
    from_: Annotated[
        Path | None,
        typer.Option("--from", help="Single-frame model to train on several frames (pretrain_video.*).", **PATH),
    ] = None,
    scale: ScaleName = "tiny",
    set_: Settings = [],  # noqa: B006
    seed: Seed = 0,
    device: Device = "cpu",
    recompute_layers: Recompute = False,
    home: Home = None,
) -> None:
    """Pre-train one model outside a sweep.

    The command can be launched with torchrun.
    """
    kind = PRETRAIN if from_ is None else PRETRAIN_VIDEO
    _alone(kind, scale, set_, None, from_, out, seed, device, home, recompute_layers)


@app.command(rich_help_panel="Model")
def finetune(
    from_: From,
    out: Out,
    task: Task = "msrvtt",
    scale: ScaleName = "tiny",
    set_: Settings = [],  # noqa: B006
    seed: Seed = 0,
    device: Device = "cpu",
    recompute_layers: Recompute = False,
    home: Home = None,
) -> None:
    """Fine-tune a pre-trained model for retrieval.

    The command can be launched with torchrun.
    """
    _alone(FINETUNE, scale, set_, task, from_, out, seed, device, home, recompute_layers)


@app.command(rich_help_panel="Model")
def evaluate(
    from_: From,
    out: Out,
    task: Task = "msrvtt",
    scale: ScaleName = "tiny",
    set_: Settings = [],  # noqa: B006
    device: Device = "cpu",
    home: Home = None,
) -> None:
    """Evaluate text-video retrieval of a fine-tuned model.

    Rank clips for captions and captions for clips, and print recall and the median rank. The command can be launched
    with torchrun.
    """
    _alone(EVALUATE, scale, set_, task, from_, out, 0, device, home)


@app.command(rich_help_panel="Model")
def reconstruct(from_: Trained, out: NewFolder, device: Device = "cpu", home: Home = None) -> None:
    """Draw masked frames as a model reconstructs them.

    The pictures correspond to Figures 4 to 7 of the paper.
    """
    _pictures("reconstruction", from_, out, device, home)


@app.command(rich_help_panel="Model")
def select_frames(from_: Trained, out: NewFolder, device: Device = "cpu", home: Home = None) -> None:
    """Draw the frames that a model selects for captions.

    The pictures correspond to Figure 3 of the paper.
    """
    _pictures("selection", from_, out, device, home)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a command; exit with 0 (done), 1 (failed), 2 (bad input or refused) or 3 (over budget)."""
    defaults = NO_TELEMETRY | _nameless_user()
    os.environ |= {key: value for key, value in defaults.items() if key not in os.environ} | {SAFE_PATH: "1"}
    prepare_output()
    try:
        code = _answer(arguments)
    except OSError:
        if not lost_output():
            raise
        code = FAILED
    leave(FAILED if lost_output() and code == DONE else code)


def _nameless_user() -> dict[str, str]:
    """Variables that libraries need if the user has no name, as in a container; HOME as Docker sets it."""
    try:
        pwd.getpwuid(os.getuid())
    except KeyError:
        return {"HOME": "/", "USER": str(os.getuid())}
    return {}


def _answer(arguments: Sequence[str] | None) -> int:
    try:
        code = app(args=None if arguments is None else list(arguments), standalone_mode=False)
    except SmaugError as error:
        complain(str(error))
        return REFUSED
    except TyperException as error:  # an unknown option or a wrong value
        message = io.StringIO()
        error.show(file=message)  # type: ignore[attr-defined]
        complain(message.getvalue().rstrip())
        return error.exit_code
    return code or DONE


def _alone(
    kind: str,
    scale: str,
    set_: Sequence[str],
    task: str | None,
    parent: Path | None,
    out: Path,
    seed: int,
    device: str,
    home: Path | None,
    recompute_layers: bool = False,
) -> None:
    from experiments.config.scale import load_scale
    from experiments.stages.trial import parse_overrides
    from experiments.standalone import run_alone
    from smaug_core.stage_protocol import Interrupted

    try:
        metrics = run_alone(
            kind,
            load_scale(scale),
            overrides=parse_overrides(set_),
            task=task,
            parent=parent,
            out=out,
            seed=seed,
            data_root=home_folder(home) / "data",
            device=device,
            console=Console(),
            recompute_layers=recompute_layers,
        )
    except Interrupted as stopped:
        _complain_once(f"{stopped}; the same command continues")
        raise typer.Exit(FAILED) from None
    except SmaugError as error:
        _complain_once(str(error))
        raise typer.Exit(FAILED if isinstance(error, DivergedError) else REFUSED) from None
    for name, value in metrics.items():
        say(f"{name:32}{value:.4g}")


def _pictures(kind: Kind, from_: Path, out: Path, device: str, home: Path | None) -> None:
    from experiments.worker.examples import draw_pictures

    gallery = draw_pictures(kind, from_, out, data_root=home_folder(home) / "data", device=device)
    for example in gallery.examples:
        say(f"{os.path.relpath(out / example.file)}: {example.alt}")
    for fault in (gallery.unreadable or {}).values():
        complain(fault)
    if gallery.unreadable:
        raise typer.Exit(FAILED)


def _complain_once(message: str) -> None:
    """Print an error, unless another process of this run printed the same one."""
    if os.environ.get("WORLD_SIZE", "1") != "1":
        from smaug_core.distributed import says_first

        if not says_first(message):
            return
    complain(message)
