"""The noun of this package: a figure with all that a reader needs who sees it, prints it or hears it."""

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Data:
    """The plotted numbers as a small table of text."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """One figure, to be shown within a page or written to a file."""

    name: str
    """Stable, e.g. `pareto-4-tiny`: an id of HTML and the name of a file."""
    title: str
    caption: str
    """What is published and what is measured, at which scale and on which device, what an interval covers, what is
    left out and why."""
    alt: str
    """What the figure shows, in words and numbers."""
    svg: str
    """An `<svg>` without size, scripts, styles or references: its text takes the colour of the text around it."""
    data: Data


def figure_name(*parts: str) -> str:
    """A name of what it is made of: letters, digits, hyphens and underscores, so that it is an id and a file's name."""
    return "-".join(re.sub(r"[^A-Za-z0-9_]+", "-", part).strip("-") for part in parts if part)
