"""What a budget buys: recipes, finalists and rounds."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lrtune.core.decays import Own
from lrtune.core.recipe import NamedRecipe, Recipe
from lrtune.core.study import Budget
from lrtune.decide.budget import (
    LOOKS_SHARE,
    cost_of_looks,
    epochs_left,
    first_cost,
    fits,
    num_finalists,
    num_recipes,
    num_rounds,
)
from lrtune.decide.looks import look_at, looks_of
from tests.studies import BASELINE, LOOKS, config_of, measurement, record, state_of

COMMAND = Recipe(peak_lr=0.1, decay=Own())
NAMED = (NamedRecipe(name="mine", recipe=BASELINE),)


def study(budget, *records, **changes):
    return state_of(*records, budget=Budget.parse(budget), **{"looks": LOOKS} | changes)


# recipes, looks: epochs of all their looks
COSTS = [
    (1, LOOKS, 1 + 2 + 2),
    (6, LOOKS, 6 + 2 + 2),
    (7, LOOKS, 7 + 2 * 2 + 2),
    (12, LOOKS, 12 + 2 * 2 + 2),
    (13, LOOKS, 13 + 3 * 2 + 2 * 2),
    (50, LOOKS, 50 + 9 * 2 + 5 * 2),
    (12, looks_of(2, 2, seed=0), 12 * 2 + 2 * 2 + 2 * 2),
    (3, (), 3 * 4),
]


@pytest.mark.parametrize(("number", "looks", "epochs"), COSTS)
def test_the_cost_of_all_looks(number, looks, epochs):
    assert cost_of_looks(config_of(looks=looks), number) == epochs


# budget, what differs from the made-up study of four epochs a run: recipes
RECIPES = {
    "trials": ("50", {}, 50),
    "trials without looks": ("50", {"looks": ()}, 50),
    "looks alone": ("24ep", {}, 14),  # 14 + 3 * 2 + 2 * 2
    "the same in runs": ("6runs", {}, 14),
    "full runs alone": ("24ep", {"looks": ()}, 6),
    "a race has more than half": ("25ep", {}, 6),  # 11.25 epochs for looks
    "of full runs, too": ("25ep", {"looks": ()}, 2),
    "a large one": ("1000ep", {}, 300),
    "part of a run": ("6.25runs", {}, 6),
    "no proof, all for looks": ("25ep", {"confirm": "0"}, 15),  # 15 + 3 * 2 + 2 * 2
    "one run of two": ("25ep", {"confirm": "quick"}, 11),  # 17 epochs
    "one run of two, one of them longer": (
        "40ep", {"confirm": "quick", "baseline": COMMAND, "own_epochs": 12}, 14,
    ),
    "a command as it is": ("24ep", {"baseline": COMMAND}, 12),
    "a long command leaves less": ("50ep", {"baseline": COMMAND, "own_epochs": 40}, 6),
    "but there is one": ("4ep", {}, 1),
    "in any case": ("1ep", {"looks": ()}, 1),
}  # fmt: skip


@pytest.mark.parametrize(("budget", "changes", "expected"), RECIPES.values(), ids=RECIPES)
def test_how_many_recipes_are_looked_at(budget, changes, expected):
    assert num_recipes(study(budget, **changes)) == expected


AMOUNTS = st.integers(1, 2000)
LADDERS = st.sampled_from(
    [(), LOOKS, looks_of(1, 1, seed=0), looks_of(2, 2, seed=0), looks_of(2, 3, seed=0)]
)
CONFIRM = st.sampled_from(["full", "quick", "0"])


@given(amount=AMOUNTS, looks=LADDERS, confirm=CONFIRM)
def test_looks_cost_no_more_than_their_share_and_leave_no_room_for_another(amount, looks, confirm):
    state = study(f"{amount}ep", looks=looks, confirm=confirm)
    number = num_recipes(state)
    share = {"full": amount if amount <= 24 else LOOKS_SHARE * amount, "quick": amount - 8}
    share = share.get(confirm, amount)
    assert number == 1 or cost_of_looks(state.config, number) <= share + 1e-6
    # another look of each kind may be due at once
    another = sum(look.epochs for look in looks) or 4
    assert cost_of_looks(state.config, number) + another > share


@given(amount=AMOUNTS, looks=LADDERS, confirm=CONFIRM, own_epochs=st.sampled_from([0, 4, 12, 40]))
def test_looks_leave_the_epochs_without_which_the_study_says_nothing(
    amount, looks, confirm, own_epochs
):
    state = study(
        f"{amount}ep", looks=looks, confirm=confirm, baseline=COMMAND, own_epochs=own_epochs
    )
    if amount >= first_cost(state.config):
        rest = first_cost(state.config) - cost_of_looks(state.config, 1)
        assert cost_of_looks(state.config, num_recipes(state)) + rest <= amount


def test_what_was_begun_is_looked_at_although_the_budget_has_become_smaller():
    begun = [record([50], trial=n, look=1) for n in range(20)]
    for budget in ("5", "10ep", "2runs"):
        assert num_recipes(study(budget, *begun)) == 20


# budget, kind of proof: finalists
FINALISTS = [
    ("1", "full", 3),
    ("500", "full", 3),
    ("24ep", "full", 0),
    ("25ep", "full", 2),
    ("6runs", "full", 0),
    ("6.25runs", "full", 2),
    ("11runs", "full", 2),
    ("12runs", "full", 3),
    ("16runs", "full", 4),
    ("25runs", "full", 6),
    ("1000runs", "full", 6),
    ("50", "quick", 1),
    ("1ep", "quick", 1),
    ("1000runs", "quick", 1),
    ("50", "0", 0),
    ("1000runs", "0", 0),
    ("1h", "full", 6),  # nothing is known of an epoch's time yet
    ("1h", "0", 0),
]


@pytest.mark.parametrize(("budget", "confirm", "expected"), FINALISTS)
def test_how_many_recipes_race(budget, confirm, expected):
    assert num_finalists(study(budget, confirm=confirm)) == expected


@pytest.mark.parametrize(("seconds", "expected"), [(24, 0), (25, 2), (48, 3), (1000, 6)])
def test_a_budget_of_time_is_worth_what_an_epoch_takes(seconds, expected):
    """A second, of two runs one after another; side by side, half a second."""
    first = record([50], trial=0, look=1)
    later = replace(measurement(1, 50), ended_at=2.0)
    second = replace(record([50], trial=1, look=1), measurements=(later,))
    assert num_finalists(study(f"{seconds}s", first, second)) == expected
    beside = replace(second, measurements=(measurement(1, 50),))
    assert num_finalists(study(f"{seconds / 2}s", first, beside)) == expected


def test_of_a_budget_of_time_the_recipes_are_settled_once_one_has_a_second_look():
    looks = [record([50], trial=n, look=1) for n in range(3)]  # in one second, side by side
    assert num_recipes(study("24s", *looks)) == num_recipes(study("72ep"))
    second = record([50, 50], trial=0, look=2)
    assert num_recipes(study("1000s", *looks, second)) == 3


# kind of proof, seeds at least and at most: rounds at least and at most
@pytest.mark.parametrize(
    ("confirm", "num_seeds", "max_seeds", "expected"),
    [
        ("full", 3, 8, (3, 8)),
        ("full", 3, 3, (3, 3)),
        ("full", 3, 1, (3, 3)),
        ("quick", 3, 8, (1, 1)),
        ("full", 1, 8, (1, 8)),
    ],
)
def test_rounds_at_least_and_at_most(confirm, num_seeds, max_seeds, expected):
    changes = {"num_seeds": num_seeds, "max_seeds": max_seeds, "confirm": confirm}
    assert num_rounds(config_of(**changes)) == expected
    seeds = (num_seeds, max(num_seeds, max_seeds))
    assert num_rounds(config_of(**changes, recipes=NAMED)) == seeds


# kind of proof, baseline, its epochs: epochs of one recipe and of what it is compared with
@pytest.mark.parametrize(
    ("confirm", "baseline", "own_epochs", "expected"),
    [
        ("full", BASELINE, 0, 5),
        ("0", BASELINE, 0, 5),
        ("quick", BASELINE, 0, 5 + 4 + 4),
        ("full", COMMAND, 0, 5 + 4),
        ("0", COMMAND, 12, 5 + 12),
        ("full", COMMAND, 12, 5 + 12),
        ("quick", COMMAND, 12, 5 + 4 + 12),
    ],
)
def test_what_a_study_cannot_do_without(confirm, baseline, own_epochs, expected):
    changes = {"confirm": confirm, "baseline": baseline, "own_epochs": own_epochs}
    assert first_cost(config_of(looks=LOOKS, **changes)) == expected
    assert first_cost(config_of(**changes)) == expected - 5 + 4


# --- what is left


def test_a_run_costs_what_it_will_have_cost_and_one_that_ended_early_what_it_did():
    records = [
        record([50] * 4),
        record([50], trial=1, state="running"),
        record([50], trial=2, state="pruned"),
        record([50, 50], trial=3, state="diverged"),
        record([], trial=4, state="failed"),
    ]
    assert epochs_left(study("100ep", *records)) == 100 - 4 - 4 - 1 - 2
    assert epochs_left(study("20runs", *records)) == 80 - 4 - 4 - 1 - 2
    assert epochs_left(study("50", *records)) == math.inf


def test_what_is_reused_costs_as_much_and_what_is_trained_again_costs_more():
    """What is reused depends on who comes first, and the plan must not."""
    run = record([50] * 4)
    taken = replace(
        run, measurements=tuple(replace(m, reused=m.epoch < 3) for m in run.measurements)
    )
    assert epochs_left(study("100ep", taken)) == 96
    again = replace(
        run, measurements=tuple(replace(m, again_epochs=m.epoch == 3) for m in run.measurements)
    )
    assert epochs_left(study("100ep", again)) == 95


def test_before_a_round_the_later_seeds_are_not_counted():
    """Some of the round may be over already."""
    seeds = [record([50] * 4, "baseline", seed=seed) for seed in (1, 2, 3)]
    state = study("100ep", record([50], look=1), *seeds)
    assert [epochs_left(state, before_seed=seed) for seed in (1, 2, 3, 4)] == [99, 95, 91, 87]
    assert epochs_left(state) == 87


def test_a_comparison_has_no_budget():
    state = study("10ep", record([50] * 4, "baseline", seed=1), recipes=NAMED)
    assert epochs_left(state) == math.inf


# The three full runs took 4 s side by side, so an epoch costs a third of a second; how many runs
# have begun since then.
@pytest.mark.parametrize(
    ("num_begun", "budget", "begins"),
    [
        (2, "8s", True), (2, "7s", False), (5, "11s", False), (5, "12s", True),
        (0, "8s", True), (0, "7s", False),
    ],
)  # fmt: skip
def test_of_a_budget_of_time_as_many_runs_begin_side_by_side_as_there_is_time_for(
    num_begun, budget, begins
):
    done = [record([50] * 4, trial=trial) for trial in range(3)]
    begun = [record([], trial=3 + trial, state="running") for trial in range(num_begun)]
    state = study(budget, *done, *begun, looks=())
    assert fits(state, look_at(state.config, 9, Recipe(), 0)) == begins


@pytest.mark.parametrize("budget", ["1", "1ep", "1runs", "1s"])
def test_the_first_run_fits_into_any_budget_and_what_was_reckoned_with_is_not_asked(budget):
    state = study(budget)
    assert fits(state, look_at(state.config, 0, Recipe(), 0))
    trained = study(budget, *(record([50] * 4, trial=n) for n in range(9)))
    assert fits(trained, look_at(state.config, 9, Recipe(), 0)) == (budget != "1s")
    compared = study(budget, record([50] * 4, "baseline", seed=1), recipes=NAMED)
    assert fits(compared, look_at(state.config, 9, Recipe(), 0))
