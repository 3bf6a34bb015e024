"""The sweep of a range test: its LRs, and where it ends."""

import math
from collections.abc import Sequence

import numpy as np

from lrtune.core.commands import Sweeps
from lrtune.core.errors import check
from lrtune.core.optimizers import OPTIMIZERS, WIDEST
from lrtune.core.study import RangeCurve
from lrtune.decide.bounds import MIN_POINTS

DIVERGED = 3.0
"""A raw loss this many times the first ones' median ends the sweep."""
NUM_FIRST = 5
"""Losses whose median is the level to diverge from."""


def sweep_lrs(
    optimizer: str, low: float | None, high: float | None, num_steps: int | None
) -> list[float]:
    """Returns the LRs of a sweep, in steps of equal ratio.

    Args:
        optimizer: by its name; of an unknown one the range of LRs is wide.
        low: first LR; by default the optimizer's customary one.
        high: last LR, likewise.
        num_steps: optimizer steps, one at each LR; by default as many as a range test has.

    Raises:
        InputError: there is no such sweep; every rule that is broken.
    """
    first, last = OPTIMIZERS[optimizer].swept if optimizer in OPTIMIZERS else WIDEST
    low, high = first if low is None else low, last if high is None else high
    num_steps = Sweeps.num_steps if num_steps is None else num_steps
    check([
        (0 < low < high < math.inf, f"`0 < low < high` must hold, but got low={low}, high={high}."),
        (num_steps >= MIN_POINTS, f"`{MIN_POINTS} <= num_steps` must hold, but got {num_steps}."),
    ])  # fmt: skip
    return [float(lr) for lr in np.geomspace(low, high, num_steps)]


def sweep_curve(lrs: Sequence[float], losses: Sequence[float], *, seed: int) -> RangeCurve:
    """Returns the curve of the losses so far, cut before the first one that has diverged.

    Args:
        lrs: of the sweep, ascending.
        losses: of its first steps.
        seed: of the order of the batches.
    """
    end = _divergence(losses)
    kept = tuple(losses[:end])
    return RangeCurve(seed=seed, lrs=tuple(lrs[: len(kept)]), losses=kept, diverged=end is not None)


def _divergence(losses: Sequence[float]) -> int | None:
    """The first loss that is not finite or too large; none while there are too few to tell."""
    for index, loss in enumerate(losses):
        began = float(np.median(losses[:NUM_FIRST])) if index >= NUM_FIRST else math.inf
        if not math.isfinite(loss) or loss > DIVERGED * began:
            return index
    return None
