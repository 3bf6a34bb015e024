"""Measures what a replay was worth: its regret by epochs spent.

Also counts the epochs until the regret is small and stays small.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from .ledger import NONE, Strategy, Trace, replay
from .pools import Pool

CLOSE = 0.3
"""Points of Top-1 that pass for as good as the best."""
QUARTILES = (0.25, 0.5, 0.75)
Row = Mapping[int, np.ndarray]
"""Of one replay: budget in full runs -> regret by epochs spent; element 0 is after the first."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Regrets:
    """The regrets of one strategy in several worlds."""

    by_budget: Mapping[int, np.ndarray]
    """Budget in full runs -> replays x epochs spent, of searches that were made for it."""
    horizon_epochs: int

    @staticmethod
    def of(rows: Iterable[Row], horizon_epochs: int) -> "Regrets":
        """Of one replay after the other, all with the same budgets."""
        rows = list(rows)
        by_budget = {budget: np.array([row[budget] for row in rows]) for budget in rows[0]}
        return Regrets(by_budget=by_budget, horizon_epochs=horizon_epochs)

    def at(self, budget: int) -> np.ndarray:
        """Of each replay, when the budget is spent."""
        return self.by_budget[budget][:, -1]

    def epochs_until_close_for_good(self, budget: int) -> np.ndarray:
        """Epochs that each search of this budget spends until its regret stays within `CLOSE`.

        They are inf where it ends farther away.
        """
        far = self.by_budget[budget] > CLOSE
        last_far = np.where(far.any(axis=1), far.shape[1] - far[:, ::-1].argmax(axis=1), 0)
        return np.where(last_far < far.shape[1], last_far + 1.0, math.inf)

    @property
    def by_epochs(self) -> np.ndarray:
        """Replays x epochs spent, up to the largest budget.

        Between two budgets it is the search that was made for the larger one.
        """
        parts, start = [], 0
        for _, regrets in sorted(self.by_budget.items()):
            parts.append(regrets[:, start:])
            start = regrets.shape[1]
        return np.concatenate(parts, axis=1)


def regrets_of(
    strategy: Strategy, world: Pool, *, seed: int, budgets: Sequence[int], sized: bool
) -> Row:
    """Replays a strategy in one world.

    Args:
        strategy: that searches.
        world: in which it does.
        seed: of the search.
        budgets: in full runs.
        sized: whether its plan is made for its budget. It is then replayed for each of them;
            otherwise once, for the largest one, and smaller budgets are its beginning.
    """
    ends = {budget: budget * world.horizon_epochs for budget in budgets}
    if sized:
        return {b: regret(world, replay(strategy, world, seed, end)) for b, end in ends.items()}
    whole = regret(world, replay(strategy, world, seed, max(ends.values())))
    return {budget: whole[:end] for budget, end in ends.items()}


def measure(
    strategy: Strategy, worlds: Sequence[Pool], *, budgets: Sequence[int], sized: bool = False
) -> Regrets:
    """Replays `strategy` in each world, with the world's place as its seed."""
    rows = (
        regrets_of(strategy, world, seed=seed, budgets=budgets, sized=sized)
        for seed, world in enumerate(worlds)
    )
    return Regrets.of(rows, worlds[0].horizon_epochs)


def regret(world: Pool, trace: Trace) -> np.ndarray:
    """By epochs spent, in points of Top-1; inf where there is nothing to recommend."""
    qualities = np.where(trace.incumbents == NONE, -np.inf, world.quality[trace.incumbents])
    return world.best - qualities


def mean_and_error(values: np.ndarray) -> tuple[float, float]:
    """The mean over replays and its standard error; nan where there is only one."""
    if not np.isfinite(values).all():
        return math.inf, math.nan
    error = values.std(ddof=1) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return float(values.mean()), float(error)


def quartiles(values: np.ndarray) -> np.ndarray:
    """The least values that a quarter, a half and three quarters of the seeds do not exceed.

    They are values that occur, not interpolated ones, so some may be inf.
    """
    return np.quantile(values, QUARTILES, axis=0, method="inverted_cdf")
