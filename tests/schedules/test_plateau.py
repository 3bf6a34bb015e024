"""The plateau rule, traced by hand. That it is torch's, too, is tested in `test_parity_torch`."""

import math
from itertools import accumulate

import pytest

from lrtune.core.decays import Plateau
from lrtune.schedules.plateau import PlateauState, observe, start

NAN, INF = math.nan, math.inf

# rule, floor, metric of each epoch, multiplier after each epoch
TRACES = [
    pytest.param(
        Plateau(factor=0.5, patience_epochs=0),
        0,
        [3, 2, 2, 1, 1, 1],
        [1, 1, 0.5, 0.5, 0.25, 0.125],
        id="no patience",
    ),
    pytest.param(
        Plateau(factor=0.5, patience_epochs=2),
        0,
        [1] * 8,
        [1, 1, 1, 0.5, 0.5, 0.5, 0.25, 0.25],
        id="patience of 2",
    ),
    pytest.param(
        Plateau(factor=0.5, patience_epochs=1),
        0,
        [9, 9, 8, 8, 7, 7, 7],
        [1] * 6 + [0.5],
        id="progress starts the count anew",
    ),
    pytest.param(
        Plateau(factor=0.5, patience_epochs=0, cooldown_epochs=2),
        0,
        [1] * 8,
        [1, 0.5, 0.5, 0.5, 0.25, 0.25, 0.25, 0.125],
        id="a cooldown looks away",
    ),
    pytest.param(
        Plateau(factor=0.1, patience_epochs=0),
        0.05,
        [1] * 4,
        [1, 0.1, 0.05, 0.05],
        id="never below the floor",
    ),
    pytest.param(
        Plateau(monitor="top1", factor=0.5, patience_epochs=0),
        0,
        [10, 20, 20, 15, 30],
        [1, 1, 0.5, 0.25, 0.25],
        id="top1",
    ),
    pytest.param(
        Plateau(factor=0.5, patience_epochs=0, threshold=0.25),
        0,
        [8, 6.5, 5],
        [1, 0.5, 0.5],
        id="relative threshold",
    ),
    pytest.param(
        Plateau(factor=0.5, patience_epochs=0, threshold=2, threshold_mode="abs"),
        0,
        [8, 6, 5.5],
        [1, 0.5, 0.5],
        id="absolute threshold, not met by just as much",
    ),
    pytest.param(
        Plateau(monitor="top1", factor=0.5, patience_epochs=0, threshold=2, threshold_mode="abs"),
        0,
        [50, 52, 52.5],
        [1, 0.5, 0.5],
        id="absolute threshold, top1",
    ),
    pytest.param(
        Plateau(factor=0.5, patience_epochs=0),
        0,
        [NAN, 1, NAN, INF, 0.5],
        [0.5, 0.5, 0.25, 0.125, 0.125],
        id="nan is bad",
    ),
]


@pytest.mark.parametrize(("rule", "floor", "metrics", "multipliers"), TRACES)
def test_the_multiplier_after_each_epoch(rule, floor, metrics, multipliers):
    states = accumulate(
        metrics, lambda s, metric: observe(rule, s, metric, floor=floor), initial=start(rule)
    )
    assert [state.multiplier for state in states][1:] == pytest.approx(multipliers)


@pytest.mark.parametrize(("monitor", "worst"), [("val_loss", INF), ("top1", -INF)])
def test_before_the_first_epoch_anything_is_progress(monitor, worst):
    assert start(Plateau(monitor=monitor)) == PlateauState(multiplier=1.0, best=worst)


def test_observe_leaves_the_state_it_was_given():
    rule = Plateau(patience_epochs=0)
    state = start(rule)
    assert observe(rule, state, 1.0) == observe(rule, state, 1.0) != state
    assert state == start(rule)
