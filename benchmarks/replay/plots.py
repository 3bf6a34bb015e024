"""The plot: mean regret against full runs spent, a panel an optimizer."""

import io
from collections.abc import Mapping

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from lrtune.reporting.sheet import SERIES, STYLE

from .measure import Regrets

NUM_POINTS = 150
"""Of a line: more would only make the file large."""
HIGHEST = 3.0
"""Points of Top-1 up to which the plot shows a regret."""


def draw(measured: Mapping[str, Mapping[str, Regrets]]) -> str:
    """Draws an SVG of means, with a standard error on either side as a band.

    Args:
        measured: the regrets by optimizer, which have a panel each, and strategy.
    """
    with rc_context(STYLE):
        figure = Figure(figsize=(4.2 * len(measured), 3.7), layout="constrained")
        panels = figure.subplots(1, len(measured), squeeze=False).ravel()
        for panel, (name, strategies) in zip(panels, measured.items(), strict=True):
            _panel(panel, name, strategies)
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=5)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", facecolor="white", metadata={"Date": None})
    return buffer.getvalue()


def _panel(axes: Axes, name: str, strategies: Mapping[str, Regrets]) -> None:
    for i, (strategy, regrets) in enumerate(strategies.items()):
        colour, dashes = SERIES[i % len(SERIES)], "-" if i < len(SERIES) else "--"
        by_epochs = np.where(np.isfinite(regrets.by_epochs), regrets.by_epochs, np.nan)
        mean, error = by_epochs.mean(axis=0), by_epochs.std(axis=0) / np.sqrt(len(by_epochs))
        points = np.unique(np.geomspace(1, len(mean), NUM_POINTS).round().astype(int)) - 1
        runs = (points + 1) / regrets.horizon_epochs
        mean, error = mean[points], error[points]
        axes.step(runs, mean, where="post", color=colour, linestyle=dashes, label=strategy)
        axes.fill_between(
            runs, mean - error, mean + error, step="post", color=colour, alpha=0.1, linewidth=0
        )
    axes.set(
        title=name,
        xlabel="full runs spent",
        ylabel="mean regret, points of Top-1",
        xscale="log",
        xlim=(1, runs[-1]),
        ylim=(0, HIGHEST),
    )
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_locator(NullLocator())
