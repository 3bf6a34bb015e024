"""The plot: regret against full runs spent, a panel a pool."""

import io
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from lrtune.reporting.sheet import SERIES, STYLE

from .measure import Regrets, quartiles
from .pools import Pool

NUM_POINTS = 150
"""Of a line: more would only make the file large."""


def draw(pools: Sequence[Pool], measured: Mapping[str, Mapping[str, Regrets]]) -> str:
    """Draws an SVG of medians, with the quartiles as bands.

    Args:
        pools: a panel each.
        measured: the regrets by pool and strategy.
    """
    num_columns = min(len(pools), 3)
    num_rows = -(-len(pools) // num_columns)
    with rc_context(STYLE):
        figure = Figure(figsize=(4.2 * num_columns, 3.2 * num_rows + 0.5), layout="constrained")
        panels = figure.subplots(num_rows, num_columns, squeeze=False).ravel()
        for panel, pool in zip(panels, pools, strict=False):
            _panel(panel, pool, measured[pool.name])
        for panel in panels[len(pools) :]:
            panel.set_visible(False)
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=5)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", facecolor="white", metadata={"Date": None})
    return buffer.getvalue()


def _panel(axes: Axes, pool: Pool, strategies: Mapping[str, Regrets]) -> None:
    for i, (name, regrets) in enumerate(strategies.items()):
        colour, dashes = SERIES[i % len(SERIES)], "-" if i < len(SERIES) else "--"
        low, middle, high = quartiles(regrets.by_epochs)
        points = np.unique(np.geomspace(1, len(middle), NUM_POINTS).round().astype(int)) - 1
        runs = (points + 1) / pool.horizon_epochs
        axes.step(runs, middle[points], where="post", color=colour, linestyle=dashes, label=name)
        axes.fill_between(
            runs, low[points], high[points], step="post", color=colour, alpha=0.05, linewidth=0
        )
    unit = "points of Top-1" if pool.regret_of == "incumbent" else "1: the median configuration"
    axes.set(
        title=pool.name,
        xlabel="full runs spent",
        ylabel=f"regret, {unit}",
        xscale="log",
        xlim=(1, runs[-1]),
    )
    first = [
        median
        for regrets in strategies.values()
        if np.isfinite(median := quartiles(regrets.at(1))[1])
    ]
    axes.set_ylim(0, max(first, default=None))
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_locator(NullLocator())
