"""The convergence epoch and the settling epoch, by tables."""

import math

import pytest

from lrtune.core.objective import Objective
from lrtune.decide.convergence import Convergence, convergence_epoch, settling_epoch

NAN = math.nan


@pytest.mark.parametrize(
    ("top1s", "target", "epoch"),
    [
        ([], 50, None),
        ([49.9], 50, None),
        ([50], 50, 1),
        ([10, 60, 40, 70], 50, 2),  # first reached, whatever comes after
        ([10, 20, 30, 50], 50, 4),
        ([10, 20, 30, 49.99], 50, None),  # never the last epoch instead
        ([NAN, NAN], 50, None),
        ([NAN, 60], 50, 2),
        ([60], NAN, None),
    ],
)
def test_convergence_epoch(top1s, target, epoch):
    assert convergence_epoch(Objective(), top1s, target) == epoch


@pytest.mark.parametrize(
    ("epochs", "num_reached", "text"),
    [
        ((), 0, "not measured"),
        ((7,), 1, "7 of 12"),
        ((9, 6, 7), 3, "7 [6, 9] of 12"),
        ((6, 6, 6), 3, "6 of 12"),
        ((6, 7), 2, "6.5 [6, 7] of 12"),
        ((6, None, 7), 2, "7, by 2 of 3 in 12 epochs"),
        ((None, 6, None), 1, "by 1 of 3 in 12 epochs"),
        ((6, None), 1, "by 1 of 2 in 12 epochs"),
        ((None,), 0, "not reached in 12 epochs"),
        ((None, None, None), 0, "not reached in 12 epochs"),
    ],
)
def test_convergence_over_seeds(epochs, num_reached, text):
    convergence = Convergence(epochs=epochs, horizon_epochs=12)
    assert (convergence.num_reached, str(convergence)) == (num_reached, text)


# With 10,000 images, two counting errors at 90 % are 0.6 points; with 10 million the least counts,
# 0.2.
@pytest.mark.parametrize(
    ("top1s", "num_images", "epoch"),
    [
        ([], 10_000, None),
        ([90], 10_000, 1),
        ([10, 90], 10_000, 1),  # both medians are of the same two epochs
        ([90, 90, 90, 90], 10_000, 1),
        ([10, 50, 80, 90, 90, 90], 10_000, 4),
        ([10, 50, 89.5, 90, 90, 90], 10_000, 3),
        ([10, 50, 89.3, 90, 90, 90], 10_000, 4),
        ([10, 50, 89.5, 90, 90, 90], 10**7, 4),
        ([10, 50, 89.85, 90, 90, 90], 10**7, 3),
        ([10, 90, 90, 90, 50, 90, 90, 90], 10_000, 2),  # one bad epoch is nothing
        ([10, 90, 90, 90, 50, 50, 90, 90, 90], 10_000, 7),  # two are
        ([90, 90, 90, 80, 80, 80], 10_000, 4),
        ([50, 60, 70, 80, 90], 10_000, 5),
        ([10, 90, NAN, 90, 90], 10_000, 3),  # of epochs 2 to 4 and on
        ([NAN, 10, 90, 90], 10_000, 3),  # of epochs 1 to 3 it is 50
        ([90, 90, NAN, NAN, NAN], 10_000, 5),
        ([NAN], 10_000, 1),
    ],
)
def test_settling_epoch(top1s, num_images, epoch):
    assert settling_epoch(Objective(num_counted=num_images), top1s) == epoch
