"""Derives the interval of peak LRs worth searching from the curves of a range test.

Where the curves hold no signal, it says why.

The sweep's raw losses are smoothed afterwards, with centred windows: a causal average (EMA .98, as
in fastai and Lightning) lags by half the sweep. Every threshold is relative to the curve's own drop
and noise, so the unit of the loss moves nothing, and neither does an offset; the interval's ends
are LRs on the curve, so shifting the LR axis shifts the answer.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import ArrayLike, NDArray

from lrtune.core.space import Interval
from lrtune.core.study import RangeCurve, RangeResult

Array = NDArray[np.float64]

WINDOW_DECADES = 0.3
"""Full width of the smoothing window."""
NUM_MEDIAN = 5
"""Losses whose median is taken before, so that one or two outliers among them move nothing."""
MIN_POINTS = 16
"""Below this many points a curve says nothing."""
MIN_SIGMAS = 6.0
"""The drop must exceed the smoothed curve's noise by this factor: the lowest of 200 noisy values is
about 3 below."""
LOW_DROP, HIGH_RISE = 0.2, 0.25
"""Shares of the drop: reached where the interval begins, lost again where it ends."""
SLIDE_DECADES, SLIDE_THRESHOLD = 1.2, 0.03
RULE = (
    "from the LR at which a fifth of the drop in loss is reached to {end}; the peak LR is their "
    "geometric mean"
)
RISEN = "the one past the minimum at which a quarter of it is lost again"
LEVEL_DECADES = 1.0
"""Where a loss that does not fall rises sooner than this, the sweep has begun too high."""
RISES_AT_ONCE = "The sweep begins too high: give a lower `low`"
EITHER = (
    "Either these LRs are too low, or the model has nothing more to learn from these data, like "
    "one that is trained already"
)
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
            "The loss was not finite before the first step: look for NaNs in the data, the model "
            "or the loss."
        )
    if num_points < MIN_POINTS:
        return nothing(
            f"The sweep broke off after step {num_points}, at an LR of {shortest.lrs[-1]:.3g}, and "
            f"{MIN_POINTS} steps are needed: this LR is too high, or there are NaNs in the data, "
            "the model or the loss."
        )
    lrs, losses, errors = combine(curves)
    tenth = max(3, len(losses) // 10)
    lowest = int(np.argmin(losses))
    start = float(
        np.mean(losses[: max(1, min(tenth, lowest))])
    )  # before the lowest: a rise is nothing to fall from
    drop = start - float(losses[lowest])
    if drop <= MIN_SIGMAS * errors[lowest]:
        is_above = losses > start + MIN_SIGMAS * errors
        if not shortest.diverged and np.mean(is_above[-tenth:]) < 0.5:
            return nothing(
                f"The loss hardly changes: it falls by {drop:.3g}, which its noise "
                f"({errors[lowest]:.2g} after smoothing) explains. {EITHER}."
            )
        highest = float(lrs[np.flatnonzero(~is_above)[-1]])
        rises_at_once = math.log10(highest / lrs[0]) < LEVEL_DECADES
        why = (
            RISES_AT_ONCE if rises_at_once else f"{EITHER}; to train it further, stay below that LR"
        )
        return nothing(
            f"The loss falls at no LR of the sweep, and rises above {highest:.3g}. {why}."
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
    # The weights that the losses themselves would have if the running median were a mean. A median
    # is less sharp than a mean by up to sqrt(pi / 2), here twice: over steps and over seeds.
    of_losses = np.mean(_windows(weights), axis=2)  # (n, n)
    errors = noise(raw) * math.pi / 2 * np.sqrt(np.sum(of_losses**2, axis=1) / len(curves))
    medians = np.median(_windows(raw), axis=2)  # (seeds, n)
    # Only what differs is smoothed: a large offset would leave its rounding in the result.
    offset = medians[0, 0]
    return lrs, np.median((medians - offset) @ weights.T, axis=0) + offset, errors


def _windows(values: Array) -> Array:
    """The values around each one, shape (rows, n, `NUM_MEDIAN`); past an end it is repeated."""
    around = NUM_MEDIAN // 2
    padded = np.pad(values, ((0, 0), (around, around)), mode="edge")
    return sliding_window_view(padded, NUM_MEDIAN, axis=1)


def noise(losses: ArrayLike) -> float:
    """Returns the standard deviation of the noise in the first half of a sweep's losses.

    The differences between neighbours cancel the trend. Those of white noise have sqrt(2) times its
    standard deviation, and three quarters of them are smaller than 1.15 times that. The second half
    may be noisier, since its LRs may be too high. The noise is at least the smallest difference,
    which is what the loss can resolve.

    Args:
        losses: shape (..., n), of consecutive steps.
    """
    calm = np.asarray(losses)
    calm = calm[..., : max(MIN_POINTS, calm.shape[-1] // 2)]
    changes = np.sort(np.abs(np.diff(calm)), axis=None)
    resolved = changes[changes > 0]
    if not len(resolved):
        return 0.0
    sigma = changes[3 * len(changes) // 4] / (1.1503 * math.sqrt(2))
    return float(max(sigma, resolved[0]))


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
