"""From recipe to schedule.

Checks the step convention, milestones, plateau feedback, and what is refused.
"""

import copy
import math
import pickle

import pytest

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
from lrtune.core.errors import InputError
from lrtune.core.recipe import Recipe
from lrtune.schedules import build_schedule


def recipe(decay, warmup_epochs=0.0, final_frac=0.0):
    return Recipe(decay=decay, warmup_epochs=warmup_epochs, final_frac=final_frac)


def values(schedule):
    return [schedule(step) for step in range(schedule.total_steps)]


HALF_COSINE = [1, (1 + 0.5**0.5) / 2, 0.5, (1 - 0.5**0.5) / 2]

# decay, warmup epochs, final_frac; 3 epochs of 2 steps each: the multiplier of each of the 6 steps
STEP_CONVENTION = [
    (Constant(), 0, 0, [1, 1, 1, 1, 1, 1]),
    (Constant(), 1, 0, [1 / 2, 1, 1, 1, 1, 1]),
    (Constant(), 1.5, 0, [1 / 3, 2 / 3, 1, 1, 1, 1]),
    (Constant(), 0.5, 0, [1, 1, 1, 1, 1, 1]),
    (Constant(), 2.5, 0, [1 / 5, 2 / 5, 3 / 5, 4 / 5, 1, 1]),
    (Linear(), 0, 0, [1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6]),
    (Linear(), 1, 0, [1 / 2, 1, 1, 3 / 4, 2 / 4, 1 / 4]),
    (Linear(), 1, 0.2, [1 / 2, 1, 1, 0.8, 0.6, 0.4]),
    (Linear(), 2.5, 0, [1 / 5, 2 / 5, 3 / 5, 4 / 5, 1, 1]),
    (Cosine(), 1, 0, [1 / 2, 1, *HALF_COSINE]),
    (Cosine(), 1, 0.5, [1 / 2, 1, *((1 + value) / 2 for value in HALF_COSINE)]),
    (Polynomial(power=2), 1, 0, [1 / 2, 1, 1, 9 / 16, 4 / 16, 1 / 16]),
    (Exponential(end_frac=0.0001), 1, 0, [1 / 2, 1, 1, 0.1, 0.01, 0.001]),
    (WSD(cooldown_frac=0.5), 1, 0, [1 / 2, 1, 1, 1, 1, 1 - 0.5**0.5]),
    (WSD(cooldown_frac=1), 1, 0, [1 / 2, 1, 1, 1 / 2, 1 - 0.5**0.5, 1 - 0.75**0.5]),
    (HoldPower(hold_frac=0.5, power=2), 1, 0, [1 / 2, 1, 1, 1, 1, 1 / 4]),
    (HoldPower(hold_frac=0, power=1), 1, 0, [1 / 2, 1, 1, 3 / 4, 2 / 4, 1 / 4]),
    (StepDecay(every_epochs=1), 0, 0, [1, 1, 0.1, 0.1, 0.01, 0.01]),
    (StepDecay(every_epochs=1), 0, 0.1, [1, 1, 0.19, 0.19, 0.109, 0.109]),
    (StepDecay(every_epochs=0.5, factor=0.5), 0, 0, [1, 1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32]),
    (StepDecay(every_epochs=1), 0.5, 0, [1, 1, 0.1, 0.1, 0.01, 0.01]),
    (StepDecay(every_epochs=1), 1, 0, [1 / 2, 1, 0.1, 0.1, 0.01, 0.01]),
    (StepDecay(every_epochs=1), 2, 0, [1 / 4, 2 / 4, 3 / 4, 1, 0.01, 0.01]),
    (StepDecay(every_epochs=3), 0, 0, [1, 1, 1, 1, 1, 1]),
    (StepDecay(every_epochs=100), 0, 0, [1, 1, 1, 1, 1, 1]),
    (MultiStep(milestones_epochs=(1.5, 2.5)), 1, 0, [1 / 2, 1, 1, 0.1, 0.1, 0.01]),
    (MultiStep(milestones_epochs=(0.5, 1, 2)), 1, 0, [1 / 2, 1, 0.01, 0.01, 0.001, 0.001]),
    (MultiStep(milestones_epochs=(2, 3, 90)), 0, 0, [1, 1, 1, 1, 0.1, 0.1]),
    (MultiStep(milestones_epochs=(1.1, 1.2)), 0, 0, [1, 1, 0.01, 0.01, 0.01, 0.01]),
]


@pytest.mark.parametrize(("decay", "warmup_epochs", "final_frac", "expected"), STEP_CONVENTION)
def test_the_step_convention(decay, warmup_epochs, final_frac, expected):
    schedule = build_schedule(recipe(decay, warmup_epochs, final_frac), epochs=3, steps_per_epoch=2)
    assert schedule.total_steps == 6
    assert values(schedule) == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize(
    ("warmup_epochs", "steps_per_epoch", "warmup_steps"),
    [(0, 100, 0), (1, 100, 100), (0.254, 100, 25), (1.5, 7, 10)],
)
def test_the_warmup_is_taken_to_the_nearest_step(warmup_epochs, steps_per_epoch, warmup_steps):
    schedule = build_schedule(
        recipe(Constant(), warmup_epochs), epochs=2, steps_per_epoch=steps_per_epoch
    )
    assert schedule.warmup_steps == warmup_steps


@pytest.mark.parametrize(
    ("warmup_steps", "values"),
    [(1, [1.0]), (2, [0.5, 1.0]), (4, [0.25, 0.5, 0.75, 1.0])],
)
def test_the_warmup_begins_above_zero_and_ends_at_one(warmup_steps, values):
    schedule = build_schedule(recipe(Linear(), warmup_steps / 8), epochs=1, steps_per_epoch=8)
    assert [schedule(step) for step in range(warmup_steps)] == values
    assert schedule(warmup_steps) == 1.0  # the decay counts from zero again


@pytest.mark.parametrize("steps_per_epoch", [7, 97, 391, 1251])
@pytest.mark.parametrize("warmup_epochs", [0, 1.7, 5])
def test_milestones_fall_on_their_very_step(steps_per_epoch, warmup_epochs):
    decay = MultiStep(milestones_epochs=(30, 60, 80))
    schedule = build_schedule(
        recipe(decay, warmup_epochs), epochs=90, steps_per_epoch=steps_per_epoch
    )
    for milestone, after in ((30, 0.1), (60, 0.01), (80, 0.001)):
        step = milestone * steps_per_epoch
        assert (schedule(step - 1), schedule(step)) == pytest.approx((after * 10, after))


@pytest.mark.parametrize("step", [-1, 6, 7, math.nan])
@pytest.mark.parametrize("decay", [Cosine(), Plateau()])
def test_a_step_outside_the_run_is_refused(decay, step):
    schedule = build_schedule(recipe(decay, 1), epochs=3, steps_per_epoch=2)
    with pytest.raises(ValueError, match=rf"`0 <= step < 6` must hold, but got step={step}\."):
        schedule(step)


REFUSED = [
    (
        recipe(Cosine(), 5),
        5,
        10,
        ["`warmup_epochs < epochs` must hold", "warmup_epochs=5, epochs=5 (50 of 50 steps)"],
    ),
    (
        recipe(Cosine(), 4.96),
        5,
        10,
        ["`warmup_epochs < epochs` must hold", "warmup_epochs=4.96, epochs=5 (50 of 50"],
    ),
    (
        recipe(Plateau(), 7),
        5,
        10,
        ["`warmup_epochs < epochs` must hold", "warmup_epochs=7, epochs=5 (70 of 50 steps)"],
    ),
    (
        recipe(StepDecay(every_epochs=0.09)),
        5,
        10,
        ["`every_epochs` must be at least one optimizer step", "every_epochs=0.09."],
    ),
    (
        recipe(StepDecay(every_epochs=0.09), 6),
        5,
        10,
        ["`warmup_epochs < epochs`", "`every_epochs` must be at least"],
    ),
    (recipe(Cosine()), 0, 10, ["`1 <= epochs` must hold, but got epochs=0."]),
    (
        recipe(Cosine()),
        0,
        0,
        ["`1 <= epochs` must hold", "`1 <= steps_per_epoch` must hold, but got steps_per_epoch=0."],
    ),
]


@pytest.mark.parametrize(("impossible", "epochs", "steps_per_epoch", "said"), REFUSED)
def test_what_cannot_be_is_refused_with_every_rule_it_breaks(
    impossible, epochs, steps_per_epoch, said
):
    with pytest.raises(InputError) as error:
        build_schedule(impossible, epochs=epochs, steps_per_epoch=steps_per_epoch)
    assert [part for part in said if part not in str(error.value)] == []


def test_a_period_of_exactly_one_step_is_possible():
    # 1 / 49 * 49 < 1 in floating point.
    schedule = build_schedule(
        recipe(StepDecay(every_epochs=1 / 49, factor=0.5)), epochs=1, steps_per_epoch=49
    )
    assert values(schedule) == [0.5**t for t in range(49)]


class TestPlateau:
    RULE = Plateau(factor=0.5, patience_epochs=0)

    def after(self, losses, **kwargs):
        schedule = build_schedule(recipe(self.RULE, **kwargs), epochs=4, steps_per_epoch=2)
        for loss in losses:
            schedule = schedule.observe({"val_loss": loss})
        return schedule

    def test_past_epochs_and_the_one_about_to_start_are_known(self):
        assert values(self.after([1, 1, 1])) == [1, 1, 1, 1, 0.5, 0.5, 0.25, 0.25]

    @pytest.mark.parametrize(("losses", "known_steps"), [([], 2), ([1], 4), ([1, 1, 1], 8)])
    def test_an_epoch_that_waits_for_metrics_is_refused(self, losses, known_steps):
        schedule = self.after(losses)
        schedule(known_steps - 1)
        for step in range(known_steps, schedule.total_steps):
            with pytest.raises(
                ValueError,
                match=rf"`step < {known_steps}` must hold until epoch .* got step={step}\.",
            ):
                schedule(step)

    def test_the_warmup_waits_for_nothing(self):
        schedule = self.after([], warmup_epochs=2.5)
        assert [schedule(step) for step in range(5)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
        with pytest.raises(ValueError, match="until epoch 1 was observed"):
            schedule(5)

    @pytest.mark.parametrize(
        ("warmup_epochs", "multipliers"),
        [
            (
                1.0,
                [1, 0.5, 0.25],
            ),  # the end of warmup is the end of epoch 1, which is the first to be observed
            (1.5, [1, 1, 0.5]),  # it lies in epoch 2, which is the first to be observed
            (3.0, [1, 1, 1]),
        ],
    )
    def test_epochs_that_end_in_the_warmup_are_not_observed(self, warmup_epochs, multipliers):
        schedule = self.after([1, 1, 1], warmup_epochs=warmup_epochs)
        assert [state.multiplier for state in schedule.states[1:]] == multipliers

    def test_a_loss_of_the_warmup_is_no_best_to_beat(self):
        assert self.after([0.1, 5.0, 4.0], warmup_epochs=1.5)(7) == 1.0

    def test_the_floor_is_the_least_multiplier(self):
        assert values(self.after([1, 1, 1], final_frac=0.4))[::2] == [1, 1, 0.5, 0.4]

    def test_the_monitor_chooses_the_metric(self):
        schedule = build_schedule(
            recipe(Plateau(monitor="top1", factor=0.5, patience_epochs=0)),
            epochs=3,
            steps_per_epoch=1,
        )
        for val_loss, top1 in ((1.0, 50.0), (0.5, 40.0)):  # the loss falls, but so does the Top-1
            schedule = schedule.observe({"val_loss": val_loss, "top1": top1})
        assert values(schedule) == [1, 1, 0.5]

    def test_observing_more_epochs_than_there_are_is_refused(self):
        schedule = self.after([1, 1, 1, 1])
        with pytest.raises(ValueError, match="at most 4 epochs must be observed, but got epoch 5"):
            schedule.observe({"val_loss": 1})

    def test_observing_changes_no_schedule_that_was_there(self):
        before = self.after([1])
        assert before.observe({"val_loss": 1}) != before
        assert before == self.after([1])


@pytest.mark.parametrize("decay", [Constant(), StepDecay(every_epochs=1), Cosine(), WSD()])
def test_an_open_loop_schedule_observes_nothing(decay):
    schedule = build_schedule(recipe(decay), epochs=3, steps_per_epoch=2)
    assert schedule.observe({"val_loss": math.nan}) is schedule


@pytest.mark.parametrize("decay", [MultiStep(milestones_epochs=(1, 2)), Cosine(), Plateau()])
def test_a_schedule_is_a_value(decay):
    schedule = build_schedule(recipe(decay, 0.5), epochs=3, steps_per_epoch=2)
    schedule = schedule.observe({"val_loss": 1.0, "top1": 50.0})
    used = schedule(3)
    for same in (pickle.loads(pickle.dumps(schedule)), copy.deepcopy(schedule)):
        assert same == schedule
        assert hash(same) == hash(schedule)
        assert same(3) == used
