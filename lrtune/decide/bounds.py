"""Derives the interval of peak LRs worth searching from the curves of a range test.

Where the curves hold no signal, it says why.

The sweep's raw losses are smoothed afterwards, with a centred window in log LR: a causal average
(EMA .98, as in fastai and Lightning) lags by half the sweep. Every threshold is relative to the
curve's own drop and noise, so scaling the loss moves nothing; the interval's ends are LRs on the
curve, so shifting the LR axis shifts the answer.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from lrtune.core.space import Interval
from lrtune.core.study import RangeCurve, RangeResult

Array = NDArray[np.float64]

WINDOW_DECADES = 0.3
"""Full width of the smoothing window."""
MIN_POINTS = 16
"""Below this many points a curve says nothing."""
MIN_SIGMAS = 6.0
"""The drop must exceed the smoothed curve's noise by this factor: the lowest of 200 noisy values is
about 3 below."""
LOW_DROP, HIGH_RISE = 0.2, 0.25
"""Shares of the drop: reached where the interval begins, lost again where it ends."""
SLIDE_DECADES, SLIDE_THRESHOLD = 1.2, 0.03
RULE = (
    "from the LR at which a fifth of the drop in loss is reached to {end}; to use: their "
    "geometric mean"
)
RISEN = "the one past the minimum at which a quarter of it is lost again"
BLOWN_UP = "the last one before the loss blew up"
NOT_RISEN = (
    "the last one of the sweep, since the loss had not risen by then: higher ones were not tried"
)


def range_result(optimizer: str, curves: Sequence[RangeCurve]) -> RangeResult:
    """What the curves of one optimizer say.

    Args:
        optimizer: name of the optimizer that was swept.
        curves: one a seed, all over the same LRs; each may be cut short where its loss rose.
    """

    def nothing(reason: str) -> RangeResult:
        rule = RULE.format(end=RISEN)
        return RangeResult(
            optimizer=optimizer, curves=tuple(curves), interval=None, rule=rule, reason=reason
        )

    shortest = min(curves, key=lambda curve: len(curve.lrs))
    num_points = len(shortest.lrs)
    if num_points == 0:
        return nothing(
            "the loss was not finite before the first step: look for NaNs in the data, the model "
            "or the loss"
        )
    if num_points < MIN_POINTS:
        return nothing(
            f"the sweep broke off after step {num_points}, at an LR of {shortest.lrs[-1]:.3g}, and "
            f"{MIN_POINTS} steps are needed: this LR is too high, or there are NaNs in the data, "
            "the model or the loss"
        )
    lrs, losses, noise = combine(curves)
    tenth = max(3, len(losses) // 10)
    lowest = int(np.argmin(losses))
    start = float(
        np.mean(losses[: max(1, min(tenth, lowest))])
    )  # before the lowest: a rise is nothing to fall from
    drop = start - float(losses[lowest])
    if drop <= MIN_SIGMAS * noise[lowest]:
        if float(np.median((losses - start - MIN_SIGMAS * noise)[-tenth:])) > 0:
            return nothing(
                "the loss only rises: there is no LR in the sweep from which it falls first"
            )
        return nothing(
            f"the loss falls by {drop:.3g}, which its noise ({noise[lowest]:.2g} after smoothing) "
            "explains"
        )

    low = lrs[_first(losses[: lowest + 1] <= start - LOW_DROP * drop)]
    risen = np.flatnonzero(losses[lowest:] > losses[lowest] + HIGH_RISE * drop)
    high = lrs[lowest + risen[0]] if len(risen) else lrs[-1]
    end = RISEN if len(risen) else BLOWN_UP if shortest.diverged else NOT_RISEN
    suggestion = math.sqrt(
        low * high
    )  # of many rules the one that lost least of the accuracy: docs/finder.md
    suggestions = {
        name: lr for name, rule in RULES.items() if (lr := rule(lrs, losses)) is not None
    }
    return RangeResult(
        optimizer=optimizer,
        curves=tuple(curves),
        interval=Interval(low=float(low), high=float(high), suggestion=suggestion),
        rule=RULE.format(end=end),
        suggestions=suggestions,
    )


def combine(curves: Sequence[RangeCurve]) -> tuple[Array, Array, Array]:
    """The median over seeds of the smoothed curves.

    Returns:
        LRs and smoothed losses, shape (n,) for the n points that all curves have, and the standard
        error of the smoothed losses.
    """
    num_points = min(len(curve.lrs) for curve in curves)
    lrs = np.asarray(curves[0].lrs[:num_points])
    raw = np.asarray([curve.losses[:num_points] for curve in curves])  # (seeds, n)
    weights = smoothing(lrs)
    # Differences of neighbours cancel the trend; for white noise their standard deviation is
    # sqrt(2) times the noise's.
    calm = np.diff(raw[:, : max(MIN_POINTS, num_points // 2)], axis=1)
    sigma = float(1.4826 * np.median(np.abs(calm))) / math.sqrt(2)
    sigma = max(
        sigma, float(np.finfo(np.float32).eps * np.median(np.abs(raw)))
    )  # what a loss can resolve
    # The window is one-sided at the ends, and the median of several is less sharp than their mean:
    # up to sqrt(pi / 2).
    errors = sigma * np.sqrt(np.sum(weights**2, axis=1) * math.pi / 2 / len(curves))
    return lrs, np.median(raw @ weights.T, axis=0), errors


def smoothing(lrs: Array) -> Array:
    """A local linear fit in log LR with triangular weights over `WINDOW_DECADES`.

    It is centred, and unbiased at the ends as well.

    Returns:
        The weights of each loss (columns) in each smoothed loss (rows), shape (n, n):
        `smoothing(lrs) @ losses`.
    """
    x = np.log10(lrs)
    offsets = x[None, :] - x[:, None]  # (n, n): row i holds the distances from point i
    weights = np.clip(1 - np.abs(offsets) / (WINDOW_DECADES / 2), 0, None)
    s0, s1, s2 = (np.sum(weights * offsets**k, axis=1, keepdims=True) for k in range(3))
    determinant = s0 * s2 - s1 * s1
    alone = (
        determinant <= 1e-12 * s0 * s0
    )  # a point with no neighbour in its window keeps its own value
    fitted: Array = weights * np.where(
        alone, 1 / s0, (s2 - s1 * offsets) / np.where(alone, 1, determinant)
    )
    return fitted


def minimum(lrs: Array, losses: Array) -> float | None:
    """A tenth of the LR at which the loss is lowest (fastai's `minimum`)."""
    return float(lrs[int(np.argmin(losses))]) / 10


def steep(lrs: Array, losses: Array) -> float | None:
    """The LR at which the loss falls fastest over log LR, before its minimum (fastai's `steep`)."""
    end = int(np.argmin(losses))
    if end < 2:
        return None
    slope = np.gradient(losses[: end + 1], np.log(lrs[: end + 1]))
    return float(lrs[int(np.argmin(slope))])


def valley(lrs: Array, losses: Array) -> float | None:
    """The middle of the longest valley in the loss (fastai's `valley`, by ESRI).

    The valley is the longest falling subsequence of the losses.
    """
    lengths = np.ones(
        len(losses), dtype=int
    )  # of the longest falling subsequence that ends at each point
    for i in range(1, len(losses)):
        lengths[i] = 1 + max(lengths[:i][losses[:i] > losses[i]], default=0)
    end = int(np.argmax(lengths))
    start = max(0, end - int(lengths[end]))
    third = (end - start) / 3
    return float(lrs[start + int(third) + int(third / 2)]) if third >= 1 else None


def slide(lrs: Array, losses: Array) -> float | None:
    """The left end of an interval that is slid down from the right (fastai's `slide`).

    It slides while the slope differs between its ends.

    fastai's interval of 15 points and threshold of 0.005 a point, at its 100 points over 8 decades
    and a drop of about 2, are 1.2 decades and 0.03 drops a decade here.
    """
    drop = float(losses[0] - losses.min())
    width = max(1, int(np.sum(np.log10(lrs / lrs[0]) <= SLIDE_DECADES)) - 1)
    if drop <= 0 or width >= len(lrs):
        return None
    slope = np.gradient(losses / drop, np.log10(lrs))
    different = (
        np.abs(slope[width:] - slope[:-width]) > SLIDE_THRESHOLD
    )  # by the left end of the interval
    if not different[-1] or different.all():
        return None
    return float(lrs[int(np.flatnonzero(~different)[-1]) + 1])


Rule = Callable[[Array, Array], float | None]
RULES: dict[str, Rule] = {"minimum": minimum, "steep": steep, "valley": valley, "slide": slide}


def _first(mask: NDArray[np.bool_]) -> int:
    return int(np.argmax(mask))
