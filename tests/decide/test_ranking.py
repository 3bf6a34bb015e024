"""What fresh seeds tell about several recipes.

Checks values worked out by hand, and how often the ranking of made-up recipes is right.
"""

import math

import numpy as np
import pytest

from benchmarks.intervals import CALIBRATED, calibration, outcomes
from lrtune.decide.noise import Difference
from lrtune.decide.race import still_open
from lrtune.decide.ranking import rank


def seeded(*finals):
    """Top-1s of seeds 1, 2, ...; `None`: this seed was not trained."""
    return {seed: top1 for seed, top1 in enumerate(finals, start=1) if top1 is not None}


def ranked(*finals, reference=0, num_images=10**6, paired=True):
    """Recipes 0, 1, ..., of which the first was not chosen for its score."""
    scores = {recipe: seeded(*of_it) for recipe, of_it in enumerate(finals)}
    least_difference = 100 / num_images if num_images else 0.0
    return rank(scores, reference=reference, least_difference=least_difference, paired=paired)


# Student's t at 98.5 %: 21.2049 with 1 degree of freedom, 5.6428 with 2, 3.2976 with 4
HALF_OF_1_2_3 = 5.6428 * 1 / math.sqrt(3)


@pytest.mark.parametrize(
    ("ours", "theirs", "num_images", "mean", "half"),
    [
        ([91, 92, 93], [90, 90, 90], 10**6, 2, HALF_OF_1_2_3),
        ([91, 82, 73], [90, 80, 70], 10**6, 2, HALF_OF_1_2_3),  # seed by seed
        ([90, 90, 90], [91, 92, 93], 10**6, -2, HALF_OF_1_2_3),
        ([91, 93], [90, 90], 10**6, 2, 21.2049 * math.sqrt(2) / math.sqrt(2)),
        ([1, 2, 3, 4, 5], [0, 0, 0, 0, 0], 10**6, 3, 3.2976 * math.sqrt(2.5) / math.sqrt(5)),
        # equal by luck: the spread is that of one image
        ([91, 91, 91], [90, 90, 90], 100, 1, 5.6428 * 1 / math.sqrt(3)),
        ([91, 91, 91], [90, 90, 90], 1000, 1, 5.6428 * 0.1 / math.sqrt(3)),
        ([90, 90], [90, 90], 1000, 0, 21.2049 * 0.1 / math.sqrt(2)),
    ],
)
def test_of_two_recipes_the_interval_is_that_of_a_paired_t_test(
    ours, theirs, num_images, mean, half
):
    found = ranked(theirs, ours, num_images=num_images).difference(1, 0)
    assert found.mean == pytest.approx(mean)
    assert (found.low, found.high) == pytest.approx((mean - half, mean + half), rel=1e-4)


def test_one_pair_says_nothing_of_the_spread():
    found = ranked([90], [91])
    assert found.difference(1, 0) == Difference(mean=1, low=-math.inf, high=math.inf)
    assert (found.probability_above(1, 0), found.probability_best) == (0.5, {})


def test_recipes_without_a_seed_in_common_are_not_compared():
    found = ranked([90, 91, None, None], [None, None, 92, 93])
    assert found.difference(1, 0) is None
    assert found.probability_best == {}


def test_of_one_recipe_and_of_none_nothing_is_known():
    assert ranked([90, 91]).probability_best == {}
    assert ranked().probability_best == {}


def test_a_recipe_without_runs_is_not_among_them():
    assert list(ranked([90, 91], [], [92, 94]).scores) == [0, 2]


def test_more_recipes_tell_more_of_the_noise():
    """The interval of a difference is narrower where other recipes tell how large the noise is."""
    two = ranked([90, 91, 92], [92, 92, 95])
    four = ranked([90, 91, 92], [92, 92, 95], [90, 92, 92], [92, 92, 93])
    assert two.difference(1, 0).mean == four.difference(1, 0).mean == 2
    width = [found.difference(1, 0).high - found.difference(1, 0).low for found in (two, four)]
    assert width[1] < width[0] / 1.5


def test_the_first_of_many_equal_ones_is_drawn_back_to_the_others():
    """It leads by a point, which noise of a point explains, so its likely lead is smaller."""
    noise = np.random.default_rng(0).normal(0, 1, (6, 3))
    noise -= noise.mean(axis=1, keepdims=True)
    finals = [90 + noise[0], 92 + noise[1], *(91 + row for row in noise[2:])]
    found = ranked(*finals, reference=None)
    difference = found.difference(1, 2)
    assert difference.mean == pytest.approx(1)
    assert (difference.low + difference.high) / 2 < 0.9


def test_the_reference_is_drawn_to_nobody():
    """Ten points below, as a baseline may be, it does not tell the others apart."""
    others = ([90.2, 91.1, 91.9], [90.9, 90.8, 92.3], [90.1, 91.4, 92.0])
    low, high = ([80, 81, 82.1], [90, 91, 92.1])
    far, near = (ranked(reference, *others).difference(1, 2) for reference in (low, high))
    assert (far.low, far.high) == pytest.approx((near.low, near.high), abs=1e-6)


def test_what_all_share_does_not_matter():
    finals = ([80.0, 81.5, 82.0], [83.1, 82.0, 84.0], [82.0, 83.0, 83.5])
    shifted = [[top1 + 5 * seed for seed, top1 in enumerate(of_it)] for of_it in finals]
    one, other = ranked(*finals), ranked(*shifted)
    assert one.difference(1, 0).low == pytest.approx(other.difference(1, 0).low)
    assert one.probability_best == pytest.approx(other.probability_best, abs=1e-3)


def test_the_probability_of_being_best_goes_with_the_means():
    found = ranked([80, 81, 82], [83.1, 84.0, 85.2], [83.0, 83.8, 84.9])
    best = found.probability_best
    assert sum(best.values()) == pytest.approx(1)
    assert best[1] > best[2] > best[0]
    # of two alone it is the probability of being above the other
    pair = ranked([80, 81, 82], [81, 80.5, 83.5])
    assert pair.probability_best[1] == pytest.approx(pair.probability_above(1, 0), abs=0.01)


def test_seeds_that_were_harder_for_all_do_not_count_against_those_that_had_them():
    """The first recipe is better with each seed, but its average is lower.

    It had a seed that the other one did not have.
    """
    found = ranked([90, 91, 80], [89.5, 90.6, None], [85, 86.1, 75])
    means = found.means
    assert means[0] > means[1] > means[2]
    assert means[2] == pytest.approx(246.1 / 3)  # it had every seed
    assert means[0] - means[2] == pytest.approx(14.9 / 3)
    assert ranked([80, 82], [None, None, 90]).means == {0: 81, 1: 90}  # nothing links them


def test_who_may_still_be_the_best():
    close = ranked([80, 81, 82], [83.1, 84.0, 85.2], [83.0, 84.1, 85.0])
    assert still_open(close, {0, 1, 2}) == {1, 2}  # the reference is far below
    assert still_open(close, {0, 2}) == set()  # who is out stays out
    assert still_open(ranked([80, 81, 82], [90, 91, 92.1]), {0, 1}) == set()
    assert still_open(ranked([80, 81, 82], [81, 80.5, 82.5]), {0, 1}) == {0, 1}
    assert still_open(ranked(), set()) == set()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("width", "gain"), [(0, 0), (0, 2), (0.5, 0.5), (1, 0), (1, 1), (3, 0), (3, 3)]
)
def test_the_interval_covers_although_the_best_is_chosen_and_the_race_stops_early(width, gain):
    """The interval covers in 95 % of the studies; gains are in units of the noise of one run.

    400 studies tell the share to within 2 standard errors of 1.1 % each.
    """
    found = outcomes(width, gain, num_studies=400)
    assert found.covered >= 0.928
    if not width and not gain:  # all are equal: a tie is called a tie
        assert found.claimed <= 0.072
    if (width, gain) == (0, 2):  # twice the noise: a gain is called a gain
        assert found.claimed >= 0.9


@pytest.mark.slow
def test_the_probability_of_being_best_is_calibrated():
    """Of those that are said to be the best with a probability of about p, a share of p is."""
    for one in calibration([outcomes(width, gain, num_studies=200) for width, gain in CALIBRATED]):
        assert one["n"] > 50
        assert one["true"] == pytest.approx(
            one["said"], abs=max(0.05, 3 * math.sqrt(0.25 / one["n"]))
        )


@pytest.mark.slow
@pytest.mark.parametrize(("noises", "least"), [((1, 2, 1, 1), 0.9), ((2, 1, 1, 1), 0.8)])
def test_what_a_recipe_twice_as_noisy_as_the_others_costs(noises, least):
    """One variance for all is an assumption.

    A noisy candidate does no harm to it, a noisy baseline some.
    """
    assert least <= outcomes(1, 1, noises, num_studies=300).covered


def test_the_draws_do_not_depend_on_the_axes_that_a_library_finds(monkeypatch):
    finals = ((90.1, 90.4, 90.0), (90.6, 90.9, 90.2), (90.5, 90.1, 90.8))
    expected = ranked(*finals).probability_best

    def other_axes(matrix, found=np.linalg.eigh):
        sizes, axes = found(matrix)
        return sizes, -axes

    monkeypatch.setattr(np.linalg, "eigh", other_axes)
    assert ranked(*finals).probability_best == expected
