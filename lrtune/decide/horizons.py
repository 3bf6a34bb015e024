"""Where the best peak LR lies at each length of training.

A schedule for a long training comes from short runs. So the report says how the best peak LR moves
from one length to the next, how sure that is, and no more than that follows from it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

MIN_TRIALS, MIN_LRS = 6, 3
"""Trials and different LRs that a parabola is fitted to, at least."""
BEST_SHARE = 0.5
"""Of the trials: those far from the best say nothing of where it lies."""
NUM_BOOTSTRAPS = 400
SURE = 0.95
"""Share of the resampled parabolas that must have a best LR among those tried."""


@dataclass(frozen=True)
class BestLR:
    """The best peak LR of a length of training, with its 95 % interval."""

    peak_lr: float
    low: float
    high: float

    @property
    def deviation(self) -> float:
        """Of its logarithm, as if that were normal."""
        return math.log(self.high / self.low) / (2 * 1.96)


def best_lr(peak_lrs: Sequence[float], scores: Sequence[float]) -> BestLR | None:
    """Where a parabola over log LR, through the better half of the trials, has its top.

    The interval is that of the percentile bootstrap over trials (Efron & Tibshirani 1993, chapter
    13). `None` where the trials do not tell: they are few, or too many of the resampled parabolas
    have no top among the LRs tried.

    Args:
        peak_lrs: of the trials, one optimizer's.
        scores: of their looks; higher is better, and one that is not finite is left out.
    """
    values = np.column_stack([np.log(peak_lrs), scores])
    values = values[np.isfinite(values[:, 1])]
    if len(values) < MIN_TRIALS:
        return None
    count = max(MIN_TRIALS, math.ceil(BEST_SHARE * len(values)))
    best = values[np.argsort(-values[:, 1], kind="stable")[:count]]
    top = _top(best)
    rng = np.random.default_rng(0)
    samples = best[rng.integers(len(best), size=(NUM_BOOTSTRAPS, len(best)))]
    tops = np.array([found for sample in samples if (found := _top(sample)) is not None])
    if top is None or len(tops) < SURE * NUM_BOOTSTRAPS:
        return None
    low, high = np.exp(np.quantile(tops, (0.025, 0.975)))
    return BestLR(float(np.exp(top)), float(low), float(high))


def extrapolated(
    short: BestLR, short_epochs: int, long: BestLR, long_epochs: int, *, epochs: int
) -> BestLR | None:
    """The best peak LR of a longer training, by a power law of its length.

    `None` where the two differ by no more than chance explains: then nothing follows from them.
    """
    moved = math.log(long.peak_lr / short.peak_lr)
    if abs(moved) <= 1.96 * math.hypot(short.deviation, long.deviation):
        return None
    ratio = math.log(epochs / long_epochs) / math.log(long_epochs / short_epochs)
    middle = math.log(long.peak_lr) + ratio * moved
    width = 1.96 * math.hypot((1 + ratio) * long.deviation, ratio * short.deviation)
    return BestLR(*map(math.exp, (middle, middle - width, middle + width)))


def _top(values: np.ndarray) -> float | None:
    """Log LR of the top of the parabola through (log LR, score); `None` outside of what it saw."""
    xs, ys = values.T
    if len(np.unique(xs)) < MIN_LRS:
        return None
    square, slope, _ = np.polyfit(xs - xs.mean(), ys, 2)
    if square >= 0:
        return None
    top = float(xs.mean() - slope / (2 * square))
    return top if xs.min() <= top <= xs.max() else None
