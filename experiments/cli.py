"""The command line. Each verb imports what it needs when it is called, so that --help and plan answer at once."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from smaug_core.errors import DivergedError, SmaugError

if TYPE_CHECKING:
    from experiments.describe import PublishedHours
    from experiments.plan import Plan
    from experiments.store import Store

DONE, FAILED, REFUSED, OVER_BUDGET = 0, 1, 2, 3
"""Exit codes."""
ROOT = Path(__file__).resolve().parent.parent
NO_TELEMETRY = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}

app = typer.Typer(
    name="smaug",
    help="SMAUG (ICCV 2023), and the platform that rebuilds its ablation tables.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
report = typer.Typer(help="Tables made of what is recorded.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(report, name="report")

SweepFiles = Annotated[
    list[Path],
    typer.Argument(help="sweep files, e.g. sweeps/masking_ratio.yaml, run together", metavar="FILE..."),
]
ScaleName = Annotated[str, typer.Option(help="what to run with: a name in sweeps/scales, or a file")]
Settings = Annotated[
    list[str], typer.Option("--set", help="KEY=VALUE for every row, e.g. data.seed=7 or seeds.pretrain=[0,1,2]")
]
Only = Annotated[list[str], typer.Option(help="take this row only; may be given several times")]
Home = Annotated[
    Path | None,
    typer.Option(envvar="SMAUG_HOME", help="folder of data, results and records (default: .smaug beside the code)"),
]
Json = Annotated[bool, typer.Option("--json", help="answer in JSON")]
EngineName = Annotated[str, typer.Option(help="where stages run: ray or inline")]
MaxHours = Annotated[float | None, typer.Option(min=0, help="refuse (exit 3) what would take more device hours")]
Out = Annotated[Path, typer.Option(help="folder to write to; the same one again continues")]
From = Annotated[Path, typer.Option("--from", help="the --out folder of the training to start from")]
Task = Annotated[str, typer.Option(help="slot, e.g. msrvtt")]
Device = Annotated[str, typer.Option(help="cpu or cuda")]
Recompute = Annotated[
    bool, typer.Option("--recompute-layers", help="less memory: compute layers again in the backward pass")
]


@app.command()
def run(
    files: SweepFiles,
    scale: ScaleName = "tiny",
    set_: Settings = [],  # noqa: B006  typer copies it
    only: Only = [],  # noqa: B006
    engine: EngineName = "ray",
    plan_: Annotated[bool, typer.Option("--plan", help="only say what would be done")] = False,
    max_hours: MaxHours = None,
    retry_failed: Annotated[bool, typer.Option(help="try stages again that failed before")] = False,
    accept_stale: Annotated[bool, typer.Option(help="use results of older code, and mark them")] = False,
    rerun_stale: Annotated[bool, typer.Option(help="put results of older code aside and run them again")] = False,
    home: Home = None,
    json_: Json = False,
) -> None:
    """Run sweeps, or continue them where they stopped, and show their tables."""
    if plan_:
        return plan(files, scale, set_, only, engine, max_hours, home, json_)
    console = _console()
    make_engine = _engine_maker(engine, _home(home))
    made, store, limit = _plan(files, scale, set_, only, home, max_hours)
    for problem in made.problems:
        _complain(problem)
    if made.problems:
        raise typer.Exit(REFUSED)
    if _over(made, limit):
        _complain(f"{_price(made)} to spend, {limit:g} allowed; raise --max-hours or the file's budget")
        raise typer.Exit(OVER_BUDGET)
    if made.in_state("stale"):
        made = _settle_stale(
            made, store, accept_stale, rerun_stale, lambda: _plan(files, scale, set_, only, home, None)
        )
    _show_plan(made, console)

    from experiments.driver import drive

    outcome = drive(made, store, make_engine, console, retry_failed=retry_failed)
    summary = outcome.summary
    for stage, message in summary.failed:
        _complain(f"{stage.name} failed: {message}\n  its folder: {store.directory(stage)}")
    if summary.interrupted:
        _complain("stopped; the same command continues")
    if outcome.told:
        _show_tables(store.home, console, sweeps=_sweep_names(made), scale=made.trials[0].scale)
    else:
        _complain("no table: it is made of what MLflow holds; `smaug sync`, then `make tables`")
    console.print(f"{len(summary.done)} stages run, {len(summary.cached)} done before; {outcome.seconds:.0f} s")
    raise typer.Exit(FAILED if summary.failed or summary.blocked or summary.interrupted else DONE)


@app.command()
def plan(
    files: SweepFiles,
    scale: ScaleName = "tiny",
    set_: Settings = [],  # noqa: B006
    only: Only = [],  # noqa: B006
    engine: EngineName = "ray",
    max_hours: MaxHours = None,
    home: Home = None,
    json_: Json = False,
) -> None:
    """Say what sweeps would do and cost, without starting anything."""
    _engine_maker(engine, _home(home))
    made, _, limit = _plan(files, scale, set_, only, home, max_hours)
    if json_:
        _print_json(made.to_json())
    else:
        _show_plan(made, _console(), every_stage=True)
        for problem in made.problems:
            _complain(f"problem: {problem}")
    raise typer.Exit(OVER_BUDGET if _over(made, limit) else DONE)


@app.command()
def status(home: Home = None, json_: Json = False) -> None:
    """Say where every trial stands that was asked for."""
    from experiments.records import superseded, trial_documents, trial_facts

    documents = trial_documents(_home(home))
    outdated = [id(old) for old, _ in superseded(documents)]
    told: list[dict[str, Any]] = []
    for document in documents:
        if id(document) in outdated:
            continue
        stages = {
            stage["name"]: "new" if facts is None else facts.state
            for stage, facts in trial_facts(_home(home), document).stages
        }
        identity = {key: document[key] for key in ("sweep", "scale", "variant", "seed")}
        told.append({**identity, "stages": stages})
    if json_:
        _print_json(told)
        return
    for trial in told:
        states = "  ".join(f"{name} {state}" for name, state in trial["stages"].items())
        typer.echo(f"{trial['sweep']} {trial['scale']}  {trial['variant']} seed {trial['seed']}:  {states}")
    if not told:
        typer.echo(f"nothing was run yet in {_home(home)}")


@app.command()
def describe(scale: ScaleName = "tiny", set_: Settings = [], json_: Json = False) -> None:  # noqa: B006
    """Say what a scale's model consists of and costs; at scale paper also the hours of the paper's rows."""
    from experiments import describe as description
    from experiments.expand import parse_overrides
    from experiments.scale import load_scale

    chosen, overrides = load_scale(scale), parse_overrides(set_)
    told = description.describe(chosen, overrides)
    if chosen.name == description.PAPER_SCALE and not overrides:
        told = description.with_rows(told, chosen, _published_hours())
    if json_:
        _print_json(told)
    else:
        description.show(told, _console())


@app.command()
def pretrain(
    out: Out,
    from_: Annotated[
        Path | None, typer.Option("--from", help="a single-frame model: train it on several frames (pretrain_video.*)")
    ] = None,
    scale: ScaleName = "tiny",
    set_: Settings = [],  # noqa: B006
    seed: int = 0,
    device: Device = "cpu",
    recompute_layers: Recompute = False,
    home: Home = None,
) -> None:
    """Pre-train one model, outside any sweep; also under torchrun."""
    kind = "pretrain" if from_ is None else "pretrain_video"
    _alone(kind, scale, set_, None, from_, out, seed, device, home, recompute_layers)


@app.command()
def finetune(
    from_: From,
    out: Out,
    task: Task = "msrvtt",
    scale: ScaleName = "tiny",
    set_: Settings = [],  # noqa: B006
    seed: int = 0,
    device: Device = "cpu",
    recompute_layers: Recompute = False,
    home: Home = None,
) -> None:
    """Fine-tune a pre-trained model for retrieval; also under torchrun."""
    _alone("finetune", scale, set_, task, from_, out, seed, device, home, recompute_layers)


@app.command()
def evaluate(
    from_: From,
    out: Out,
    task: Task = "msrvtt",
    scale: ScaleName = "tiny",
    set_: Settings = [],  # noqa: B006
    device: Device = "cpu",
    home: Home = None,
) -> None:
    """Rank clips for captions and captions for clips, and print recall and the median rank; also under torchrun."""
    _alone("evaluate", scale, set_, task, from_, out, 0, device, home)


@app.command()
def data(
    scale: ScaleName = "tiny",
    set_: Settings = [],  # noqa: B006
    home: Home = None,
) -> None:
    """Render the embedded data of a scale."""
    from experiments.driver import prepare_data
    from experiments.expand import parse_overrides
    from experiments.scale import load_scale
    from experiments.standalone import config_of

    config = config_of(load_scale(scale), parse_overrides(set_))
    prepare_data([config], _home(home) / "data", _console())
    typer.echo(f"{_home(home) / 'data'}: complete")


@report.command()
def tables(
    table: Annotated[list[str], typer.Argument(help="numbers, e.g. 4 (default: all)", metavar="[TABLE]...")] = [],  # noqa: B006
    out: Annotated[Path, typer.Option(help="folder to write to")] = ROOT / "reports" / "out",
    home: Home = None,
) -> None:
    """Write the paper's tables, published and measured side by side, and cells.csv."""
    from experiments.tracking import sync as record
    from reports.render import make_tables

    if (_home(home) / "store").exists():
        record(_home(home))
    for path in make_tables(_home(home), out, table or None):
        typer.echo(os.path.relpath(path))


@app.command()
def sync(home: Home = None) -> None:
    """Make MLflow tell all that the store holds; may be repeated."""
    from experiments.tracking import sync as record

    stages, trials = record(_home(home))
    typer.echo(f"{stages} stages and {trials} trials are recorded")


@app.command()
def ui(port: Annotated[int, typer.Option(help="on 127.0.0.1")] = 5000, home: Home = None) -> None:
    """Serve MLflow's pages on this machine only."""
    from experiments.tracking import serve_ui

    typer.echo(f"http://127.0.0.1:{port} (Ctrl-C ends it)")
    sys.stdout.flush()
    serve_ui(_home(home), port=port)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a command; exit with 0 done, 1 failed, 2 bad input or refused, 3 over budget."""
    os.environ |= {key: value for key, value in NO_TELEMETRY.items() if key not in os.environ}
    try:
        app(args=None if arguments is None else list(arguments), standalone_mode=True)
    except SmaugError as error:
        _complain(str(error))
        sys.exit(REFUSED)
    sys.exit(DONE)


def _home(home: Path | None) -> Path:
    return (home or ROOT / ".smaug").resolve()


def _sweep_path(file: Path) -> Path:
    """The file, or the one of that name beside the code: the commands in the docs work from any folder."""
    return ROOT / file if not file.exists() and (ROOT / file).exists() else file


def _plan(
    files: Sequence[Path],
    scale: str,
    set_: Sequence[str],
    only: Sequence[str],
    home: Path | None,
    max_hours: float | None,
) -> "tuple[Plan, Store, float | None]":
    """The plan, the store it was made from, and the most hours that may be spent."""
    from experiments.engines import local_inventory
    from experiments.plan import make_plan
    from experiments.request import Request
    from experiments.store import Store

    request = Request(files=[_sweep_path(file) for file in files], scale=scale, set_=set_, only=only)
    chosen, sweeps = request.read()
    store = Store(_home(home))
    trials = request.trials(chosen, sweeps, store.home / "data")
    budgets = [sweep.budget.get(chosen.name) for sweep in sweeps]
    all_limited = sum(budget for budget in budgets if budget is not None) if None not in budgets else None
    return make_plan(trials, store, local_inventory()), store, all_limited if max_hours is None else max_hours


def _sweep_names(made: "Plan") -> list[str]:
    return list(dict.fromkeys(trial.sweep.name for trial in made.trials))


def _engine_maker(name: str, home: Path) -> Any:
    if name == "inline":
        from experiments.engines.inline import InlineEngine

        return InlineEngine
    if name == "ray":
        from experiments.engines.ray_tune import RayEngine

        return lambda: RayEngine(home)
    raise SmaugError(f"--engine {name}: is unknown; right would be ray or inline")


def _over(made: "Plan", limit: float | None) -> bool:
    to_spend = made.to_spend()
    return limit is not None and to_spend is not None and to_spend > limit


def _price(made: "Plan") -> str:
    hours = made.to_spend()
    if hours is None:
        return f"hours not known ({made.source})"
    return f"{hours:.3g} {made.unit or 'h'}" + (f" ({made.source})" if hours else "")


def _settle_stale(made: "Plan", store: "Store", accept: bool, rerun: bool, again: Any) -> "Plan":
    """Refuse results of other code, accept them, or put them aside and plan anew."""
    from experiments.driver import set_aside_stale

    if rerun:
        typer.echo(f"{set_aside_stale(made, store)} stages put aside")
        replanned: Plan = again()
        return replanned
    if accept:
        return made
    for planned in made.in_state("stale"):
        _complain(f"{planned.stage.name}: was made by other code; differing: {', '.join(planned.changed)}")
    _complain("--accept-stale uses these results and marks them; --rerun-stale runs them again")
    raise typer.Exit(REFUSED)


def _show_plan(made: "Plan", console: Any, *, every_stage: bool = False) -> None:
    from experiments.driver import labels

    told = made.to_json()
    counts = ", ".join(f"{count} {state}" for state, count in told["stages"].items() if count and state != "total")
    console.print(
        f"{', '.join(_sweep_names(made))} at scale {made.trials[0].scale}: {told['trials']} trials,"
        f" {told['stages']['total']} stages ({counts}); to spend: {_price(made)}",
        highlight=False,
    )
    names = labels(made.trials)
    for planned in made.stages if every_stage else []:
        hours = "" if planned.hours is None else f"  {planned.hours:.3g} {made.unit or 'h'}"
        console.print(f"  {planned.state:8}{names[planned.stage.fingerprint]}{hours}", highlight=False)


def _published_hours() -> "PublishedHours":
    from experiments.describe import PublishedHours
    from reports.published import load_published, sweep_files

    tables = {number: table for number, table in load_published().items() if "pretrain.hours" in table.columns}
    files = sweep_files()
    return PublishedHours(
        hours={n: {row: values["pretrain.hours"] for row, values in t.rows.items()} for n, t in tables.items()},
        sweeps={number: ROOT / files[number] for number in tables},
        default=next((number, table.default) for number, table in tables.items() if table.default is not None),
    )


def _show_tables(home: Path, console: Any, *, sweeps: Sequence[str], scale: str) -> None:
    from reports.render import read_tables, to_terminal

    for table in read_tables(home):
        if table.trials and table.trials[0].sweep in sweeps and table.trials[0].scale == scale:
            to_terminal(table, console)


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
    from experiments.expand import parse_overrides
    from experiments.scale import load_scale
    from experiments.standalone import run_alone
    from smaug_core.stages import Interrupted

    try:
        metrics = run_alone(
            kind,
            load_scale(scale),
            overrides=parse_overrides(set_),
            task=task,
            parent=parent,
            out=out,
            seed=seed,
            data_root=_home(home) / "data",
            device=device,
            console=_console(),
            recompute_layers=recompute_layers,
        )
    except Interrupted as stopped:
        _complain_once(f"{stopped}; the same command continues")
        raise typer.Exit(FAILED) from None
    except SmaugError as error:
        _complain_once(str(error))
        raise typer.Exit(FAILED if isinstance(error, DivergedError) else REFUSED) from None
    for name, value in metrics.items():
        typer.echo(f"{name:32}{value:.4g}")


def _console() -> Any:
    from rich.console import Console

    return Console()


def _complain(message: str) -> None:
    typer.echo(message, err=True)


def _complain_once(message: str) -> None:
    """Complain, unless another process of this run has said the same."""
    if os.environ.get("WORLD_SIZE", "1") != "1":
        from smaug_core.distributed import says_first

        if not says_first(message):
            return
    _complain(message)


def _print_json(value: Any) -> None:
    import json

    typer.echo(json.dumps(value, indent=1))


if __name__ == "__main__":  # torchrun -m experiments.cli
    main()
