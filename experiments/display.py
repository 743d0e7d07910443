"""What the terminal shows while a sweep runs: a bar for each running stage, a line for each that ended."""

import time
from collections.abc import Mapping

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from experiments.events import Event

ENDINGS = {
    "cached": "done before",
    "done": "done",
    "failed": "[red]failed[/red]",
    "paused": "[red]paused[/red]",
    "cancelled": "[yellow]cancelled[/yellow]",
    "held": "[yellow]held back[/yellow]",
    "blocked": "[yellow]not started[/yellow]",
    "retry": "[yellow]again[/yellow]",
    "waiting": "waiting",
}
"""How an event is told, by its kind."""


class Display:
    """Told every event of a scheduler; without a terminal it prints lines only, so logs stay readable."""

    def __init__(self, console: Console, labels: Mapping[str, str]) -> None:
        """Show on `console`; `labels` says what to call a stage, by its fingerprint."""
        self._console, self._labels = console, labels
        self._bars: dict[str, TaskID] = {}
        self._started: dict[str, float] = {}
        self._ended = 0
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[loss]}"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )

    def __enter__(self) -> "Display":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def __call__(self, event: Event) -> None:
        """Show one event."""
        name = event.stage.fingerprint
        if event.kind in ("started", "progress"):
            self._show_progress(event)
        elif event.kind in ENDINGS:
            self._drop_bar(name)
            self._ended += event.kind in ("cached", "done", "failed", "cancelled", "blocked")
            took = f" after {_minutes(time.monotonic() - self._started[name])}" if name in self._started else ""
            what = f"{ENDINGS[event.kind]}{took if event.kind in ('done', 'failed') else ''}"
            why = f": {event.message}" if event.message else ""
            count = f"[dim]{self._ended}/{len(self._labels)}[/dim]"
            self._console.print(f"{count} {self._labels[name]}: {what}{why}", highlight=False)

    def _show_progress(self, event: Event) -> None:
        assert event.attempt is not None
        name, told = event.stage.fingerprint, event.attempt.last
        self._started.setdefault(name, time.monotonic())
        loss = f"loss {told['values']['loss']:.3f}" if "loss" in told["values"] else ""
        if name not in self._bars:
            self._bars[name] = self._progress.add_task(self._labels[name], total=None, loss=loss)
        self._progress.update(self._bars[name], total=told["total"] or None, completed=told["step"], loss=loss)

    def _drop_bar(self, name: str) -> None:
        if name in self._bars:
            self._progress.remove_task(self._bars.pop(name))


def _minutes(seconds: float) -> str:
    return f"{int(seconds // 60)}:{int(seconds % 60):02d}"
