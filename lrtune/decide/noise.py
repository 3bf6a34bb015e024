"""How much of a difference is chance."""

import math
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A mean difference in points of Top-1, with its 95 % interval."""

    mean: float
    low: float
    high: float
    """`low` and `high` are infinite where too few seeds were trained to tell."""

    @property
    def includes_zero(self) -> bool:
        """Whether the data go with no difference at all."""
        return self.low <= 0 <= self.high


def counting_error(top1: float, num_images: int) -> float:
    """Standard error of a Top-1 that was counted on `num_images` images, in points: `sqrt(p (1 - p) / n)`."""
    p = min(max(top1 / 100, 0.0), 1.0)
    return 100 * math.sqrt(p * (1 - p) / num_images)
