"""From range curves to the interval of peak LRs.

Checks what must not move it, what is no signal, and the classic rules.
"""

import json
import math
from dataclasses import replace
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lrtune.core.study import RangeCurve
from lrtune.decide.bounds import (
    HIGH_RISE,
    LOW_DROP,
    MIN_POINTS,
    RULES,
    combine,
    range_result,
    smoothing,
)
from lrtune.decide.sweep import sweep_curve

DECADES = np.array([-6.0, 1.0])
FALLS_AT, FALL = -2.0, 1.5
BLOWS_UP_AT = 0.5


def falling(x):
    """From 2.3 to 0.8, half of it at log10 LR = -2."""
    return 2.3 - FALL / (1 + 10 ** (-2 * (x - FALLS_AT)))


def u_shaped(x):
    """Falls, and is back where it began at log10 LR = 0.5, steeply."""
    return falling(x) + FALL * 10 ** (6 * (x - BLOWS_UP_AT))


def curve(loss, *, num_steps=200, noise=0.0, seed=0, scale=1.0, factor=1.0):
    """A sweep of seven decades, stopped as real ones are."""
    x = np.linspace(*DECADES, num_steps)
    losses = loss(x) + noise * np.random.default_rng(seed).standard_normal(num_steps)
    return sweep_curve((factor * 10**x).tolist(), (scale * losses).tolist(), seed=seed)


def result(loss, num_seeds=3, first_seed=0, **changes):
    return range_result(
        "sgd", [curve(loss, seed=first_seed + i, **changes) for i in range(num_seeds)]
    )


def values(interval):
    return np.array([interval.low, interval.suggestion, interval.high])


def crossing(loss, level, low, high):
    """The LR at which `loss` is closest to `level`, on a fine grid between `low` and `high`."""
    x = np.linspace(low, high, 10_001)
    return 10 ** x[np.argmin(np.abs(loss(x) - level))]


@pytest.mark.parametrize("noise", [0.0, 0.02, 0.05])
def test_a_u_shaped_curve(noise):
    found = result(u_shaped, noise=noise)
    x = np.linspace(*DECADES, 10_001)
    lowest, at_lowest = u_shaped(x).min(), x[u_shaped(x).argmin()]
    drop = 2.3 - lowest
    expected = [
        crossing(u_shaped, 2.3 - LOW_DROP * drop, -6, at_lowest),
        crossing(u_shaped, lowest + HIGH_RISE * drop, at_lowest, 1),
    ]
    low, suggestion, high = values(found.interval)
    assert low < suggestion < high < 10**BLOWS_UP_AT
    assert np.abs(np.log10([low, high]) - np.log10(expected)).max() < 0.2  # decades
    assert suggestion == pytest.approx(math.sqrt(low * high))
    assert high > 10 ** (BLOWS_UP_AT - 0.3)
    assert (found.reason, found.optimizer, len(found.curves)) == ("", "sgd", 3)
    assert "to the one past the minimum at which a quarter of it is lost again" in found.rule
    assert set(found.suggestions) == set(RULES)


def test_where_the_loss_never_rises_again_the_interval_ends_with_the_sweep():
    found = result(falling, noise=0.02)
    assert found.interval.high == found.curves[0].lrs[-1] == 10
    assert found.interval.low < 10**FALLS_AT < found.interval.suggestion
    assert "to the last one of the sweep, since the loss had not risen by then" in found.rule


def test_where_the_loss_blows_up_at_once_the_interval_ends_before_that():
    whole = curve(falling, noise=0.02)
    cut = replace(whole, lrs=whole.lrs[:150], losses=whole.losses[:150], diverged=True)
    found = range_result("sgd", [whole, cut, whole])
    assert found.interval.high == cut.lrs[-1]
    assert "to the last one before the loss blew up" in found.rule


SIGNALS = pytest.mark.parametrize("loss", [u_shaped, falling])


@SIGNALS
@pytest.mark.parametrize("scale", [1e-4, 0.5, 7.0, 1e5])
def test_the_scale_of_the_loss_moves_nothing(loss, scale):
    as_it_was, scaled = result(loss, noise=0.05), result(loss, noise=0.05, scale=scale)
    assert scaled.interval == as_it_was.interval
    assert scaled.suggestions == as_it_was.suggestions


@SIGNALS
@pytest.mark.parametrize("factor", [1e-3, 0.5, 3.0, 100.0])
def test_shifting_the_lrs_shifts_the_answer(loss, factor):
    as_it_was, shifted = result(loss, noise=0.05), result(loss, noise=0.05, factor=factor)
    assert values(shifted.interval) == pytest.approx(factor * values(as_it_was.interval), rel=1e-9)
    assert shifted.suggestions == pytest.approx(
        {rule: factor * lr for rule, lr in as_it_was.suggestions.items()}, rel=1e-9
    )


@SIGNALS
@pytest.mark.parametrize("num_steps", [85, 170, 340])
def test_twice_as_many_steps_move_it_by_less_than_a_grid_point(loss, num_steps):
    coarse, fine = (result(loss, num_steps=n).interval for n in (num_steps, 2 * num_steps - 1))
    grid_point = np.ptp(DECADES) / (num_steps - 1)  # with 85 steps: 12 a decade
    assert np.abs(np.log10(values(coarse) / values(fine))).max() < grid_point


def test_the_order_of_the_seeds_changes_nothing():
    curves = [curve(u_shaped, seed=seed, noise=0.1) for seed in range(4)]
    stopped = [
        replace(c, lrs=c.lrs[: 180 + c.seed], losses=c.losses[: 180 + c.seed]) for c in curves
    ]
    found = [range_result("sgd", order) for order in permutations(stopped)]
    assert all(
        f.interval == found[0].interval and f.suggestions == found[0].suggestions for f in found
    )


def test_one_seed_that_goes_wrong_changes_little():
    curves = [curve(u_shaped, seed=seed, noise=0.02) for seed in range(3)]
    wrong = replace(
        curves[2], losses=tuple(2.3 + 0.5 * i / 10 for i in range(len(curves[2].losses)))
    )
    moved = values(range_result("sgd", [*curves[:2], wrong]).interval) / values(
        range_result("sgd", curves).interval
    )
    assert np.abs(np.log10(moved)).max() < 0.2


FALLS_NOWHERE = "The loss falls at no LR of the sweep, and rises above "
TOO_HIGH_FROM_THE_START = "The sweep begins too high: give a lower `low`."
TRAINED = "nothing more to learn from these data, like one that is trained already"


def flat(x):
    return np.full_like(x, 2.3)


def rising(x):
    return 2.3 + 0.1 * 10 ** (x - 0.5)


def steadily_rising(x):
    return 2.3 + 0.3 * (x + 6)


@pytest.mark.parametrize(
    ("loss", "noise", "reason"),
    [
        (rising, 0.0, TOO_HIGH_FROM_THE_START),
        (rising, 0.02, f"{TRAINED}; to train it further, stay below"),
        (steadily_rising, 0.0, TOO_HIGH_FROM_THE_START),
        (steadily_rising, 0.002, TOO_HIGH_FROM_THE_START),
        (steadily_rising, 0.05, FALLS_NOWHERE),
        (flat, 0.0, "which its noise"),
        (flat, 0.1, "which its noise"),
        (flat, 0.1, f"{TRAINED}."),
        (lambda x: 2.3 - 0.001 * (x + 6), 0.1, "which its noise"),
    ],
)
@pytest.mark.parametrize("num_seeds", [1, 3])
def test_no_signal_has_a_reason(loss, noise, reason, num_seeds):
    found = result(loss, num_seeds=num_seeds, noise=noise)
    assert (found.interval, found.suggestions) == (None, {})
    assert reason in found.reason
    assert len(found.curves) == num_seeds


@pytest.mark.parametrize("num_steps", [16, 50, 200])
@pytest.mark.parametrize("num_seeds", [1, 3, 5])
def test_noise_alone_gives_no_signal(num_steps, num_seeds):
    found = [
        result(flat, num_seeds=num_seeds, num_steps=num_steps, noise=0.1, first_seed=1000 * i)
        for i in range(100)
    ]
    assert sum(f.interval is not None for f in found) <= 1


@pytest.mark.parametrize("num_seeds", [1, 3])
def test_a_fall_of_many_times_the_noise_is_a_signal(num_seeds):
    for i in range(30):
        assert (
            result(u_shaped, num_seeds=num_seeds, noise=0.2, first_seed=1000 * i).interval
            is not None
        )


NAN_SOMEWHERE = "NaNs in the data, the model or the loss"
TOO_HIGH = f"and {MIN_POINTS} steps are needed: this LR is too high, or there are {NAN_SOMEWHERE}."


@pytest.mark.parametrize(
    ("num_points", "reason"),
    [
        (0, f"The loss was not finite before the first step: look for {NAN_SOMEWHERE}."),
        (1, f"The sweep broke off after step 1, at an LR of 1e-06, {TOO_HIGH}"),
        (MIN_POINTS - 1, f"The sweep broke off after step 15, at an LR of 3.11e-06, {TOO_HIGH}"),
    ],
)
def test_a_sweep_that_broke_off_early_says_so(num_points, reason):
    whole = curve(falling)
    short = replace(
        whole, lrs=whole.lrs[:num_points], losses=whole.losses[:num_points], diverged=True
    )
    found = range_result("sgd", [whole, short, whole])
    assert (found.interval, found.reason) == (None, reason)


@pytest.mark.parametrize("num_steps", [50, 200])
@pytest.mark.parametrize("num_seeds", [1, 3, 5])
def test_the_standard_error_of_a_smoothed_loss(num_seeds, num_steps):
    smoothed, errors = [], []
    for i in range(300):
        curves = [
            curve(flat, num_steps=num_steps, noise=0.1, seed=1000 * i + j) for j in range(num_seeds)
        ]
        _, losses, error = combine(curves)
        smoothed.append(losses)
        errors.append(error)
    ratio = np.std(smoothed, axis=0) / np.mean(
        errors, axis=0
    )  # (n,): less than 1 where a median is sharper than assumed
    for place in (
        slice(None, 1),
        slice(5, -5),
        slice(-1, None),
    ):  # the ends are noisier, and known to be
        assert 0.7 < np.mean(ratio[place]) < 1.1


@given(
    x=st.lists(st.floats(-7, 1), min_size=1, max_size=40, unique_by=lambda value: round(value, 3)),
    intercept=st.floats(-10, 10),
    slope=st.floats(-10, 10),
)
def test_smoothing_is_exact_on_straight_lines_in_log_lr(x, intercept, slope):
    x = np.sort(x)
    line = intercept + slope * x
    assert smoothing(10**x) @ line == pytest.approx(line, abs=1e-6)


def test_smoothing_does_not_lag():
    lrs = np.geomspace(1e-6, 1e1, 201)
    bump = np.exp(-((np.arange(201) - 100) ** 2) / 200)
    smoothed = smoothing(lrs) @ bump
    assert np.argmax(smoothed) == 100
    assert smoothed == pytest.approx(smoothed[::-1], abs=1e-12)


def test_smoothing_quiets_noise():
    noise = np.random.default_rng(0).standard_normal(200)
    assert np.std(smoothing(np.geomspace(1e-6, 1e1, 200)) @ noise) < 0.5


LRS = 10.0 ** np.arange(-6, 2)

# losses at LRs of 1e-6 ... 10, and what minimum, steep, valley and slide say
CLASSIC = [
    # one valley: lowest at 0.1, steepest at 1e-3, longest fall of 5 points up to 0.1; the slope is
    # never steady
    ([2.0, 2.0, 1.9, 1.5, 0.7, 0.5, 0.6, 3.0], 1e-2, 1e-3, 1e-5, None),
    # two falls: the steeper one first, the lower one last; steady only from 1e-6 to 1e-5
    ([2.0, 1.5, 1.0, 1.3, 1.6, 1.2, 0.8, 3.0], 1e-1, 1e-6, 1e-4, 1e-5),
    # to the end; steady up to 1e-1, and from there to 1
    ([8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 1.0, 0.0], 1.0, 1e-1, 1e-3, 1.0),
    # rising and flat: a minimum there always is, anything else there is not
    ([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0], 1e-7, None, None, None),
    ([1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0], 1e-7, None, None, None),
]


@pytest.mark.parametrize("scale", [1, 10, 1e-3])
@pytest.mark.parametrize(("losses", "minimum", "steep", "valley", "slide"), CLASSIC)
def test_the_classic_rules(losses, minimum, steep, valley, slide, scale):
    found = {name: rule(LRS, scale * np.array(losses)) for name, rule in RULES.items()}
    expected = {"minimum": minimum, "steep": steep, "valley": valley, "slide": slide}
    assert found == {name: lr if lr is None else pytest.approx(lr) for name, lr in expected.items()}


def test_slide_stops_below_the_blow_up():
    """The loss falls steadily by 1 a decade up to 0.1, and then rises.

    So the interval of 1.2 decades begins near 0.1 / 10^1.2.
    """
    lrs = np.geomspace(1e-6, 10, 141)  # 20 a decade
    x = np.log10(lrs)
    losses = np.where(x < -1, -x, 1 + 10 * (x + 1) ** 2)
    assert RULES["slide"](lrs, losses) == pytest.approx(0.1 / 10**1.2, rel=0.2)


# --- on recorded curves ---


def recorded():
    """Three sweeps of each task and optimizer of the finder benchmark."""
    cells = json.loads(
        Path(__file__).parents[2].joinpath("benchmarks", "results", "finder.json").read_text()
    )["cells"]
    found = {}
    for cell in cells:
        lrs = np.geomspace(*cell["sweep"]).tolist()
        found[f"{cell['case']}, {cell['optimizer']}"] = [
            RangeCurve(
                lrs=tuple(lrs[: len(kept["losses"])]), **kept | {"losses": tuple(kept["losses"])}
            )
            for kept in cell["curves"]
        ]
    return found


RECORDED = pytest.mark.parametrize(
    "curves", [pytest.param(curves, id=name) for name, curves in recorded().items()]
)


def with_lrs(curves, factor):
    return [replace(c, lrs=tuple(factor * lr for lr in c.lrs)) for c in curves]


def with_losses(curves, change):
    return [replace(c, losses=tuple(change(np.array(c.losses)).tolist())) for c in curves]


def part(curves, start, end):
    """The steps from one LR to another, as of a sweep that ended there."""
    first, last = np.searchsorted(curves[0].lrs, [start, end])
    return [
        replace(c, lrs=c.lrs[first:last], losses=c.losses[first:last], diverged=False)
        for c in curves
    ]


@RECORDED
@pytest.mark.parametrize("scale", [1e-3, 0.5, 10.0])
def test_the_scale_of_a_recorded_loss_moves_nothing(curves, scale):
    as_it_was, scaled = (
        range_result("sgd", curves),
        range_result("sgd", with_losses(curves, lambda x: scale * x)),
    )
    assert scaled.interval == as_it_was.interval
    assert scaled.suggestions == as_it_was.suggestions


@RECORDED
def test_an_offset_of_a_recorded_loss_moves_nothing(curves):
    as_it_was, lifted = (
        range_result("sgd", curves),
        range_result("sgd", with_losses(curves, lambda x: x + 4)),
    )
    assert lifted.interval == as_it_was.interval


@RECORDED
@pytest.mark.parametrize("factor", [1e-3, 3.0, 100.0])
def test_shifting_recorded_lrs_shifts_the_answer(curves, factor):
    as_it_was, shifted = range_result("sgd", curves), range_result("sgd", with_lrs(curves, factor))
    assert values(shifted.interval) == pytest.approx(factor * values(as_it_was.interval), rel=1e-9)


@RECORDED
def test_a_recorded_curve_at_twice_the_points_moves_by_less_than_a_grid_point(curves):
    def finer(c):
        x = np.log(c.lrs)
        twice = np.linspace(x[0], x[-1], 2 * len(x) - 1)
        losses = np.interp(twice, x, c.losses)
        return replace(c, lrs=tuple(np.exp(twice).tolist()), losses=tuple(losses.tolist()))

    moved = values(range_result("sgd", list(map(finer, curves))).interval) / values(
        range_result("sgd", curves).interval
    )
    assert np.abs(np.log(moved)).max() < math.log(curves[0].lrs[1] / curves[0].lrs[0])


@RECORDED
def test_where_a_recorded_curve_is_flat_there_is_no_signal(curves):
    found = range_result("sgd", part(curves, 0, range_result("sgd", curves).interval.low / 30))
    assert found.interval is None
    assert "which its noise" in found.reason


@RECORDED
def test_where_a_recorded_curve_rises_there_is_no_signal(curves):
    """Its fall, from the last step to the first."""
    lrs, losses, _ = combine(curves)
    fall = part(curves, 0, lrs[np.argmin(losses)])
    found = range_result("sgd", with_losses(fall, lambda x: x[::-1]))
    assert found.interval is None
    assert found.reason.startswith(FALLS_NOWHERE)


@RECORDED
def test_the_losses_of_a_recorded_curve_in_any_order_are_no_signal(curves):
    found = range_result("sgd", with_losses(curves, np.random.default_rng(0).permutation))
    assert found.interval is None
    assert found.reason


def test_an_interval_is_of_plain_numbers():
    found = result(u_shaped, noise=0.02)
    assert all(
        type(value) is float and math.isfinite(value) for value in vars(found.interval).values()
    )
    assert all(type(value) is float for value in found.suggestions.values())
