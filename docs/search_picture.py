"""Draws search.svg, the picture in search.md, from real schedules.

Run it with `python docs/search_picture.py`.
"""

from pathlib import Path

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from lrtune.core.decays import WSD, Constant, Cosine, StepDecay
from lrtune.core.recipe import Recipe
from lrtune.schedules.build import build_schedule
from lrtune.schedules.compress import compress

EPOCHS, STEPS = 27, 20
BLUE, ORANGE, GREEN, GREY = "#0072b2", "#d55e00", "#009e73", "#8a8a8a"


def main() -> None:
    """Draws one recipe on its rungs (left), and three recipes that share a trunk (right)."""
    matplotlib.rcParams.update({"font.size": 9, "svg.hashsalt": "lrtune", "svg.fonttype": "none"})
    figure, (rungs, prefixes) = plt.subplots(1, 2, figsize=(10, 3.4), layout="constrained")
    _draw_rungs(rungs)
    _draw_prefixes(prefixes)
    for axes in (rungs, prefixes):
        axes.set(
            xlabel="epochs trained",
            ylabel="LR / peak LR",
            ylim=(-0.05, 1.45),
            xlim=(-0.5, EPOCHS + 0.5),
        )
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(Path(__file__).parent / "search.svg", metadata={"Date": None})


def _draw_rungs(axes: Axes) -> None:
    recipe = Recipe(warmup_epochs=3, decay=Cosine())
    _curve(axes, recipe, EPOCHS, 9, EPOCHS, GREY, "the full run, 1 of 3 goes on to it")
    _curve(axes, recipe, EPOCHS, 0, 9, BLUE, "its first third, by averaged weights, 1 of 9")
    _curve(
        axes,
        compress(recipe, EPOCHS, 1),
        1,
        0,
        1,
        ORANGE,
        "the whole schedule in 1 epoch, every trial",
    )
    axes.set_title("A trial climbs its rungs (c1, 9 of 27)", loc="left")
    axes.legend(frameon=False, loc="upper right")


def _draw_prefixes(axes: Axes) -> None:
    _curve(
        axes,
        Recipe(warmup_epochs=3, decay=Constant()),
        EPOCHS,
        0,
        EPOCHS,
        GREY,
        "constant: 27 epochs trained",
    )
    wsd = Recipe(warmup_epochs=3, decay=WSD(cooldown_frac=0.375))
    _curve(axes, wsd, EPOCHS, 18, EPOCHS, BLUE, "WSD: 18 replayed, 9 trained")
    step = Recipe(warmup_epochs=3, decay=StepDecay(every_epochs=12, factor=0.3))
    _curve(axes, step, EPOCHS, 12, EPOCHS, GREEN, "step: 12 replayed, 15 trained")
    for epoch in (12, 18):
        axes.plot([epoch], [1.0], "o", color="black", markersize=5)
    line = {"arrowstyle": "-", "lw": 0.6}
    axes.annotate("checkpoints from which others branch", (12, 1.0), (2.6, 0.62), arrowprops=line)
    axes.set_title("Equal LRs so far, equal key: trained once", loc="left")
    axes.legend(frameon=False, loc="upper right")


def _curve(
    axes: Axes, recipe: Recipe, epochs: int, start: int, stop: int, color: str, label: str
) -> None:
    """Draws the part of a schedule from epoch `start` to epoch `stop`."""
    schedule = build_schedule(recipe, epochs=epochs, steps_per_epoch=STEPS)
    steps = range(start * STEPS, stop * STEPS)
    axes.plot(
        [step / STEPS for step in steps],
        [schedule(step) for step in steps],
        color=color,
        lw=1.8,
        label=label,
    )


if __name__ == "__main__":
    main()
