"""Joins multipliers that each count from 0, as optax does in `schedules/_join.py`."""

from collections.abc import Callable

from lrtune.schedules.shapes import Shape

Multiplier = Callable[[int], float]
"""From the number of an optimizer step, counted from 0, to the multiplier used for that step."""


def warmup(num_steps: int) -> Multiplier:
    """`(t + 1) / num_steps`: a line that begins above 0 and is 1 for its last step.

    Gradual warmup (Goyal et al. 2017, arXiv 1706.02677, section 2.2), stepped per optimizer step.
    """
    return lambda t: (t + 1) / num_steps


def stretch(shape: Shape, num_steps: int) -> Multiplier:
    """`shape(t / num_steps)`: a shape fitted to `num_steps` steps."""
    return lambda t: shape(t / num_steps)


def join(first: Multiplier, num_steps: int, then: Multiplier) -> Multiplier:
    """`first` for `num_steps` steps, and `then` after them, counting from 0 again.

    Example:
        >>> triangle = join(warmup(2), 2, stretch(linear(), 4))
        >>> [triangle(t) for t in range(6)]
        [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]
    """
    return lambda t: first(t) if t < num_steps else then(t - num_steps)
