"""Commands that plan and run sweeps."""

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from experiments.cli.answers import (
    complain_of,
    end_document,
    plan_document,
    show_end,
    show_plan,
    show_tables,
)
from experiments.cli.options import (
    DONE,
    FAILED,
    OVER_BUDGET,
    REFUSED,
    ROOT,
    Address,
    ClusterFile,
    EngineName,
    Home,
    Json,
    MaxHours,
    Notify,
    Only,
    ScaleName,
    Settings,
    SweepFiles,
    found_file,
    home_folder,
)
from experiments.console import Console, complain, print_json, say
from experiments.engines.factory import EngineFactory
from smaug_core.errors import SmaugError

if TYPE_CHECKING:
    from experiments.engines.base import Inventory
    from experiments.planning.cost_model import Rate
    from experiments.planning.model_summary import PublishedHours
    from experiments.planning.plan import Plan
    from experiments.planning.request import Request
    from experiments.run import Drive
    from experiments.store.store import Store

sweeping = typer.Typer(rich_markup_mode=None)

Stale = Literal["refuse", "accept", "rerun"]
"""Use of results of older code."""

Probe = Annotated[
    bool, typer.Option("--probe", help="Time some steps on the device first if the hours are not known otherwise.")
]


@sweeping.command(rich_help_panel="Run")
def run(
    files: SweepFiles,
    scale: ScaleName = "tiny",
    set_: Settings = [],  # noqa: B006  typer copies it
    only: Only = [],  # noqa: B006
    engine: EngineName = "ray",
    address: Address = None,
    cluster: ClusterFile = None,
    plan_: Annotated[bool, typer.Option("--plan", help="Print the plan only.")] = False,
    max_hours: MaxHours = None,
    retry_failed: Annotated[bool, typer.Option(help="Run stages again that failed before.")] = False,
    accept_stale: Annotated[bool, typer.Option(help="Use results of older code, and mark them in tables.")] = False,
    rerun_stale: Annotated[bool, typer.Option(help="Archive results of older code and run them again.")] = False,
    notify: Notify = None,
    home: Home = None,
    json_: Json = False,
) -> None:
    """Run sweeps or continue them.

    Stages that are done are not run again. The tables of the sweeps are shown at the end.
    """
    if plan_:
        return plan(files, scale, set_, only, engine, address, cluster, max_hours, None, False, home, json_)
    from experiments.cli.progress import ProgressDisplay
    from experiments.run import Terms, drive
    from experiments.scheduler.notify import command_of, user_settings
    from experiments.store.store import Store

    if accept_stale and rerun_stale:
        raise SmaugError(
            "--accept-stale --rerun-stale: expected one of them; one uses older results, the other replaces them"
        )
    command = command_of(notify, user_settings())
    request, console = _request(files, scale, set_, only, home, max_hours), Console(to_stderr=json_)
    factory, store = _engine_factory(engine, request.home, address, cluster), Store(request.home)
    stale: Stale = "accept" if accept_stale else "rerun" if rerun_stale else "refuse"
    made, limit = _checked_plan(request, factory, store, console, stale)
    show_plan(made, console)
    if limit is not None and made.to_spend() is None:
        complain(f"the limit of {limit:g} hours cannot be checked for all stages: {made.source}")
    terms = Terms(limit=limit, retry_failed=retry_failed, notify=command, published=_published_rate)
    outcome = drive(made, store, factory.make, lambda names: ProgressDisplay(console, names), console, terms)
    _finish(outcome, made, store, console, json_)


@sweeping.command(rich_help_panel="Run")
def plan(
    files: SweepFiles,
    scale: ScaleName = "tiny",
    set_: Settings = [],  # noqa: B006
    only: Only = [],  # noqa: B006
    engine: EngineName = "ray",
    address: Address = None,
    cluster: ClusterFile = None,
    max_hours: MaxHours = None,
    why: Annotated[
        str | None, typer.Option(metavar="FINGERPRINT", help="Show how a stage differs from the nearest finished one.")
    ] = None,
    probe: Probe = False,
    home: Home = None,
    json_: Json = False,
) -> None:
    """Plan sweeps and their cost.

    Print the state of each stage and the hours to spend, without starting anything.
    """
    from experiments.planning.budget import budget_problem
    from experiments.store.store import Store

    request = _request(files, scale, set_, only, home, max_hours)
    factory, store = _engine_factory(engine, request.home, address, cluster), Store(request.home)
    inventory = factory.inventory()
    made, limit = _planned(request, inventory)
    if probe and not made.problems and budget_problem(made, limit, made.to_spend()) is None:
        _probe(made, store, factory, Console(to_stderr=True), "--probe was given")
        made, limit = _planned(request, inventory)
    if why is not None:
        from experiments.planning.cache_miss import explain

        explanation = explain(made, why, store)
        print_json(explanation.to_json()) if json_ else say("\n".join(explanation.lines()))
    elif json_:
        print_json(plan_document(made))
    else:
        show_plan(made, Console(), every_stage=True)
        for problem in made.problems:
            complain(f"problem: {problem}")
        _warn(made)
    _refuse_over_budget(made, limit, made.to_spend())


def _warn(made: "Plan") -> None:
    for warning in made.warnings:
        complain(f"warning: {warning}")


def _checked_plan(
    request: "Request",
    factory: EngineFactory,
    store: "Store",
    console: Console,
    stale: Stale,
) -> tuple["Plan", float | None]:
    """Return a plan that may run, and its limit in hours; time steps and archive stale stages if they are to be."""
    from experiments.run import archive_stale

    inventory = factory.inventory()
    made, limit = _planned(request, inventory)
    _refuse_problems(made, request.home)
    _warn(made)
    if not all(planned.is_done for planned in made.stages):
        factory.make().close()  # an engine that cannot run here fails before data are rendered
    if stale == "refuse":
        _refuse_stale(made)
    if limit is not None and made.to_spend() is None:
        _refuse_over_budget(made, limit, None)
        _probe(made, store, factory, console, f"a limit of {limit:g} hours was given")
        made, limit = _planned(request, inventory)
    _refuse_over_budget(made, limit, made.to_spend_rerunning_stale() if stale == "rerun" else made.to_spend())
    if stale == "rerun" and made.in_state("stale"):
        complain(f"{archive_stale(made, store)} stages archived")
        made, _ = _planned(request, inventory)
    return made, limit


def _finish(outcome: "Drive", made: "Plan", store: "Store", console: Console, as_json: bool) -> None:
    """Print the end of a run and exit with its code."""
    from experiments.store.lookup import stage_labels

    names = stage_labels(made.trials)
    complain_of(outcome, store, names)
    if as_json:
        print_json(end_document(outcome, store, names))
    else:
        if outcome.recorded:
            show_tables(made, store.home, console)
        show_end(outcome, console)
    held_only = outcome.summary.held and not (outcome.summary.failed or outcome.summary.paused)
    raise typer.Exit(DONE if outcome.summary.complete else OVER_BUDGET if held_only else FAILED)


def _request(
    files: Sequence[Path],
    scale: str,
    set_: Sequence[str],
    only: Sequence[str],
    home: Path | None,
    max_hours: float | None,
) -> "Request":
    from experiments.planning.request import Request

    found = [found_file(file) for file in files]
    return Request(files=found, scale=scale, set_=set_, only=only, home=home_folder(home), max_hours=max_hours)


def _engine_factory(name: str, home: Path, address: str | None, cluster: Path | None) -> EngineFactory:
    file = None if cluster is None else found_file(cluster)
    return EngineFactory(name=name, home=home, address=address, cluster_file=file)


def _planned(request: "Request", inventory: "Inventory") -> "tuple[Plan, float | None]":
    return request.plan(inventory, _published_rate)


def _refuse_problems(made: "Plan", home: Path) -> None:
    from experiments.tracking.location import tracking_problem

    problems = [*made.problems, *filter(None, [tracking_problem(home)])]
    for problem in problems:
        complain(problem)
    if problems:
        raise typer.Exit(REFUSED)


def _refuse_over_budget(made: "Plan", limit: float | None, to_spend: float | None) -> None:
    from experiments.planning.budget import budget_problem

    if (problem := budget_problem(made, limit, to_spend)) is not None:
        complain(problem)
        raise typer.Exit(OVER_BUDGET)


def _probe(made: "Plan", store: "Store", factory: EngineFactory, console: Console, reason: str) -> None:
    """Time some steps of a stage whose hours are not known; if that fails, print why and continue."""
    from experiments.run import prepare_data
    from experiments.scheduler.calibration import ProbeStopped, find_rate, unpriced
    from experiments.store.lookup import stage_labels

    if (stage := unpriced(made)) is None:
        return
    prepare_data([trial.config for trial in made.trials], store.home / "data", console)
    name = stage_labels(made.trials)[stage.fingerprint]
    complain(f"{reason}, and the hours of {name} are not known: a separate job times a few steps of it first")
    try:
        with closing(factory.make()) as engine:
            find_rate(stage, store, engine, store.home / "data")
    except SmaugError as error:
        complain(f"no probe: {error}")
    except ProbeStopped:
        complain("stopped; the same command continues")
        raise typer.Exit(FAILED) from None


def _refuse_stale(made: "Plan") -> None:
    from experiments.store.lookup import stage_labels

    names = stage_labels(made.trials)
    stale = made.in_state("stale")
    for planned in stale:
        complain(
            f"{names[planned.stage.fingerprint]}: was made by other code; changed files: {', '.join(planned.changed)}"
        )
    if stale:
        complain("--accept-stale uses these results and marks them; --rerun-stale runs them again")
        raise typer.Exit(REFUSED)


def _published_rate() -> "Rate":
    from experiments.config.scale import load_scale
    from experiments.planning.model_summary import PAPER_SCALE, paper_rate

    return paper_rate(load_scale(PAPER_SCALE), published_hours())


def published_hours() -> "PublishedHours":
    """Hours of pre-training in the paper's tables."""
    from experiments.planning.model_summary import PublishedHours
    from reports.paper.tables import load_published, sweep_files

    tables = {number: table for number, table in load_published().items() if "pretrain.hours" in table.columns}
    files = sweep_files()
    return PublishedHours(
        hours={number: table.printed("pretrain.hours") for number, table in tables.items()},
        sweeps={number: ROOT / files[number] for number in tables},
        default=next((number, table.default) for number, table in tables.items() if table.default is not None),
    )
