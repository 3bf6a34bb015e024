"""How much of a difference is chance: values worked out by hand."""

import math

import pytest

from lrtune.core.objective import Objective
from lrtune.decide.noise import Difference


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
    objective = Objective(num_counted=num_images)
    assert objective.counting_error(top1) == pytest.approx(error)


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


@pytest.mark.parametrize(
    ("metric", "scores", "values", "text"),
    [
        ("top1", (2, 1, 3), (2, 1, 3), ("+2.00", "[+1.00, +3.00]")),
        ("val_loss", (0.2, 0.1, 0.4), (-0.2, -0.4, -0.1), ("-0.200", "[-0.400, -0.100]")),
        ("val_loss", (-0.2, -0.4, 0.1), (0.2, -0.1, 0.4), ("+0.200", "[-0.100, +0.400]")),
        ("f1", (0.2, -math.inf, math.inf), (0.2, -math.inf, math.inf), ("+0.200", "")),
    ],
)
def test_a_difference_is_told_with_the_sign_of_the_metric(metric, scores, values, text):
    mean, low, high = scores
    difference = Difference(mean=mean, low=low, high=high)
    assert difference.of_values(Objective.parse(metric)) == values
    assert difference.text(Objective.parse(metric)) == text
