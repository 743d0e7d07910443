"""Output of `smaug status`: counts of each sweep, progress of running stages, reasons of failed ones."""

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from experiments.console import Console, Part
from experiments.maintenance.status import HomeStatus, Observer, StageStanding, TrialStanding
from experiments.store.device_hours import PARTS
from experiments.store.records import StageState

Line = Sequence[Part]

POLL_S = 2.0
COLOURS = {"done": "green", "running": "cyan", "failed": "red", "unreadable": "red", "stopped": "yellow"}
ORDER = ("done", "running", "waiting", "failed", "stopped", "new")
TRIAL_WORDS = {"new": "not started"}


def lines_of(standing: HomeStatus, *, finished: bool = True) -> Iterator[Line]:
    """Lines of the status; `finished`: include the trials that are done."""
    for (sweep, scale), trials in standing.by_sweep().items():
        yield [(f"{sweep} at {scale}", "bold"), ": ", *_counts(trials)]
        for spent in _spent(trials):
            yield ["  ", (spent, "dim")]
        for trial in trials:
            if finished or trial.state != "done":
                yield ["  ", *_row(trial)]
    given_up = [s for s in standing.in_state(StageState.NEW, StageState.RESUME) if s.failure and not s.driven]
    failed, running = standing.in_state(StageState.FAILED, StageState.UNREADABLE), standing.in_state(StageState.RUNNING)
    for title, found in (("failed", list(failed)), ("stopped", given_up), ("running", list(running))):
        if found:
            yield [(title, "bold")]
        for stage in found:
            yield from _stage_lines(standing, stage)
    for driver in standing.drivers:
        since = time.strftime("%Y-%m-%d %H:%M", time.localtime(driver.started))
        yield [(f"driver: process {driver.owner.pid} on {driver.owner.host}, since {since}", "dim")]


def show(standing: HomeStatus, console: Console, home: Path) -> None:
    """Print it once."""
    for line in lines_of(standing):
        console.print(*line)
    if not standing.trials:
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
    standing = observer.look()
    with console.redrawn() as draw:
        while standing.at_work:
            lines = list(lines_of(standing, finished=False))
            draw(lines[-max(1, console.height - 2) :])  # running stages come last, and must be seen
            sleep(POLL_S)
            standing = observer.look()
    show(standing, console, home)


def _follow_by_lines(observer: Observer, console: Console, home: Path, sleep: Callable[[float], None]) -> None:
    standing = observer.look()
    show(standing, console, home)
    states = _states(standing)
    while standing.at_work:
        sleep(POLL_S)
        standing = observer.look()
        now = _states(standing)
        for fingerprint, state in now.items():
            if states.get(fingerprint) != state:
                stage = standing.stages[fingerprint]
                why = f": {stage.message}" if stage.message else ""
                label = standing.catalog.label(stage.named)
                at = time.strftime("%H:%M:%S")
                console.print(f"{at} {label} {state[0]}{why}")
        states = now


def _follow_as_json(observer: Observer, console: Console, sleep: Callable[[float], None]) -> None:
    shown = None
    while True:
        standing = observer.look()
        if shown != (states := _states(standing)):
            shown = states
            line = json.dumps([trial.to_json() for trial in standing.trials])
            console.print(line)
        if not standing.at_work:
            return
        sleep(POLL_S)


def _states(standing: HomeStatus) -> dict[str, tuple[str, int]]:
    return {fingerprint: (stage.state, stage.attempt) for fingerprint, stage in standing.stages.items()}


def _counts(trials: list[TrialStanding]) -> Iterator[Part]:
    counts = Counter[str](trial.state for trial in trials)
    yield f"{len(trials)} trials: "
    for number, word in enumerate(word for word in ORDER if counts[word]):
        yield f"{', ' if number else ''}{counts[word]} "
        yield _coloured(word, TRIAL_WORDS.get(word))


def _spent(trials: list[TrialStanding]) -> Iterator[str]:
    """Hours of the distinct stages of some trials, for each unit."""
    stages = {stage.named.fingerprint: stage for trial in trials for stage in trial.stages.values()}
    held = [(stage.unit, stage.hours) for stage in stages.values() if stage.hours is not None]
    for unit in sorted({unit for unit, _ in held}):
        hours = [each for other, each in held if other == unit]
        amounts = {part: sum(getattr(one, part) for one in hours) for part in PARTS if part != "billed"}
        unsaved = sum(stage.unsaved for stage in stages.values() if stage.unit == unit)
        amounts |= {"lost": amounts["lost"] - unsaved} | ({"unsaved": unsaved} if unsaved else {})
        parts = ", ".join(f"{amount:.3g} {part}" for part, amount in amounts.items())
        guessed = sum(one.estimated for one in hours)
        estimated = f", {guessed} estimated" if guessed else ""
        billed = sum(one.billed for one in hours)
        yield f"{billed:.3g} {unit} billed at {len(hours)} stages{estimated}: {parts}"


def _row(trial: TrialStanding) -> Iterator[Part]:
    yield f"{trial.document.variant} seed {trial.document.seed}:"
    for name, stage in trial.stages.items():
        yield f"  {name} "
        yield _stage_word(stage)
        if stage.state == "running" and stage.total:
            yield f" {100 * stage.step // stage.total}%"


def _stage_word(stage: StageStanding) -> Part:
    if stage.state == "running":
        return _coloured("running")
    if stage.asked_to_end:
        return "cancelling"
    if stage.queued is not None:
        return stage.queued.words
    if stage.driven and stage.state in ("new", "resume"):
        return "waiting"
    return _coloured(stage.state)


def _stage_lines(standing: HomeStatus, stage: StageStanding) -> Iterator[Line]:
    label = standing.catalog.label(stage.named)
    where = f"{stage.where}, attempt {stage.attempt}"
    if stage.state == "running":
        steps = f"step {stage.step} of {stage.total}" if stage.total else "starting"
        rate = "" if stage.rate is None else f", {stage.rate:.3g} steps/s"
        left = "" if stage.left_s is None else f", {duration(stage.left_s)} left"
        ending = ", cancelling" if stage.asked_to_end else ""
        yield [f"  {label}: {steps}{rate}{left}; {where}{ending}"]
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
