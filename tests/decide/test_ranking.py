"""What fresh seeds tell about several recipes.

Checks values worked out by hand, and how often the ranking of made-up recipes is right.
"""

import math

import numpy as np
import pytest
from scipy import stats

from benchmarks.intervals import CALIBRATED, calibration, outcomes
from lrtune.core.run import BASELINE
from lrtune.decide.noise import Difference
from lrtune.decide.race import still_open
from lrtune.decide.ranking import rank
from tests.studies import config_of


def seeded(*finals):
    """Top-1s of seeds 1, 2, ...; `None`: this seed was not trained."""
    return {seed: top1 for seed, top1 in enumerate(finals, start=1) if top1 is not None}


def ranked(*finals, reference=0, num_images=10**6, paired=True):
    """Recipes 0, 1, ..., of which the first was not chosen for its score."""
    scores = {recipe: seeded(*of_it) for recipe, of_it in enumerate(finals)}
    least_difference = 100 / num_images if num_images else 0.0
    return rank(scores, reference=reference, least_difference=least_difference, paired=paired)


# Student's t at 99.25 %: 42.4335 with 1 degree of freedom, 8.0728 with 2, 4.0880 with 4
HALF_OF_1_2_3 = 8.0728 * 1 / math.sqrt(3)


@pytest.mark.parametrize(
    ("ours", "theirs", "num_images", "mean", "half"),
    [
        ([91, 92, 93], [90, 90, 90], 10**6, 2, HALF_OF_1_2_3),
        ([91, 82, 73], [90, 80, 70], 10**6, 2, HALF_OF_1_2_3),  # seed by seed
        ([90, 90, 90], [91, 92, 93], 10**6, -2, HALF_OF_1_2_3),
        ([91, 93], [90, 90], 10**6, 2, 42.4335 * math.sqrt(2) / math.sqrt(2)),
        ([1, 2, 3, 4, 5], [0, 0, 0, 0, 0], 10**6, 3, 4.08797 * math.sqrt(2.5) / math.sqrt(5)),
        # equal by luck: the spread is that of one image
        ([91, 91, 91], [90, 90, 90], 100, 1, 8.0728 * 1 / math.sqrt(3)),
        ([91, 91, 91], [90, 90, 90], 1000, 1, 8.0728 * 0.1 / math.sqrt(3)),
        ([90, 90], [90, 90], 1000, 0, 42.4335 * 0.1 / math.sqrt(2)),
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


def for_race(*finals):
    """Recipes of a race, the first of which is the baseline."""
    ranking = ranked(*finals)
    scores = {number - 1: by_seed for number, by_seed in ranking.scores.items()}
    return rank(scores, reference=BASELINE, least_difference=1e-4)


def test_who_may_still_be_the_best():
    config = config_of()
    close = for_race([80, 81, 82], [83.1, 84.0, 85.2], [83.0, 84.2, 85.0])
    assert still_open(close, {-1, 0, 1}, config) == {0, 1}  # the baseline is far below
    assert still_open(close, {-1, 1}, config) == {1}  # who is out stays out
    assert still_open(for_race([80, 81, 82], [90, 91, 92.1]), {-1, 0}, config) == {0}
    assert still_open(for_race([90, 91, 92.1], [80, 81, 82]), {-1, 0}, config) == {-1}
    assert still_open(for_race([80, 81, 82], [80.5, 80.5, 82.3]), {-1, 0}, config) == {-1, 0}
    assert still_open(for_race(), set(), config) == set()


# --- posterior means


def test_posterior_means_draw_the_candidates_together_and_leave_the_reference():
    """The nearer they are to each other, the more, and the order stays."""
    near = ranked([80.0, 81.3, 81.9], [82.4, 82.9, 84.1], [82.0, 83.3, 83.5], [81.7, 83.1, 83.9])
    far = ranked([80.0, 81.3, 81.9], [92.4, 92.9, 94.1], [82.0, 83.3, 83.5], [71.7, 73.1, 73.9])
    shares = []
    for found in (near, far):
        means, posterior = found.means, found.posterior_means
        centre = np.mean([means[n] for n in (1, 2, 3)])
        assert np.mean([posterior[n] for n in (1, 2, 3)]) - posterior[0] == pytest.approx(
            centre - means[0]
        )
        pulled = [
            (posterior[n] - posterior[0] + means[0] - centre, means[n] - centre) for n in (1, 3)
        ]
        assert all(0 < own / plain < 1 for own, plain in pulled)
        assert sorted((1, 2, 3), key=posterior.get) == sorted((1, 2, 3), key=means.get)
        shares.append(pulled[0][0] / pulled[0][1])
    assert shares[0] < 0.8
    assert 0.99 < shares[1] < 1


def test_where_nothing_is_known_of_the_noise_means_are_as_they_are():
    assert ranked([80], [81]).posterior_means == {0: 80, 1: 81}
    assert ranked([80, 82]).posterior_means[0] == ranked([80, 82]).means[0] == 81
    assert ranked().posterior_means == {}


def test_of_two_recipes_the_posterior_means_are_as_far_apart_as_the_means():
    found = ranked([80, 81, 82.5], [83, 82, 84])
    posterior = found.posterior_means
    assert posterior[1] - posterior[0] == pytest.approx(found.means[1] - found.means[0])


# --- what may be lost


def test_the_expected_loss_of_the_leader_is_the_least_and_the_others_are_behind_it():
    """Whichever is taken, the best of all is the same, so losses differ by the means."""
    found = ranked([80, 81, 82], [83.1, 84.0, 85.2], [83.0, 83.6, 84.9])
    losses = {number: found.expected_loss(number) for number in range(3)}
    assert 0 < losses[1] < losses[2] < losses[0]
    means = found.posterior_means
    for number in (0, 2):
        behind = means[1] - means[number]
        assert losses[number] - losses[1] == pytest.approx(behind, rel=0.05)


@pytest.mark.parametrize("lead", [0.0, 0.5, 1.0, 3.0])
def test_the_expected_loss_of_one_of_two_is_that_of_its_t_distribution(lead):
    """The mean of `max(0, theirs - ours)`, whose difference has a t distribution."""
    found = ranked([80.0, 81.3, 81.9, 83.1], [80.3 + lead, 81.2 + lead, 82.4 + lead, 82.9 + lead])
    centre, scale = (float(values[0]) for values in found._contrast(0, 1))
    grid = np.linspace(0, 400 * scale, 2_000_001)
    tail = stats.t.sf(grid, found.freedom, loc=centre, scale=scale)
    assert found.expected_loss(1) == pytest.approx(np.trapezoid(tail, grid), rel=0.1, abs=2e-3)


def test_one_that_leads_by_far_has_nothing_to_lose():
    assert ranked([80, 81, 82], [90, 91.1, 92]).expected_loss(1) < 0.01
    assert ranked([80, 81, 82], [90, 91.1, 92]).expected_loss(0) == pytest.approx(10.03, abs=0.1)


def test_where_nothing_is_known_all_may_be_lost():
    assert ranked([80], [81]).expected_loss(1) == math.inf
    assert ranked([80, 81]).expected_loss(0) == math.inf


# --- noise


@pytest.mark.parametrize("paired", [True, False])
def test_the_noise_is_the_standard_deviation_of_a_run_over_seeds(paired):
    """With what a seed does to all left out, where it does anything."""
    rng = np.random.default_rng(0)
    luck = rng.normal(0, 5, 40)
    finals = [
        level + rng.normal(0, 0.7, 40) + (luck if paired else 0) for level in (80, 82, 82.5, 83)
    ]
    assert ranked(*finals, paired=paired).noise == pytest.approx(0.7, rel=0.1)
    if paired:
        assert ranked(*finals, paired=False).noise == pytest.approx(np.std(luck), rel=0.1)


def test_the_noise_is_that_of_the_pairs():
    """The differences 1, 2 and 3 have a standard deviation of 1, which is that of two runs."""
    assert ranked([90, 90, 90], [91, 92, 93]).noise == pytest.approx(1 / math.sqrt(2))
    # equal by luck: the spread is that of one image
    assert ranked([90, 90], [90, 90], num_images=100).noise == pytest.approx(1 / math.sqrt(2))


def test_of_one_seed_the_noise_is_not_known_unless_several_are_alike():
    assert math.isnan(ranked([80], [81]).noise)
    assert math.isnan(ranked().noise)
    assert ranked([80], [81], [82]).noise > 0


@pytest.mark.slow
def test_intervals_and_probabilities_are_right_although_the_best_is_chosen_and_the_race_stops():
    """Of made-up studies with a known truth; gains are in units of the noise of one run.

    The 95 % intervals hold the truth: 200 studies tell their share to within a standard error of
    1.5 %. And of those that are said to be the best with a probability of about p, a share of p is.
    """
    cases = [(0, 0), (0, 2), *CALIBRATED]
    found = {case: outcomes(*case, num_studies=200) for case in cases}
    assert {case: one.covered for case, one in found.items() if one.covered < 0.92} == {}
    assert found[0, 0].claimed <= 0.08  # all are equal: a tie is called a tie
    assert found[0, 2].claimed >= 0.9  # twice the noise: a gain is called a gain
    # Too sure of itself by up to a tenth where the baseline is nearly as good as the others, since
    # it is not drawn to them.
    for one in calibration([found[case] for case in CALIBRATED]):
        assert one["n"] > 50
        assert one["true"] == pytest.approx(one["said"], abs=0.13)


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
