"""The ledger, which all training of a replayed search goes through.

So it knows what the search has spent, and what is best so far.
"""

import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from operator import attrgetter

import numpy as np

from .pools import Epoch, Pool, Value

NONE = -1
"""In place of an incumbent, before the first."""


class Over(Exception):  # noqa: N818  no error: how a replay ends
    """The budget is spent, or there is nothing left to train."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Trace:
    """A replayed search, by epochs spent: element 0 is after the first."""

    incumbents: np.ndarray
    """Index of the configuration that would be recommended now, or `NONE`."""
    spent_epochs: int
    """Epochs after which the search had ended by itself, or had spent its budget."""


@dataclass(kw_only=True, eq=False)
class Run:
    """One training.

    Starting it costs nothing yet. Resuming it costs only its further epochs.
    """

    index: int
    horizon_epochs: int
    ledger: "Ledger"
    seed: int = 0
    """Which of the recorded runs this is."""
    epochs: list[Epoch] = field(default_factory=list)

    @property
    def score(self) -> float:
        """That of the last epoch; nan if it diverged."""
        return self.epochs[-1].score

    @property
    def rank(self) -> float:
        """The score, for sorting: -inf if the run diverged or has none yet."""
        return self.score if self.epochs and not self.diverged else -math.inf

    @property
    def diverged(self) -> bool:
        """Whether the last score is nan."""
        return bool(self.epochs) and math.isnan(self.score)

    @property
    def ended(self) -> bool:
        """Whether there is nothing more to train."""
        return self.diverged or len(self.epochs) == self.horizon_epochs

    def is_same(self, other: "Run") -> bool:
        """Whether another run trains the same."""
        return (self.index, self.horizon_epochs, self.seed) == (
            other.index, other.horizon_epochs, other.seed,
        )  # fmt: skip

    def train(self, to_epoch: int) -> None:
        """Goes on to the end of `to_epoch`, unless the run diverges before.

        Raises:
            Over: the budget was spent on the way.
        """
        recorded = self.ledger.pool.result(
            self.index, self.horizon_epochs, to_epoch, seed=self.seed
        )
        for epoch in recorded[len(self.epochs) :]:
            self.ledger.count(self, epoch)


by_rank = attrgetter("rank")

Strategy = Callable[["Ledger", int], None]
"""Searches the ledger's pool with a seed, until it returns or a call raises `Over`."""


class Ledger:
    """Counts every epoch, and notes after each what would be recommended.

    That is what the strategy says by `recommend`. For one that never does, it is the finished full
    run with the best last score; before any has finished, the run with the best last score.
    """

    def __init__(self, pool: Pool, budget_epochs: int):
        self.pool = pool
        self.budget_epochs = budget_epochs
        self.spent_epochs = 0
        self.tried: set[int] = set()
        self._incumbents = np.full(budget_epochs, NONE)
        self._recommended: int | None = None
        self.runs: list[Run] = []
        self._best: Run | None = None
        self._best_finished: Run | None = None

    def nearest(self, values: Mapping[str, Value], *, again: bool) -> int:
        """The pool's configuration nearest to `values`.

        Unless `again`, configurations that were tried already do not count.

        Raises:
            Over: all were tried.
        """
        if not again and len(self.tried) == len(self.pool.configurations):
            raise Over
        return self.pool.nearest(values, but=() if again else self.tried)

    def start(self, index: int, *, horizon_epochs: int | None = None, seed: int = 0) -> Run:
        """A new run, of the full horizon unless another is given."""
        self.tried.add(index)
        horizon_epochs = horizon_epochs or self.pool.horizon_epochs
        run = Run(index=index, horizon_epochs=horizon_epochs, ledger=self, seed=seed)
        self.runs.append(run)
        return run

    def recommend(self, index: int) -> None:
        """What the strategy would recommend from here on, the last epoch included."""
        self._recommended = index
        if self.spent_epochs:
            self._incumbents[self.spent_epochs - 1] = index

    def count(self, run: Run, epoch: Epoch) -> None:
        """Takes down one epoch of `run`.

        Raises:
            Over: it is beyond the budget.
        """
        if self.spent_epochs == self.budget_epochs:
            raise Over
        run.epochs.append(epoch)
        # The best may have become worse by its new epoch; any other run has only itself to show.
        self._best = max(self.runs if run is self._best else (self._best or run, run), key=by_rank)
        if len(run.epochs) == self.pool.horizon_epochs and not run.diverged:
            self._best_finished = max(self._best_finished or run, run, key=by_rank)
        self._incumbents[self.spent_epochs] = self._incumbent()
        self.spent_epochs += 1

    def trace(self) -> Trace:
        """The whole budget's; a strategy that ended before keeps what it had."""
        last = max(0, self.spent_epochs - 1)
        self._incumbents[last:] = self._incumbents[last]
        return Trace(incumbents=self._incumbents, spent_epochs=self.spent_epochs)

    def _incumbent(self) -> int:
        if self._recommended is not None:
            return self._recommended
        best = self._best_finished or self._best
        return best.index if best and best.rank > -math.inf else NONE


def replay(strategy: Strategy, pool: Pool, seed: int, budget_epochs: int) -> Trace:
    """What `strategy` would have done."""
    ledger = Ledger(pool, budget_epochs)
    with suppress(Over):
        strategy(ledger, seed)
    return ledger.trace()
