"""The shape of a decay as a function, evaluated from its expression."""

import bisect
import math
from collections.abc import Callable
from typing import Any

from lrtune.core.decays import Decay

Shape = Callable[[float, int], float]
"""From the share of the decay that is done, in [0, 1), and the optimizer step, counted from the
start of training, to a multiplier in [0, 1]."""


def shape_of(decay: Decay, *, epochs: int, steps_per_epoch: int) -> Shape:
    """The shape that a decay states, in a run of `epochs` epochs.

    The expressions are those of the decay's class; the values of a recipe reach them as variables
    and never as text.
    """
    names: dict[str, Any] = {"math": math, "bisect": bisect}
    names |= {"epochs": epochs, "steps_per_epoch": steps_per_epoch} | decay.parameters
    for name, expression in decay.where.items():
        names[name] = eval(expression, names)  # noqa: S307
    shape: Shape = eval(f"lambda p, step: {decay.shape}", names)  # noqa: S307
    return shape
