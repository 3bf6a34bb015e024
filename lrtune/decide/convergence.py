"""When a run got there: the convergence epoch, and the epoch at which it settled."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from lrtune.core.counts import count
from lrtune.core.objective import Objective


@dataclass(frozen=True, kw_only=True)
class Convergence:
    """First epochs at which the target was reached, one a seed; `None`: not reached."""

    epochs: tuple[int | None, ...]
    horizon_epochs: int

    @property
    def num_reached(self) -> int:
        """Seeds that reached the target."""
        return sum(epoch is not None for epoch in self.epochs)

    @property
    def spread(self) -> str:
        """`7 [6, 9]`: median [min, max]; `7, by 2 of 3` where the others did not get there.

        A miss counts as later than every epoch: `by 1 of 3` has no median.
        """
        if not self.epochs:
            return "not measured"
        if not self.num_reached:
            return "not reached"
        epochs = [math.inf if epoch is None else epoch for epoch in self.epochs]
        middle, low, high = median(epochs), min(epochs), max(epochs)
        if math.isinf(high):
            by = f"by {self.num_reached} of {len(epochs)}"
            return by if math.isinf(middle) else f"{middle:g}, {by}"
        return f"{middle:g} [{low}, {high}]" if low < high else f"{middle:g}"

    def __str__(self) -> str:
        """`7 [6, 9] of 12`, `7, by 2 of 3 in 12 epochs` or `not reached in 12 epochs`."""
        if not self.epochs:
            return self.spread
        if self.num_reached == len(self.epochs):
            return f"{self.spread} of {self.horizon_epochs}"
        return f"{self.spread} in {count(self.horizon_epochs, 'epoch')}"


def convergence_epoch(objective: Objective, values: Sequence[float], target: float) -> int | None:
    """The first epoch, from 1, whose value reaches the target; `None` where no epoch's does."""
    reached = (objective.reached(value, target) for value in values)
    return next((epoch for epoch, is_reached in enumerate(reached, start=1) if is_reached), None)


def settling_epoch(objective: Objective, values: Sequence[float]) -> int | None:
    """The first epoch from which the centred 3-epoch median stays near the last one.

    Near is within the objective's `tolerance` of the last median. `None` for an empty run. Epochs
    whose value is nan are left out of the medians; a median of none is near to nothing.
    """
    if not values:
        return None
    windows = (values[max(0, i - 1) : i + 2] for i in range(len(values)))
    known = ([value for value in window if not math.isnan(value)] for window in windows)
    medians = [median(window) if window else math.nan for window in known]
    near = objective.tolerance(medians[-1])
    settled = len(medians)
    while settled > 1 and abs(medians[settled - 2] - medians[-1]) <= near:
        settled -= 1
    return settled
