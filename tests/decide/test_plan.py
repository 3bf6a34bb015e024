"""What is trained next: the order of a study, its ends, and what it makes of runs that fail."""

import math
from collections import Counter
from dataclasses import replace

import pytest

from lrtune.core.decays import Own
from lrtune.core.objective import Objective
from lrtune.core.recipe import Recipe
from lrtune.core.run import RunRecord
from lrtune.core.study import Budget
from lrtune.decide.looks import looks_of
from lrtune.decide.plan import MAX_DIVERGED, MAX_FAILURES, Done, Wait, next_run, outcome
from lrtune.decide.race import fresh_seeds
from tests.decide.simulation import Simulation
from tests.studies import BASELINE, LOOKS, config_of, record, state_of


def ask(_state, number):
    """Seven peak LRs and the baseline in turn.

    Each recipe comes twice, so that a search of some length has duplicates.
    """
    return (
        BASELINE
        if number % 8 == 0
        else Recipe(peak_lr=0.05 * (number % 8), weight_decay=1e-4 * (number // 16))
    )


def study(budget, **changes):
    """A study of one worker at its end, and the ids of its runs in the order of their start."""
    simulation = Simulation(
        config_of(**{"budget": Budget.parse(budget)} | changes),
        sampler=ask,
        top1_of=lambda run: 90 - 100 * abs(run.recipe.peak_lr - 0.2) + 0.1 * (run.seed % 3),
    )
    return simulation.finish(), simulation.started


def baseline_done(*records, **changes):
    return state_of(
        *(record([50] * 4, "baseline", seed=seed) for seed in (1, 2, 3)), *records, **changes
    )


# --- the order


def test_the_order_of_a_study_without_looks():
    """A full run of each, then rounds of the three best and the baseline, as long as they go."""
    state, started = study("5", num_seeds=2, max_seeds=2)
    assert started == [
        *("trial-0000", "trial-0001", "trial-0002", "trial-0003", "trial-0004"),
        # peak LR 0.2, 0.15, and 0.1
        *("baseline-0", "trial-0004-confirm-0", "trial-0003-confirm-0", "trial-0002-confirm-0"),
        # one seed puts nobody out
        *("trial-0004-confirm-1", "baseline-1", "trial-0003-confirm-1", "trial-0002-confirm-1"),
    ]
    assert [r.run.seed for r in state.of_kind("baseline")] == [1, 2]
    assert [r.run.seed for r in state.of_kind("full")] == [0] * 5
    assert [r.run.seed for r in state.of_kind("confirm")] == [1, 1, 1, 2, 2, 2]
    assert {r.run.trial for r in state.of_kind("baseline")} == {-1}
    assert all(r.run.horizon_epochs == 4 for r in state.records)


def test_the_order_of_a_study_with_looks():
    """Everyone has the first look, the best three of 13 the second, and of these two the third."""
    state, started = study("13", num_seeds=1, max_seeds=1, looks=LOOKS)
    assert started == [
        *(f"trial-{i:04d}-look-1" for i in range(13)),
        *("trial-0004-look-2", "trial-0012-look-2", "trial-0003-look-2"),  # 0.2, 0.2, 0.15
        *("trial-0004-look-3", "trial-0012-look-3"),
        # the two are one recipe, and the third finalist had no second look
        *("baseline-0", "trial-0004-confirm-0", "trial-0003-confirm-0", "trial-0005-confirm-0"),
    ]
    assert state.spent("trials") == 13
    assert state.epochs_trained == 13 * 1 + 5 * 2 + 4 * 4


# recipes by a letter: whether another trial is begun
@pytest.mark.parametrize(
    ("tried", "goes_on"),
    [
        ("ab" * 6, False),
        ("ab" + "a" * 9, True),
        ("ab" + "a" * 10, False),
        ("ab" * 5 + "c", True),
        ("abcdefghijkl", True),
    ],
)
def test_a_space_in_which_everything_was_tried_ends_the_search(tried, goes_on):
    """Repeats cost nothing, so a budget of epochs would never come to its end."""
    trials = (
        record([50] * 4, trial=i, recipe=Recipe(peak_lr=ord(letter) / 1000))
        for i, letter in enumerate(tried)
    )
    step = next_run(baseline_done(*trials, budget=Budget(1000, "epochs")), ask)
    assert step.kind == ("full" if goes_on else "confirm")


def test_fresh_seeds_are_none_of_the_search():
    assert list(fresh_seeds(config_of(seed=5, num_seeds=4))) == [6, 7, 8, 9]


def test_the_sampler_is_asked_with_what_is_known():
    asked = []

    def listening(state, number):
        asked.append((len(state.records), number))
        return ask(state, number)

    assert next_run(baseline_done(record([50] * 4)), listening).id == "trial-0001"
    assert asked == [(4, 1)]


# lag, trials by the state of their first looks: what is next
@pytest.mark.parametrize(
    ("lag", "sampler", "ends", "next_"),
    [
        (1, "tpe", "c", "trial-0001-look-1"),
        (1, "tpe", "r", "baseline-0"),
        (2, "tpe", "r", "trial-0001-look-1"),
        (2, "gp", "rr", "baseline-0"),
        (2, "tpe", "cr", "trial-0002-look-1"),
        (2, "tpe", "dr", "trial-0002-look-1"),
        (2, "tpe", "rc", "baseline-0"),  # the first of them is the one to be seen
        (8, "tpe", "rrrrrrr", "trial-0007-look-1"),
        (8, "tpe", "rccccccc", "baseline-0"),
        (8, "tpe", "crrrrrrr", "trial-0008-look-1"),
        (1, "random", "rrrr", "trial-0004-look-1"),
        (1, "qmc", "rrrr", "trial-0004-look-1"),
    ],
)
def test_a_recipe_waits_for_those_that_its_sampler_has_to_see(lag, sampler, ends, next_):
    states = {"c": "completed", "r": "running", "d": "diverged"}
    looks = (record([50], trial=n, look=1, state=states[end]) for n, end in enumerate(ends))
    state = state_of(*looks, looks=LOOKS, lag=lag, sampler=sampler)
    assert next_run(state, ask).id == next_


def test_a_duplicate_races_once_and_the_baseline_not_again():
    """The best recipe is that of trials 4 and 12; the baseline's is that of trials 0, 8 and 16."""
    state, _ = study("17", num_seeds=3, max_seeds=3)
    assert BASELINE in {r.run.recipe for r in state.of_kind("full")}
    recipes = Counter(
        (r.run.trial, r.run.recipe) for r in state.of_kind("confirm") if r.run.seed == 1
    )
    # of two trials of the same recipe and the same Top-1, the first stands for both
    assert recipes == {(n, Recipe(peak_lr=0.05 * n)): 1 for n in (4, 3, 5)}


def test_only_trials_that_came_to_their_end_race():
    records = [
        record([50] * 4, "baseline", seed=1),
        record([90] * 3, trial=0, state="pruned"),
        record([95, 95], trial=1, state="diverged"),
        record([], trial=2, state="failed"),
        record([60, 70, 80, 85], trial=3),
        record([90, 90, 90, 84], trial=4),
        record([60, 70, 80, 85], trial=5),
    ]
    state = state_of(*records, budget=Budget(6, "trials"), num_seeds=1)
    order = []
    for _ in range(3):  # by the last epoch; of equals the earlier
        step = next_run(state, ask)
        order.append((step.trial, step.seed))
        ended = record([80] * 4, "confirm", trial=step.trial, seed=1)
        state = replace(state, records=(*state.records, ended))
    assert order == [(3, 1), (5, 1), (4, 1)]


def test_a_command_begins_with_a_run_as_it_is():
    """It was made before the study began."""
    command = Recipe(peak_lr=0.1, decay=Own())
    state = state_of(baseline=command, own_epochs=12, looks=LOOKS)
    first = next_run(state, ask)
    assert (first.id, first.recipe, first.stop_epochs) == ("baseline-0", command, 12)
    for ended in ("running", "completed", "diverged"):
        begun = replace(state, records=(RunRecord(run=first, state=ended),))
        assert next_run(begun, ask).id == "trial-0000-look-1"


# --- budgets of time


@pytest.mark.parametrize("looks", [(), LOOKS, looks_of(1, 1, seed=0)])
@pytest.mark.parametrize("confirm", ["full", "quick", "0"])
@pytest.mark.parametrize("budget", ["4s", "5s", "37s", "60s", "1min", "2min"])
def test_a_budget_of_time_is_not_overspent(budget, confirm, looks):
    """An epoch takes a second, and the first run is begun in any case."""
    state, _ = study(budget, confirm=confirm, looks=looks)
    amount = Budget.parse(budget).amount
    assert state.spent("seconds") == state.epochs_trained
    assert 0.5 * amount <= state.epochs_trained <= max(amount, 4 * (not looks))


def test_of_a_budget_of_time_the_race_has_what_the_looks_leave():
    state, _ = study("3min", looks=LOOKS)
    epochs = Counter()
    for r in state.records:
        epochs["looks" if r.run.kind == "look" else "race"] += r.epochs
    assert 70 <= epochs["looks"] <= 81  # 45 %
    assert epochs["race"] >= 4 * 4 * 3


# --- the end

CONFIRMED = [record([60] * 4, "confirm", seed=seed) for seed in (1, 2, 3)]
DONE = Done("nothing is left to train")


@pytest.mark.parametrize(
    ("records", "expected"),
    [
        # the trials are started, but one is not over: which are best is not known yet
        ([record([60], trial=0, state="running")], Wait()),
        # each run of the race is started, and the last one is not over
        (
            [record([60] * 4), *CONFIRMED[:2], record([60], "confirm", seed=3, state="running")],
            Wait(),
        ),
        ([record([60] * 4), *CONFIRMED], DONE),
    ],
)
def test_waiting_and_being_done(records, expected):
    state = baseline_done(*records, budget=Budget(1, "trials"))
    assert next_run(state, ask) == expected
    assert outcome(state) == (expected if isinstance(expected, Done) else None)


OTHER = Done("it was begun by another version of lrtune")
ENDED = [record([60] * 4), record([50] * 4, "baseline", seed=1)]


# runs, kind of proof: how a study of another version has ended
@pytest.mark.parametrize(
    ("records", "confirm", "expected"),
    [
        ([], "full", None),
        (ENDED, "full", None),  # nothing was confirmed
        (ENDED, "0", OTHER),
        ([*ENDED, *CONFIRMED[:1]], "full", OTHER),
        ([*ENDED, *CONFIRMED[:1]], "quick", OTHER),
        ([*ENDED, *CONFIRMED[:1], record([60], trial=1, state="running")], "full", None),
    ],
)
def test_a_study_of_another_version_is_not_continued(records, confirm, expected):
    """What it would go on with is not what these rules would."""
    assert outcome(state_of(*records, confirm=confirm, rules=2)) == expected


def test_a_study_of_another_version_may_have_failed():
    failed = [record([], trial=n, state="failed", reason="no GPU") for n in range(3)]
    assert outcome(state_of(*failed, rules=2)).failed
    diverged = [record([10], trial=n, state="diverged") for n in range(2)]
    assert outcome(state_of(*diverged, rules=2)).failed


def test_looks_are_begun_once_all_that_they_choose_among_have_ended():
    """Of the three that have a second look the last one is running still."""
    firsts = [record([50 + n], trial=n, look=1) for n in range(13)]
    seconds = [record([50 + n] * 2, trial=n, look=2) for n in (12, 11)]
    running = record([60], trial=10, look=2, state="running")
    changes = {"looks": LOOKS, "budget": Budget(13, "trials"), "confirm": "0"}
    assert next_run(state_of(*firsts, *seconds, **changes), ask).id == "trial-0010-look-2"
    assert next_run(state_of(*firsts, *seconds, running, **changes), ask) == Wait()
    ended = replace(running, state="completed")
    assert next_run(state_of(*firsts, *seconds, ended, **changes), ask).id == "trial-0012-look-3"


# --- what fails


def failures(*states, budget=50):
    """Trials that ended so, one after another."""
    return baseline_done(
        *(
            record(
                [50] * 4 if state == "completed" else [50],
                trial=i,
                state=state,
                reason=f"reason {i}",
            )
            for i, state in enumerate(states)
        ),
        budget=Budget(budget, "trials"),
    )


@pytest.mark.parametrize(
    "states",
    [
        ["failed"] * (MAX_FAILURES - 1),
        ["failed", "failed", "completed", "failed"],
        ["failed", "failed", "diverged", "failed", "failed"],
        ["failed", "failed", "failed", "pruned"],
    ],
)
def test_some_failures_are_the_recipes_fault(states):
    step = next_run(failures(*states), ask)
    assert step.id == f"trial-{len(states):04d}"


@pytest.mark.parametrize(
    "states", [["failed"] * 3, ["failed"] * 5, ["diverged", "failed", "failed", "failed"]]
)
def test_three_failures_in_a_row_end_the_study(states):
    reason = f"3 runs in a row failed, the last one with: reason {len(states) - 1}"
    assert next_run(failures(*states), ask) == Done(reason, failed=True)


def test_a_training_that_a_recipe_can_make_fail_is_given_more_time():
    states = ["completed", *["failed"] * 9]
    assert next_run(failures(*states), ask).id == "trial-0010"
    reason = "10 runs in a row failed, the last one with: reason 10"
    assert next_run(failures(*states, "failed"), ask) == Done(reason, failed=True)


def test_a_study_that_is_given_up_waits_for_the_runs_that_are_left():
    assert next_run(failures("failed", "failed", "failed", "running"), ask) == Wait()
    assert next_run(failures("failed", "running", "failed", "failed"), ask) == Wait()


def test_a_baseline_that_fails_three_times_ends_the_study():
    state = state_of(
        *(record([], "baseline", seed=seed, state="failed", reason="no GPU") for seed in (1, 2, 3))
    )
    assert next_run(state, ask) == Done(
        "3 runs in a row failed, the last one with: no GPU", failed=True
    )


def all_diverged(num_trials, **changes):
    """A study in which no run came to its end."""
    baseline = (record([50] * seed, "baseline", seed=seed, state="diverged") for seed in (1, 2, 3))
    return state_of(
        *baseline, *(record([10], trial=i, state="diverged") for i in range(num_trials)), **changes
    )


def test_a_study_in_which_everything_diverges_is_given_up():
    assert next_run(all_diverged(MAX_DIVERGED - 1), ask).id == f"trial-{MAX_DIVERGED - 1:04d}"
    assert next_run(all_diverged(MAX_DIVERGED), ask) == Done(
        "each of 13 runs diverged, at peak LRs down to 0.01: look for NaNs in the data, the model "
        "or the loss",
        failed=True,
    )


@pytest.mark.parametrize(("budget", "num_trials"), [("4", 4), ("20ep", 9)])
def test_a_study_that_ends_with_nothing_before_that_has_failed_too(budget, num_trials):
    done = next_run(all_diverged(num_trials, budget=Budget.parse(budget)), ask)
    assert done.failed
    assert f"each of {3 + num_trials} runs diverged" in done.reason


@pytest.mark.parametrize(
    ("state", "top1s"), [("completed", [50] * 4), ("pruned", [50]), ("running", [50])]
)
def test_one_run_that_did_not_diverge_is_enough_to_go_on(state, top1s):
    study = all_diverged(MAX_DIVERGED)
    other = record(top1s, trial=MAX_DIVERGED, state=state)
    assert (
        next_run(replace(study, records=(*study.records, other)), ask).id
        == f"trial-{MAX_DIVERGED + 1:04d}"
    )


def test_a_study_in_which_everything_has_diverged_waits_for_the_runs_that_are_left():
    state = all_diverged(MAX_DIVERGED)
    assert (
        next_run(
            replace(state, records=(*state.records, record([], trial=10, state="running"))), ask
        )
        == Wait()
    )


@pytest.mark.parametrize("kind", ["baseline", "full", "confirm"])
def test_an_orphan_goes_first_whatever_it_is(kind):
    orphan = record([50], kind, trial=0, seed=1, state="running", orphaned=True)
    for others in ([], [record([], trial=i, state="failed") for i in (5, 6, 7)]):
        assert next_run(state_of(*others, orphan), ask) == orphan.run


def test_a_study_whose_objective_is_never_a_number_is_given_up():
    state = all_diverged(2, objective=Objective(metric="f1"))
    losses = {"train_loss": 1.0, "val_loss": 1.0, "f1": math.nan}
    records = tuple(
        replace(
            r,
            state="completed",
            measurements=tuple(replace(m, metrics=losses) for m in r.measurements),
        )
        for r in state.records
    )
    state = replace(
        state, records=records, config=replace(state.config, budget=Budget(2, "trials"))
    )
    done = next_run(state, ask)
    while not isinstance(done, Done):
        ended = RunRecord(run=done, state="completed", measurements=records[0].measurements)
        state = replace(state, records=(*state.records, ended))
        done = next_run(state, ask)
    assert done.failed
    assert done.reason.startswith("f1 was not a number at the end of any of ")
