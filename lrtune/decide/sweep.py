"""The sweep of a range test: its LRs, and where it ends."""

import math
import statistics
from collections.abc import Sequence

import numpy as np

from lrtune.core.commands import Sweeps
from lrtune.core.errors import check
from lrtune.core.optimizers import OPTIMIZERS, WIDEST
from lrtune.core.study import RangeCurve
from lrtune.decide.bounds import MIN_POINTS, noise

NUM_IN_A_ROW = 5
"""Losses that must all be too high to end the sweep; and as many have the medians that say where
the loss began and how far it fell."""
RISE, RISE_SIGMAS = 0.5, 30.0
"""How far the loss must have risen above where it began: by this share of its fall since then, and
by this many times its noise."""


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
    """Returns the curve of the losses so far, cut where they have diverged.

    Args:
        lrs: of the sweep, ascending.
        losses: of its first steps.
        seed: of the order of the batches.
    """
    end = _divergence(losses)
    kept = tuple(losses[:end])
    return RangeCurve(seed=seed, lrs=tuple(lrs[: len(kept)]), losses=kept, diverged=end is not None)


def _divergence(losses: Sequence[float]) -> int | None:
    """Returns the index from which the losses have diverged; `None` if they have not.

    Losses diverge when `NUM_IN_A_ROW` of them are too high, or when one is not finite; those just
    before it that are too high go with it. What is too high depends on how far the loss has fallen
    and how much it fluctuates, so that an offset of the loss or its unit changes nothing, and no
    single outlier ends a sweep.
    """
    began = lowest = math.inf
    num_too_high = 0
    for index, loss in enumerate(losses):
        if not math.isfinite(loss):
            return index - num_too_high
        if index == NUM_IN_A_ROW:
            began = lowest = statistics.median(losses[:index])
        rise = loss - began
        is_too_high = rise > RISE * (began - lowest) and (
            rise > RISE_SIGMAS * noise(losses[: index + 1])
        )
        num_too_high = num_too_high + 1 if is_too_high else 0
        if num_too_high == NUM_IN_A_ROW:
            return index + 1 - num_too_high
        lowest = min(
            lowest, statistics.median(losses[max(0, index + 1 - NUM_IN_A_ROW) : index + 1])
        )
    return None
