"""Printing: text from outside is never markup, and its control characters are escaped."""

import errno
import io
import json
import logging
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import IO, TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID
    from rich.text import Text

Part = str | tuple[str, str]
"""Text, or text with a style of rich's, e.g. `("failed", "red")`."""

# Control characters, line separators, marks that reverse the direction of writing, and halves of characters.
_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_ASCII = {"±": "+/-", "×": "x", "…": "...", "–": "-", "—": "-", "−": "-"}
"""For terminals whose encoding lacks them; everything else that it lacks is shown as an escape."""


def escaped(text: str) -> str:
    """Return text with control characters, except line feeds and tabs, as escapes."""
    return _UNSAFE.sub(lambda match: match[0].encode("unicode_escape", "surrogatepass").decode(), text)


def say(text: str, *, end: str = "\n") -> None:
    """Print to the standard output."""
    _write(sys.stdout, f"{text}{end}")


def complain(message: str) -> None:
    """Print an error to the standard error."""
    _write(sys.stderr, f"{message}\n")


def print_json(value: Any) -> None:
    """Print JSON to the standard output."""
    say(json.dumps(value, indent=1))


def print_log(text: str) -> None:
    """Print a stage's log; a carriage return, as of progress bars, begins a line."""
    say(re.sub("\r\n?", "\n", text), end="")


class Console:
    """A terminal, or a file in its place."""

    def __init__(
        self, *, to_stderr: bool = False, file: IO[str] | None = None, width: int | None = None, terminal: bool = False
    ) -> None:
        """Print on the standard output.

        Args:
            to_stderr: print to the standard error, if the standard output is for a program.
            file: print to this.
            width: in characters (default: the terminal's).
            terminal: treat the file as a terminal.
        """
        from rich.console import Console as RichConsole

        self._has_width = width is not None
        self._rich = RichConsole(
            stderr=to_stderr,
            file=file,
            width=width,
            force_terminal=True if terminal else None,
            markup=False,
            highlight=False,
            emoji=False,
        )

    @property
    def is_terminal(self) -> bool:
        """True if the output is a terminal."""
        return self._rich.is_terminal

    @property
    def height(self) -> int:
        """Height in lines."""
        return self._rich.height

    def print(self, *parts: Part) -> None:
        """Print the parts, one after the other, and end the line; long lines are not broken."""
        self._rich.print(self._text(parts), soft_wrap=True)

    def print_wrapped(self, text: str, *, indent: int = 0) -> None:
        """Print text with its long lines broken at spaces, every line `indent` characters from the edge.

        Lines are not broken in a file: a log is searched by lines.
        """
        from rich.padding import Padding

        shown = self._text([text])
        if self._has_width or self.is_terminal:
            self._rich.print(Padding(shown, (0, 0, 0, indent), expand=False) if indent else shown)
        else:
            self._rich.print(" " * indent, shown, sep="", soft_wrap=True)

    def print_table(
        self, title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], *, names: int = 1, total: bool = False
    ) -> None:
        """Print a table.

        Args:
            title: printed above it.
            columns: their headers.
            rows: a text for each column; line feeds begin lines within a cell.
            names: how many of the first columns hold names; all others hold numbers.
            total: whether the last row sums up the others.
        """
        from rich import box
        from rich.table import Table

        grid = Table(title=self._text([title]), box=box.SIMPLE_HEAD, title_justify="left", padding=(0, 0, 0, 1))
        for number, column in enumerate(columns):
            grid.add_column(self._text([column]), justify="left" if number < names else "right", overflow="fold")
        cells = [[self._text([text]) for text in row] for row in rows]
        for number, row in enumerate(cells, start=1):
            grid.add_row(*row, end_section=total and number == len(cells) - 1)
        self._rich.print(grid)

    @contextmanager
    def bars(self, *, shown: bool = True, transient: bool = True) -> Iterator["Bars"]:
        """Progress bars on a terminal while the context lasts; `transient` removes them at its end."""
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        with Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            TimeRemainingColumn(),
            console=self._rich,
            transient=transient,
            disable=not shown or not self.is_terminal,
        ) as progress:
            yield Bars(progress, self._plain)

    @contextmanager
    def redrawn(self) -> Iterator[Callable[[Sequence[Sequence[Part]]], None]]:
        """Yield a function that redraws lines in one place; they are removed at the end."""
        from rich.live import Live

        with Live(console=self._rich, auto_refresh=False, transient=True) as live:

            def draw(lines: Sequence[Sequence[Part]]) -> None:
                text = self._text([part for line in lines for part in (*line, "\n")])
                text.rstrip()
                text.no_wrap, text.overflow = True, "crop"
                live.update(text, refresh=True)

            yield draw

    def _text(self, parts: Iterable[Part]) -> "Text":
        from rich.text import Text

        joined = Text()
        for part in parts:
            text, style = (part, "") if isinstance(part, str) else part
            joined.append(self._plain(text), style)
        return joined

    def _plain(self, text: str) -> str:
        return _encodable(escaped(text), self._rich.encoding)


class Bars:
    """Progress bars by key."""

    def __init__(self, progress: "Progress", plain: Callable[[str], str]) -> None:
        self._progress, self._plain = progress, plain
        self._tasks: dict[str, TaskID] = {}

    def show(self, key: str, name: str, done: int, total: int | None, note: str = "") -> None:
        """Draw or update a bar: `done` of a total, if that is known, with a note beside it."""
        if key not in self._tasks:
            self._tasks[key] = self._progress.add_task(self._plain(name), total=None, note="")
        self._progress.update(self._tasks[key], completed=done, total=total, note=self._plain(note))

    def drop(self, key: str) -> None:
        """Remove a bar, if there is one."""
        if key in self._tasks:
            self._progress.remove_task(self._tasks.pop(key))


class _EscapingFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return escaped(super().format(record))


def prepare_output() -> None:
    """Escape characters that the terminal's encoding lacks, and control characters in logged messages.

    With PYTHONUNBUFFERED the streams get a buffer too, flushed at each line: it keeps unwritten text for
    `lost_output`.
    """
    sys.stdout, sys.stderr = _buffered(sys.stdout), _buffered(sys.stderr)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(_EscapingFormatter())


def _buffered(stream: TextIO) -> TextIO:
    if isinstance(stream, io.TextIOWrapper) and isinstance(stream.buffer, io.RawIOBase):
        return open(stream.fileno(), "w", buffering=1, encoding=stream.encoding, closefd=False)
    return stream


def lost_output() -> bool:
    """Return whether output could not be written; report the reason once and drop the text.

    A pipe whose reader has left is not an error.
    """
    lost = [(stream, error) for stream in (sys.stdout, sys.stderr) if (error := _flush_error(stream)) is not None]
    for stream, _ in lost:
        _drop(stream)
    for _, error in lost:
        if error.errno != errno.EPIPE:
            with suppress(OSError):
                complain(f"the output cannot be written ({error.strerror})")
    return bool(lost)


def _flush_error(stream: IO[str] | None) -> OSError | None:
    try:
        if stream is not None:
            stream.flush()  # unwritten text stays in the buffer, so this fails again
    except OSError as error:
        return error
    return None


def _drop(stream: IO[str]) -> None:
    """Redirect a stream to the null device, or Python would write its buffer at exit and report the failure."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def _write(stream: IO[str] | None, text: str) -> None:
    if stream is not None:  # None if it was closed before the command began
        stream.write(_encodable(escaped(text), getattr(stream, "encoding", None) or "utf-8"))
        stream.flush()


def _encodable(text: str, encoding: str) -> str:
    """Return the text in characters of an encoding."""
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        text = "".join(_ASCII.get(character, character) for character in text)
        return text.encode(encoding, "backslashreplace").decode(encoding)
    return text
