"""A drawing surface of fixed width for a narrow column, and the look that all figures share."""

import io
import warnings
from dataclasses import dataclass
from textwrap import wrap
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure as Drawing
from matplotlib.ticker import MaxNLocator

from reports.figures.svg import INK, inline

WIDTH = 400.0
"""Width of every figure, in points: one column of print; at 360 px its smallest letters are still 7 px high."""
SIZE, SMALL = 9.0, 8.0
"""Size of letters, in points."""
LINE_WIDTH = 1.4


@dataclass(frozen=True, slots=True)
class PlotStyle:
    """Appearance of one of several things, never distinguished by colour alone."""

    colour: str
    dashes: Any
    marker: str
    hatch: str


# Okabe and Ito's colours; grey for yellow, which is lost on white, and the ink for black, which is lost on black.
LOOKS = (
    PlotStyle("#0072B2", "-", "o", ""),
    PlotStyle("#D55E00", (0, (5, 1.5)), "s", "///"),
    PlotStyle("#009E73", (0, (1.2, 1.2)), "^", "|||"),
    PlotStyle("#CC79A7", (0, (6, 1.5, 1.2, 1.5)), "D", "\\\\\\"),
    PlotStyle(INK, (0, (3, 1)), "v", "xxx"),
    PlotStyle("#E69F00", (0, (8, 2)), "P", "---"),
    PlotStyle("#56B4E9", (0, (1.2, 2.4)), "X", "+++"),
    PlotStyle("#888888", (0, (8, 2, 1.2, 2, 1.2, 2)), "*", "///---"),
)
STYLE: dict[Any, Any] = {  # matplotlib types the keys as literals
    "svg.fonttype": "none",  # text stays text
    "font.family": ["sans-serif"],
    "font.sans-serif": ["DejaVu Sans"],  # comes with matplotlib, so that what is measured with it is the same anywhere
    "font.size": SIZE,
    "text.color": INK,
    "text.parse_math": False,  # a row may be named with dollars
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.titlesize": SIZE,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": SMALL,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "axes.axisbelow": True,
    "axes.unicode_minus": False,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelsize": SMALL,
    "ytick.labelsize": SMALL,
    "grid.color": INK,
    "grid.alpha": 0.15,
    "grid.linewidth": 0.6,
    "hatch.linewidth": 0.7,
    "lines.linewidth": LINE_WIDTH,
}


class Canvas:
    """A drawing that is `WIDTH` points wide; axes are placed in points from its upper left corner."""

    def __init__(self, name: str, height: float) -> None:
        """Start a drawing; `name` goes into its ids."""
        self.name, self.height = name, height
        self._style = STYLE | {"svg.hashsalt": name}
        with rc_context(self._style):
            self._drawing = Drawing(figsize=(WIDTH / 72, height / 72), dpi=72)
            self._drawing.patch.set_visible(False)

    def axes(self, left: float, top: float, width: float, height: float, title: str = "") -> Axes:
        """Axes with a faint grid, without a ground of their own."""
        with rc_context(self._style):
            place = (left / WIDTH, 1 - (top + height) / self.height, width / WIDTH, height / self.height)
            axes = self._drawing.add_axes(place)
            axes.patch.set_visible(False)
            axes.grid(True)
            axes.set_title(title, pad=5)
            axes.tick_params(length=2.5, width=0.7)
            axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
            axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
        return axes

    def svg(self) -> str:
        """Return the SVG of the drawing, the same bytes each time."""
        written = io.StringIO()
        with rc_context(self._style), warnings.catch_warnings():
            # The reader's font draws the text; that ours lacks a letter only makes its width a guess.
            warnings.filterwarnings("ignore", message="Glyph .* missing from font")
            FigureCanvasSVG(self._drawing).print_svg(  # type: ignore[no-untyped-call]
                written, metadata={"Date": None, "Creator": None, "Format": None, "Type": None}
            )
        return inline(written.getvalue(), self.name)


def said(name: str, text: str) -> str:
    """Draw an SVG with a sentence if nothing can be drawn, so that it is not taken for a drawing of zeros."""
    canvas = Canvas(name, 40)
    axes = canvas.axes(0, 0, WIDTH, 40)
    axes.set_axis_off()
    axes.text(0.5, 0.5, text, color=INK, ha="center", va="center", transform=axes.transAxes)
    return canvas.svg()


def wrapped(text: str, width: int) -> str:
    """Break a name into at most two lines of about `width` characters; tables have it whole."""
    lines = wrap(text, width)
    return "\n".join([*lines[:1], *(shortened(" ".join(lines[1:]), width) for _ in lines[1:2])])


def shortened(text: str, most: int) -> str:
    """Cut a name that is too long for a figure; tables have it whole."""
    return text if len(text) <= most else text[: most - 1].rstrip() + "…"
