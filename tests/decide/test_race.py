"""The race: who is trained with how many fresh seeds, and when it is over."""

import math
from collections import Counter
from dataclasses import replace

import pytest

from lrtune.core.recipe import NamedRecipe, Recipe
from lrtune.core.run import RunRecord
from lrtune.core.study import Budget
from lrtune.decide.plan import Done, next_run, outcome
from lrtune.decide.race import (
    CLEARLY,
    UNLIKELY,
    entrants,
    fresh_seeds,
    going_on,
    is_decided,
    is_proven,
    rounds,
    standings,
    still_open,
)
from lrtune.decide.ranking import rank
from tests.studies import BASELINE, config_of, measurement, record, state_of


def study(score, num_trials=2, **changes):
    """A study that is trained to its end, whose later trials are the better ones of its search.

    `score(trial, seed)` is the final Top-1 of a run; a run with `None` diverges.
    """
    trials = [record([80 + i] * 4, trial=i) for i in range(num_trials)]
    values = {
        "num_seeds": 2,
        "max_seeds": 5,
        "matters": 0.001,
        "budget": Budget(num_trials, "trials"),
    }
    state = state_of(*trials, **values | changes)
    while not isinstance(step := next_run(state, lambda *_: Recipe()), Done):
        top1 = score(step.trial, step.seed)
        loss = float("nan") if top1 is None else 1.0
        epochs = range(1, step.stop_epochs + 1)
        measured = tuple(measurement(epoch, top1 or 10.0, loss=loss) for epoch in epochs)
        ended = RunRecord(
            run=step, state="diverged" if top1 is None else "completed", measurements=measured
        )
        state = replace(state, records=(*state.records, ended))
    return state


def seeds_of(state):
    found = {}
    for r in (*state.of_kind("baseline"), *state.of_kind("confirm")):
        found.setdefault(r.run.trial, []).append(r.run.seed)
    return found


JITTER = [0.0, 0.3, -0.2, 0.1, -0.3, 0.2, 0.0]


def noisy(level):
    """Scores around a level for each trial, with noise that no two of them share."""
    return lambda trial, seed: level[trial] + JITTER[(seed + 3 * trial) % len(JITTER)]


ALL = [1, 2, 3, 4, 5]


def equal(_trial, _seed):
    """Nothing tells one from another."""
    return 80.0


# --- who is out


def test_one_that_is_told_apart_gets_no_more_seeds():
    """The leader and the baseline have as many as there are at least."""
    state = study(noisy({-1: 60, 1: 90, 0: 75}), num_seeds=3)
    assert seeds_of(state) == {-1: [1, 2, 3], 1: [1, 2, 3], 0: [1, 2]}


def test_equal_ones_are_trained_with_every_seed():
    assert seeds_of(study(equal)) == {-1: ALL, 1: ALL, 0: ALL}


def test_the_baseline_stays_in_each_round_although_it_is_far_behind():
    state = study(lambda trial, _: 60 if trial == -1 else 90)
    assert seeds_of(state) == {-1: ALL, 1: ALL, 0: ALL}
    assert [r.run.id for r in state.of_kind("baseline")] == [f"baseline-{i}" for i in range(5)]


def test_one_that_diverged_is_out():
    state = study(lambda trial, seed: None if (trial, seed) == (1, 2) else equal(trial, seed))
    assert seeds_of(state) == {-1: ALL, 1: [1, 2], 0: ALL}
    assert 1 not in standings(state).scores


def test_who_is_out_stays_out_and_the_baseline_may_come_back():
    ranking = rank(
        {-1: {1: 80.0, 2: 80.2}, 0: {1: 80.1, 2: 80.1}, 1: {1: 80.2, 2: 80.0}},
        reference=-1, least_difference=0.1,
    )  # fmt: skip
    config = config_of()
    assert still_open(ranking, {-1, 0, 1}, config) == {-1, 0, 1}
    assert still_open(ranking, {0}, config) == {-1, 0}
    assert still_open(ranking, {1}, config) == {-1, 1}


@pytest.mark.parametrize(
    ("recipes", "least"), [((), UNLIKELY), ((NamedRecipe(name="a", recipe=BASELINE),), CLEARLY)]
)
def test_who_is_unlikely_to_be_better_than_the_leader_is_out(recipes, least):
    """In a comparison, whose recipes were all asked for, much less likely."""
    config = config_of(recipes=recipes)
    told = []
    for lead in (0.0, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8):
        scores = {-1: {1: 80.0, 2: 80.4, 3: 79.7}, 0: {1: 80 + lead, 2: 80 + lead, 3: 80 + lead}}
        ranking = rank(scores, reference=-1, least_difference=0.1)
        means = ranking.posterior_means
        leader, other = (0, -1) if means[0] > means[-1] else (-1, 0)
        is_open = other in still_open(ranking, {-1, 0}, config)
        assert leader in still_open(ranking, {-1, 0}, config)
        assert is_open == (ranking.probability_above(other, leader) >= least)
        told.append(is_open)
    assert told == sorted(told, reverse=True)
    assert told.count(True) == (2 if not recipes else 6)


# --- when it is over


def test_one_that_leads_alone_has_as_many_seeds_as_there_are_at_least():
    for num_seeds in (3, 4):
        state = study(noisy({-1: 60, 1: 90, 0: 75}), num_seeds=num_seeds)
        assert seeds_of(state)[1] == seeds_of(state)[-1] == ALL[:num_seeds]


def test_one_seed_proves_nothing():
    state = study(noisy({-1: 60, 1: 90, 0: 75}), num_seeds=1)
    assert seeds_of(state)[1] == seeds_of(state)[-1] == ALL[:2]


def test_a_leader_goes_on_against_the_baseline_until_it_is_proven():
    """Little may be lost by taking it long before it is known to be better."""
    config = config_of(matters=0.5)
    scores = {-1: {1: 80.0, 2: 80.4, 3: 79.6}, 0: {1: 80.6, 2: 80.5, 3: 80.7}}
    close = rank(scores, reference=-1, least_difference=0.1)
    assert is_decided(close, {-1, 0}, config)
    assert not is_proven(close, 0, config)
    assert going_on(close, {-1, 0}, config, num_seeds=3) == {0}
    assert going_on(close, {-1, 0}, config, num_seeds=2) >= {0}
    far = rank(scores | {0: {1: 90.6, 2: 90.5, 3: 90.7}}, reference=-1, least_difference=0.1)
    assert is_proven(far, 0, config)
    assert going_on(far, {-1, 0}, config, num_seeds=3) == set()


def test_a_difference_that_does_not_matter_is_an_answer_and_a_baseline_that_leads_is_one():
    scores = {-1: {1: 80.0, 2: 80.4, 3: 79.6}, 0: {1: 80.6, 2: 80.5, 3: 80.7}}
    ranking = rank(scores, reference=-1, least_difference=0.1)
    assert is_proven(ranking, 0, config_of(matters=50.0))
    assert is_proven(ranking, -1, config_of(matters=1e-9))
    alone = rank({0: scores[0]}, reference=-1, least_difference=0.1)  # the baseline diverged
    assert is_proven(alone, 0, config_of(matters=1e-9))


def test_it_is_over_once_little_is_lost_by_taking_the_leader():
    """Less than a third of what matters."""
    lengths = [len(seeds_of(study(equal, matters=matters))[-1]) for matters in (0.001, 0.3, 100.0)]
    assert lengths == sorted(lengths, reverse=True)
    assert (lengths[0], lengths[-1]) == (5, 2)


@pytest.mark.parametrize("lead", [0.0, 0.2, 0.5, 1.0, 2.0])
def test_what_is_little(lead):
    """By default it is measured against the standard deviation of a run over seeds."""
    scores = {-1: {1: 80.0, 2: 80.4, 3: 79.7}, 0: {1: 80.1 + lead, 2: 80.1, 3: 80.2 + lead}}
    ranking = rank(scores, reference=-1, least_difference=0.1)
    leader = max((-1, 0), key=lambda n: ranking.posterior_means[n])
    loss = ranking.expected_loss(leader)
    assert is_decided(ranking, {-1, 0}, config_of(matters=3.01 * loss))
    assert not is_decided(ranking, {-1, 0}, config_of(matters=2.99 * loss))
    assert is_decided(ranking, {-1, 0}, config_of()) == (loss < ranking.noise / 3)
    assert is_decided(ranking, {0}, config_of(matters=1e-9))  # it is alone


def test_a_comparison_is_not_over_before_one_is_alone():
    ranking = rank(
        {-1: {1: 80.0, 2: 80.2}, 1: {1: 80.1, 2: 80.1}}, reference=-1, least_difference=0.1
    )
    assert is_decided(ranking, {-1, 1}, config_of(matters=100.0))
    assert not is_decided(ranking, {-1, 1}, config_of(matters=100.0, recipes=RECIPES))
    assert is_decided(ranking, {1}, config_of(recipes=RECIPES))


def test_without_more_seeds_allowed_it_is_over_after_those_there_are_at_least():
    state = study(equal, max_seeds=2)
    assert seeds_of(state) == {-1: [1, 2], 1: [1, 2], 0: [1, 2]}


# --- rounds


def ids_of(state):
    return [run.id for runs in rounds(state) for run in runs]


def test_a_round_begins_when_the_one_before_is_over():
    state = study(equal)
    third = [r for r in state.records if r.run.kind in ("baseline", "confirm") and r.run.seed == 3]
    rest = tuple(r for r in state.records if r.run.kind == "full" or r.run.seed < 3)
    assert ids_of(replace(state, records=rest))[-3:] == [r.run.id for r in third]
    under_way = replace(third[-1], state="running", measurements=())
    running = replace(state, records=(*rest, *third[:-1], under_way))
    assert [runs[0].seed for runs in rounds(running)] == [1, 2, 3]


def test_a_round_waits_for_the_baseline_too():
    """It may still be at work when all others have ended."""
    state = study(equal)
    rest = tuple(r for r in state.records if r.run.kind == "full" or r.run.seed < 3)
    under_way = tuple(replace(r, state="running") if r.run.id == "baseline-1" else r for r in rest)
    assert [runs[0].seed for runs in rounds(replace(state, records=rest))] == [1, 2, 3]
    assert [runs[0].seed for runs in rounds(replace(state, records=under_way))] == [1, 2]


def test_a_round_is_decided_by_the_seeds_before_it():
    """Half of a round changes nothing of who runs in it."""
    state = study(equal)
    ids = ids_of(state)
    for num in range(len(state.of_kind("full")), len(state.records)):
        shown = ids_of(replace(state, records=state.records[:num]))
        assert shown == ids[: len(shown)]
    assert shown == ids


def test_the_first_round_is_in_the_order_of_the_search_and_the_others_in_that_of_the_race():
    """The baseline is among the first two, as what all are compared with."""
    state = study(noisy({-1: 80, 2: 79.9, 1: 80.1, 0: 80.4}), num_trials=3)
    order = [[run.trial for run in runs] for runs in rounds(state)]
    assert order[0] == [-1, 2, 1, 0]
    assert order[1][:2] == [0, -1]


def test_everyone_has_the_seed_of_the_round():
    for number, runs in enumerate(rounds(study(equal, seed=5)), start=1):
        assert {run.seed for run in runs} == {5 + number}
        assert {run.id.rsplit("-", 1)[1] for run in runs} == {f"{number - 1}"}
        assert {run.kind for run in runs} == {"baseline", "confirm"}


# --- budgets


# Budget in full runs, and trials that it has: how often each is trained in the race
BUDGETS = [
    (6, 6, {}),  # looks alone
    (7, 3, {-1: 1, 2: 1, 1: 1}),  # four runs are left, and the baseline does not race alone
    (8, 3, {-1: 2, 2: 2, 1: 1}),
    (9, 4, {-1: 2, 3: 2, 2: 1}),
    (10, 4, {-1: 2, 3: 2, 2: 2}),
    (11, 4, {-1: 2, 3: 2, 2: 2}),
    (12, 5, {-1: 2, 4: 2, 3: 2, 2: 1}),  # three finalists
    (13, 5, {-1: 2, 4: 2, 3: 2, 2: 2}),
]


@pytest.mark.parametrize(("runs", "num_trials", "expected"), BUDGETS)
def test_the_race_goes_on_as_far_as_the_budget_pays_for_it(runs, num_trials, expected):
    state = study(equal, num_trials=num_trials, budget=Budget(runs, "runs"))
    assert state.spent("trials") == num_trials
    assert {number: len(seeds) for number, seeds in seeds_of(state).items()} == expected
    assert state.epochs_trained <= 4 * runs


# --- proof


def test_quick_is_one_run_of_the_best_and_one_of_the_baseline():
    state = study(equal, confirm="quick")
    assert seeds_of(state) == {-1: [1], 1: [1]}


def test_quick_pays_for_its_proof_out_of_the_budget():
    state = study(equal, num_trials=0, confirm="quick", budget=Budget(20, "epochs"))
    assert Counter(r.run.kind for r in state.records) == {"full": 3, "baseline": 1, "confirm": 1}


@pytest.mark.parametrize("budget", ["2", "20runs"])
def test_without_a_proof_nothing_is_trained_with_fresh_seeds(budget):
    assert seeds_of(study(equal, confirm="0", budget=Budget.parse(budget))) == {}


def test_without_anyone_else_the_baseline_has_the_seeds_that_there_are_at_least():
    """Of a search in which everything was pruned."""
    pruned = [record([10], trial=i, state="pruned") for i in range(2)]
    state = state_of(*pruned, num_seeds=2, max_seeds=5, budget=Budget(2, "trials"))
    assert [[run.id for run in runs] for runs in rounds(state)] == [["baseline-0"]]
    ended = [record([50 + seed] * 4, "baseline", seed=seed) for seed in (1, 2)]
    assert len(list(rounds(replace(state, records=(*pruned, *ended))))) == 2


# --- finalists


@pytest.mark.parametrize(
    ("tops", "recipes", "expected"),
    [
        ([80, 90, 70, 85], {}, [1, 3, 0]),  # three of a budget in trials
        ([80, 80, 80, 80], {}, [0, 1, 2]),  # of equals the first
        ([80, 90, 70, 85], {1: BASELINE}, [3, 0, 2]),  # the baseline races anyway
        ([80, 90, 70, 85], {1: Recipe(), 3: Recipe()}, [1, 0, 2]),  # a recipe once
        ([80, math.nan, 70], {}, [0, 2]),
        ([], {}, []),
    ],
)
def test_the_best_recipes_of_the_search_race(tops, recipes, expected):
    trials = [record([top1] * 4, trial=n, recipe=recipes.get(n)) for n, top1 in enumerate(tops)]
    field = entrants(state_of(*trials))
    assert [entrant.number for entrant in field] == expected
    assert [entrant.name for entrant in field] == [f"trial {number}" for number in expected]


# --- comparisons


RECIPES = tuple(
    NamedRecipe(name=name, recipe=recipe)
    for name, recipe in {
        "mine": BASELINE,
        "warm": Recipe(warmup_epochs=1),
        "mine again": BASELINE,
    }.items()
)


def test_a_comparison_trains_every_recipe_with_every_seed_and_searches_nothing():
    state = study(
        noisy({-1: 80, 1: 81, 2: 82}),
        num_trials=0,
        recipes=RECIPES,
        max_seeds=2,
        budget=Budget(6, "runs"),
    )
    assert seeds_of(state) == {-1: [1, 2], 1: [1, 2], 2: [1, 2]}
    assert {r.run.trial: r.run.recipe for r in state.records} == {
        -1: BASELINE,
        1: Recipe(warmup_epochs=1),
        2: BASELINE,
    }
    assert [(one.number, one.name) for one in entrants(state)] == [(1, "warm"), (2, "mine again")]
    assert outcome(state)


def test_in_a_comparison_the_first_recipe_is_out_as_any_other():
    """Before everyone has the seeds that there are at least, nobody is."""
    changes = {"num_trials": 0, "recipes": RECIPES, "num_seeds": 3}
    state = study(noisy({-1: 60, 1: 80, 2: 80}), **changes)
    assert seeds_of(state) == {-1: [1, 2, 3], 1: ALL, 2: ALL}
    alone = study(noisy({-1: 60, 1: 80, 2: 70}), **changes)
    assert seeds_of(alone) == {-1: [1, 2, 3], 1: [1, 2, 3], 2: [1, 2, 3]}


@pytest.mark.parametrize("seed", [0, 5])
def test_fresh_seeds_follow_the_one_of_the_search(seed):
    assert list(fresh_seeds(config_of(seed=seed, num_seeds=3))) == [seed + 1, seed + 2, seed + 3]
