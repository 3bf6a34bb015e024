"""Parity with torch's schedulers, step by step over whole runs and in float64.

Their LRs are read from an optimizer, as training would use them.
"""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.optim import lr_scheduler as lrs

from lrtune.core.decays import (
    Constant,
    Cosine,
    Exponential,
    Linear,
    MultiStep,
    Plateau,
    Polynomial,
    StepDecay,
)
from lrtune.core.recipe import Recipe
from lrtune.schedules import build_schedule
from lrtune.schedules.plateau import observe, start

PEAK_LR = 0.3
EPOCHS, STEPS_PER_EPOCH = 10, 61
TOTAL_STEPS = EPOCHS * STEPS_PER_EPOCH
WARMUPS = [0, 1, 2, 61, 100]  # steps
CLOSE = 1e-11  # relative; torch's recursions gather rounding errors


def sgd():
    return torch.optim.SGD([torch.zeros(1, dtype=torch.float64)], lr=PEAK_LR)


def linear_warmup(optimizer, num_steps):
    return lrs.LinearLR(optimizer, start_factor=1 / num_steps, total_iters=num_steps - 1)


def lrs_of_torch(optimizer, scheduler):
    used = []
    for _ in range(TOTAL_STEPS):
        used.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return used


def lrs_of_lrtune(decay, warmup_steps, final_frac=0.0):
    recipe = Recipe(
        decay=decay, warmup_epochs=warmup_steps / STEPS_PER_EPOCH, final_frac=final_frac
    )
    schedule = build_schedule(recipe, epochs=EPOCHS, steps_per_epoch=STEPS_PER_EPOCH)
    return [PEAK_LR * schedule(step) for step in range(TOTAL_STEPS)]


# ours, our final_frac, torch's for a decay of n steps
SMOOTH = [
    pytest.param(Constant(), 0, lambda o, n: lrs.ConstantLR(o, factor=1), id="ConstantLR"),
    pytest.param(Cosine(), 0, lambda o, n: lrs.CosineAnnealingLR(o, n), id="CosineAnnealingLR"),
    pytest.param(
        Cosine(),
        0.05,
        lambda o, n: lrs.CosineAnnealingLR(o, n, 0.05 * PEAK_LR),
        id="CosineAnnealingLR-eta_min",
    ),
    pytest.param(Linear(), 0, lambda o, n: lrs.LinearLR(o, 1.0, 0.0, n), id="LinearLR"),
    pytest.param(
        Linear(), 0.1, lambda o, n: lrs.LinearLR(o, 1.0, 0.1, n), id="LinearLR-end_factor"
    ),
    pytest.param(
        Polynomial(power=2.5), 0, lambda o, n: lrs.PolynomialLR(o, n, 2.5), id="PolynomialLR"
    ),
    pytest.param(
        Exponential(end_frac=0.01),
        0,
        lambda o, n: lrs.ExponentialLR(o, 0.01 ** (1 / n)),
        id="ExponentialLR",
    ),
]


@pytest.mark.parametrize("warmup_steps", WARMUPS)
@pytest.mark.parametrize(("decay", "final_frac", "torch_decay"), SMOOTH)
def test_warmup_and_then_a_decay(decay, final_frac, torch_decay, warmup_steps):
    optimizer = sgd()
    scheduler = torch_decay(optimizer, TOTAL_STEPS - warmup_steps)
    if warmup_steps:
        parts = [linear_warmup(optimizer, warmup_steps), scheduler]
        scheduler = lrs.SequentialLR(optimizer, parts, milestones=[warmup_steps])
    assert lrs_of_lrtune(decay, warmup_steps, final_frac) == pytest.approx(
        lrs_of_torch(optimizer, scheduler), rel=CLOSE, abs=0
    )


STAIRCASES = [
    pytest.param(
        StepDecay(every_epochs=2, factor=0.3),
        lambda o: lrs.StepLR(o, 2 * STEPS_PER_EPOCH, 0.3),
        id="StepLR",
    ),
    pytest.param(
        MultiStep(milestones_epochs=(4, 8, 9), factor=0.2),
        lambda o: lrs.MultiStepLR(o, [m * STEPS_PER_EPOCH for m in (4, 8, 9)], 0.2),
        id="MultiStepLR",
    ),
]


@pytest.mark.parametrize("warmup_steps", WARMUPS)
@pytest.mark.parametrize(("decay", "torch_decay"), STAIRCASES)
def test_warmup_and_steps_that_count_from_the_start(decay, torch_decay, warmup_steps):
    optimizer = sgd()
    # Chained, both count from the start of training; a warmup of one step is none.
    scheduler = lrs.ChainedScheduler(
        [linear_warmup(optimizer, max(1, warmup_steps)), torch_decay(optimizer)]
    )
    assert lrs_of_lrtune(decay, warmup_steps) == pytest.approx(
        lrs_of_torch(optimizer, scheduler), rel=CLOSE, abs=0
    )


RULES = st.builds(
    Plateau,
    monitor=st.sampled_from(["val_loss", "top1"]),
    factor=st.floats(0.05, 0.95),
    patience_epochs=st.integers(0, 3),
    threshold=st.sampled_from([0.0, 1e-4, 0.25, 1.0]),
    threshold_mode=st.sampled_from(["rel", "abs"]),
    cooldown_epochs=st.integers(0, 3),
)
FLOORS = st.sampled_from([0.0, 0.01, 0.5, 1.0])
# Few distinct values, so that ties and plateaus are common.
METRICS = st.lists(
    st.integers(0, 12).map(lambda n: n / 4) | st.sampled_from([math.nan, math.inf]), max_size=40
)


def reduce_on_plateau(optimizer, rule, floor, **kwargs):
    return lrs.ReduceLROnPlateau(
        optimizer,
        mode={"val_loss": "min", "top1": "max"}[rule.monitor],
        factor=rule.factor,
        patience=rule.patience_epochs,
        threshold=rule.threshold,
        threshold_mode=rule.threshold_mode,
        cooldown=rule.cooldown_epochs,
        min_lr=floor * PEAK_LR,
        **kwargs,
    )


@given(RULES, FLOORS, METRICS)
def test_plateau_rule(rule, floor, metrics):
    optimizer, state = sgd(), start(rule)
    scheduler = reduce_on_plateau(optimizer, rule, floor, eps=0)
    for metric in metrics:
        optimizer.step()
        scheduler.step(metric)
        state = observe(rule, state, metric, floor=floor)
        assert PEAK_LR * state.multiplier == pytest.approx(
            optimizer.param_groups[0]["lr"], rel=1e-12, abs=0
        )
        assert (state.best, state.num_bad_epochs, state.cooldown_left_epochs) == (
            scheduler.best,
            scheduler.num_bad_epochs,
            scheduler.cooldown_counter,
        )


@given(RULES, FLOORS, METRICS)
def test_plateau_rule_without_the_eps_of_torch(rule, floor, metrics):
    optimizer, state = sgd(), start(rule)
    scheduler = reduce_on_plateau(optimizer, rule, floor)
    for metric in metrics:
        scheduler.step(metric)
        state = observe(rule, state, metric, floor=floor)
        above = optimizer.param_groups[0]["lr"] - PEAK_LR * state.multiplier
        assert -1e-15 <= above <= 1e-8 / (1 - rule.factor) + 1e-15


@given(
    RULES,
    FLOORS,
    st.lists(st.tuples(st.floats(0, 3), st.integers(0, 12)), min_size=12, max_size=12),
)
def test_plateau_schedule_in_a_training_loop(rule, floor, metrics):
    schedule = build_schedule(
        Recipe(decay=rule, final_frac=floor), epochs=len(metrics), steps_per_epoch=3
    )
    optimizer = sgd()
    scheduler = reduce_on_plateau(optimizer, rule, floor, eps=0)
    for epoch, (val_loss, top1) in enumerate(metrics):
        for step in range(3 * epoch, 3 * epoch + 3):
            assert PEAK_LR * schedule(step) == pytest.approx(
                optimizer.param_groups[0]["lr"], rel=1e-12, abs=0
            )
            optimizer.step()
        scheduler.step(val_loss if rule.monitor == "val_loss" else top1)
        schedule = schedule.observe({"val_loss": val_loss, "top1": top1})
