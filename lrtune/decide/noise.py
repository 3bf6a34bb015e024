"""How much of a difference is chance."""

import math
from dataclasses import dataclass

from lrtune.core.objective import Objective


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A mean difference of scores, higher is better, with its 95 % interval."""

    mean: float
    low: float
    high: float
    """`low` and `high` are infinite where too few seeds were trained to tell."""

    @property
    def includes_zero(self) -> bool:
        """Whether the data go with no difference at all."""
        return self.low <= 0 <= self.high

    def of_values(self, objective: Objective) -> tuple[float, float, float]:
        """Mean, low and high of the difference of the metric itself."""
        low, high = sorted((objective.signed(self.low), objective.signed(self.high)))
        return objective.signed(self.mean), low, high

    def text(self, objective: Objective) -> tuple[str, str]:
        """The difference of the metric itself in words, and its interval or nothing."""
        values = self.of_values(objective)
        largest = max((abs(value) for value in values if math.isfinite(value)), default=0.0)
        mean, low, high = (objective.difference_text(value, beside=largest) for value in values)
        return mean, f"[{low}, {high}]" if math.isfinite(self.low) else ""
