"""Progress on the terminal: of a sweep, a bar for each running stage and a line for each that ended; of other work."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager

from experiments.console import Console, Part
from experiments.scheduler.events import Event

ENDINGS: Mapping[str, Part] = {
    "cached": "done before",
    "done": "done",
    "failed": ("failed", "red"),
    "paused": ("paused", "red"),
    "cancelled": ("cancelled", "yellow"),
    "held": ("held back", "yellow"),
    "blocked": ("not started", "yellow"),
    "retry": ("again", "yellow"),
    "waiting": "waiting",
}
"""Word for each kind of event."""

LINE_EVERY = 30.0
"""Seconds between lines of progress where there is no terminal."""


@contextmanager
def counted_progress(console: Console, words: str) -> Iterator[Callable[[int, int], None]]:
    """Yield a function that shows how much is done of what total, the rate, and the time left: as a bar, or in lines.

    The rate does not count what the first call reports, such as work of an earlier process.
    """
    started, first, printed = time.monotonic(), -1, time.monotonic()
    with console.bars() as bars:

        def show(done: int, total: int) -> None:
            nonlocal first, printed
            now = time.monotonic()
            first = done if first < 0 else first
            rate = (done - first) / max(now - started, 1e-9)
            note = f"{rate:,.0f}/s" if rate >= 10 else f"{rate:.2f}/s"
            bars.show(words, words, done, total, note)
            if not console.is_terminal and now - printed >= LINE_EVERY:
                left = f", {_minutes((total - done) / rate)} left" if rate else ""
                console.print(f"{words}: {done:,} of {total:,} ({note}{left})")
                printed = now

        yield show


class ProgressDisplay:
    """Shows the events of a scheduler; without a terminal it prints lines only, so that logs stay readable."""

    def __init__(self, console: Console, labels: Mapping[str, str]) -> None:
        """Show on `console`; `labels` holds the name of each stage by fingerprint."""
        self._console, self._labels = console, labels
        self._started: dict[str, float] = {}
        self._ended = 0
        self._open = ExitStack()

    def __enter__(self) -> "ProgressDisplay":
        self._bars = self._open.enter_context(self._console.bars())
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def __call__(self, event: Event) -> None:
        """Show one event."""
        name = event.stage.fingerprint
        if event.kind in ("started", "progress"):
            self._show_progress(event)
        elif event.kind in ENDINGS:
            self._bars.drop(name)
            self._ended += event.kind in ("cached", "done", "failed", "cancelled", "blocked")
            took = f" after {_minutes(time.monotonic() - self._started[name])}" if name in self._started else ""
            when = took if event.kind in ("done", "failed") else ""
            why = f": {event.message}" if event.message else ""
            count = (f"{self._ended}/{len(self._labels)}", "dim")
            self._console.print(count, f" {self._labels[name]}: ", ENDINGS[event.kind], f"{when}{why}")

    def _show_progress(self, event: Event) -> None:
        assert event.attempt is not None
        name, progress = event.stage.fingerprint, event.attempt.last
        self._started.setdefault(name, time.monotonic())
        loss = f"loss {progress.values['loss']:.3f}" if "loss" in progress.values else ""
        self._bars.show(name, self._labels[name], progress.step, progress.total or None, loss)


def _minutes(seconds: float) -> str:
    return f"{int(seconds // 60)}:{int(seconds % 60):02d}"
