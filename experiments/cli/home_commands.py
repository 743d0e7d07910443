"""Commands that inspect and maintain a home folder."""

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
from experiments.store.records import StageState
from smaug_core.errors import SmaugError

if TYPE_CHECKING:
    from experiments.maintenance.status import HomeStatus, StageStatus

care = typer.Typer(rich_markup_mode=None)

Stages = Annotated[
    list[str],
    typer.Argument(
        help="First 4 or more digits of a fingerprint, a stage such as masking_ratio/50%/pretrain, a row, or a sweep.",
        metavar="[WHAT]...",
    ),
]


@care.command(rich_help_panel="Inspect")
def status(
    follow: Annotated[bool, typer.Option("--follow", help="Update until nothing runs.")] = False,
    home: Home = None,
    json_: Json = False,
) -> None:
    """Show the state of trials and stages.

    Running stages are shown with their progress, failed ones with the reason.
    """
    from experiments.cli import status_view as overview
    from experiments.maintenance.status import Observer

    folder = home_folder(home)
    observer = Observer(folder)
    if follow:
        with suppress(KeyboardInterrupt):
            overview.follow(observer, Console(), folder, as_json=json_)
    elif json_:
        print_json([trial.to_json() for trial in observer.poll().trials])
    else:
        overview.show(observer.poll(), Console(), folder)


@care.command(rich_help_panel="Inspect")
def logs(
    what: Annotated[
        str,
        typer.Argument(
            help="First 4 or more digits of a fingerprint, or a stage such as masking_ratio/50%/pretrain.",
            metavar="WHAT",
        ),
    ],
    follow: Annotated[bool, typer.Option("--follow", help="Print new output until the stage ends.")] = False,
    attempt: Annotated[int | None, typer.Option(min=1, help="Number of the attempt (default: the newest).")] = None,
    home: Home = None,
    json_: Json = False,
) -> None:
    """Print the log of a stage, and how it ended."""
    from experiments.maintenance import logs as log
    from experiments.store.drivers import living
    from experiments.store.lookup import Catalog
    from experiments.store.store import stage_record

    if follow and json_:
        raise SmaugError("--follow --json: expected one of them; a log that grows is not JSON")
    folder = home_folder(home)
    catalog = Catalog(folder)
    named = catalog.find_one(what)
    directory = catalog.directory(named)

    def may_start() -> bool:
        facts = stage_record(folder, named.kind, named.fingerprint)
        over = facts is not None and facts.state in ("done", "failed")
        return not over and any(named.fingerprint in driver.fingerprints for driver in living(folder))

    if follow:
        complain(catalog.label(named))
        with suppress(KeyboardInterrupt):
            log.follow(directory, print_log, complain, number=attempt, may_start=may_start)
        return
    found = log.read_log(directory, attempt)
    if json_:
        print_json({"fingerprint": named.fingerprint, "name": named.name, "folder": str(directory), **found.to_json()})
        return
    complain(f"{catalog.label(named)}: {log.heading(found)}")
    print_log(found.text + found.ending())


@care.command(rich_help_panel="Run")
def cancel(
    what: Stages = [],  # noqa: B006  typer copies it
    all_: Annotated[bool, typer.Option("--all", help="Cancel every stage that runs or waits.")] = False,
    home: Home = None,
    json_: Json = False,
) -> None:
    """Cancel running or waiting stages.

    Running stages save their state; the next `smaug run` continues them.
    """
    from experiments.maintenance.status import Observer
    from experiments.store.drivers import request_cancel

    if bool(what) == all_:
        raise SmaugError("cancel: expected names of stages, or --all; `smaug status` lists what runs")
    folder = home_folder(home)
    home_status = Observer(folder).poll()
    if not home_status.drivers:
        raise SmaugError(f"{folder}: no driver is active, so nothing can be cancelled{_orphans(home_status)}")
    active = {f: stage for f, stage in home_status.stages.items() if stage.is_active}
    wanted = list(active) if all_ else _active_of(what, home_status)
    # If a sweep was run again with other settings, only its driver still knows these stages.
    unnamed = (
        sorted({f for d in home_status.drivers for f in d.fingerprints} - home_status.stages.keys()) if all_ else []
    )
    if not wanted and not unnamed:
        raise SmaugError(f"{folder}: no stage of a driver runs or waits{_orphans(home_status)}")
    request_cancel(folder, [*wanted, *unnamed])
    if json_:
        rows = [{"name": active[f].named.name, **active[f].to_json(), "asked_to_end": True} for f in wanted]
        print_json({"asked": rows + [{"fingerprint": fingerprint} for fingerprint in unnamed]})
        return
    for fingerprint in wanted:
        say(f"cancelling: {home_status.catalog.label(active[fingerprint].named)} ({_where(active[fingerprint])})")
    if unnamed:
        say(f"cancelling: {len(unnamed)} stages that only their driver knows")
    drivers = ", ".join(f"process {driver.owner.pid} on {driver.owner.host}" for driver in home_status.drivers)
    say(f"sent to: {drivers}; stages that depend on these are not started; `smaug run` continues them")


@care.command(rich_help_panel="Maintain")
def gc(
    yes: Annotated[bool, typer.Option("--yes", help="Delete the files.")] = False,
    home: Home = None,
    json_: Json = False,
) -> None:
    """List unused files of the home folder, or delete them.

    The command refuses while a driver is active: wait for it, or cancel it. Files that a valid trial or a running stage
    needs are kept. A stage that took device time is recorded in MLflow before it is deleted; if MLflow cannot be
    reached, it is kept.
    """
    from experiments.maintenance.gc import find_garbage, refuse_active_driver
    from experiments.maintenance.removal import HoursLedger, Removal, remove
    from experiments.planning.disk_space import in_words

    folder = home_folder(home)
    refuse_active_driver(folder)
    report = find_garbage(folder)
    removal = remove(folder, report.garbage, HoursLedger(folder)) if yes else Removal()
    size = sum(item.size for item in (removal.deleted if yes else report.garbage))
    if json_:
        left = {id(item): reason for item, reason in removal.left}
        rows = [g.to_json() | {"deleted": yes and id(g) not in left, "left": left.get(id(g))} for g in report.garbage]
        kept = [{"path": str(item.path), "why": item.why} for item in report.kept]
        print_json({"deleted": yes, "bytes": size, "garbage": rows, "kept": kept})
    else:
        for garbage in removal.deleted if yes else report.garbage:
            say(f"{in_words(garbage.size):>12}  {os.path.relpath(garbage.path, folder)}: {garbage.why}")
        for item in report.kept:
            say(f"{'kept':>12}  {os.path.relpath(item.path, folder)}: {item.why}")
        if yes:
            say(f"{len(removal.deleted)} deleted, {in_words(size)}")
        else:
            advice = f"; --yes deletes {in_words(size)}" if report.garbage else ""
            say(f"{len(report.garbage)} unused in {folder}{advice}")
    for garbage, reason in removal.left:
        complain(f"{garbage.path}: not deleted ({reason})")
    raise typer.Exit(FAILED if removal.left else DONE)


@care.command(rich_help_panel="Maintain")
def doctor(
    scale: ScaleName = "tiny",
    set_: Settings = [],  # noqa: B006
    cluster: ClusterFile = None,
    deep: Annotated[bool, typer.Option("--deep", help="Also read every result and checkpoint in full.")] = False,
    home: Home = None,
    json_: Json = False,
) -> None:
    """Check the environment, data and home folder.

    Print a fix for each fault found, from Python packages to Slurm. Exit with 1 if there are faults.
    """

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
        print_json([finding.to_json() for finding in findings])
    raise typer.Exit(FAILED if any(finding.level == "fault" for finding in findings) else DONE)


@care.command(rich_help_panel="Maintain")
def sync(
    from_: Annotated[
        Path | None,
        typer.Option("--from", help="Folder of portable records to record in MLflow too.", **PATH),
    ] = None,
    to: Annotated[
        Path | None,
        typer.Option("--to", help="Folder to write portable records of valid trials to, for other machines.", **PATH),
    ] = None,
    rebuild: Annotated[bool, typer.Option("--rebuild", help="Archive MLflow's database and make a new one.")] = False,
    home: Home = None,
    json_: Json = False,
) -> None:
    """Record stored results in MLflow, or export them.

    The command can be repeated.
    """
    from experiments.tracking.accounting import account_all

    folder = home_folder(home)
    if to is not None and from_ is not None:
        raise SmaugError("--from --to: expected one of them; one loads records, the other writes them")
    if rebuild and to is not None:
        raise SmaugError("--rebuild --to: expected one of them; one writes to MLflow, the other does not")
    accounted = account_all(folder)
    if to is not None:
        from experiments.store.export import record_files, write_records

        before = set(record_files(to))
        stages, trials = write_records(folder, to)
        removed = len(before - set(record_files(to)))
        done = f"written to {to}" + (f"; {removed} older records were removed" if removed else "")
    else:
        from experiments.tracking.sync import rebuild as rebuild_database
        from experiments.tracking.sync import sync as sync_home

        if rebuild:
            archived, stages, trials = rebuild_database(folder, records=from_)
            if archived is not None:
                complain(f"MLflow's database was archived as {archived}")
        else:
            stages, trials = sync_home(folder, records=from_)
        done = "recorded"
    if json_:
        print_json({"stages": stages, "trials": trials, "accounted": accounted})
    else:
        say(f"{stages} stages and {trials} trials are {done}")
        if accounted:
            say(f"Slurm's accounting gave the time of {accounted} attempts")


@care.command(rich_help_panel="Inspect")
def ui(
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port on 127.0.0.1.")] = 5000, home: Home = None
) -> None:
    """Serve the MLflow UI on this machine only."""
    from experiments.tracking.ui import ServerError, serve

    try:
        serve(home_folder(home), port, say, complain)
    except ServerError as error:
        complain(str(error))
        raise typer.Exit(FAILED) from None


def _active_of(what: list[str], home_status: "HomeStatus") -> list[str]:
    """Fingerprints of the named stages that run or wait; each name must match at least one."""
    fingerprints: dict[str, None] = {}
    for name in what:
        named = (named.fingerprint for named in home_status.catalog.find(name))
        stages = [home_status.stages[fingerprint] for fingerprint in named if fingerprint in home_status.stages]
        active = [stage.named.fingerprint for stage in stages if stage.is_active]
        if not active:
            states = ", ".join(sorted({stage.state for stage in stages})) or "one of an earlier sweep"
            raise SmaugError(f"{name}: expected a running or waiting stage, got {states}; nothing was cancelled")
        fingerprints |= dict.fromkeys(active)
    return list(fingerprints)


def _orphans(home_status: "HomeStatus") -> str:
    """Stages that run without a driver, which no request reaches."""
    found = [stage for stage in home_status.in_state(StageState.RUNNING) if not stage.driven]
    return "".join(f"\n  {home_status.catalog.label(each.named)}: {_where(each)}; {_by_hand(each)}" for each in found)


def _by_hand(stage: "StageStatus") -> str:
    """Advice how to end a stage that has no driver."""
    job = None if stage.attempt is None else stage.attempt.slurm_job
    return "end that process yourself" if job is None else f"scancel {job} ends it, saved"


def _where(stage: "StageStatus") -> str:
    return f"running, {stage.where}" if stage.state == "running" else "waiting"
