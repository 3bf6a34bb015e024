"""The grid of recipes.

Checks which peak LRs it has, what recipes share, and which of them is the cheapest to train.
"""

import math

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from lrtune.core.decays import (
    WSD,
    Constant,
    Cosine,
    HoldPower,
    Linear,
    MultiStep,
    Plateau,
    Polynomial,
    StepDecay,
)
from lrtune.core.recipe import Recipe
from lrtune.core.space import parse_space
from lrtune.core.study import Rung
from lrtune.schedules import build_schedule
from lrtune.tuning.grid import (
    LRS_PER_DECADE,
    NEAR_LRS,
    cheapest_nearby,
    nearest_on_grid,
    on_grid,
    trunk_epochs,
)
from tests.studies import record, state_of

EPOCHS = 9


def space_of(
    peak_lr="{ low = 0.01, high = 1.0, log = true }", warmup="{ low = 0, high = 3, step = 1 }"
):
    toml = f"[parameters]\npeak_lr = {peak_lr}\nwarmup_epochs = {warmup}\n"
    toml += 'decay = { choices = ["constant", "cosine", "linear"] }'
    return parse_space(toml, "made-up", optimizer="sgd").fit(EPOCHS, {})


# --- peak LRs


@pytest.mark.parametrize(
    ("lr", "expected"),
    [
        (0.1, 0.1), (0.11, 0.1), (0.111, 0.121), (0.12, 0.121), (0.14, 0.147), (0.2, 0.215),
        (0.5, 0.464), (0.9, 0.825), (0.95, 1.0), (1.0, 1.0), (3.0, 3.16), (0.0123, 0.0121),
        (1e-5, 1e-5), (5e-4, 4.64e-4), (10.0, 10.0),
    ],
)  # fmt: skip
def test_the_nearest_lr_of_the_grid(lr, expected):
    assert nearest_on_grid(lr) == expected


@given(st.floats(1e-8, 100))
def test_the_grid_is_fine_and_its_lrs_stay_where_they_are(lr):
    found = nearest_on_grid(lr)
    assert (
        abs(math.log10(found / lr)) <= 0.5 / LRS_PER_DECADE + 0.003
    )  # half a step, and rounding to three digits
    assert nearest_on_grid(found) == found
    assert found == float(f"{found:.3g}")


# what the space says of the peak LR, the one suggested, the one that is taken
@pytest.mark.parametrize(
    ("peak_lr", "suggested", "taken"),
    [
        ("{ low = 0.01, high = 1.0, log = true }", 0.13, 0.121),
        ("{ low = 0.01, high = 1.0 }", 0.13, 0.121),
        ("{ low = 0.1, high = 1.0, step = 0.1 }", 0.3, 0.3),  # it has a grid of its own
        ("{ choices = [0.13, 0.3] }", 0.13, 0.13),
        ("0.13", 0.13, 0.13),
        ("{ low = 0.125, high = 0.14, log = true }", 0.13, 0.13),  # between two of the grid
        ("{ low = 0.01, high = 0.99, log = true }", 0.97, 0.97),  # the nearest one is outside
    ],
)
def test_only_what_is_free_is_moved_onto_the_grid(peak_lr, suggested, taken):
    recipe = Recipe(peak_lr=suggested, warmup_epochs=1, decay=Linear())
    assert on_grid(recipe, space_of(peak_lr)) == Recipe(
        peak_lr=taken, warmup_epochs=1, decay=Linear()
    )


# --- what recipes share

# decay, warmup epochs: epochs of 9 until the decay begins
TRUNKS = [
    (Constant(), 0, 9),
    (Constant(), 2, 9),
    (Plateau(), 2, 9),
    (Cosine(), 0, 0),
    (Cosine(), 2, 2),
    (Polynomial(), 1.5, 1.5),
    (StepDecay(every_epochs=3), 0, 3),
    (StepDecay(every_epochs=3), 4, 4),  # it takes effect at the end of warmup
    (StepDecay(every_epochs=12), 0, 9),
    (MultiStep(milestones_epochs=(5.0, 7.0)), 2, 5),
    (MultiStep(milestones_epochs=(1.0, 7.0)), 2, 2),
    (WSD(cooldown_frac=1 / 3), 0, 6),
    (WSD(cooldown_frac=0.5), 1, 5),
    (HoldPower(hold_frac=1 / 3), 0, 3),
    (HoldPower(hold_frac=0.5), 1, 5),
    (HoldPower(hold_frac=0.0), 1, 1),
]


@pytest.mark.parametrize(("decay", "warmup_epochs", "expected"), TRUNKS)
def test_the_trunk_of_a_recipe(decay, warmup_epochs, expected):
    assert trunk_epochs(Recipe(decay=decay, warmup_epochs=warmup_epochs), EPOCHS) == pytest.approx(
        expected
    )


@given(
    data=st.data(), warmup_epochs=st.sampled_from([0, 1, 2.5]), steps_per_epoch=st.integers(20, 30)
)
def test_on_its_trunk_a_recipe_has_the_lrs_of_a_constant_one_and_then_no_more(
    data, warmup_epochs, steps_per_epoch
):
    share = st.floats(0.05, 0.9)
    decay = data.draw(
        st.one_of(
            st.builds(StepDecay, every_epochs=st.floats(1, 12)),
            st.builds(MultiStep, milestones_epochs=st.tuples(st.floats(1, 12))),
            st.builds(WSD, cooldown_frac=share),
            st.builds(HoldPower, hold_frac=share),
            st.sampled_from([Cosine(), Linear(), Polynomial()]),
        )
    )
    recipe, head = (Recipe(decay=d, warmup_epochs=warmup_epochs) for d in (decay, Constant()))
    trunk = trunk_epochs(recipe, EPOCHS)
    ours, theirs = (
        build_schedule(r, epochs=EPOCHS, steps_per_epoch=steps_per_epoch) for r in (recipe, head)
    )
    same = math.floor(trunk) * steps_per_epoch
    assert [ours(t) for t in range(same)] == [theirs(t) for t in range(same)]
    after = math.ceil(trunk * steps_per_epoch) + 2
    assume(after < ours.total_steps)
    assert ours(after) < theirs(after)


# --- the cheapest of those that are as good

LOW_2, LOW_1, HERE, HIGH_1, HIGH_2 = 0.0681, 0.0825, 0.1, 0.121, 0.147
FAR = nearest_on_grid(0.1 * 10 ** ((NEAR_LRS + 1) / LRS_PER_DECADE))


def trained(peak_lr, epochs, decay=None, *, warmup=0, **others):
    """A trial that has got so far."""
    recipe = Recipe(peak_lr=peak_lr, decay=decay or Constant(), warmup_epochs=warmup)
    return record([50.0] * epochs, recipe=recipe, horizon_epochs=EPOCHS, **others)


def wsd(peak_lr=HERE, warmup=0):
    """Six epochs of trunk, or with a warmup of one, six and a third."""
    return Recipe(peak_lr=peak_lr, warmup_epochs=warmup, decay=WSD(cooldown_frac=1 / 3))


# what was suggested, what is trained already, what is taken
CHEAPEST = {
    "nothing is known": ([wsd()], [], wsd()),
    "the suggestion itself": ([wsd()], [trained(HERE, 9), trained(LOW_1, 9)], wsd()),
    "its neighbour": ([wsd()], [trained(HIGH_1, 9)], wsd(HIGH_1)),
    "of two the one with more": ([wsd()], [trained(HIGH_1, 4), trained(LOW_1, 5)], wsd(LOW_1)),
    "more than the trunk is of no use": ([wsd()], [trained(HERE, 6), trained(LOW_1, 9)], wsd()),
    "parts of an epoch neither": (
        [wsd(warmup=1)], [trained(HERE, 6, warmup=1), trained(LOW_1, 9, warmup=1)], wsd(warmup=1),
    ),
    "another decay after the same trunk": (
        [wsd()], [trained(HIGH_1, 9, StepDecay(every_epochs=4))], wsd(HIGH_1),
    ),
    "a decay that begins at once": ([wsd()], [trained(HIGH_1, 9, Cosine())], wsd()),
    "but for the warmup": (
        [wsd(warmup=2)], [trained(HIGH_1, 9, Cosine(), warmup=2)], wsd(HIGH_1, warmup=2),
    ),
    "the suggested one has no trunk": (
        [Recipe(peak_lr=HERE)], [trained(HIGH_1, 9)], Recipe(peak_lr=HERE),
    ),
    "another warmup": ([wsd(warmup=1)], [trained(HERE, 9, warmup=2)], wsd(warmup=2)),
    "both": ([wsd(warmup=1)], [trained(LOW_1, 9)], wsd(LOW_1)),
    "too far in LR": ([wsd()], [trained(FAR, 9)], wsd()),
    "too far in warmup": ([wsd()], [trained(HERE, 9, warmup=2)], wsd()),
    "a rung": ([wsd()], [trained(HIGH_1, 3, rung=Rung(3))], wsd(HIGH_1)),
    "a compressed run": ([wsd()], [trained(HIGH_1, 3, rung=Rung(3, compressed=True))], wsd()),
    "the baseline has other seeds": ([wsd()], [trained(HIGH_1, 9, kind="baseline", seed=1)], wsd()),
    "the second suggestion": ([wsd(), wsd(0.3)], [trained(0.3, 9)], wsd(0.3)),
    "the first of equals": ([wsd(), wsd(0.3)], [trained(0.3, 9), trained(HERE, 9)], wsd()),
}  # fmt: skip


@pytest.mark.parametrize(("suggested", "records", "expected"), CHEAPEST.values(), ids=CHEAPEST)
def test_of_neighbours_the_cheapest_is_taken(suggested, records, expected):
    state = state_of(*records, epochs=EPOCHS)
    assert cheapest_nearby(suggested, state, space_of(), exclude=()) == expected


@pytest.mark.parametrize(
    ("tried", "expected"),
    [
        ([], wsd()),
        ([wsd()], wsd(HIGH_1)),
        ([wsd(), wsd(HIGH_1)], None),  # nothing is known of the others, so any that is left
    ],
)
def test_what_was_tried_is_not_taken_again(tried, expected):
    state = state_of(trained(HERE, 9), trained(HIGH_1, 5), epochs=EPOCHS)
    found = cheapest_nearby([wsd()], state, space_of(), exclude=tried)
    assert found not in tried
    assert expected in (found, None)


def test_where_there_is_nothing_else_it_is_taken_again():
    space = space_of(peak_lr="0.1", warmup="0")
    assert cheapest_nearby([wsd()], state_of(epochs=EPOCHS), space, exclude=[wsd()]) == wsd()


@pytest.mark.parametrize(
    "space",
    [
        space_of(peak_lr="{ low = 0.09, high = 0.11, log = true }"),
        space_of(peak_lr="{ low = 0.1, high = 1.0, step = 0.1 }"),
        space_of(peak_lr="{ choices = [0.1, 0.121] }"),
        space_of(peak_lr="0.1"),
    ],
    ids=["bounds", "steps", "choices", "fixed"],
)
def test_neighbours_are_of_the_space(space):
    state = state_of(trained(HIGH_1, 9), trained(LOW_1, 9), epochs=EPOCHS)
    assert cheapest_nearby([wsd()], state, space, exclude=()) == wsd()
