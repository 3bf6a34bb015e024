"""Shapes of a decay: the multiplier as a function of `p`, the fraction of the decay that is done.

`p` is in [0, 1): 0 for the first step after warmup, and never 1, because the last step is trained
too. Every shape is within [0, 1] and never rises. The parameters are those of the decays in
`lrtune.core.recipe`, checked by `Recipe`.
"""

import math
from bisect import bisect_right
from collections.abc import Callable

Shape = Callable[[float], float]
"""From the fraction of the decay that is done, in [0, 1), to a multiplier in [0, 1]."""


def constant() -> Shape:
    """No decay: `1`."""
    return lambda p: 1.0


def staircase(at: tuple[float, ...], factor: float) -> Shape:
    """`factor ** n`, where `n` fractions of `at` are at or below `p` (`MultiStepLR`).

    Args:
        at: fractions of the decay in rising order. One at or below 0 counts from the start; one
            from 1 on never counts.
        factor: what each of them multiplies by.
    """
    return lambda p: factor ** bisect_right(at, p)


def cosine() -> Shape:
    """`(1 + cos(pi p)) / 2` (Loshchilov & Hutter 2017, arXiv 1608.03983, eq. 5)."""
    return lambda p: (1 + math.cos(math.pi * p)) / 2


def polynomial(power: float) -> Shape:
    """`(1 - p) ** power` (`PolynomialLR`)."""
    return lambda p: (1 - p) ** power


def linear() -> Shape:
    """`1 - p` (Defazio et al. 2023, arXiv 2310.07831; `LinearLR` with `end_factor=0`)."""
    return polynomial(1.0)


def exponential(end_frac: float) -> Shape:
    """`end_frac ** p` (`ExponentialLR` with `gamma = end_frac ** (1 / number of steps)`)."""
    return lambda p: end_frac**p


def held(hold_frac: float, shape: Shape) -> Shape:
    """1 for the first `hold_frac` of the decay, then all of `shape` over the rest of it."""
    return lambda p: 1.0 if p < hold_frac else shape((p - hold_frac) / (1 - hold_frac))


def wsd(cooldown_frac: float) -> Shape:
    """The stable part and the cooldown of warmup-stable-decay (arXiv 2405.18392).

    1, and then `1 - sqrt(x)`, where `x` is the fraction of the cooldown that is done.

    Args:
        cooldown_frac: length of the cooldown as a fraction of the steps after warmup (the paper
            counts all steps).
    """
    return held(1 - cooldown_frac, lambda x: 1 - math.sqrt(x))


def hold_power(hold_frac: float, power: float) -> Shape:
    """1, and then `(1 - x) ** power` (arXiv 2509.19189).

    `x` is the fraction done of what follows the hold.

    `hold_frac=0, power=1` is linear; towards `hold_frac=1` it is constant.
    """
    return held(hold_frac, polynomial(power))


def floored(shape: Shape, final_frac: float) -> Shape:
    """`final_frac + (1 - final_frac) * shape(p)`: any shape, let down to `final_frac` instead of 0.

    The one floor rule: `eta_min` of `CosineAnnealingLR` as a fraction of the peak, and `end_factor`
    of `LinearLR`.
    """
    return lambda p: final_frac + (1 - final_frac) * shape(p)
