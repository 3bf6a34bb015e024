"""The bank as worlds in which a search is replayed, and what is true in each of them.

Good recipes differ by less than two seeds of the same recipe do. A recipe that is judged by a run
that the search has seen looks as good as that run was lucky. So what a recipe is worth never comes
from a run that a search was shown, and the rule is the same for every strategy. There are two kinds
of worlds; replay number r has world number r, and all strategies meet the same ones.

*Resampled* (`Bank.resampled`), by default. What is known of a recipe's true Top-1 is its posterior:
its recorded full runs, be they one or five, have normal noise, and the prior is the distribution of
the true values of all recipes, estimated from all of them (`Posterior`). So the one recorded run of
a recipe is not taken at its word, and a recipe that has more seeds because its first was good is
not flattered for that. In each world the truth of each recipe is drawn from its posterior. A full
run that is shown there is a recorded curve of the recipe, moved as a whole so that it ends at that
truth plus new noise of one seed, so there are as many fresh seeds as a race asks for. The best of a
world is the highest truth that was drawn. Looks are the recorded runs as they are, so they know
nothing of where in its posterior a truth was drawn.

*Recorded* (`Bank.recorded`). Every run that is shown is one on record. Seed 0 is always shown,
because it has decided which recipes have more seeds; of the other full runs of a recipe half are
shown after it, rounded down, and the mean of those left is its truth. Which ones, is drawn anew for
each world. The truth of a recipe with seed 0 alone is its posterior mean. The best of all worlds is
the highest posterior mean. There are few fresh seeds, so races are short: at most as many rounds as
full runs are shown of a recipe that has the most.

In both, the recorded seeds of a look are shuffled, in the same order for all recipes of a world:
the first look of a length is answered by the first of them that a recipe has, the second look of
the same length by the next one. Where there is no next one it is the first again.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from lrtune.core.decays import Plateau
from lrtune.core.recipe import Recipe

from .pools import Parameter, Pool, Value

COLUMNS = ["top1", "val_loss"]
"""Of the bank's table, in the order of `Epoch`."""
NUM_FRESH = 8
"""Full runs of a recipe in a resampled world: as many as the longest race has rounds."""
PRIOR_FREEDOM = 4
"""Seeds that the noise of all recipes counts for in that of one of them."""
SMALLEST = 1e-6
"""Noise that is taken for none."""
GRID, NUM_ITERATIONS = 400, 50
"""Points of the prior over true values, and steps of its estimate: more would make it a few
spikes."""
WorldKind = Literal["resampled", "recorded"]
Runs = Mapping[int, np.ndarray]
"""By seed: an array of epochs x fields of `Epoch`."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Posterior:
    """What recorded final scores say of true ones.

    The score of recipe k with a seed is normal around its true value with a deviation of
    `noise[k]`. The true values are draws from one distribution on `grid`, which is estimated from
    all recipes by expectation maximisation (Laird 1978, doi 10.1080/01621459.1978.10480103).
    """

    noise: np.ndarray
    """Deviation of one seed, by recipe, shape (k,): that of its own runs and that of all recipes
    together, weighed by their degrees of freedom. First seeds are left out: a recipe that has more
    because its first was lucky would seem to have more noise."""
    grid: np.ndarray
    """True values, shape (g,)."""
    weights: np.ndarray
    """Probability of each of them, by recipe, shape (k, g)."""

    @staticmethod
    def of(finals: Sequence[Sequence[float]]) -> "Posterior":
        """From the final scores of each recipe, one a seed, the first seed first."""
        means = np.array([np.mean(scores) for scores in finals])
        noise = _noise([scores[1:] for scores in finals])
        errors = noise / np.sqrt([len(scores) for scores in finals])
        # Fine where there are many recipes; elsewhere their noise is nothing to their distance.
        grid = np.unique(np.quantile(means, np.linspace(0, 1, GRID)))
        logs = -0.5 * ((means[:, None] - grid) / errors[:, None]) ** 2
        likelihood = np.exp(logs - logs.max(axis=1, keepdims=True))
        prior = np.full(len(grid), 1 / len(grid))
        for _ in range(NUM_ITERATIONS):
            weights = likelihood * prior
            weights /= weights.sum(axis=1, keepdims=True)
            prior = weights.mean(axis=0)
        return Posterior(noise=noise, grid=grid, weights=weights)

    @property
    def means(self) -> np.ndarray:
        """Expected true value of each recipe."""
        return self.weights @ self.grid

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        """A true value of each recipe."""
        chosen = rng.random(len(self.weights))[:, None] > self.weights.cumsum(axis=1)
        return self.grid[np.minimum(chosen.sum(axis=1), len(self.grid) - 1)]


@dataclass(frozen=True, kw_only=True, eq=False)
class Bank:
    """The recorded recipes of one optimizer."""

    name: str
    recipes: Sequence[Recipe]
    parameters: tuple[Parameter, ...]
    runs: Mapping[int, Sequence[Runs]]
    """By horizon: the runs of each recipe."""

    @property
    def horizon_epochs(self) -> int:
        """Of a full run."""
        return max(self.runs)

    @cached_property
    def finals(self) -> list[dict[int, float]]:
        """Final Top-1 of the full runs of each recipe, by seed; of a run that diverged it is 0."""
        return [
            {seed: float(np.nan_to_num(curve[-1, 0])) for seed, curve in by_seed.items()}
            for by_seed in self.runs[self.horizon_epochs]
        ]

    @cached_property
    def posterior(self) -> Posterior:
        """What all full runs say of the true Top-1 of each recipe."""
        return Posterior.of([list(by_seed.values()) for by_seed in self.finals])

    @property
    def best(self) -> int:
        """The recipe with the highest posterior mean."""
        return int(self.posterior.means.argmax())

    def worlds(self, kind: WorldKind, count: int) -> list[Pool]:
        """The first `count` worlds of a kind."""
        make = self.resampled if kind == "resampled" else self.recorded
        return [make(number) for number in range(count)]

    def resampled(self, number: int) -> Pool:
        """A world whose truths are drawn from what is known; see the module."""
        rng = np.random.default_rng([number, 0])
        truths = self.posterior.draw(rng)
        full = [
            [
                _ending_at(curves[rng.integers(len(curves))], truth + noise * rng.normal())
                for _ in range(NUM_FRESH)
            ]
            for curves, truth, noise in zip(
                [list(by_seed.values()) for by_seed in self.runs[self.horizon_epochs]],
                truths,
                self.posterior.noise,
                strict=True,
            )
        ]
        return self._world(rng, full, truths, float(truths.max()), NUM_FRESH)

    def recorded(self, number: int) -> Pool:
        """A world of which all that is shown is on record; see the module."""
        rng = np.random.default_rng([number, 1])
        truths, full = self.posterior.means.copy(), []
        for index, by_seed in enumerate(self.runs[self.horizon_epochs]):
            first, *others = by_seed
            others = [int(seed) for seed in rng.permutation(others)]
            shown, judging = others[: len(others) // 2], others[len(others) // 2 :]
            if judging:
                truths[index] = np.mean([self.finals[index][seed] for seed in judging])
            full.append([by_seed[seed] for seed in (first, *shown)])
        best = float(self.posterior.means.max())
        return self._world(rng, full, truths, best, max(map(len, full)))

    def _world(
        self,
        rng: np.random.Generator,
        full: Sequence[Sequence[np.ndarray]],
        truths: np.ndarray,
        best: float,
        max_rounds: int,
    ) -> Pool:
        curves = {horizon: _shuffled(runs, rng) for horizon, runs in self.runs.items()}
        return Pool(
            name=self.name, recipes=self.recipes, parameters=self.parameters,
            configurations=[values_of(recipe) for recipe in self.recipes],
            curves=curves | {self.horizon_epochs: full}, quality=truths, best=best,
            max_rounds=max_rounds,
        )  # fmt: skip


def banks(table: Path, recipes: Sequence[Recipe]) -> Iterator[Bank]:
    """One bank for each optimizer.

    Recipes that were not trained at every horizon with the first seed are left out, since the table
    can still grow.
    """
    runs = dict(_runs(table))
    horizons = sorted({horizon for _, _, horizon in runs})
    for optimizer in dict.fromkeys(recipe.optimizer for recipe in recipes):
        space = {
            number: recipe for number, recipe in enumerate(recipes) if recipe.optimizer == optimizer
        }
        numbers = [
            number for number in space if all((number, 0, horizon) in runs for horizon in horizons)
        ]
        if numbers:
            by_recipe: dict[tuple[int, int], dict[int, np.ndarray]] = {}
            for number, seed, horizon in sorted(runs):
                by_recipe.setdefault((number, horizon), {})[seed] = runs[number, seed, horizon]
            yield Bank(
                name=optimizer, recipes=[recipes[number] for number in numbers],
                parameters=_grid([values_of(recipe) for recipe in space.values()]),
                runs={h: [by_recipe[number, h] for number in numbers] for h in horizons},
            )  # fmt: skip


def _noise(finals: Sequence[Sequence[float]]) -> np.ndarray:
    """Deviation of one seed, by recipe."""
    freedom = np.array([max(0, len(scores) - 1) for scores in finals])
    squares = np.array([np.var(scores) * len(scores) if scores else 0.0 for scores in finals])
    pooled = squares.sum() / max(1, freedom.sum())
    noise = np.sqrt((PRIOR_FREEDOM * pooled + squares) / (PRIOR_FREEDOM + freedom))
    return np.maximum(noise, SMALLEST)


def values_of(recipe: Recipe) -> dict[str, Value]:
    """A recipe as a point of the grid."""
    patience = (
        {"patience_epochs": recipe.decay.patience_epochs}
        if isinstance(recipe.decay, Plateau)
        else {}
    )
    return {
        "peak_lr": recipe.peak_lr,
        "warmup_epochs": recipe.warmup_epochs,
        "decay": recipe.decay.name,
        **patience,
    }


def _runs(table: Path) -> Iterator[tuple[tuple[int, int, int], np.ndarray]]:
    """(recipe, seed, horizon) -> epochs x fields of `Epoch`, of the runs that have ended."""
    for (number, seed, horizon), run in pd.read_csv(table).groupby(["recipe", "seed", "horizon"]):
        curve = np.full((horizon, len(COLUMNS)), np.nan)
        curve[: len(run)] = run[COLUMNS]
        curve[~np.isfinite(curve[:, 1])] = np.nan
        if len(run) == horizon or np.isnan(curve[len(run) - 1, 0]):
            yield (int(number), int(seed), int(horizon)), curve


def _shuffled(runs: Sequence[Runs], rng: np.random.Generator) -> list[list[np.ndarray]]:
    """The runs of each recipe, its seeds in an order that is the same for all."""
    seeds = sorted({seed for by_seed in runs for seed in by_seed})
    order = [int(seed) for seed in rng.permutation(seeds)]
    return [[by_seed[seed] for seed in order if seed in by_seed] for by_seed in runs]


def _ending_at(curve: np.ndarray, top1: float) -> np.ndarray:
    """The curve, moved so that its last Top-1 is this one; as it is where it diverged."""
    moved = curve.copy()
    moved[:, 0] += min(top1, 100.0) - curve[-1, 0] if np.isfinite(curve[-1, 0]) else 0.0
    return moved


def _grid(space: Sequence[Mapping[str, Value]]) -> tuple[Parameter, ...]:
    def choices(name: str) -> tuple[Any, ...]:
        return tuple(sorted({values[name] for values in space if name in values}))

    return (
        Parameter(name="peak_lr", kind="ladder", choices=choices("peak_lr")),
        Parameter(name="warmup_epochs", kind="ladder", choices=choices("warmup_epochs")),
        Parameter(name="decay", kind="choice", choices=choices("decay")),
        Parameter(
            name="patience_epochs",
            kind="ladder",
            choices=choices("patience_epochs"),
            needs=("decay", "plateau"),
        ),
    )
