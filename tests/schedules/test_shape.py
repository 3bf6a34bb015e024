"""The shapes of the decays at places where the answer can be written out."""

import pickle

import pytest

from lrtune.core.decays import (
    DECAYS,
    WSD,
    Constant,
    Cosine,
    Exponential,
    HoldPower,
    Linear,
    MultiStep,
    Polynomial,
    StepDecay,
)
from lrtune.core.recipe import Recipe
from lrtune.schedules import build_schedule
from lrtune.schedules.shape import shape_of

EPOCHS, STEPS_PER_EPOCH = 10, 10

# decay, and its multiplier by `p`
BY_SHARE = [
    (Constant(), [(0, 1), (0.5, 1), (0.999, 1)]),
    (Cosine(), [(0, 1), (1 / 3, 0.75), (0.5, 0.5), (2 / 3, 0.25)]),
    (Linear(), [(0, 1), (0.25, 0.75), (0.9, 0.1)]),
    (Polynomial(power=2.0), [(0, 1), (0.5, 0.25), (0.9, 0.01)]),
    (Polynomial(power=0.5), [(0, 1), (0.75, 0.5), (0.99, 0.1)]),
    (Exponential(end_frac=0.01), [(0, 1), (0.5, 0.1), (0.75, 10**-1.5)]),
    (
        WSD(cooldown_frac=0.2),
        [(0, 1), (0.79, 1), (0.8, 1), (0.85, 0.5), (0.9, 1 - 0.5**0.5), (0.928, 0.2)],
    ),
    (WSD(cooldown_frac=1.0), [(0, 1), (0.25, 0.5), (0.81, 0.1)]),
    (HoldPower(hold_frac=0.5, power=1.0), [(0, 1), (0.5, 1), (0.75, 0.5), (0.9, 0.2)]),
    (HoldPower(hold_frac=0.5, power=2.0), [(0, 1), (0.5, 1), (0.75, 0.25), (0.9, 0.04)]),
    (HoldPower(hold_frac=0.0, power=3.0), [(0, 1), (0.5, 0.125)]),
]

# decay, and its multiplier by the step from the start of training, of 100
BY_STEP = [
    (
        MultiStep(milestones_epochs=(2.5, 7.5), factor=0.1),
        [(0, 1), (24, 1), (25, 0.1), (74, 0.1), (75, 0.01), (99, 0.01)],
    ),
    (
        MultiStep(milestones_epochs=(0.01, 0.02, 5), factor=0.5),
        [(0, 0.25), (49, 0.25), (50, 0.125)],
    ),
    (MultiStep(milestones_epochs=(10, 15), factor=0.1), [(0, 1), (99, 1)]),
    (MultiStep(milestones_epochs=(5, 5.01), factor=0.1), [(49, 1), (50, 0.01)]),
    (StepDecay(every_epochs=2.5, factor=0.1), [(0, 1), (24, 1), (25, 0.1), (50, 0.01), (99, 1e-3)]),
    (StepDecay(every_epochs=20, factor=0.1), [(0, 1), (99, 1)]),
]

# decay, floor, and the multiplier of a run without a warmup by `p`
FLOORED = [
    (Linear(), 0.2, [(0, 1), (0.5, 0.6), (0.75, 0.4)]),
    (Cosine(), 0.1, [(0, 1), (0.5, 0.55), (2 / 3, 0.325)]),
    (Constant(), 0.3, [(0, 1), (0.9, 1)]),
    (Linear(), 1.0, [(0, 1), (0.9, 1)]),
]


def test_the_tables_have_every_decay_that_has_a_shape():
    named = {decay.name for decay, _ in (*BY_SHARE, *BY_STEP)}
    assert named == {name for name, kind in DECAYS.items() if kind.shape}
    assert set(DECAYS) - named == {"plateau"}


@pytest.mark.parametrize(
    ("decay", "points"), BY_SHARE, ids=lambda value: getattr(value, "label", "")
)
def test_a_shape_is_what_its_equation_says(decay, points):
    shape = shape_of(decay, epochs=EPOCHS, steps_per_epoch=STEPS_PER_EPOCH)
    # A p that is no binary fraction may fall 1e-16 beside the start of the cooldown, where the root
    # makes 1e-8 of it.
    expected = [value for _, value in points]
    assert [shape(p, 0) for p, _ in points] == pytest.approx(expected, rel=1e-7)


@pytest.mark.parametrize(
    ("decay", "points"), BY_STEP, ids=lambda value: getattr(value, "label", "")
)
def test_drops_fall_on_their_steps(decay, points):
    shape = shape_of(decay, epochs=EPOCHS, steps_per_epoch=STEPS_PER_EPOCH)
    assert [shape(0.0, step) for step, _ in points] == pytest.approx([value for _, value in points])


@pytest.mark.parametrize(("decay", "floor", "points"), FLOORED)
def test_a_floor_lets_any_shape_down_to_it_instead_of_to_zero(decay, floor, points):
    recipe = Recipe(decay=decay, final_frac=floor)
    schedule = build_schedule(recipe, epochs=1, steps_per_epoch=60)
    assert [schedule(round(60 * p)) for p, _ in points] == pytest.approx([v for _, v in points])


def test_a_schedule_that_was_used_can_be_sent_to_another_process():
    schedule = build_schedule(Recipe(decay=WSD()), epochs=3, steps_per_epoch=4)
    used = schedule(11)
    assert pickle.loads(pickle.dumps(schedule))(11) == used
