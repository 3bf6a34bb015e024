"""Measures what a replay was worth: its regret by epochs spent.

Also counts the epochs until the regret is small for the first time, and until it stays small.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .ledger import NONE, Strategy, Trace, replay
from .pools import Pool

CLOSE = 0.3
"""Points of Top-1 that pass for as good as the best."""
QUARTILES = (0.25, 0.5, 0.75)


@dataclass(frozen=True, kw_only=True, eq=False)
class Regrets:
    """The regrets of one strategy on one pool."""

    by_epochs: np.ndarray
    """Seeds x epochs spent; element 0 is after the first."""
    horizon_epochs: int

    def at(self, runs: int) -> np.ndarray:
        """Of each seed, after as many epochs as `runs` full runs have."""
        return self.by_epochs[:, runs * self.horizon_epochs - 1]

    def epochs_until_close(self) -> np.ndarray:
        """Epochs that each seed spends until its regret is within `CLOSE` for the first time.

        They are inf where the budget ends before.
        """
        close = self.by_epochs <= CLOSE
        return np.where(close.any(axis=1), close.argmax(axis=1) + 1.0, math.inf)

    def epochs_until_close_for_good(self) -> np.ndarray:
        """The same for the time after which it stays there."""
        far = self.by_epochs > CLOSE
        last_far = np.where(far.any(axis=1), far.shape[1] - far[:, ::-1].argmax(axis=1), 0)
        return np.where(last_far < far.shape[1], last_far + 1.0, math.inf)


def measure(strategy: Strategy, pool: Pool, *, seeds: int, budgets: Sequence[int]) -> Regrets:
    """Replays `strategy` with seeds from 0 for the largest budget, in full runs.

    Given several budgets, it is replayed for each, and counts between the one before and its own:
    so are strategies judged whose plan is made for a budget.
    """
    ends = [budget * pool.horizon_epochs for budget in sorted(budgets)]
    rows = []
    for seed in range(seeds):
        parts = [regret(pool, replay(strategy, pool, seed, end)) for end in ends]
        rows.append(
            np.concatenate(
                [part[start:] for part, start in zip(parts, [0, *ends[:-1]], strict=True)]
            )
        )
    return Regrets(by_epochs=np.array(rows), horizon_epochs=pool.horizon_epochs)


def regret(pool: Pool, trace: Trace) -> np.ndarray:
    """By epochs spent; inf where there is nothing to recommend."""
    if pool.regret_of == "incumbent":
        reached = np.where(trace.incumbents == NONE, -np.inf, pool.quality[trace.incumbents])
    else:
        reached = trace.best_seen
    return (pool.best - reached) / pool.unit


def quartiles(values: np.ndarray) -> np.ndarray:
    """The least values that a quarter, a half and three quarters of the seeds do not exceed.

    They are values that occur, not interpolated ones, so some may be inf.
    """
    return np.quantile(values, QUARTILES, axis=0, method="inverted_cdf")
