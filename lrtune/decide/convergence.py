"""When a run got there: the convergence epoch, and the epoch at which it settled."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from lrtune.decide.noise import counting_error


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


def convergence_epoch(top1s: Sequence[float], target: float) -> int | None:
    """The first epoch, from 1, whose Top-1 is at least `target`; `None` where no epoch's is.

    NaN reaches nothing.
    """
    return next((epoch for epoch, top1 in enumerate(top1s, start=1) if top1 >= target), None)


def settling_epoch(top1s: Sequence[float], num_images: int) -> int | None:
    """The first epoch from which the centred 3-epoch median stays near the final level; `None` for an empty run.

    Near is within `max(0.2, 2 sqrt(p (1 - p) / n))` points of the last median.
    """
    if not top1s:
        return None
    medians = [median(top1s[max(0, i - 1) : i + 2]) for i in range(len(top1s))]
    near = max(0.2, 2 * counting_error(medians[-1], num_images))
    settled = len(medians)
    while settled > 1 and abs(medians[settled - 2] - medians[-1]) <= near:
        settled -= 1
    return settled


def _epoch(value: float) -> str:
    return f"{value:g}" if math.isfinite(value) else "not reached"
