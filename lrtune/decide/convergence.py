"""When a run got there: the convergence epoch, and the epoch at which it settled."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

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
        """`7 [6, 9]`: median [min, max]; a miss counts as later than every epoch."""
        if not self.epochs:
            return "not measured"
        ordered = sorted(math.inf if epoch is None else epoch for epoch in self.epochs)
        middle, low, high = (_epoch(value) for value in (median(ordered), ordered[0], ordered[-1]))
        return f"{middle} [{low}, {high}]" if self.num_reached else "not reached"

    def __str__(self) -> str:
        """`7 [6, 9] of 12`, or `not reached in 12`."""
        if not self.epochs:
            return self.spread
        return f"{self.spread} {'of' if self.num_reached else 'in'} {self.horizon_epochs}"


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


def _epoch(value: float) -> str:
    return f"{value:g}" if math.isfinite(value) else "not reached"
