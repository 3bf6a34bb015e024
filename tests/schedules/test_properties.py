"""Laws that every schedule keeps, whatever its recipe and its length."""

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lrtune.core.decays import (
    WSD,
    Constant,
    Cosine,
    Exponential,
    HoldPower,
    Linear,
    MultiStep,
    Plateau,
    Polynomial,
    StepDecay,
)
from lrtune.core.recipe import Recipe
from lrtune.schedules import Schedule, build_schedule

FRACTIONS = st.floats(0, 1)
FACTORS = st.floats(0.01, 0.99)
POWERS = st.floats(0.1, 5)
MILESTONES = st.lists(st.floats(0.01, 15), min_size=1, max_size=4, unique=True).map(
    lambda values: tuple(sorted(values))
)

OPEN_LOOP = st.one_of(
    st.builds(Constant),
    st.builds(StepDecay, every_epochs=st.floats(1, 15), factor=FACTORS),
    st.builds(MultiStep, milestones_epochs=MILESTONES, factor=FACTORS),
    st.builds(Cosine),
    st.builds(Linear),
    st.builds(Polynomial, power=POWERS),
    st.builds(Exponential, end_frac=st.floats(1e-6, 1)),
    st.builds(WSD, cooldown_frac=st.floats(1e-3, 1)),
    st.builds(HoldPower, hold_frac=st.floats(0, 0.999), power=POWERS),
)
PLATEAUS = st.builds(
    Plateau,
    monitor=st.sampled_from(["val_loss", "top1"]),
    factor=FACTORS,
    patience_epochs=st.integers(0, 3),
    cooldown_epochs=st.integers(0, 3),
)
METRICS = st.tuples(st.floats(0, 10) | st.just(math.nan), st.floats(0, 100))


@st.composite
def schedules(draw, decays=OPEN_LOOP | PLATEAUS):
    """A schedule of any kind, which has observed all its epochs."""
    epochs, steps_per_epoch = draw(st.integers(1, 12)), draw(st.integers(1, 20))
    warmup_steps = draw(st.integers(0, epochs * steps_per_epoch - 1))
    recipe = Recipe(
        decay=draw(decays),
        warmup_epochs=warmup_steps / steps_per_epoch,
        final_frac=draw(FRACTIONS | st.just(0.0)),
    )
    schedule = build_schedule(recipe, epochs=epochs, steps_per_epoch=steps_per_epoch)
    assert schedule.warmup_steps == warmup_steps
    for val_loss, top1 in draw(st.lists(METRICS, min_size=epochs, max_size=epochs)):
        schedule = schedule.observe({"val_loss": val_loss, "top1": top1})
    return schedule


def values(schedule: Schedule) -> list[float]:
    return [schedule(step) for step in range(schedule.total_steps)]


@given(schedules())
def test_warmup_rises_strictly_from_above_zero_to_exactly_one(schedule):
    rise = values(schedule)[: schedule.warmup_steps]
    assert all(a < b for a, b in pairwise([0.0, *rise]))
    assert rise[-1:] in ([], [1.0])


@given(schedules())
def test_after_warmup_it_never_rises_and_stays_between_the_floor_and_one(schedule):
    fall = values(schedule)[schedule.warmup_steps :]
    assert all(a >= b for a, b in pairwise(fall))
    assert fall[0] <= 1
    assert fall[-1] >= schedule.recipe.final_frac


@given(schedules())
def test_no_step_is_spent_at_a_multiplier_of_zero(schedule):
    assert min(values(schedule)) > 0


@given(
    schedules(
        st.sampled_from(
            [Constant(), Cosine(), Linear(), Polynomial(), Exponential(), WSD(), HoldPower()]
        )
    )
)
def test_the_decay_begins_at_exactly_the_peak(schedule):
    assert schedule(schedule.warmup_steps) == 1.0


@given(schedules(), st.integers())
def test_every_step_of_the_run_has_a_value_and_no_other_has(schedule, step):
    if 0 <= step < schedule.total_steps:
        assert math.isfinite(schedule(step))
    else:
        with pytest.raises(ValueError, match="must hold, but got step="):
            schedule(step)


def with_decay(schedule: Schedule, decay) -> list[float]:
    recipe = Recipe(
        decay=decay,
        warmup_epochs=schedule.recipe.warmup_epochs,
        final_frac=schedule.recipe.final_frac,
    )
    return values(
        build_schedule(recipe, epochs=schedule.epochs, steps_per_epoch=schedule.steps_per_epoch)
    )


@given(schedules(), POWERS)
def test_hold_power_contains_linear_polynomial_and_constant(schedule, power):
    assert with_decay(schedule, HoldPower(hold_frac=0, power=1)) == with_decay(schedule, Linear())
    assert with_decay(schedule, HoldPower(hold_frac=0, power=power)) == with_decay(
        schedule, Polynomial(power=power)
    )
    assert with_decay(schedule, HoldPower(hold_frac=0.9999, power=power)) == with_decay(
        schedule, Constant()
    )


@given(schedules(), st.floats(1, 15), FACTORS)
def test_step_is_multistep_at_regular_milestones(schedule, every_epochs, factor):
    milestones = tuple(n * every_epochs for n in range(1, 16))
    assert with_decay(schedule, StepDecay(every_epochs=every_epochs, factor=factor)) == with_decay(
        schedule, MultiStep(milestones_epochs=milestones, factor=factor)
    )


@given(schedules(PLATEAUS), METRICS)
def test_observing_is_pure_and_leaves_the_past_alone(schedule, metrics):
    shorter = Schedule(
        recipe=schedule.recipe,
        epochs=schedule.epochs,
        steps_per_epoch=schedule.steps_per_epoch,
        states=schedule.states[:-1],
    )
    known = [shorter(step) for step in range(schedule.total_steps)]
    once, again = (shorter.observe({"val_loss": metrics[0], "top1": metrics[1]}) for _ in range(2))
    assert once == again
    assert [shorter(step) for step in range(schedule.total_steps)] == known == values(once)
