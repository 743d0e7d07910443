"""Output of `smaug status`: counts of each sweep, progress of running stages, reasons of failed ones."""

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from experiments.console import Console, Part
from experiments.maintenance.status import HomeStatus, Observer, StageStatus, TrialStatus
from experiments.store.device_hours import PARTS
from experiments.store.records import StageState

Line = Sequence[Part]

POLL_S = 2.0
COLOURS = {"done": "green", "running": "cyan", "failed": "red", "unreadable": "red", "stopped": "yellow"}
ORDER = ("done", "running", "waiting", "failed", "stopped", "new")
TRIAL_WORDS = {"new": "not started"}


def lines_of(status: HomeStatus, *, finished: bool = True) -> Iterator[Line]:
    """Lines of the status; `finished`: include the trials that are done."""
    for (sweep, scale), trials in status.by_sweep().items():
        yield [(f"{sweep} at {scale}", "bold"), ": ", *_counts(trials)]
        for spent in _spent(trials):
            yield ["  ", (spent, "dim")]
        for trial in trials:
            if finished or trial.state != "done":
                yield ["  ", *_row(trial)]
    given_up = [s for s in status.in_state(StageState.NEW, StageState.RESUME) if s.failure and not s.driven]
    failed, running = status.in_state(StageState.FAILED, StageState.UNREADABLE), status.in_state(StageState.RUNNING)
    for title, found in (("failed", list(failed)), ("stopped", given_up), ("running", list(running))):
        if found:
            yield [(title, "bold")]
        for stage in found:
            yield from _stage_lines(status, stage)
    for driver in status.drivers:
        since = time.strftime("%Y-%m-%d %H:%M", time.localtime(driver.started))
        yield [(f"driver: process {driver.owner.pid} on {driver.owner.host}, since {since}", "dim")]


def show(status: HomeStatus, console: Console, home: Path) -> None:
    """Print it once."""
    for line in lines_of(status):
        console.print(*line)
    if not status.trials:
        console.print(f"no runs in {home}")


def follow(
    observer: Observer,
    console: Console,
    home: Path,
    *,
    as_json: bool = False,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Show the status until nothing runs: redrawn on a terminal, elsewhere a line for each change.

    Args:
        observer: reads the home folder.
        console: where to show it.
        home: the folder, named if it is empty.
        as_json: print the whole list on one line whenever a state changes.
        sleep: waits for a number of seconds.
    """
    if as_json:
        _follow_as_json(observer, console, sleep)
    elif console.is_terminal:
        _follow_live(observer, console, home, sleep)
    else:
        _follow_by_lines(observer, console, home, sleep)


def _follow_live(observer: Observer, console: Console, home: Path, sleep: Callable[[float], None]) -> None:
    status = observer.poll()
    with console.redrawn() as draw:
        while status.is_active:
            lines = list(lines_of(status, finished=False))
            draw(lines[-max(1, console.height - 2) :])  # running stages come last, and must be seen
            sleep(POLL_S)
            status = observer.poll()
    show(status, console, home)


def _follow_by_lines(observer: Observer, console: Console, home: Path, sleep: Callable[[float], None]) -> None:
    status = observer.poll()
    show(status, console, home)
    states = _states(status)
    while status.is_active:
        sleep(POLL_S)
        status = observer.poll()
        now = _states(status)
        for fingerprint, state in now.items():
            if states.get(fingerprint) != state:
                stage = status.stages[fingerprint]
                why = f": {stage.message}" if stage.message else ""
                label = status.catalog.label(stage.named)
                at = time.strftime("%H:%M:%S")
                console.print(f"{at} {label} {state[0]}{why}")
        states = now


def _follow_as_json(observer: Observer, console: Console, sleep: Callable[[float], None]) -> None:
    shown = None
    while True:
        status = observer.poll()
        if shown != (states := _states(status)):
            shown = states
            line = json.dumps([trial.to_json() for trial in status.trials])
            console.print(line)
        if not status.is_active:
            return
        sleep(POLL_S)


def _states(status: HomeStatus) -> dict[str, tuple[str, int]]:
    return {
        fingerprint: (stage.state, 0 if stage.attempt is None else stage.attempt.number)
        for fingerprint, stage in status.stages.items()
    }


def _counts(trials: list[TrialStatus]) -> Iterator[Part]:
    counts = Counter[str](trial.state for trial in trials)
    yield f"{len(trials)} trials: "
    for number, word in enumerate(word for word in ORDER if counts[word]):
        yield f"{', ' if number else ''}{counts[word]} "
        yield _coloured(word, TRIAL_WORDS.get(word))


def _spent(trials: list[TrialStatus]) -> Iterator[str]:
    """Hours of the distinct stages of some trials, for each unit."""
    stages = {stage.named.fingerprint: stage for trial in trials for stage in trial.stages.values()}
    begun = [(stage.record.host.unit, stage.record.hours, stage.unsaved) for stage in stages.values() if stage.record]
    for unit in sorted({unit for unit, _, _ in begun}):
        hours = [each for other, each, _ in begun if other == unit]
        amounts = {part: sum(getattr(one, part) for one in hours) for part in PARTS if part != "billed"}
        unsaved = sum(unsaved for other, _, unsaved in begun if other == unit)
        amounts |= {"lost": amounts["lost"] - unsaved} | ({"unsaved": unsaved} if unsaved else {})
        parts = ", ".join(f"{amount:.3g} {part}" for part, amount in amounts.items())
        guessed = sum(one.estimated for one in hours)
        estimated = f", {guessed} estimated" if guessed else ""
        billed = sum(one.billed for one in hours)
        yield f"{billed:.3g} {unit} billed at {len(hours)} stages{estimated}: {parts}"


def _row(trial: TrialStatus) -> Iterator[Part]:
    yield f"{trial.document.variant} seed {trial.document.seed}:"
    for name, stage in trial.stages.items():
        yield f"  {name} "
        yield _stage_word(stage)
        if stage.state == "running" and stage.attempt is not None and (last := stage.attempt.last).total:
            yield f" {100 * last.step // last.total}%"


def _stage_word(stage: StageStatus) -> Part:
    if stage.state == "running":
        return _coloured("running")
    if stage.asked_to_end:
        return "cancelling"
    if stage.queued is not None:
        return stage.queued.words
    if stage.driven and stage.state in ("new", "resume"):
        return "waiting"
    return _coloured(stage.state)


def _stage_lines(status: HomeStatus, stage: StageStatus) -> Iterator[Line]:
    label = status.catalog.label(stage.named)
    if stage.state == "running" and stage.attempt is not None:
        last = stage.attempt.last
        steps = f"step {last.step} of {last.total}" if last.total else "starting"
        rate = "" if stage.rate is None else f", {stage.rate:.3g} steps/s"
        left = "" if stage.left_s is None else f", {duration(stage.left_s)} left"
        ending = ", cancelling" if stage.asked_to_end else ""
        yield [f"  {label}: {steps}{rate}{left}; {stage.where}, attempt {stage.attempt.number}{ending}"]
    else:
        yield [f"  {label}: ", _coloured("failed" if stage.state == "failed" else "stopped", stage.message)]
        yield [f"    {stage.folder}"]


def _coloured(word: str, shown: str | None = None) -> Part:
    return (shown or word, COLOURS[word]) if word in COLOURS else shown or word


def duration(seconds: float) -> str:
    """Hours, minutes and seconds, e.g. `2:05` or `13:00:41`."""
    whole = max(0, round(seconds))
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}:{minutes:02d}:{whole % 60:02d}" if hours else f"{minutes}:{whole % 60:02d}"
