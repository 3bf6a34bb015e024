"""The plots of a report, by matplotlib: PNG and SVG files on white, and SVG for a page that has its own colours."""

import io
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from statistics import median
from typing import Any

from markupsafe import escape
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator

from lrtune.core.study import RangeResult
from lrtune.report import wording
from lrtune.report.document import Curve, Document
from lrtune.report.trials import Point

# On a page each of these becomes a CSS variable, `--plot-ink` and so on, so that dark mode reaches into the plots. They
# must differ from each other, and from whatever else matplotlib may write.
INK, MUTED, GRID = "#1b1f24", "#6b7077", "#e3e4e1"
# Told apart with any of the common colour deficiencies (Wong 2011, doi 10.1038/nmeth.1618); darkened, for thin lines.
SERIES = ("#0b62a3", "#c4560a", "#00805c", "#a84f87", "#8a6d00", "#2f8fc4", "#7a4b24", "#5b5fc7", "#3f7f1f", "#b03a48")
VARIABLES = {INK: "ink", MUTED: "muted", GRID: "grid"} | {colour: f"{i}" for i, colour in enumerate(SERIES)}
# A decay has the same colour in every report; the common ones have those that are told apart best.
DECAY_COLOURS = {
    "cosine": SERIES[0],
    "linear": SERIES[1],
    "wsd": SERIES[2],
    "hold-power": SERIES[3],
    "plateau": SERIES[4],
    "step": SERIES[5],
    "constant": SERIES[6],
    "polynomial": SERIES[7],
    "multistep": SERIES[8],
    "exponential": SERIES[9],
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
    "legend.fontsize": 8,
    "svg.fonttype": "none",  # text stays text: it can be selected, searched and read aloud
    "svg.hashsalt": "lrtune",  # the same report gives the same file
}


@dataclass(frozen=True)
class Plot:
    """One plot."""

    name: str
    """File name without its ending."""
    title: str
    description: str
    """What it shows, for people who cannot see it."""
    figure: Figure

    @cached_property
    def png(self) -> bytes:
        """On white, 200 dots an inch."""
        return self._save("png")

    @cached_property
    def svg(self) -> str:
        """On white, a file of its own."""
        return self._save("svg").decode()

    @cached_property
    def inline_svg(self) -> str:
        """Transparent, for an HTML page that defines the colours of `VARIABLES`; ids are this plot's own."""
        svg = self.svg[self.svg.index("<svg") :]
        svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
        svg = re.sub(r'<g id="patch_1">.*?</g>', "", svg, count=1, flags=re.DOTALL)  # the white background
        svg = re.sub(r'( id="|url\(#|href="#)', rf"\g<1>{self.name}-", svg)
        for colour, name in VARIABLES.items():
            svg = svg.replace(colour, f"var(--plot-{name})")
        label = f'role="img" aria-labelledby="{self.name}-title {self.name}-description"'
        title = f'<title id="{self.name}-title">{escape(self.title)}</title>'
        description = f'<desc id="{self.name}-description">{escape(self.description)}</desc>'
        head = re.compile(r'^<svg[^>]*(viewBox="[^"]*")[^>]*>')
        return head.sub(lambda found: f"<svg {found[1]} {label}>{title}{description}", svg)

    def _save(self, kind: str) -> bytes:
        buffer = io.BytesIO()
        metadata = {"Date": None} if kind == "svg" else {"Software": None}
        with rc_context(STYLE):
            self.figure.savefig(buffer, format=kind, dpi=200, facecolor="white", metadata=metadata)
        return buffer.getvalue()


def draw(document: Document) -> tuple[Plot, ...]:
    """All plots that the study has something for, in the order of the report."""
    with rc_context(STYLE):
        return tuple(_plots(document))


def draw_range_test(result: RangeResult) -> Plot:
    """The sweeps of one range test, and what was found in them."""
    with rc_context(STYLE):
        return _range_plot((result,))


def _plots(doc: Document) -> Iterator[Plot]:
    if doc.lr_curves:
        yield Plot("lr_curve", "Learning rate of the schedule", _lr_description(doc), _lr_figure(doc))
    if doc.learning_curves:
        ends = "; ".join(f"{c.label} ends at {c.ys[-1]:.2f} %" for c in doc.learning_curves)
        yield Plot("learning_curves", "Validation Top-1 by epoch", f"{ends}.", _learning_figure(doc))
    results = doc.report.state.range_results
    if any(result.curves for result in results):
        yield _range_plot(results)
    if doc.importances:
        shares = ", ".join(f"{name} {100 * share:.0f} %" for name, share in doc.importances)
        yield Plot("importance", "Importance of the parameters", f"{shares}.", _importance_figure(doc))
    if any(math.isfinite(point.top1) for point in doc.points):
        trials = wording.count(sum(not point.level for point in doc.points), "full run")
        rungs = sum(point.level > 0 for point in doc.points)
        trials += f", and {wording.count(rungs, 'trial')} with no more than a rung's score" if rungs else ""
        marks = "hollow where left or unfinished, a cross where diverged"
        said = f"{trials}, coloured by decay; {marks}."
        yield Plot("trials", "Peak learning rate against Top-1", said, _trials_figure(doc))


def _figure(height: float, *, num_axes: int = 1) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(6.2, height), layout="constrained")
    axes = figure.subplots(num_axes, 1, squeeze=False)[:, 0]
    return figure, list(axes)


def _lr_description(doc: Document) -> str:
    best = doc.lr_curves[0]
    return f"From {wording.lr(best.ys[0])} up to {wording.lr(max(best.ys))}, ending at {wording.lr(best.ys[-1])}."


def _lr_figure(doc: Document) -> Figure:
    figure, [axes] = _figure(2.3)
    for i, curve in enumerate(doc.lr_curves):
        # Steps, since the LR is constant for a step; the dashes of the baseline keep it visible where the two coincide.
        look = {"color": SERIES[0], "linewidth": 1.8} if i == 0 else {"color": MUTED, "linestyle": (0, (4, 2))}
        axes.plot(curve.xs, curve.ys, drawstyle="steps-post", label=curve.label, zorder=3 - i, **look)
    axes.set(xlabel="epoch", ylabel="learning rate", ylim=(0, None))
    axes.set_xlim(0, doc.report.state.config.epochs)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
    if len(doc.lr_curves) > 1:
        _legend_above(axes, ncols=5)
    return figure


def _learning_figure(doc: Document) -> Figure:
    figure, [axes] = _figure(3.0)
    colours = iter(SERIES)
    for curve in doc.learning_curves:
        baseline = curve.label == "baseline"
        colour = MUTED if baseline else next(colours)
        axes.plot(
            curve.xs, curve.ys, color=colour, label=curve.label, linestyle=(0, (4, 2)) if baseline else "-",
            marker="o", markersize=2.5,
        )  # fmt: skip
        axes.fill_between(curve.xs, curve.lows, curve.highs, color=colour, alpha=0.15, linewidth=0)
    found = doc.report.recommendation
    if found is not None and math.isfinite(found.target):
        axes.axhline(found.target, color=INK, linewidth=0.7, linestyle=(0, (1, 2)))
        axes.annotate(
            f"target {found.target:.2f} %", (0, found.target), xycoords=("axes fraction", "data"),
            xytext=(3, 3), textcoords="offset points", fontsize=7.5,
        )  # fmt: skip
    axes.set(xlabel="epoch", ylabel="validation Top-1, %")
    axes.set_xlim(0.5, doc.report.state.config.epochs + 0.5)
    axes.set_ylim(_interesting_from(doc.learning_curves), None)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
    _legend_above(axes, ncols=5)
    return figure


def _interesting_from(curves: tuple[Curve, ...]) -> float | None:
    """Lower end of the axis: the first sixth of the training would otherwise squeeze the differences that matter.

    Epochs that diverged (nan) do not count; `None` where there are no others.
    """
    lows = [low for curve in curves for low in curve.lows[len(curve.ys) // 6 :] if math.isfinite(low)]
    if not lows:
        return None
    top = max(high for curve in curves for high in curve.highs if math.isfinite(high))
    return min(lows) - 0.05 * (top - min(lows)) - 0.1


def _range_plot(results: tuple[RangeResult, ...]) -> Plot:
    said = " ".join(map(wording.range_result, results))
    return Plot("range_test", "Learning-rate range test", said, _range_figure(results))


def _range_figure(results: tuple[RangeResult, ...]) -> Figure:
    shown = [result for result in results if result.curves]
    figure, panels = _figure(0.5 + 2.1 * len(shown), num_axes=len(shown))
    for axes, result in zip(panels, shown, strict=True):
        for curve in result.curves:
            axes.plot(curve.lrs, curve.losses, color=SERIES[0], linewidth=0.9, alpha=0.65)
        name = wording.OPTIMIZER_NAMES[result.optimizer]
        if result.interval is None:
            axes.set_title(f"{name}: no signal", loc="left", fontsize=8.5)
        else:
            low, high = result.interval.low, result.interval.high
            axes.axvspan(low, high, color=SERIES[2], alpha=0.13, linewidth=0)
            axes.axvline(result.interval.suggestion, color=SERIES[2], linewidth=1)
            said = f"{wording.lr(low)} to {wording.lr(high)}, beginning with {wording.lr(result.interval.suggestion)}"
            axes.set_title(f"{name}: {said}", loc="left", fontsize=8.5)
        axes.set(xscale="log", xlabel="learning rate", ylabel="training loss")
        first = median(curve.losses[0] for curve in result.curves)
        lowest = min(min(curve.losses) for curve in result.curves)
        axes.set_ylim(lowest - 0.1 * abs(first - lowest), first + max(0.6 * (first - lowest), 0.1 * abs(first)))
        _plain_log(axes)
    return figure


def _importance_figure(doc: Document) -> Figure:
    names, shares = zip(*reversed(doc.importances), strict=True)
    figure, [axes] = _figure(0.55 + 0.24 * len(names))
    axes.barh(names, [100 * share for share in shares], color=SERIES[0], height=0.62)
    for y, share in enumerate(shares):
        axes.annotate(
            f"{100 * share:.0f} %", (100 * share, y), (4, 0), textcoords="offset points", va="center", fontsize=8
        )
    axes.set(xlabel="share of the variation of Top-1, %", xlim=(0, 108 * max(*shares, 0.01)))
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    return figure


def _trials_figure(doc: Document) -> Figure:
    """Full runs and, below them, since their scores are not comparable, those that ended on a rung."""
    points = [point for point in doc.points if math.isfinite(point.top1)]
    groups = {
        "Top-1 of the full run, %": [point for point in points if not point.level],
        "score on its rung, %": [point for point in points if point.level],
    }
    shown = {label: group for label, group in groups.items() if group}
    figure, panels = _figure(3.0 if len(shown) == 1 else 4.6, num_axes=len(shown))
    for decay in dict.fromkeys(decay for decay in DECAY_COLOURS if any(point.decay == decay for point in points)):
        panels[0].plot([], [], "o", color=DECAY_COLOURS[decay], markersize=4, label=decay)
    for axes, (label, group) in zip(panels, shown.items(), strict=True):
        axes.sharex(panels[-1])
        _trials_panel(axes, group)
        axes.set(xscale="log", ylabel=label)
        axes.tick_params(labelbottom=axes is panels[-1])
        _plain_log(axes)
    panels[-1].set_xlabel("peak learning rate")
    _legend_above(panels[0], ncols=6)
    return figure


def _trials_panel(axes: Axes, points: list[Point]) -> None:
    ended = [point.top1 for point in points if point.state in ("completed", "left")]
    floor = _floor(ended or [point.top1 for point in points])
    for point in points:
        # What lies far below goes to the lower edge, or it would squeeze the rest.
        marker = "x" if point.state == "diverged" else "v" if point.top1 < floor else "o"
        left = point.state == "left"
        axes.plot(
            point.peak_lr, max(point.top1, floor), marker, color=DECAY_COLOURS[point.decay], clip_on=False,
            fillstyle="full" if point.state == "completed" else "none",
            markersize=min(2 + 1.2 * point.level, 7) if left else 4.5, markeredgewidth=0.8 if left else 1,
        )  # fmt: skip
    best = max(point.top1 for point in points)
    axes.set_ylim(floor, best + max(0.05 * (best - floor), 0.1))


def _floor(top1s: list[float]) -> float:
    """Lower end of the axis: three times as far below the best as the lower quartile is, or just below the worst."""
    best, quarter = max(top1s), sorted(top1s)[len(top1s) // 4]
    lowest = max(min(top1s), best - 3 * (best - quarter))
    return lowest - max(0.05 * (best - lowest), 0.1)


def _legend_above(axes: Axes, ncols: int) -> None:
    place: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (0, 1)}
    axes.legend(**place, ncols=ncols, borderaxespad=0.2, columnspacing=1.8, handlelength=1.6, handletextpad=0.5)


def _plain_log(axes: Axes) -> None:
    """`0.01` and `1e-05` as tick labels; powers in superscript cannot stay text in an SVG."""
    low, high = axes.get_xlim()
    if high / low < 100:  # few powers of ten, or none
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(FuncFormatter(lambda value, _: ""))
