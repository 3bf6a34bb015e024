"""Where the best peak LR lies at each length of training, and what follows for longer ones."""

import math

import numpy as np
import pytest

from lrtune.decide.horizons import BestLR, best_lr, extrapolated


def parabola(lrs, best, noise=0.0, seed=0):
    rng = np.random.default_rng(seed)
    return [-(math.log(lr / best) ** 2) + noise * rng.normal() for lr in lrs]


def spread(count, low=0.01, high=1.0, seed=0):
    rng = np.random.default_rng(seed)
    return list(np.exp(rng.uniform(math.log(low), math.log(high), count)))


def test_the_top_of_a_parabola_is_found_whatever_the_bad_trials_are():
    lrs = spread(40)
    scores = parabola(lrs, 0.1)
    found = best_lr(lrs, scores)
    assert [found.peak_lr, found.low, found.high] == pytest.approx([0.1] * 3)
    worse = [score if score > -2 else score - 100 for score in scores]
    assert best_lr(lrs, worse).peak_lr == pytest.approx(0.1)
    assert best_lr([*lrs, 5.0], [*scores, -math.inf]) == found


def test_the_interval_holds_the_truth_about_as_often_as_it_says():
    held = known = 0
    for seed in range(60):
        lrs = spread(40, seed=seed)
        found = best_lr(lrs, parabola(lrs, 0.1, noise=0.2, seed=seed))
        if found is not None:
            known += 1
            held += found.low <= 0.1 <= found.high
    assert known > 50
    assert held / known > 0.85


@pytest.mark.parametrize(
    ("lrs", "scores"),
    [
        ([], []),
        ([0.1, 0.2, 0.3, 0.4, 0.5], [1, 2, 3, 2, 1]),  # too few
        ([0.1, 0.2] * 5, [1, 2] * 5),  # of two values alone
        (spread(40), [0.0] * 40),
        (spread(40), list(np.random.default_rng(1).normal(size=40))),
        (spread(40, high=0.05), parabola(spread(40, high=0.05), 1.0)),  # the best was not tried
        (spread(10), [-math.inf] * 10),
    ],
)
def test_what_the_trials_do_not_tell_is_not_told(lrs, scores):
    assert best_lr(lrs, scores) is None


def test_a_drift_that_is_shown_goes_on_by_a_power_of_the_length():
    short, long = BestLR(0.4, 0.36, 0.44), BestLR(0.2, 0.18, 0.22)
    found = extrapolated(short, 1, long, 3, epochs=27)
    assert found.peak_lr == pytest.approx(0.05)  # half with each three times the length
    assert found.low < found.peak_lr < found.high
    assert math.log(found.high / found.low) > 2 * math.log(long.high / long.low)
    assert extrapolated(short, 1, long, 3, epochs=3).peak_lr == pytest.approx(0.2)


def test_nothing_follows_from_a_drift_that_chance_explains():
    short, long = BestLR(0.4, 0.2, 0.8), BestLR(0.2, 0.1, 0.4)
    assert extrapolated(short, 1, long, 3, epochs=27) is None
