"""What a plot is drawn on, by matplotlib.

It holds the colours and the style of all plots and the texts of their marks, and makes PNG and SVG.
"""

import io
import math
import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from markupsafe import escape
from matplotlib import style
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from lrtune.core.printing import printable

# On a page each of these becomes a CSS variable, `--plot-ink` and so on, so that dark mode reaches
# into the plots. They must differ from each other, and from whatever else matplotlib may write.
INK, MUTED, GRID = "#1b1f24", "#6b7077", "#e3e4e1"
# Told apart with any of the common colour deficiencies (Wong 2011, doi 10.1038/nmeth.1618);
# darkened, for thin lines.
SERIES = (
    "#0b62a3",
    "#c4560a",
    "#00805c",
    "#a84f87",
    "#8a6d00",
    "#2f8fc4",
    "#7a4b24",
    "#5b5fc7",
    "#3f7f1f",
    "#b03a48",
    "#0c3c6c",
    "#603030",
)
VARIABLES = {INK: "ink", MUTED: "muted", GRID: "grid"} | {
    colour: f"{i}" for i, colour in enumerate(SERIES)
}

STYLE: dict[Any, Any] = {
    "font.size": 8.5,
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.facecolor": "none",  # the figure behind it is white in a file, and absent in a page
    "axes.labelcolor": INK,
    "axes.linewidth": 0.6,
    "axes.labelpad": 6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "lines.linewidth": 1.4,
    "lines.solid_capstyle": "round",
    "legend.frameon": False,
    "svg.fonttype": "none",  # text stays text: it can be selected, searched and read aloud
    "svg.hashsalt": "lrtune",  # the same report gives the same file
    "text.parse_math": False,  # a name may have dollars in it
}

Width = Literal["wide", "narrow"]
WIDTHS: dict[Width, float] = {"wide": 6.2, "narrow": 3.7}
"""Inches. A phone shows the narrow one, since the text of the wide one could not be read there."""
LETTER_EM = 0.57
"""Width of a letter of a legend, about."""


class Sheet:
    """A figure that is being drawn: panels one below the other, and the texts of its marks.

    A page shows the text of a mark when one points at it.

    Args:
        width: inches.
        height: inches, without the legend.
        num_panels: of one height each.
    """

    def __init__(self, width: float, height: float, *, num_panels: int = 1):
        self.figure = Figure(figsize=(width, height))
        self.panels: list[Axes] = list(self.figure.subplots(num_panels, 1, squeeze=False)[:, 0])
        self.texts: dict[str, str] = {}
        self._entries: list[tuple[Artist, str]] = []

    def say(self, artist: Artist, text: str) -> None:
        """Lets an artist say `text`."""
        gid = f"mark-{len(self.texts)}"
        artist.set_gid(gid)
        self.texts[gid] = printable(text)

    def say_at(self, axes: Axes, x: float, y: float, text: str, *, colour: str) -> None:
        """Lets a place say `text`, by an invisible mark that is large enough to be hit."""
        if math.isfinite(x) and math.isfinite(y):
            [mark] = axes.plot(
                [x], [y], "o", color=colour, markersize=9, markeredgewidth=0, alpha=0, zorder=9
            )
            mark.set_in_layout(False)
            self.say(mark, text)

    def enter(self, artist: Artist, label: str) -> None:
        """Gives an artist a place in the legend.

        Matplotlib's own `label` would hide what begins with `_`.
        """
        self._entries.append((artist, printable(label)))

    def legend(self) -> None:
        """Above the first panel, in as many columns as fit; the figure grows by its lines."""
        handles = [artist for artist, _ in self._entries]
        labels = [shortened(label) for _, label in self._entries]
        width, height = self.figure.get_size_inches()
        size = 7 if width < WIDTHS["wide"] else 8
        column = (LETTER_EM * max(map(len, labels)) + 4) * size / 72
        ncols = max(1, min(len(labels), int((width - 0.4) / column)))
        self.figure.set_size_inches(width, height + 0.17 * math.ceil(len(labels) / ncols))
        self.panels[0].legend(
            handles, labels, loc="lower left", bbox_to_anchor=(0, 1), ncols=ncols,
            borderaxespad=0.2, columnspacing=1.8,
            fontsize=size, handlelength=1.6, handletextpad=0.5,
        )  # fmt: skip


def shortened(text: str) -> str:
    """A name that a plot has room for, with its middle left out where it is long."""
    return text if len(text) <= 28 else f"{text[:17]}…{text[-10:]}"


@dataclass(frozen=True)
class Plot:
    """One plot."""

    name: str
    """File name without its ending."""
    title: str
    description: str
    """What it shows, for people who cannot see it."""
    paint: Callable[[float], Sheet]
    """Draws it, by its width in inches."""

    @cached_property
    def png(self) -> bytes:
        """On white, 200 dots an inch."""
        return _saved(self._wide, "png")

    @cached_property
    def svg(self) -> str:
        """On white, a file of its own."""
        return _speaking(self._wide)

    @cached_property
    def _wide(self) -> Sheet:
        return _painted(self.paint, "wide")

    def inline_svg(self, width: Width) -> str:
        """The plot for an HTML page that defines the colours of `VARIABLES`.

        It is transparent, and its ids are its own.
        """
        svg = self.svg if width == "wide" else _speaking(_painted(self.paint, width))
        svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
        svg = re.sub(
            r'<g id="patch_1">.*?</g>', "", svg, count=1, flags=re.DOTALL
        )  # the white background
        own = f"{self.name}-{width}"
        svg = re.sub(r'( id="|url\(#|href="#)', rf"\g<1>{own}-", svg)
        for colour, name in VARIABLES.items():
            svg = svg.replace(colour, f"var(--plot-{name})")
        label = f'class="{width}" role="img" aria-labelledby="{own}-title {own}-description"'
        title = f'<title id="{own}-title">{escape(printable(self.title))}</title>'
        description = f'<desc id="{own}-description">{escape(printable(self.description))}</desc>'
        head = re.compile(r'^<svg[^>]*(viewBox="[^"]*")[^>]*>')
        return head.sub(lambda match: f"<svg {match[1]} {label}>{title}{description}", svg)


def _painted(paint: Callable[[float], Sheet], width: Width) -> Sheet:
    with _own_style():
        sheet = paint(WIDTHS[width])
        ConstrainedLayoutEngine().execute(
            sheet.figure
        )  # once: as the figure's own engine it would be before each file
    return sheet


def _saved(sheet: Sheet, kind: Literal["png", "svg"]) -> bytes:
    buffer = io.BytesIO()
    metadata = {"Date": None} if kind == "svg" else {"Software": None}
    with _own_style():
        sheet.figure.savefig(buffer, format=kind, dpi=200, facecolor="white", metadata=metadata)
    return buffer.getvalue()


def _speaking(sheet: Sheet) -> str:
    def title(match: re.Match[str]) -> str:
        return f'<g id="{match[1]}" class="says"><title>{escape(sheet.texts[match[1]])}</title>'

    return re.sub(r'<g id="(mark-\d+)">', title, _saved(sheet, "svg").decode())


def _own_style() -> AbstractContextManager[None]:
    """Whatever the user's own matplotlibrc says."""
    return style.context(["default", STYLE])
