"""The verbs that look after a home folder: what stands where in it, what its stages print, how they are ended."""

import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from experiments.cli.options import (
    DONE,
    FAILED,
    PATH,
    ClusterFile,
    Home,
    Json,
    ScaleName,
    Settings,
    found_file,
    home_folder,
)
from experiments.console import Console, complain, print_json, print_log, say
from smaug_core.errors import SmaugError

if TYPE_CHECKING:
    from experiments.maintenance.status import HomeStatus, StageStanding

care = typer.Typer(rich_markup_mode=None)

Stages = Annotated[
    list[str],
    typer.Argument(
        help="a fingerprint's beginning (4 digits or more), a stage such as masking_ratio/50%/pretrain, a row, a sweep",
        metavar="[WHAT]...",
    ),
]


@care.command()
def status(
    follow: Annotated[bool, typer.Option("--follow", help="go on until nothing runs")] = False,
    home: Home = None,
    json_: Json = False,
) -> None:
    """Say where every trial stands, what runs and how far it is, what failed and why."""
    from experiments.cli import status_view as overview
    from experiments.maintenance.status import Observer

    folder = home_folder(home)
    observer = Observer(folder)
    if follow:
        with suppress(KeyboardInterrupt):
            overview.follow(observer, Console(), folder, as_json=json_)
    elif json_:
        print_json([trial.to_json() for trial in observer.look().trials])
    else:
        overview.show(observer.look(), Console(), folder)


@care.command()
def logs(
    what: Annotated[
        str,
        typer.Argument(
            help="a fingerprint's beginning (4 digits or more), or a stage such as masking_ratio/50%/pretrain",
            metavar="WHAT",
        ),
    ],
    follow: Annotated[bool, typer.Option("--follow", help="go on while it runs")] = False,
    attempt: Annotated[int | None, typer.Option(min=1, help="this attempt (default: the newest)")] = None,
    home: Home = None,
    json_: Json = False,
) -> None:
    """Print what a stage printed, and how it ended."""
    from experiments.maintenance import logs as log
    from experiments.store.drivers import living
    from experiments.store.lookup import Catalog
    from experiments.store.trials import stage_facts

    if follow and json_:
        raise SmaugError("--follow --json: a log that grows is no JSON; leave one of them out")
    folder = home_folder(home)
    catalog = Catalog(folder)
    named = catalog.find_one(what)
    directory = catalog.directory(named)

    def at_work() -> bool:
        facts = stage_facts(folder, named.kind, named.fingerprint)
        over = facts is not None and facts.state in ("done", "failed")
        return not over and any(named.fingerprint in driver.fingerprints for driver in living(folder))

    if follow:
        complain(catalog.label(named))
        with suppress(KeyboardInterrupt):
            log.follow(directory, print_log, complain, number=attempt, at_work=at_work)
        return
    found = log.read_log(directory, attempt)
    if json_:
        print_json({"fingerprint": named.fingerprint, "name": named.name, "folder": str(directory), **found.to_json()})
        return
    complain(f"{catalog.label(named)}: {log.heading(found)}")
    print_log(found.text + found.ending())


@care.command()
def cancel(
    what: Stages = [],  # noqa: B006  typer copies it
    all_: Annotated[bool, typer.Option("--all", help="everything that runs or waits in this home")] = False,
    home: Home = None,
    json_: Json = False,
) -> None:
    """Ask running or waiting stages to end; they save their state, and the next run continues them."""
    from experiments.maintenance.status import Observer
    from experiments.store.drivers import request_cancel

    if bool(what) == all_:
        raise SmaugError("cancel: names what is to end, or --all; `smaug status` lists what runs")
    folder = home_folder(home)
    standing = Observer(folder).look()
    if not standing.drivers:
        raise SmaugError(f"{folder}: no driver is at work, so nothing can be cancelled{_orphans(standing)}")
    active = {f: stage for f, stage in standing.stages.items() if stage.is_active}
    wanted = list(active) if all_ else _active_of(what, standing)
    # Of a sweep that was asked for with other settings meanwhile, the trials no longer tell; their driver still does.
    unnamed = sorted({f for d in standing.drivers for f in d.fingerprints} - standing.stages.keys()) if all_ else []
    if not wanted and not unnamed:
        raise SmaugError(f"{folder}: nothing runs or waits that a driver could end{_orphans(standing)}")
    request_cancel(folder, [*wanted, *unnamed])
    if json_:
        told = [{"name": active[f].named.name, **active[f].to_json(), "asked_to_end": True} for f in wanted]
        print_json({"asked": told + [{"fingerprint": fingerprint} for fingerprint in unnamed]})
        return
    for fingerprint in wanted:
        say(f"asked to end: {standing.catalog.label(active[fingerprint].named)} ({_where(active[fingerprint])})")
    if unnamed:
        say(f"asked to end: {len(unnamed)} stages that only their driver knows")
    drivers = ", ".join(f"process {driver.owner['pid']} on {driver.owner['host']}" for driver in standing.drivers)
    say(f"who is asked: {drivers}; what builds on these stages is not started; `smaug run` takes them up again")


@care.command()
def gc(
    yes: Annotated[bool, typer.Option("--yes", help="delete it")] = False,
    home: Home = None,
    json_: Json = False,
) -> None:
    """Say what the home folder could do without, and why; with --yes, delete it.

    What a valid trial or a living driver needs stays, and so does what somebody is working on. A stage that has cost
    something is recorded in MLflow before it goes; where MLflow cannot be reached, it stays.
    """
    from experiments.maintenance.gc import find_garbage
    from experiments.maintenance.removal import HoursLedger, Removed, remove
    from experiments.planning.disk_space import in_words

    folder = home_folder(home)
    found = find_garbage(folder)
    removed = remove(folder, found.garbage, HoursLedger(folder)) if yes else Removed()
    size = sum(each.size for each in (removed.deleted if yes else found.garbage))
    if json_:
        gone, left = removed.deleted, {id(each): reason for each, reason in removed.left}
        told = [g.to_json() | {"deleted": g in gone, "left": left.get(id(g))} for g in found.garbage]
        stays = [{"path": str(kept.path), "why": kept.why} for kept in found.kept]
        print_json({"deleted": yes, "bytes": size, "garbage": told, "kept": stays})
    else:
        for each in removed.deleted if yes else found.garbage:
            say(f"{in_words(each.size):>12}  {os.path.relpath(each.path, folder)}: {each.why}")
        for kept in found.kept:
            say(f"{'kept':>12}  {os.path.relpath(kept.path, folder)}: {kept.why}")
        if yes:
            say(f"{len(removed.deleted)} deleted, {in_words(size)}")
        else:
            advice = f"; --yes deletes {in_words(size)}" if found.garbage else ""
            say(f"{len(found.garbage)} could go from {folder}{advice}")
    for each, reason in removed.left:
        complain(f"{each.path}: was left ({reason})")
    raise typer.Exit(FAILED if removed.left else DONE)


@care.command()
def doctor(
    scale: ScaleName = "tiny",
    set_: Settings = [],  # noqa: B006
    cluster: ClusterFile = None,
    deep: Annotated[bool, typer.Option("--deep", help="also read every result and checkpoint whole")] = False,
    home: Home = None,
    json_: Json = False,
) -> None:
    """Check what a run needs, from Python to data and Slurm, and say how to fix what is wrong; exit 1 with faults."""
    from dataclasses import asdict

    from experiments.config.scale import load_scale
    from experiments.engines.slurm.profile import load_cluster
    from experiments.maintenance.doctor.doctor import examine, lines_of
    from experiments.stages.trial import parse_overrides, with_settings

    profile = None if cluster is None else load_cluster(found_file(cluster))
    findings = []
    settings = with_settings(load_scale(scale), parse_overrides(set_))
    for finding in examine(home_folder(home), settings, profile, deep=deep):
        findings.append(finding)
        for line in () if json_ else lines_of(finding):
            say(line)
    if json_:
        print_json([asdict(finding) for finding in findings])
    raise typer.Exit(FAILED if any(finding.level == "fault" for finding in findings) else DONE)


@care.command()
def sync(
    from_: Annotated[
        Path | None,
        typer.Option("--from", help="a folder of portable records, to be told to MLflow as well", **PATH),
    ] = None,
    to: Annotated[
        Path | None,
        typer.Option("--to", help="write the valid trials here as portable records, for other machines", **PATH),
    ] = None,
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="set MLflow's database aside first, and make a new one")
    ] = False,
    home: Home = None,
    json_: Json = False,
) -> None:
    """Make MLflow tell all that the store holds, and portable records; may be repeated."""
    from experiments.tracking.accounting import account_all

    folder = home_folder(home)
    if to is not None and from_ is not None:
        raise SmaugError("--from and --to: one loads records, the other writes them; leave one of them out")
    if rebuild and to is not None:
        raise SmaugError("--rebuild --to: one writes to MLflow, the other does not; leave one of them out")
    accounted = account_all(folder)
    if to is not None:
        from experiments.store.export import record_files, write_records

        before = set(record_files(to))
        stages, trials = write_records(folder, to)
        removed = len(before - set(record_files(to)))
        done = f"written to {to}" + (f"; {removed} older records were removed" if removed else "")
    else:
        from experiments.tracking import writer as tracking

        if rebuild:
            aside, stages, trials = tracking.rebuild(folder, records=from_)
            if aside is not None:
                complain(f"MLflow's database was set aside as {aside}")
        else:
            stages, trials = tracking.sync(folder, records=from_)
        done = "recorded"
    if json_:
        print_json({"stages": stages, "trials": trials, "accounted": accounted})
    else:
        say(f"{stages} stages and {trials} trials are {done}")
        if accounted:
            say(f"Slurm's accounting told what {accounted} attempts took")


@care.command()
def ui(port: Annotated[int, typer.Option(min=1, max=65535, help="on 127.0.0.1")] = 5000, home: Home = None) -> None:
    """Serve MLflow's pages on this machine only."""
    from experiments.tracking.ui import ServerError, serve

    try:
        serve(home_folder(home), port, say, complain)
    except ServerError as error:
        complain(str(error))
        raise typer.Exit(FAILED) from None


def _active_of(what: list[str], standing: "HomeStatus") -> list[str]:
    """Fingerprints of the stages meant that run or wait; each thing that is named must mean one at least."""
    found: dict[str, None] = {}
    for name in what:
        meant = standing.catalog.find(name)
        active = [m.fingerprint for m in meant if m.fingerprint in standing.stages]
        active = [fingerprint for fingerprint in active if standing.stages[fingerprint].is_active]
        if not active:
            states = sorted({standing.stages[m.fingerprint].state for m in meant if m.fingerprint in standing.stages})
            raise SmaugError(
                f"{name}: neither runs nor waits for a driver (it is {', '.join(states) or 'of an earlier sweep'});"
                " nothing was asked of anybody"
            )
        found |= dict.fromkeys(active)
    return list(found)


def _orphans(standing: "HomeStatus") -> str:
    """The stages that run without a driver, which nobody tells of a request."""
    found = [stage for stage in standing.in_state("running") if not stage.driven]
    return "".join(f"\n  {standing.catalog.label(each.named)}: {_where(each)}; {_by_hand(each)}" for each in found)


def _by_hand(stage: "StageStanding") -> str:
    """How somebody ends a stage that nobody looks after."""
    return "end that process yourself" if stage.slurm_job is None else f"scancel {stage.slurm_job} ends it, saved"


def _where(stage: "StageStanding") -> str:
    return f"running, {stage.where}" if stage.state == "running" else "waiting"
