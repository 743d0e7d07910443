"""A figure with its texts: for a reader who sees it, prints it or hears it."""

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
    """Caption: published and measured values, scale and device, what an interval covers, and what is left out and
    why."""
    alt: str
    """Content of the figure in words and numbers."""
    svg: str
    """An `<svg>` without size, scripts, styles or references: its text takes the colour of the text around it."""
    data: Data


def figure_name(*parts: str) -> str:
    """Join parts into a name of letters, digits, hyphens and underscores: an id and a file's name."""
    return "-".join(re.sub(r"[^A-Za-z0-9_]+", "-", part).strip("-") for part in parts if part)
