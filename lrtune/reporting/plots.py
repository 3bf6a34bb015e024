"""The plots of a report."""

import math
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import cycle
from statistics import median
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator

from lrtune.core.decays import DECAYS
from lrtune.core.objective import Objective
from lrtune.core.printing import printable
from lrtune.core.study import RangeResult
from lrtune.decide.recommend import Recommendation
from lrtune.decide.sweep import NUM_IN_A_ROW
from lrtune.reporting import wording
from lrtune.reporting.curves import Curve
from lrtune.reporting.document import Document
from lrtune.reporting.parallel import Line, Parallel
from lrtune.reporting.sheet import GRID, INK, MUTED, SERIES, Plot, Sheet, shortened
from lrtune.reporting.trials import Point

DASHED = (0, (4, 2))
NUM_BANDS = 5
"""Bands from the worst seed to the best; more of them would hide each other."""
BEST_SHARE, MAX_BEST = 4, 10
"""One trial in so many stands out among all, and no more than so many of them."""


def decay_colours() -> dict[str, str]:
    """The colour of each decay, which is the same in every report.

    The common ones come first and have those that are told apart best.
    """
    return dict(zip(DECAYS, cycle(SERIES), strict=False))


def draw(document: Document) -> tuple[Plot, ...]:
    """All plots that the study has something for, in the order of the report."""
    return tuple(_plots(document))


def draw_range_test(result: RangeResult) -> Plot:
    """The sweeps of one range test, and what was recommendation in them."""
    return _range_plot((result,))


def _plots(doc: Document) -> Iterator[Plot]:
    if doc.lr_curves:
        title = (
            "Learning rates of the schedules" if doc.compares else "Learning rate of the schedule"
        )
        yield Plot("lr_curve", title, _lr_description(doc), partial(_lr_sheet, doc))
    if doc.learning_curves:
        ends = "; ".join(
            f"{c.label} ends at {doc.objective.text(c.ys[-1], unit=True)}"
            for c in doc.learning_curves
        )
        yield Plot(
            "learning_curves",
            f"{doc.learning_title} by epoch",
            f"{ends}.",
            partial(_learning_sheet, doc),
        )
    results = doc.report.state.range_results
    if any(curve.losses for result in results for curve in result.curves):
        yield _range_plot(results)
    if doc.importances:
        shares = ", ".join(f"{name} {100 * share:.0f} %" for name, share in doc.importances)
        yield Plot(
            "importance",
            "Importance of the parameters",
            f"{shares}.",
            partial(_importance_sheet, doc),
        )
    if any(math.isfinite(point.value) for point in doc.points):
        trials = wording.count(len(doc.points), "trial")
        marks = "hollow where stopped or unfinished, a cross where diverged"
        by_look = " by their first look" if any(point.num_looks for point in doc.points) else ""
        text = f"{trials}{by_look}, coloured by decay; {marks}."
        yield Plot(
            "trials",
            f"Peak learning rate against {doc.objective.title}",
            text,
            partial(_trials_sheet, doc),
        )
    if doc.parallel is not None:
        axes = "; ".join(axis.label for axis in doc.parallel.axes)
        best = next(line.text for line in doc.parallel.lines if line.place == 1)
        text = f"{wording.count(len(doc.parallel.lines), 'trial')} by {axes}. The best is {best}."
        yield Plot("parallel", "What was tried", text, partial(_parallel_sheet, doc.parallel))


def _lr_description(doc: Document) -> str:
    if doc.compares:
        return (
            "; ".join(f"{c.label} with a peak of {wording.lr(max(c.ys))}" for c in doc.lr_curves)
            + "."
        )
    best = doc.lr_curves[0]
    first, peak, last = map(wording.lr, (best.ys[0], max(best.ys), best.ys[-1]))
    return f"From {first} up to {peak}, ending at {last}."


def _looks(curves: Sequence[Curve], reference: str) -> list[dict[str, Any]]:
    """Each curve's colour, the same in both plots.

    The reference is dashed, which keeps it visible where two curves coincide.
    """
    others = [curve.label for curve in curves if curve.label != reference]
    looks = {
        label: {
            "color": SERIES[i % len(SERIES)],
            "linestyle": "-" if i < NUM_BANDS else (0, (6, 1.2, 1.2, 1.2)),
        }
        for i, label in enumerate(others)
    }
    return [looks.get(curve.label, {"color": MUTED, "linestyle": DASHED}) for curve in curves]


def _lr_sheet(doc: Document, width: float) -> Sheet:
    """LR by epoch.

    In a comparison it is a share of each recipe's own peak, since optimizers differ in their scale.
    """
    sheet = Sheet(width, 1.6 if width < 5 else 2.3)
    [axes] = sheet.panels
    alone = len(doc.lr_curves) == 1
    looks = _looks(doc.lr_curves, "" if alone else doc.reference)
    for i, (curve, look) in enumerate(zip(doc.lr_curves, looks, strict=True)):
        unit = max(curve.ys) / 100 if doc.compares else 1.0
        # Steps, since the LR is constant for a step; the first curve lies on top.
        [line] = axes.plot(
            curve.xs, [y / unit for y in curve.ys], drawstyle="steps-post", zorder=3 - i / 10,
            linewidth=1.4 if i else 1.8, **look,
        )  # fmt: skip
        sheet.enter(line, curve.label)
        for x, y in zip(curve.xs, curve.ys, strict=True):
            if x.is_integer():
                text = f"{curve.label}: LR {wording.lr(y)} after {wording.count(x, 'epoch')}"
                sheet.say_at(axes, x, y / unit, text, colour=look["color"])
    axes.set(
        xlabel="epoch",
        ylabel="LR, % of its peak" if doc.compares else "learning rate",
        ylim=(0, None),
    )
    axes.set_xlim(0, _longest(doc))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
    if not alone:
        sheet.legend()
    return sheet


def _longest(doc: Document) -> int:
    """Epochs of the longest run."""
    config = doc.report.state.config
    return max(config.epochs, config.own_epochs)


def _learning_sheet(doc: Document, width: float) -> Sheet:
    sheet = Sheet(width, 2.6 if width < 5 else 3.0)
    [axes], objective = sheet.panels, doc.objective
    looks = _looks(doc.learning_curves, doc.reference)
    for curve, look in zip(doc.learning_curves, looks, strict=True):
        [line] = axes.plot(curve.xs, curve.ys, marker="o", markersize=2.5, **look)
        sheet.enter(line, curve.label)
        if len(doc.learning_curves) <= NUM_BANDS:
            axes.fill_between(
                curve.xs, curve.lows, curve.highs, color=look["color"], alpha=0.15, linewidth=0
            )
    recommendation = doc.report.recommendation
    if recommendation is not None and math.isfinite(recommendation.target):
        axes.axhline(recommendation.target, color=INK, linewidth=0.7, linestyle=(0, (1, 2)))
        axes.annotate(
            f"target {objective.text(recommendation.target, unit=True)}",
            (0, recommendation.target), xycoords=("axes fraction", "data"),
            xytext=(3, 3), textcoords="offset points", fontsize=7.5, annotation_clip=True,
        )  # fmt: skip
    worst, best = _span(objective, doc.learning_curves, recommendation)
    percent = ", %" if objective.is_percentage else ""
    axes.set(xlabel="epoch", ylabel=f"{shortened(wording.validation(objective))}{percent}")
    axes.set_xlim(0.5, _longest(doc) + 0.5)
    axes.set_ylim(*objective.ends(worst, best))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
    _plain_values(axes)
    for curve, look in zip(doc.learning_curves, looks, strict=True):
        for x, y, low, high in zip(curve.xs, curve.ys, curve.lows, curve.highs, strict=True):
            if worst is not None and objective.reached(y, worst):
                value, band = objective.text(y, unit=True), map(objective.text, (low, high))
                text = f"{curve.label}, epoch {x:.0f}: {value} [{', '.join(band)}]"
                sheet.say_at(axes, x, y, text, colour=look["color"])
    sheet.legend()
    return sheet


def _span(
    objective: Objective, curves: tuple[Curve, ...], recommendation: Recommendation | None
) -> tuple[float | None, float | None]:
    """The worse and the better end of the axis; `None` where no epoch has a finite value.

    The first sixth of the training would squeeze the differences that matter, and is left out. A
    target that is better than every epoch is on the axis.
    """
    scores, late_scores = [], []
    for curve in curves:
        by_epoch = [
            [objective.signed(value) for value in band if math.isfinite(value)]
            for band in zip(curve.lows, curve.highs, strict=True)
        ]
        scores += [score for epoch in by_epoch for score in epoch]
        late_scores += [score for epoch in by_epoch[len(by_epoch) // 6 :] for score in epoch]
    if not late_scores:
        return None, None
    worst, best = min(late_scores), max(scores)
    room = _headroom(objective, best, best - worst)
    if recommendation is not None and math.isfinite(recommendation.target):
        best = max(best, objective.signed(recommendation.target))
    return objective.signed(worst - room), objective.signed(best + room)


def _range_plot(results: tuple[RangeResult, ...]) -> Plot:
    text = " ".join(map(wording.range_result, results))
    return Plot("range_test", "Learning-rate range test", text, partial(_range_sheet, results))


def _range_sheet(results: tuple[RangeResult, ...], width: float) -> Sheet:
    sheet = Sheet(width, 0.5 + 2.1 * len(results), num_panels=len(results))
    for axes, result in zip(sheet.panels, results, strict=True):
        curves = [
            curve for curve in result.curves if curve.losses
        ]  # a first loss may have been infinite
        for curve in curves:
            [line] = axes.plot(curve.lrs, curve.losses, color=SERIES[0], linewidth=0.9, alpha=0.65)
            sheet.say(
                line,
                f"sweep with seed {curve.seed}{', stopped by its loss' if curve.diverged else ''}",
            )
        name = wording.optimizer_title(result.optimizer)
        if result.interval is None:
            axes.set_title(f"{name}: no signal", loc="left", fontsize=8.5)
        else:
            low, high = result.interval.low, result.interval.high
            band = axes.axvspan(low, high, color=SERIES[2], alpha=0.13, linewidth=0)
            axes.axvline(result.interval.suggestion, color=SERIES[2], linewidth=1)
            start = wording.lr(result.interval.suggestion)
            text = f"{wording.lr(low)} to {wording.lr(high)}, beginning with {start}"
            sheet.say(band, f"peak LR from {text}")
            axes.set_title(f"{name}: {text}", loc="left", fontsize=8.5)
        axes.set(xscale="log", xlabel="learning rate", ylabel="training loss")
        if result.interval is not None:  # else the loss has no fall to show the curves by
            began = median(loss for curve in curves for loss in curve.losses[:NUM_IN_A_ROW])
            lowest = min(min(curve.losses) for curve in curves)
            axes.set_ylim(lowest - 0.1 * (began - lowest), began + 0.6 * (began - lowest))
        _plain_log(axes)
    return sheet


def _importance_sheet(doc: Document, width: float) -> Sheet:
    names, shares = zip(*reversed(doc.importances), strict=True)
    names = tuple(map(printable, names))
    sheet = Sheet(width, 0.55 + 0.24 * len(names))
    [axes] = sheet.panels
    bars = axes.barh(names, [100 * share for share in shares], color=SERIES[0], height=0.62)
    for y, (bar, name, share) in enumerate(zip(bars, names, shares, strict=True)):
        sheet.say(bar, f"{name}: {100 * share:.1f} %")
        axes.annotate(
            f"{100 * share:.0f} %",
            (100 * share, y),
            (4, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
        )
    axes.set(
        xlabel=f"share of the variation of {shortened(doc.searched_by.title)}, %",
        xlim=(0, 108 * max(*shares, 0.01)),
    )
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    return sheet


def _trials_sheet(doc: Document, width: float) -> Sheet:
    """Full runs above; below, since their values are not comparable, first looks."""
    objective = doc.objective
    points = [p for p in doc.points if p.state == "diverged" or not math.isnan(p.value)]
    percent = ", %" if objective.is_percentage else ""
    groups = {
        _label(objective, f"of the full run{percent}"): [p for p in points if not p.num_looks],
        _label(objective, f"of the first look{percent}"): [p for p in points if p.num_looks],
    }
    shown = {label: group for label, group in groups.items() if group}
    sheet = Sheet(width, 2.8 if len(shown) == 1 else 4.4, num_panels=len(shown))
    decays = {point.decay for point in points}
    for decay, colour in decay_colours().items():
        if decay in decays:
            [mark] = sheet.panels[0].plot([], [], "o", color=colour, markersize=4)
            sheet.enter(mark, decay)
    for axes, (label, group) in zip(sheet.panels, shown.items(), strict=True):
        axes.sharex(sheet.panels[-1])
        _plain_values(axes)
        _trials_panel(sheet, axes, objective, group)
        axes.set(xscale="log", ylabel=label)
        axes.tick_params(labelbottom=axes is sheet.panels[-1])
        _plain_log(axes)
    sheet.panels[-1].set_xlabel("peak learning rate")
    sheet.legend()
    return sheet


def _label(objective: Objective, rest: str) -> str:
    """The label of an upright axis, on two lines where it is long."""
    title = shortened(objective.title)
    return f"{title}{' ' if len(title) <= 16 else chr(10)}{rest}"


def _trials_panel(sheet: Sheet, axes: Axes, objective: Objective, points: list[Point]) -> None:
    """One mark a trial. What diverged is at the worse edge, and so is what is far off it.

    A value that is far off would squeeze the others.
    """
    scores = {point: objective.signed(point.value) for point in points}
    finite = {point: score for point, score in scores.items() if math.isfinite(score)}
    ended = [score for p, score in finite.items() if p.state == "completed"]
    floor, top = 0.0, 1.0
    if finite:
        floor, best = _floor(objective, ended or list(finite.values())), max(finite.values())
        top = best + _headroom(objective, best, best - floor)
    else:
        axes.set_yticks([])
    colours, worse_side = decay_colours(), "v" if objective.direction == "max" else "^"
    for point, score in scores.items():
        is_diverged = point.state == "diverged"
        marker = "x" if is_diverged else worse_side if score < floor else "o"
        colour = colours[point.decay]
        height = objective.signed(floor if is_diverged else min(max(score, floor), top))
        axes.plot(
            point.peak_lr, height, marker, color=colour, clip_on=False,
            fillstyle="full" if point.state == "completed" else "none",
            markersize=2.5 + 1.5 * point.num_looks if point.num_looks else 4.5,
            markeredgewidth=0.8,
        )  # fmt: skip
        value = "" if is_diverged else f": {objective.text(point.value, unit=True)}"
        text = f"trial {point.trial}, {point.state}{value}; {point.recipe}"
        sheet.say_at(axes, point.peak_lr, height, text, colour=colour)
    axes.set_ylim(*objective.ends(objective.signed(floor), objective.signed(top)))


def _floor(objective: Objective, scores: list[float]) -> float:
    """The worse end of the axis, as a score.

    It is three times as far below the best as the lower quartile is, or just below the worst.
    """
    best, quarter = max(scores), sorted(scores)[len(scores) // 4]
    lowest = max(min(scores), best - 3 * (best - quarter))
    return lowest - _headroom(objective, best, best - lowest)


def _headroom(objective: Objective, score: float, extent: float) -> float:
    """What an axis has beyond its values, of which there may be only one."""
    if objective.is_percentage:
        return max(0.05 * extent, 0.1)
    return 0.05 * extent or 0.01 * abs(score) or 0.01


def _parallel_sheet(parallel: Parallel, width: float) -> Sheet:
    """One axis below the other, the place last: names and values can be read upright."""
    num_axes = len(parallel.axes)
    sheet = Sheet(width, 0.35 + 0.5 * num_axes)
    [axes] = sheet.panels
    num_best = min(MAX_BEST, max(1, sum(line.place > 0 for line in parallel.lines) // BEST_SHARE))
    heights, colours = [-float(i) for i in range(num_axes)], decay_colours()
    for line in sorted(parallel.lines, key=_stacking):
        stands_out = 0 < line.place <= num_best
        [drawn] = axes.plot(
            line.positions, heights, color=colours[line.decay] if stands_out else MUTED,
            linewidth=2.2 if line.place == 1 else 1.2 if stands_out else 0.6,
            alpha=1 if stands_out else 0.45,
            linestyle="-" if line.place else (0, (2, 2)), zorder=3 if stands_out else 2,
        )  # fmt: skip
        sheet.say(drawn, line.text)
    for axis, y in zip(parallel.axes, heights, strict=True):
        axes.axhline(y, color=GRID, linewidth=1.2, zorder=1)
        crowded = sum(len(text) for _, text in axis.ticks) > width * 8
        for i, (x, text) in enumerate(axis.ticks):
            axes.plot([x], [y], "|", color=MUTED, markersize=5, markeredgewidth=0.6)
            above = crowded and i % 2
            axes.annotate(
                printable(text), (x, y), (0, 4 if above else -4),
                textcoords="offset points", fontsize=7,
                ha="left" if x == 0 else "right" if x == 1 else "center",
                va="bottom" if above else "top", zorder=5,
            )  # fmt: skip
    shown = {line.decay for line in parallel.lines if 0 < line.place <= num_best}
    for decay, colour in colours.items():
        if decay in shown:
            [drawn] = axes.plot([], [], "-", color=colour)
            sheet.enter(drawn, decay)
    axes.set_yticks(heights, [printable(axis.label) for axis in parallel.axes])
    axes.set(xlim=(-0.01, 1.01), ylim=(heights[-1] - 0.45, 0.35))
    axes.grid(visible=False)
    axes.tick_params(axis="both", length=0, labelbottom=False)
    for spine in axes.spines.values():
        spine.set_visible(False)
    sheet.legend()
    return sheet


def _stacking(line: Line) -> float:
    """The best is drawn last, and so on top; what was stopped comes first."""
    return -line.place if line.place else -math.inf


def _plain_values(axes: Axes) -> None:
    """`0.031` and `12000` as tick labels, with no factor or offset beside the axis."""
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.10g}"))


def _plain_log(axes: Axes) -> None:
    """`0.01` and `1e-05` as tick labels; powers in superscript cannot stay text in an SVG."""
    low, high = axes.get_xlim()
    if high / low < 100:  # few powers of ten, or none
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(FuncFormatter(lambda value, _: ""))
