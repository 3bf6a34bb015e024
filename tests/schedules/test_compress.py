"""A whole schedule in fewer epochs: the same multiplier at the same share of the run."""

from dataclasses import replace

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
from lrtune.core.errors import InputError
from lrtune.core.recipe import Recipe
from lrtune.schedules import build_schedule
from lrtune.schedules.compress import compress, schedule_of
from tests.studies import full_run

FACTORS = st.floats(0.01, 0.99)
SHARES = st.floats(0.01, 1.2)
"""Of the epochs of the full run: milestones, which may also lie behind its end."""


@st.composite
def recipes(draw, epochs):
    """A recipe of any decay but plateau, with lengths that go with so many epochs."""
    milestones = draw(st.lists(SHARES, min_size=1, max_size=4, unique=True).map(sorted))
    decays = [
        Constant(), Cosine(), Linear(), WSD(cooldown_frac=draw(st.floats(0.01, 1))),
        Polynomial(power=draw(st.floats(0.5, 3))), Exponential(end_frac=draw(st.floats(1e-3, 1))),
        HoldPower(hold_frac=draw(st.floats(0, 0.9)), power=draw(st.floats(0.5, 3))),
        StepDecay(every_epochs=epochs * draw(st.floats(0.125, 1.2)), factor=draw(FACTORS)),
        MultiStep(
            milestones_epochs=tuple(epochs * share for share in milestones), factor=draw(FACTORS),
        ),
    ]  # fmt: skip
    return Recipe(
        warmup_epochs=epochs * draw(st.just(0.0) | st.floats(0, 0.85)),
        decay=draw(st.sampled_from(decays)),
        final_frac=draw(st.just(0.0) | st.floats(0, 1)),
    )


def compressed_run(recipe, epochs, to_epochs):
    return full_run(recipe, epochs, horizon_epochs=to_epochs, stop_epochs=to_epochs)


def check_same_shares(recipe, epochs, to_epochs, steps_per_epoch):
    """Each multiplier of the compressed run is one that the full run has at that share.

    But for a step, by which a warmup counts ahead of a decay, and half a step of rounding.
    """
    full = build_schedule(recipe, epochs=epochs, steps_per_epoch=steps_per_epoch)
    compressed = schedule_of(compressed_run(recipe, epochs, to_epochs), steps_per_epoch)
    assert compressed.total_steps == to_epochs * steps_per_epoch
    scale = full.total_steps / compressed.total_steps
    for step in range(compressed.total_steps):
        first = max(0, int((step - 1.5) * scale) - 1)
        last = min(full.total_steps - 1, int((step + 1.5) * scale) + 1)
        around = [full(t) for t in range(first, last + 1)]
        assert min(around) - 1e-9 <= compressed(step) <= max(around) + 1e-9, step


@given(
    data=st.data(),
    to_epochs=st.integers(1, 9),
    longer_by=st.integers(1, 18),
    steps_per_epoch=st.integers(4, 20),
)
def test_the_multiplier_at_a_share_of_the_run_is_that_of_the_full_one(
    data, to_epochs, longer_by, steps_per_epoch
):
    epochs = to_epochs + longer_by
    check_same_shares(data.draw(recipes(epochs)), epochs, to_epochs, steps_per_epoch)


# recipe for 9 epochs of 2 steps; the multiplier of each step of 3 epochs
WRITTEN_OUT = [
    (Recipe(decay=Constant()), [1, 1, 1, 1, 1, 1]),
    (Recipe(decay=Linear()), [1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6]),
    (Recipe(decay=Linear(), warmup_epochs=3), [1 / 2, 1, 1, 3 / 4, 2 / 4, 1 / 4]),
    (
        Recipe(decay=Linear(), warmup_epochs=0.5),
        [1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6],
    ),  # a third of a step
    (Recipe(decay=Linear(), warmup_epochs=3, final_frac=0.2), [1 / 2, 1, 1, 0.8, 0.6, 0.4]),
    (Recipe(decay=WSD(cooldown_frac=0.5)), [1, 1, 1, 1, 1 - (1 / 3) ** 0.5, 1 - (2 / 3) ** 0.5]),
    (Recipe(decay=StepDecay(every_epochs=3)), [1, 1, 0.1, 0.1, 0.01, 0.01]),
    (
        Recipe(decay=StepDecay(every_epochs=1, factor=0.5)),
        [1, 1 / 4, 1 / 8, 1 / 32, 1 / 64, 1 / 256],
    ),  # to the nearest step
    (Recipe(decay=MultiStep(milestones_epochs=(6.0, 7.5))), [1, 1, 1, 1, 0.1, 0.01]),
    (Recipe(decay=MultiStep(milestones_epochs=(6.0, 18.0))), [1, 1, 1, 1, 0.1, 0.1]),
]


@pytest.mark.parametrize(
    ("recipe", "expected"), WRITTEN_OUT, ids=lambda value: getattr(value, "label", "")
)
def test_compressed_schedules_written_out(recipe, expected):
    schedule = schedule_of(compressed_run(recipe, 9, 3), 2)
    assert [schedule(step) for step in range(6)] == pytest.approx(expected)


# epochs of the full run, of the compressed one; patience and cooldown of the rule, and what they
# become
PLATEAUS = [
    (27, 9, 2, 0, 0, 0),  # 3 bad epochs become 1
    (27, 9, 5, 3, 1, 1),
    (27, 9, 3, 1, 0, 0),
    (27, 9, 4, 2, 1, 1),  # to the nearest: 5 / 3 is 2 bad epochs
    (27, 3, 8, 9, 0, 1),
    (27, 1, 8, 9, 0, 0),  # never fewer than one bad epoch
    (27, 1, 0, 0, 0, 0),
    (9, 8, 3, 4, 3, 4),
    (27, 27, 5, 3, 5, 3),
]


@pytest.mark.parametrize(
    ("epochs", "to_epochs", "patience", "cooldown", "to_patience", "to_cooldown"), PLATEAUS
)
def test_a_plateau_waits_for_its_share_of_epochs(
    epochs, to_epochs, patience, cooldown, to_patience, to_cooldown
):
    rule = Plateau(patience_epochs=patience, cooldown_epochs=cooldown, factor=0.5)
    decay = compress(Recipe(decay=rule), epochs, to_epochs).decay
    assert decay == replace(rule, patience_epochs=to_patience, cooldown_epochs=to_cooldown)


def test_a_compressed_plateau_lets_its_lr_down_in_proportion():
    """In 9 epochs after 3 bad ones; in 3 after one. No epoch is better than the first."""
    recipe = Recipe(decay=Plateau(patience_epochs=2, factor=0.5))
    lrs = {}
    for to_epochs in (9, 3):
        schedule = schedule_of(compressed_run(recipe, 9, to_epochs), 1)
        lrs[to_epochs] = []
        for epoch in range(to_epochs):
            lrs[to_epochs].append(schedule(epoch))
            schedule = schedule.observe({"val_loss": 1.0, "top1": 50.0})
    assert lrs == {9: [1, 1, 1, 1, 0.5, 0.5, 0.5, 0.25, 0.25], 3: [1, 1, 0.5]}


@given(data=st.data(), epochs=st.integers(1, 27))
def test_to_its_own_length_a_recipe_stays_as_it_is(data, epochs):
    recipe = data.draw(recipes(epochs))
    assert compress(recipe, epochs, epochs) == recipe


def test_a_run_that_stops_early_has_the_schedule_of_the_full_one():
    recipe = Recipe(warmup_epochs=3, decay=Cosine())
    stopped = schedule_of(full_run(recipe, 27, stop_epochs=3), 10)
    assert stopped == build_schedule(recipe, epochs=27, steps_per_epoch=10)


@pytest.mark.parametrize(
    ("recipe", "problem"),
    [
        (
            Recipe(warmup_epochs=27),
            r"`warmup_epochs < epochs` must hold, but got warmup_epochs=27, epochs=27",
        ),
        (
            Recipe(decay=StepDecay(every_epochs=0.01)),
            r"`every_epochs` must be at least one optimizer step",
        ),
    ],
)
def test_of_a_full_run_the_impossible_is_refused(recipe, problem):
    with pytest.raises(InputError, match=problem):
        schedule_of(full_run(recipe, 27), 10)


@given(data=st.data(), epochs=st.integers(2, 27), steps_per_epoch=st.integers(4, 6))
def test_a_recipe_that_goes_with_its_own_length_goes_with_any(data, epochs, steps_per_epoch):
    """Also where a part of it is shorter than a step of the compressed run."""
    recipe = data.draw(recipes(epochs))
    for to_epochs in range(1, epochs):
        check_usable(recipe, epochs, to_epochs, steps_per_epoch)


def check_usable(recipe, epochs, to_epochs, steps_per_epoch):
    schedule = schedule_of(compressed_run(recipe, epochs, to_epochs), steps_per_epoch)
    assert all(0 <= schedule(step) <= 1 for step in range(schedule.total_steps))


@pytest.mark.parametrize("decay", [StepDecay(every_epochs=9), MultiStep(milestones_epochs=(26.5,))])
def test_also_where_the_warmup_leaves_it_no_step(decay):
    check_usable(Recipe(warmup_epochs=26, decay=decay), 27, 1, steps_per_epoch=1)
