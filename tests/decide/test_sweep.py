"""Where a sweep ends: a table, what must not move it, and losses with many outliers."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lrtune.decide.bounds import range_result
from lrtune.decide.sweep import NUM_IN_A_ROW, RISE_SIGMAS, sweep_curve

X = np.linspace(-6, 1, 200)
LRS = (10**X).tolist()


def kept(losses):
    """How many losses are kept, and whether the sweep has diverged."""
    curve = sweep_curve(LRS, losses, seed=0)
    assert curve.losses == tuple(losses[: len(curve.losses)])
    return len(curve.losses), curve.diverged


LEVEL = [1.0, 1.1] * 20  # its noise is that of the smallest change, 0.1
FALL = [10.0, 9.9] * 10 + [2.0, 1.9] * 10  # the limit is 14, since it begins at 10 and falls by 8
TABLE = {
    "too few to tell": ([1.0] * 4, 4, False),
    "level": (LEVEL, 40, False),
    "five too high": ([*LEVEL, *[9.0] * NUM_IN_A_ROW], 40, True),
    "four too high": ([*LEVEL, *[9.0] * (NUM_IN_A_ROW - 1)], 44, False),
    "four too high, and then not": ([*LEVEL, *[9.0] * 4, 1.0, 9.0], 46, False),
    "too high from the sixth on": ([1.0, 1.1] * 2 + [1.0] + [9.0] * 5, 5, True),
    "below the limit": ([*LEVEL, *[1.0 + 0.99 * RISE_SIGMAS * 0.1] * 9], 49, False),
    "negative": ([loss - 5 for loss in [*LEVEL, *[9.0] * 5]], 40, True),
    "higher by less than half its fall": ([*FALL, *[13.9] * 9], 49, False),
    "higher by more than half its fall": ([*FALL, *[14.1] * 9], 40, True),
    "not finite": ([*LEVEL, math.nan, 1.0], 40, True),
    "below all numbers": ([*LEVEL, -math.inf, 1.0], 40, True),
    "not finite at first": ([math.inf, *LEVEL], 0, True),
    "too high, and then not finite": ([*LEVEL, 50.0, 1e9, math.inf], 40, True),
}


@pytest.mark.parametrize(("losses", "num_kept", "diverged"), TABLE.values(), ids=TABLE)
def test_a_sweep_ends_where_its_losses_have_diverged(losses, num_kept, diverged):
    assert kept(losses) == (num_kept, diverged)


def u_shaped(x):
    return 2.3 - 1.5 / (1 + 10 ** (-2 * (x + 2))) + 1.5 * 10 ** (6 * (x - 0.5))


def pretrained(x):
    return 0.01 + 0.1 * 10 ** (x + 1)


def flat(x):
    return np.full_like(x, 2.3)


CURVES = {"u-shaped": u_shaped, "pretrained": pretrained, "flat": flat, "falling": lambda x: -x}


@given(
    name=st.sampled_from(sorted(CURVES)),
    noise=st.sampled_from([0.0, 0.01, 0.1]),
    seed=st.integers(0, 1000),
    scale=st.floats(1e-6, 1e6),
    offset=st.floats(-1e4, 1e4),
)
def test_neither_the_unit_nor_an_offset_of_the_loss_moves_anything(
    name, noise, seed, scale, offset
):
    draws = np.random.default_rng(seed).standard_normal((3, len(X)))
    losses = CURVES[name](X) + noise * draws

    def result(values):
        return range_result("sgd", [sweep_curve(LRS, row, seed=0) for row in values.tolist()])

    as_it_was, moved = result(losses), result(scale * (losses + offset))
    assert moved.interval == as_it_was.interval
    assert [len(c.lrs) for c in moved.curves] == [len(c.lrs) for c in as_it_was.curves]
    assert [c.diverged for c in moved.curves] == [c.diverged for c in as_it_was.curves]


@given(data=st.data())
def test_a_sweep_is_cut_at_the_same_loss_however_far_one_looks(data):
    """A command's losses come in parts of any length."""
    losses = u_shaped(X) + 0.1 * np.random.default_rng(0).standard_normal(len(X))
    end, diverged = kept(losses.tolist())
    assert diverged
    num_seen = data.draw(st.integers(0, len(X)))
    seen = kept(losses[:num_seen].tolist())
    assert seen == ((end, True) if num_seen >= end + NUM_IN_A_ROW else (num_seen, False))


def spikes(random, share):
    return lambda size: random.standard_normal(size) + 1000 * (random.random(size) < share)


HEAVY = {
    "t of 3": lambda random: lambda size: random.standard_t(3, size),
    "t of 2": lambda random: lambda size: random.standard_t(2, size),
    "Cauchy": lambda random: random.standard_cauchy,
    "log-normal": lambda random: lambda size: random.lognormal(0, 1.5, size),
    "wide log-normal": lambda random: lambda size: random.lognormal(0, 2, size),
    "spikes in 2 %": lambda random: spikes(random, 0.02),
    "spikes in 5 %": lambda random: spikes(random, 0.05),
}


@pytest.mark.parametrize("tails", HEAVY.values(), ids=HEAVY)
def test_heavy_tails_neither_end_a_sweep_nor_move_an_interval(tails):
    draw = tails(np.random.default_rng(0))

    def result(loss):
        losses = loss(X) + 0.05 * draw((3, len(X)))
        return range_result("sgd", [sweep_curve(LRS, row, seed=0) for row in losses.tolist()])

    calm = range_result("sgd", [sweep_curve(LRS, u_shaped(X).tolist(), seed=0)]).interval
    level = [result(flat) for _ in range(20)]
    assert not any(curve.diverged for found in level for curve in found.curves)
    assert sum(found.interval is not None for found in level) <= 1
    moved = [
        np.log10([found.interval.low / calm.low, found.interval.high / calm.high])
        for found in (result(u_shaped) for _ in range(20))
    ]
    assert np.quantile(np.abs(moved), 0.9) < 0.15  # decades: 4 of the 200 steps
