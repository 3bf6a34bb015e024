"""How much of a difference is chance: values worked out by hand, and how often the interval is right."""

import math

import numpy as np
import pytest

from lrtune.decide.noise import Difference, counting_error, paired_difference


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


# Student's t for 95 %: 12.706 with 1 degree of freedom, 4.3027 with 2, 2.7764 with 4
HALF_OF_1_2_3 = 4.3027 * 1 / math.sqrt(3)


@pytest.mark.parametrize(
    ("ours", "theirs", "num_images", "mean", "half"),
    [
        ([91, 92, 93], [90, 90, 90], 10**6, 2, HALF_OF_1_2_3),
        ([91, 82, 73], [90, 80, 70], 10**6, 2, HALF_OF_1_2_3),  # seed by seed
        ([90, 90, 90], [91, 92, 93], 10**6, -2, HALF_OF_1_2_3),
        ([91, 93], [90, 90], 10**6, 2, 12.7062 * math.sqrt(2) / math.sqrt(2)),
        ([1, 2, 3, 4, 5], [0, 0, 0, 0, 0], 10**6, 3, 2.7764 * math.sqrt(2.5) / math.sqrt(5)),
        # equal by luck: the spread is that of one image
        ([91, 91, 91], [90, 90, 90], 100, 1, 4.3027 * 1 / math.sqrt(3)),
        ([91, 91, 91], [90, 90, 90], 1000, 1, 4.3027 * 0.1 / math.sqrt(3)),
        ([90, 90], [90, 90], 1000, 0, 12.7062 * 0.1 / math.sqrt(2)),
    ],
)
def test_paired_difference(ours, theirs, num_images, mean, half):
    found = paired_difference(ours, theirs, num_images=num_images)
    assert found.mean == pytest.approx(mean)
    assert (found.low, found.high) == pytest.approx((mean - half, mean + half), rel=1e-4)


def test_one_pair_says_nothing_of_the_spread():
    assert paired_difference([91], [90], num_images=1000) == Difference(mean=1, low=-math.inf, high=math.inf)


def test_a_seed_without_its_pair_is_a_mistake():
    with pytest.raises(ValueError, match="zip"):
        paired_difference([91, 92], [90], num_images=1000)


@pytest.mark.parametrize(
    ("low", "high", "includes"),
    [(-1, 1, True), (0, 1, True), (-1, 0, True), (0.1, 1, False), (-1, -0.1, False), (-math.inf, math.inf, True)],
)
def test_includes_zero(low, high, includes):
    assert Difference(mean=0, low=low, high=high).includes_zero == includes


@pytest.mark.parametrize("num_seeds", [3, 5])
def test_the_interval_covers_the_truth_19_times_in_20(num_seeds):
    rng = np.random.default_rng(0)
    truth, num_studies = 0.7, 4000
    shared = rng.normal(90, 3, (num_studies, num_seeds))  # what a seed does to both runs of its pair
    ours = shared + truth + rng.normal(0, 0.5, shared.shape)
    theirs = shared + rng.normal(0, 0.5, shared.shape)
    found = [paired_difference(*pair, num_images=10**5) for pair in zip(ours, theirs, strict=True)]
    assert 0.93 <= np.mean([d.low <= truth <= d.high for d in found]) <= 0.97
