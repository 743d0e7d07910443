"""Drives a sweep from its plan to its table: data, stages, the ledger, in that order, on this machine."""

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.console import Console
from experiments.engines.base import Engine
from experiments.planning.budget import Budget, PriceComparison
from experiments.planning.cost_model import Prices, Rate
from experiments.planning.disk_space import room_problem
from experiments.planning.plan import Plan, distinct_stages
from experiments.scheduler.events import Event, Summary
from experiments.scheduler.notify import Notifier
from experiments.scheduler.scheduler import Scheduler
from experiments.stages.stage import Stage
from experiments.stages.trial import Trial
from experiments.store.drivers import abandoned, cancel_requests, driver_at_work, settle_cancel
from experiments.store.lookup import stage_labels
from experiments.store.store import Store
from experiments.store.trials import write_trials
from experiments.tracking.live_recorder import Recorder
from smaug_core.config import Config, DataConfig

STALE_ACCEPTED = "stale code accepted"
"""Mark of a table's row that holds results of other code than there is now."""
PARTIAL_SCHEDULE = "partial schedule"
"""Mark of a table's row that was trained for fewer epochs than the scale says."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Drive:
    """Outcome of a run of the driver."""

    summary: Summary
    seconds: float
    """From the first look at the data to the last record."""
    recorded: bool
    """Whether MLflow took everything."""
    spent: float
    """Device hours billed to the attempts that this run started."""
    comparison: PriceComparison
    """Of predicted and actual hours."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Terms:
    """Terms on which a plan is run."""

    limit: float | None = None
    """Most device hours to spend; none: as many as it takes."""
    retry_failed: bool = False
    """Try stages again that failed in an earlier run."""
    notify: tuple[str, ...] = ()
    """Command to run at the end, at a pause and when most of the limit is spent; empty runs none."""
    published: Callable[[], Rate] | None = None
    """Gives the rate that the paper's hours imply, for work without any other price."""


def drive(
    plan: Plan,
    store: Store,
    make_engine: Callable[[], Engine],
    make_display: Callable[[Mapping[str, str]], AbstractContextManager[Callable[[Event], None]]],
    console: Console,
    terms: Terms,
) -> Drive:
    """Run what a plan has not done yet, and record it.

    Args:
        plan: stale stages count as done, and mark their trials.
        make_engine: called when there is something to run; the engine is closed at the end.
        make_display: called with the labels of stages by fingerprint; shows every event while stages run.
        console: prints what is not an event.

    Raises:
        SmaugError: the data or the store cannot be written, or a stage asks for more than there is.
    """
    started = time.monotonic()
    stale = {planned.stage.fingerprint for planned in plan.in_state("stale")}
    write_trials(store.home, [(trial, _marks(trial, stale)) for trial in plan.trials])
    for planned in plan.stages:
        if planned.is_done:
            store.restore(planned.stage)
    stages, summary = distinct_stages(plan.trials), Summary()
    prices = Prices(store, published=terms.published)
    budget = Budget(store, prices, terms.limit)
    with (
        driver_at_work(store.home, (stage.fingerprint for stage in stages)),
        Recorder(store.home, plan.trials, console.print) as recorder,
        Notifier(terms.notify, _about(plan, store), console.print) as notifier,
    ):
        if all(planned.is_done for planned in plan.stages):
            summary.cached = stages
        else:
            prepare_data([trial.config for trial in plan.trials], store.home / "data", console)
            with closing(make_engine()) as engine, make_display(stage_labels(plan.trials)) as display:
                listeners = (display, recorder, notifier, lambda _: notifier.budget(budget.used, terms.limit))
                summary = _run_stages(stages, store, engine, listeners, terms, budget, prices)
        notifier.send("end", end_of(summary), complete=summary.complete, counts=_counts(summary))
    if recorder.error is not None:
        console.print(("not recorded:", "yellow"), f" {recorder.error}")
    return Drive(
        summary=summary,
        seconds=time.monotonic() - started,
        recorded=recorder.error is None,
        spent=budget.spent,
        comparison=budget.compared(),
    )


def _run_stages(
    stages: list[Stage],
    store: Store,
    engine: Engine,
    listeners: Sequence[Callable[[Event], None]],
    terms: Terms,
    budget: Budget,
    prices: Prices,
) -> Summary:
    for stage in stages:
        settle_cancel(store.home, stage.fingerprint)  # the same command continues what was cancelled

    def report(event: Event) -> None:
        for listener in listeners:
            listener(event)

    return Scheduler(
        stages,
        store,
        engine,
        data_root=store.home / "data",
        on_event=report,
        retry_failed=terms.retry_failed,
        budget=budget,
        room_problem=lambda stage: room_problem(stage, store.directory(stage)),
        peak_bytes=prices.peak_bytes,
        cancellations=lambda: cancel_requests(store.home),
        abandoned=lambda names: abandoned(store.home, names),
    ).run()


def _about(plan: Plan, store: Store) -> dict[str, Any]:
    """Return what every notification names."""
    sweeps = list(dict.fromkeys(trial.sweep.name for trial in plan.trials))
    return {"sweeps": sweeps, "scale": plan.trials[0].scale, "home": str(store.home)}


def _counts(summary: Summary) -> dict[str, int]:
    names = ("done", "cached", "failed", "cancelled", "held", "blocked")
    return {name: len(getattr(summary, name)) for name in names}


def end_of(summary: Summary) -> str:
    """Describe a run's end in a line, for a notification."""
    counts = ", ".join(f"{count} {name}" for name, count in _counts(summary).items() if count)
    how = "complete" if summary.complete else "paused" if summary.paused else "not complete"
    ended = "was stopped; the same command continues" if summary.interrupted else f"ended, {how}"
    return f"the run {ended}: {counts or 'nothing was done'}"


def _marks(trial: Trial, stale: Collection[str]) -> list[str]:
    """Return what a reader of the table must know of a trial's results."""
    accepted = any(stage.fingerprint in stale for stage in trial.stages)
    found = {STALE_ACCEPTED: accepted, PARTIAL_SCHEDULE: trial.shortened}
    return [*(mark for mark, holds in found.items() if holds), *(f"--set {override}" for override in trial.overrides)]


def prepare_data(configs: Sequence[Config], root: Path, console: Console) -> None:
    """Render the embedded data that these configurations read and `root` lacks, with a bar.

    Raises:
        SmaugError: a source is unknown, or the files cannot be written.
    """
    from experiments.engines.base import local_cpus
    from smaug_core.data.prepare.rendering import prepare

    wanted: dict[DataConfig, dict[str, None]] = {}
    for config in configs:
        if config.data is not None:
            wanted.setdefault(config.data, {}).update(dict.fromkeys(_sources(config)))
    started, rendered = time.monotonic(), 0
    with console.bars() as bars:

        def show(done: int, total: int) -> None:
            nonlocal rendered
            rendered = done
            bars.show("data", "rendering the data", done, total)

        for data, sources in wanted.items():
            prepare(sources, data, root, show, workers=local_cpus())
    if rendered:
        console.print(f"rendered {rendered} clips and pictures in {time.monotonic() - started:.0f} s")


def _sources(config: Config) -> Iterator[str]:
    """Every source that a configuration reads."""
    yield from config.pretrain.corpus
    if config.pretrain_video is not None:
        yield from config.pretrain_video.corpus
    yield from (tuning.dataset for tuning in config.finetune.values())
    yield from (test.dataset for test in config.evaluate.values())


def archive_stale(plan: Plan, store: Store) -> int:
    """Archive stale results, and all that was made from them; return their number."""
    archived: set[str] = set()
    for planned in plan.stages:  # parents come first
        stage = planned.stage
        if planned.state == "stale" or any(parent.fingerprint in archived for parent in stage.parents):
            archived.add(stage.fingerprint)
            if store.directory(stage).exists():
                store.archive(stage)
    return len(archived)
