"""Draws search.svg, the picture in search.md, from real schedules and the real plan.

Run it with `python docs/search_picture.py`.
"""

from pathlib import Path

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from lrtune.core.decays import Cosine
from lrtune.core.recipe import Recipe
from lrtune.core.study import Budget, StudyConfig, StudyState
from lrtune.decide.budget import num_finalists, num_recipes, num_rounds
from lrtune.decide.looks import automatic_looks
from lrtune.schedules.build import build_schedule
from lrtune.schedules.compress import compress

EPOCHS, STEPS = 27, 62
BUDGETS = (3, 20)
"""In full runs: one without a race, and one with."""
RECIPE = Recipe(warmup_epochs=3, decay=Cosine())
GREY, COLORS = "#8a8a8a", ("#d55e00", "#0072b2", "#009e73")


def main() -> None:
    """Draws the looks at one recipe (left), and what a budget is spent on (right)."""
    matplotlib.rcParams.update({"font.size": 9, "svg.hashsalt": "lrtune", "svg.fonttype": "none"})
    figure, (looks, budgets) = plt.subplots(1, 2, figsize=(10, 3.4), layout="constrained")
    _draw_looks(looks)
    _draw_budgets(budgets)
    for axes in (looks, budgets):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(Path(__file__).parent / "search.svg", metadata={"Date": None})


def _draw_looks(axes: Axes) -> None:
    _curve(axes, EPOCHS, GREY, "a full run: only finalists and the baseline")
    first, second, third = automatic_looks(EPOCHS, STEPS, seed=0)
    _curve(axes, second.epochs, COLORS[1], f"{second.label}: the best of {second.one_in}")
    axes.plot([], [], color=COLORS[2], label=f"{third.label} again: the best of {third.one_in}")
    _curve(axes, first.epochs, COLORS[0], f"the whole schedule in {first.label}: every recipe")
    axes.set(
        xlabel="epochs trained", ylabel="LR / peak LR", ylim=(-0.05, 1.6), xlim=(-0.5, EPOCHS + 0.5)
    )
    axes.set_title("Looks at a recipe", loc="left")
    axes.legend(frameon=False, loc="upper right")


def _curve(axes: Axes, epochs: int, color: str, label: str) -> None:
    """Draws the whole schedule in so many epochs."""
    recipe = compress(RECIPE, EPOCHS, epochs)
    schedule = build_schedule(recipe, epochs=epochs, steps_per_epoch=STEPS)
    steps = range(epochs * STEPS)
    axes.plot(
        [step / STEPS for step in steps],
        [schedule(step) for step in steps],
        color=color,
        lw=1.8,
        label=label,
    )


def _draw_budgets(axes: Axes) -> None:
    for row, runs in enumerate(BUDGETS):
        left = 0.0
        for label, epochs, color in _parts(runs):
            share = epochs / (runs * EPOCHS)
            axes.barh(row, share, left=left, color=color, edgecolor="white")
            axes.text(left + share / 2, row, label, ha="center", va="center", color="white", size=7)
            left += share
    axes.set(
        xlabel="share of the budget", xlim=(0, 1), yticks=range(len(BUDGETS)),
        yticklabels=[f"{runs} full runs" for runs in BUDGETS],
    )  # fmt: skip
    axes.set_title(f"What a budget is spent on (full runs of {EPOCHS} epochs)", loc="left")


def _parts(runs: int) -> list[tuple[str, int, str]]:
    """What is spent on each kind of run: a label, the most epochs that it takes, a colour."""
    config = StudyConfig(
        name="", task={}, space_name="", space_toml="", epochs=EPOCHS, steps_per_epoch=STEPS,
        looks=automatic_looks(EPOCHS, STEPS, seed=0), baseline=RECIPE,
        budget=Budget(runs, "runs"), max_seeds=8,
    )  # fmt: skip
    state = StudyState(config=config)
    number, finalists = num_recipes(state), num_finalists(state)
    parts, spent = [], 0
    for look, color in zip(config.looks, COLORS, strict=True):
        chosen = -(-number // look.one_in)
        parts.append((f"{chosen} x\n{look.epochs} ep", chosen * look.epochs, color))
        spent += chosen * look.epochs
    if finalists:
        _, most = num_rounds(config)
        race = min((finalists + 1) * most * EPOCHS, runs * EPOCHS - spent)
        label = f"race of {finalists} finalists and the baseline,\nat most"
        parts.append((label, race, GREY))
    return parts


if __name__ == "__main__":
    main()
