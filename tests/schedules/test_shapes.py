"""The shapes of a decay at values of `p` where the answer can be written out."""

import pytest

from lrtune.schedules.shapes import (
    constant,
    cosine,
    exponential,
    floored,
    held,
    hold_power,
    linear,
    polynomial,
    staircase,
    wsd,
)

TABLE = [
    (constant(), [(0, 1), (0.5, 1), (0.999, 1)]),
    (
        staircase((0.25, 0.75), 0.1),
        [(0, 1), (0.24, 1), (0.25, 0.1), (0.74, 0.1), (0.75, 0.01), (0.99, 0.01)],
    ),
    (staircase((-0.5, 0.0, 0.5), 0.5), [(0, 0.25), (0.49, 0.25), (0.5, 0.125)]),
    (staircase((1.0, 1.5), 0.1), [(0, 1), (0.999, 1)]),
    (staircase((0.5, 0.5), 0.1), [(0.4, 1), (0.5, 0.01)]),
    (cosine(), [(0, 1), (1 / 3, 0.75), (0.5, 0.5), (2 / 3, 0.25)]),
    (linear(), [(0, 1), (0.25, 0.75), (0.9, 0.1)]),
    (polynomial(2.0), [(0, 1), (0.5, 0.25), (0.9, 0.01)]),
    (polynomial(0.5), [(0, 1), (0.75, 0.5), (0.99, 0.1)]),
    (exponential(0.01), [(0, 1), (0.5, 0.1), (0.75, 10**-1.5)]),
    (wsd(0.2), [(0, 1), (0.79, 1), (0.8, 1), (0.85, 0.5), (0.9, 1 - 0.5**0.5), (0.928, 0.2)]),
    (wsd(1.0), [(0, 1), (0.25, 0.5), (0.81, 0.1)]),
    (hold_power(0.5, 1.0), [(0, 1), (0.5, 1), (0.75, 0.5), (0.9, 0.2)]),
    (hold_power(0.5, 2.0), [(0, 1), (0.5, 1), (0.75, 0.25), (0.9, 0.04)]),
    (hold_power(0.0, 3.0), [(0, 1), (0.5, 0.125)]),
    (held(0.5, exponential(0.01)), [(0.4, 1), (0.75, 0.1)]),
    (floored(linear(), 0.2), [(0, 1), (0.5, 0.6), (0.75, 0.4)]),
    (floored(cosine(), 0.1), [(0, 1), (0.5, 0.55), (2 / 3, 0.325)]),
    (floored(constant(), 0.3), [(0, 1), (0.9, 1)]),
    (floored(linear(), 1.0), [(0, 1), (0.9, 1)]),
]


@pytest.mark.parametrize(("shape", "points"), TABLE)
def test_a_shape_is_what_its_equation_says(shape, points):
    # A p that is no binary fraction may fall 1e-16 beside the start of the cooldown, where the root
    # makes 1e-8 of it.
    assert [shape(p) for p, _ in points] == pytest.approx([value for _, value in points], rel=1e-7)
