"""How much of a difference is chance."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from scipy import stats


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A mean difference in points of Top-1, with its 95 % confidence interval."""

    mean: float
    low: float
    high: float
    """`low` and `high` are infinite where there are fewer than two pairs."""

    @property
    def includes_zero(self) -> bool:
        """Whether the data go with no difference at all."""
        return self.low <= 0 <= self.high


def counting_error(top1: float, num_images: int) -> float:
    """Standard error of a Top-1 that was counted on `num_images` images, in points: `sqrt(p (1 - p) / n)`."""
    p = min(max(top1 / 100, 0.0), 1.0)
    return 100 * math.sqrt(p * (1 - p) / num_images)


def paired_difference(ours: Sequence[float], theirs: Sequence[float], *, num_images: int) -> Difference:
    """Mean of `ours - theirs`, seed by seed, with a 95 % interval by Student's t.

    Seeds give initial weights and data order, so the two runs of a pair share both. The spread over a few seeds may
    come out as zero by luck; it is never taken as smaller than what counting on `num_images` images can resolve, one
    image.

    Args:
        ours: final Top-1 by seed, percent, shape (n,).
        theirs: the same seeds, percent, shape (n,).
        num_images: validation images that the Top-1 was counted on.
    """
    differences = [a - b for a, b in zip(ours, theirs, strict=True)]
    mean = fmean(differences)
    if len(differences) < 2:
        return Difference(mean=mean, low=-math.inf, high=math.inf)
    error = max(stdev(differences), 100 / num_images) / math.sqrt(len(differences))
    half = float(stats.t.ppf(0.975, len(differences) - 1)) * error
    return Difference(mean=mean, low=mean - half, high=mean + half)
