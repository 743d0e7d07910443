"""The verbs that look after a home folder: what stands where in it, what MLflow tells of it."""

import sys
from typing import Annotated, Any

import typer

from experiments.options import Home, Json, home_folder, print_json

care = typer.Typer(rich_markup_mode=None)


@care.command()
def status(home: Home = None, json_: Json = False) -> None:
    """Say where every trial stands that was asked for."""
    from experiments.records import superseded, trial_documents, trial_facts

    documents = trial_documents(home_folder(home))
    outdated = [id(old) for old, _ in superseded(documents)]
    told: list[dict[str, Any]] = []
    for document in documents:
        if id(document) in outdated:
            continue
        stages = {
            stage["name"]: "new" if facts is None else facts.record.state
            for stage, facts in trial_facts(home_folder(home), document).stages
        }
        identity = {key: document[key] for key in ("sweep", "scale", "variant", "seed")}
        told.append({**identity, "stages": stages})
    if json_:
        print_json(told)
        return
    for trial in told:
        states = "  ".join(f"{name} {state}" for name, state in trial["stages"].items())
        typer.echo(f"{trial['sweep']} {trial['scale']}  {trial['variant']} seed {trial['seed']}:  {states}")
    if not told:
        typer.echo(f"nothing was run yet in {home_folder(home)}")


@care.command()
def sync(home: Home = None) -> None:
    """Make MLflow tell all that the store holds; may be repeated."""
    from experiments.tracking import sync as record

    stages, trials = record(home_folder(home))
    typer.echo(f"{stages} stages and {trials} trials are recorded")


@care.command()
def ui(port: Annotated[int, typer.Option(help="on 127.0.0.1")] = 5000, home: Home = None) -> None:
    """Serve MLflow's pages on this machine only."""
    from experiments.tracking import serve_ui

    typer.echo(f"http://127.0.0.1:{port} (Ctrl-C ends it)")
    sys.stdout.flush()
    serve_ui(home_folder(home), port=port)
