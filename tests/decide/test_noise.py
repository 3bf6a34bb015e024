"""How much of a difference is chance: values worked out by hand."""

import math

import pytest

from lrtune.decide.noise import Difference, counting_error


@pytest.mark.parametrize(
    ("top1", "num_images", "error"),
    [
        (50, 100, 5),
        (50, 10_000, 0.5),
        (90, 900, 1),
        (10, 900, 1),
        (20, 1, 40),
        (0, 100, 0),
        (100, 100, 0),
        (100.00001, 100, 0),  # a share of images, rounded
        (-0.00001, 100, 0),
    ],
)
def test_counting_error(top1, num_images, error):
    assert counting_error(top1, num_images) == pytest.approx(error)


@pytest.mark.parametrize(
    ("low", "high", "includes"),
    [
        (-1, 1, True),
        (0, 1, True),
        (-1, 0, True),
        (0.1, 1, False),
        (-1, -0.1, False),
        (-math.inf, math.inf, True),
    ],
)
def test_includes_zero(low, high, includes):
    assert Difference(mean=0, low=low, high=high).includes_zero == includes
